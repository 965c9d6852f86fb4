"""YAML as tools and people mostly write it, read several times faster than by PyYAML.

Only a plain subset is read: block mappings and sequences, values that end with their line, comments. All else
(anchors, tags, block scalars, escapes, tabs) raises UnusualError, and the caller asks PyYAML. What is read
equals what its CSafeLoader returns; the tests compare both on generated text.

A block is cut into its entries by indentation, with one expression for each level. So the items of the
outermost lists, such as frontends, are known by their text before anything of them is parsed (see
store.remembered). Lists of items with the same keys, such as backends, are read by one expression for a whole
item: 100,000 backends take 0.3 s so, and 0.9 s key by key.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from functools import cache, lru_cache

import yaml

from kubebee.store.remembered import Remembered

_DEPTH_MAX = 32
"""Each level copies the text below it."""
_MANY = 8
"""Items from which on an expression of their own pays."""
_SHAPES = 64
"""Such expressions that are kept."""

_WIDE = "\\xa0-\\u2027\\u202a-\\ud7ff"  # no line break of YAML 1.1 among them, and no byte order mark
_KEY = "[A-Za-z0-9_][A-Za-z0-9_./-]{0,200}"  # libyaml wants the colon within 1,024 characters
# Before a space a colon ends a key, and a space before "#" the value: both need a harmless character behind.
_PLAIN = "-?[A-Za-z0-9_./][A-Za-z0-9_./@+-]*(?:[: ][A-Za-z0-9_./@+-]+)*"
_SINGLE = f"'[ -&(-~{_WIDE}]*'"
_DOUBLE = f'"[ !#-\\[\\]-~{_WIDE}]*"'
_FLOW = r"[{\[][ \"$'()+,\-./0-9:;=A-Z\[\]^_a-z{}~]*[}\]]"
_VALUE = f"{_PLAIN}|{_SINGLE}|{_DOUBLE}|{_FLOW}"
_END = f"(?: +#[ -~{_WIDE}]*| *)"

_ONE_LINE = re.compile(f"({_VALUE}){_END}")
_NO_CONTENT = re.compile(f"^ *(?:#[ -~{_WIDE}]*)?\n", re.MULTILINE)
_INDENT = re.compile(" *")
_KEY_ALONE = re.compile(_KEY)


class UnusualError(Exception):
    """The text is not of the subset; it may well be YAML."""


def read_block(text: str, remembered: Remembered | None = None) -> object:
    """Return what one document stands for, without `---`; None if there is nothing but comments.

    Args:
        text: of the document.
        remembered: items of its outermost lists; those that it knows are not parsed.

    Raises:
        UnusualError: something of it is beyond the subset.
        ValueError: a date that does not exist.
    """
    if not text.endswith("\n"):
        text += "\n"
    if "#" in text or "\n\n" in text or " \n" in text or text.startswith("\n"):
        text = _NO_CONTENT.sub("", text)
    return _Reader().block(text, 0, remembered) if text else None


class _Values(dict[str, object]):
    """What texts stand for; one that occurs again is converted once."""

    def __missing__(self, text: str) -> object:
        if text[0] in "{[":
            return _flow(text)  # not kept: each place gets a list of its own
        value = self[text] = text[1:-1] if text[0] in "'\"" else _plain(text)
        return value


class _Reader:
    """Reads one document."""

    def __init__(self) -> None:
        self._value = _Values().__getitem__

    def block(self, text: str, depth: int, remembered: Remembered | None) -> object:
        """Lines of one mapping or sequence, each with its end; the first tells the indentation of all."""
        if depth > _DEPTH_MAX:
            raise UnusualError
        indent = _indent_of(text)
        if text.startswith("- ", indent):
            return self._sequence(text, indent, depth, remembered)
        return self._mapping(text, indent, depth, remembered)

    def _sequence(self, text: str, indent: int, depth: int, remembered: Remembered | None) -> list[object]:
        items = text[indent + 2 : -1].split("\n" + " " * indent + "- ")
        if remembered is None and len(items) >= _MANY:
            alike = self._alike(text, indent, items[0], len(items))
            if alike is not None:
                return alike
        return [self._item(item, indent + 2, depth, remembered) for item in items]

    def _alike(self, text: str, indent: int, first: str, count: int) -> list[object] | None:
        """The items of a sequence if all are mappings of the first one's keys to values of one line."""
        keys = tuple(line.lstrip(" ").partition(":")[0] for line in first.split("\n"))
        if not all(map(_KEY_ALONE.fullmatch, keys)):
            return None
        found = _rows(indent, keys).findall(text)
        if len(found) != count or text.count("\n") != count * len(keys):  # a line is not as in the first
            return None
        names, value = list(map(self._value, keys)), self._value
        return [dict(zip(names, map(value, row), strict=False)) for row in found]

    def _item(self, text: str, indent: int, depth: int, remembered: Remembered | None) -> object:
        if "\n" not in text and (found := _ONE_LINE.fullmatch(text)):
            return self._value(found[1])
        text = f"{' ' * indent}{text}\n"
        if remembered is None:
            return self._mapping(text, indent, depth + 1, None)
        return remembered.value(text.encode(), lambda: self._mapping(text, indent, depth + 1, None))

    def _mapping(
        self, text: str, indent: int, depth: int, remembered: Remembered | None
    ) -> dict[Hashable, object]:
        match, at, end = _entry(indent).match, 0, len(text)
        mapping: dict[Hashable, object] = {}
        while at < end:
            entry = match(text, at)
            if entry is None:
                raise UnusualError
            key, value, below = entry.groups()
            at = entry.end()
            if value is None:
                content = self.block(below, depth + 1, remembered) if below else None
            elif below:  # it goes on in the next line, or is an error
                raise UnusualError
            else:
                content = self._value(value)
            mapping[self._value(key)] = content
        return mapping


@cache
def _entry(indent: int) -> re.Pattern[str]:
    """An entry of a mapping at this indentation: key, value, and the lines below, which begin further right.

    Items of a sequence may begin right below the key.
    """
    pad = f" {{{indent}}}"
    return re.compile(f"{pad}({_KEY}):(?: +({_VALUE}))?{_END}\n((?:{pad}(?: |- )[^\n]*\n)*)")


@lru_cache(_SHAPES)
def _rows(indent: int, keys: tuple[str, ...]) -> re.Pattern[str]:
    """An item of a sequence at this indentation with these keys: its values, and a group that stays empty.

    Without that group `findall` would return strings, not tuples, for a single key.
    """
    pad = " " * indent
    lines = (f"{re.escape(key)}: +({_VALUE}){_END}\n" for key in keys)
    return re.compile(f"^{pad}- " + f"{pad}  ".join(lines) + "()", re.MULTILINE)


def _indent_of(text: str) -> int:
    found = _INDENT.match(text)
    return found.end() if found else 0


_TYPES = yaml.SafeLoader.yaml_implicit_resolvers
"""What a plain value may be but text, by its first character: tag and expression."""


def _plain(text: str) -> object:
    if text.count(".") > 1:  # an address; no number or date has two
        return text
    for tag, pattern in _TYPES.get(text[0], ()):
        if pattern.match(text):
            return yaml.SafeLoader("").construct_document(yaml.ScalarNode(tag, text))
    return text


def _flow(text: str) -> object:
    try:
        value: object = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except yaml.YAMLError as error:
        raise UnusualError from error
    return value

"""Reading manifest files: text to documents, with the place of each error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

import msgspec
import yaml

from kubebee.errors import KubebeeError
from kubebee.store.block_yaml import UnusualError, read_block
from kubebee.store.remembered import Remembered

SUFFIXES = frozenset({".yaml", ".yml", ".json"})
MAX_FILE_BYTES = 64 * 1024 * 1024
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_MARK = re.compile("^--- *\n", re.MULTILINE)
_DEPTH_MAX = 8
"""Of JSON objects around a list whose items are remembered."""


class ManifestError(KubebeeError):
    """A manifest file can't be read or is not what it claims to be."""

    reason = "InvalidManifest"


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a manifest file. Parts of its body may be parts of others, too: nobody may change them.

    Attributes:
        where: file and index for messages, e.g. `lb.yaml#2` (1-based; the index is left out for a lone one).
    """

    body: object
    where: str


def alike(one: object, other: object) -> bool:
    """Whether two parsed values are the same to a validator; `==` takes 1, 1.0 and true for equal."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other


def alike_as_json(one: object, other: object) -> bool:
    """Whether two values are the same as JSON; faster than `alike` where they share no parts."""
    encode = msgspec.json.Encoder(order="deterministic").encode
    return encode(one) == encode(other)


def read_text(path: Path) -> bytes:
    """The bytes of a manifest file.

    Raises:
        ManifestError: unreadable, or too large.
    """
    try:
        stat = path.stat()
        if not S_ISREG(stat.st_mode):  # reading a pipe or a device may never end
            raise ManifestError("not a file", reason="NotAFile", where=path.name)
        size = stat.st_size
        if size > MAX_FILE_BYTES:
            raise ManifestError(
                f"{size} bytes; at most {MAX_FILE_BYTES} are read", reason="ManifestTooLarge", where=path.name
            )
        return path.read_bytes()
    except OSError as error:
        raise ManifestError(f"can't be read: {error.strerror}", where=path.name) from error


def read_documents(path: Path) -> list[Document]:
    """Documents of one YAML or JSON file; a Kubernetes List counts as its items.

    Raises:
        ManifestError: unreadable, too large, not UTF-8, or not YAML; says line and column.
    """
    return parse_documents(path.name, read_text(path), Remembered())


def parse_documents(name: str, raw: bytes, remembered: Remembered) -> list[Document]:
    """Documents of the text of a file called `name`.

    Args:
        name: of the file; its suffix tells the language.
        raw: its bytes.
        remembered: what is known of the file's last text; parts that are still there are the same objects.

    Raises:
        ManifestError: not UTF-8, or not YAML; says line and column.
    """
    bodies = (
        _parse_json(name, raw, remembered) if name.endswith(".json") else _parse_yaml(name, raw, remembered)
    )
    items = [item for body in bodies for item in _items(body)]
    return [
        Document(item, name if len(items) == 1 else f"{name}#{index}") for index, item in enumerate(items, 1)
    ]


def _parse_json(name: str, raw: bytes, remembered: Remembered) -> list[object]:
    try:
        return [_decode(raw, remembered)]
    except _NOT_JSON:
        pass
    try:
        return [msgspec.json.decode(raw)]  # says where in the whole text the error is
    except _NOT_JSON as error:
        raise ManifestError(f"not JSON: {error}", reason="InvalidJSON", where=name) from error


def _decode(raw: bytes | msgspec.Raw, remembered: Remembered, depth: int = 0) -> object:
    """JSON to objects; the items of the outermost lists are remembered."""
    text = bytes(raw)
    start = text.lstrip()[:1]
    if start == b"{" and depth < _DEPTH_MAX:
        fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        return {key: _decode(value, remembered, depth + 1) for key, value in fields.items()}
    if start == b"[":
        items = msgspec.json.decode(text, type=list[msgspec.Raw])
        return [_decode_item(bytes(item), remembered) for item in items]
    return msgspec.json.decode(text)


def _decode_item(text: bytes, remembered: Remembered) -> object:
    return remembered.value(text, lambda: msgspec.json.decode(text))


def _parse_yaml(name: str, raw: bytes, remembered: Remembered) -> list[object]:
    if raw[:1] == b"{":  # JSON is YAML too, and JSON parsers are some hundred times faster
        try:
            return [_decode(raw, remembered)]
        except _NOT_JSON:
            pass
    try:
        return [body for body in _bodies(raw.decode(), remembered) if body is not None]
    except (yaml.YAMLError, ValueError, RecursionError):
        pass
    try:  # the whole at once: its errors have the right line
        return [body for body in yaml.load_all(raw, Loader=_Loader) if body is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ManifestError(
            f"not YAML: {error.problem or error}", reason="InvalidYAML", where=place, hint="mend this line"
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ManifestError(f"not YAML: {error}", reason="InvalidYAML", where=name) from error


def _bodies(text: str, remembered: Remembered) -> Iterator[object]:
    """Documents of a YAML text. A line `---` ends one wherever it is, or is an error."""
    several = "\n---" in text or text.startswith("---")  # the expression takes ten times as long to find none
    parts = _MARK.split(text) if several else [text]
    if len(parts) == 1:
        yield from _bodies_of(text, "", remembered)
        return
    for index, part in enumerate(parts):
        mark = "---\n" if index else ""
        found = remembered.value(
            f"{mark}{part}".encode(),
            lambda part=part, mark=mark: list(_bodies_of(part, mark, remembered)),  # type: ignore[misc]
        )
        assert isinstance(found, list)
        yield from found


def _bodies_of(text: str, mark: str, remembered: Remembered) -> Iterator[object]:
    try:
        yield read_block(text, remembered)
    except UnusualError:
        yield from yaml.load_all(mark + text, Loader=_Loader)


def _items(body: object) -> list[object]:
    if isinstance(body, dict) and body.get("kind") == "List" and isinstance(body.get("items"), list):
        return list(body["items"])
    return [body]

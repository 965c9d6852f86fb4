r"""Which template line each rendered line comes from.

Jinja keeps no such map. So each line of template text gets a mark before rendering (`\x01file:line\x02`),
which travels through loops, macros and includes with its text, and is taken out of the result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream

_MARK = re.compile("\x01([^\x01\x02]*):([0-9]+)\x02")
MARKS = ("\x01", "\x02")
"""Characters that no template or parameter may have."""


@dataclass(frozen=True)
class TemplateLine:
    """A line of a template; lines count from 1."""

    file: str
    line: int


@dataclass(frozen=True)
class Rendered:
    """C text, and for each of its lines the template line it comes from."""

    text: str
    lines: tuple[TemplateLine, ...]


class MarkLines(Extension):
    """Jinja extension that puts the marks into template text."""

    def filter_stream(self, stream: TokenStream) -> Iterable[Token]:
        """Mark the start of every piece of text and of every line in it."""
        return self._marked(stream, stream.name or "template")

    @staticmethod
    def _marked(stream: TokenStream, name: str) -> Iterator[Token]:
        for token in stream:
            if token.type != "data":
                yield token
                continue
            lines = token.value.split("\n")
            marked = [
                f"\x01{name}:{number}\x02{line}" if line or number == token.lineno else line
                for number, line in enumerate(lines, token.lineno)
            ]
            yield Token(token.lineno, "data", "\n".join(marked))


def unmark(text: str, name: str) -> Rendered:
    """Take the marks out. A line without a mark (the inside of a value) belongs to the line before it."""
    current = TemplateLine(name, 1)
    plain: list[str] = []
    lines: list[TemplateLine] = []
    for line in text.split("\n"):
        # Marks before the first visible text tell; later ones are further pieces of the same line.
        for mark in _MARK.finditer(line):
            current = TemplateLine(mark[1], int(mark[2]))
            if mark.end() < len(line) and line[mark.end()] != "\x01":
                break
        plain.append(_MARK.sub("", line))
        lines.append(current)
    return Rendered("\n".join(plain), tuple(lines))

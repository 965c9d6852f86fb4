"""What a compiler says, parsed and led back to the user's own file and line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

# clang prints file:line:column, gcc-like tools may leave the column out.
_DIAGNOSTIC = re.compile(
    r"^(?P<file>[^\s:][^:\n]*):(?P<line>\d+)(?::(?P<column>\d+))?: "
    r"(?P<severity>fatal error|error|warning|note): (?P<text>.*)$"
)
_POSITION = re.compile(r"(?P<file>[\w./+-]+):(?P<line>\d+)(?=:)")


@dataclass(frozen=True)
class SourceLine:
    """A line of a file that the user wrote; lines count from 1."""

    file: str
    line: int


LineMap = Sequence[SourceLine]
"""Entry i tells where line i + 1 of the compiled text comes from."""


@dataclass(frozen=True)
class Diagnostic:
    """One message of the compiler; `severity` is error, warning or note; line and column count from 1."""

    file: str
    line: int
    column: int
    severity: str
    text: str

    @property
    def where(self) -> str:
        """`file:line:column`, without the column where the compiler gave none."""
        column = f":{self.column}" if self.column else ""
        return f"{self.file}:{self.line}{column}"


def parse(log: str) -> tuple[Diagnostic, ...]:
    """All diagnostics of a compiler's stderr, in order; other lines (excerpts, carets) are left out."""
    return tuple(
        Diagnostic(
            file=match["file"],
            line=int(match["line"]),
            column=int(match["column"] or 0),
            severity="error" if match["severity"] == "fatal error" else match["severity"],
            text=match["text"],
        )
        for match in map(_DIAGNOSTIC.match, log.splitlines())
        if match
    )


def _origin(file: str, line: int, filename: str, line_map: LineMap) -> SourceLine | None:
    if file != filename or not 1 <= line <= len(line_map):
        return None
    return line_map[line - 1]


def map_back(found: Sequence[Diagnostic], filename: str, line_map: LineMap) -> tuple[Diagnostic, ...]:
    """Lead diagnostics of `filename` (rendered text) back to the template they come from.

    The column is dropped: substitution moves columns, and a wrong one misleads.
    """
    mapped = []
    for diagnostic in found:
        origin = _origin(diagnostic.file, diagnostic.line, filename, line_map)
        mapped.append(
            replace(diagnostic, file=origin.file, line=origin.line, column=0) if origin else diagnostic
        )
    return tuple(mapped)


def map_log(log: str, filename: str, line_map: LineMap) -> str:
    """The compiler's log with every `filename:line` replaced by its origin."""

    def swap(match: re.Match[str]) -> str:
        origin = _origin(match["file"], int(match["line"]), filename, line_map)
        return f"{origin.file}:{origin.line}" if origin else match[0]

    return _POSITION.sub(swap, log)


def first_error(found: Sequence[Diagnostic]) -> Diagnostic | None:
    """The diagnostic that a one-line message should show."""
    return next((d for d in found if d.severity == "error"), None)

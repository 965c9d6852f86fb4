"""Results on standard output: a table for people, JSON and YAML for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
import msgspec

_Command = TypeVar("_Command", bound=Callable[..., Any])


def format_option(*choices: str) -> Callable[[_Command], _Command]:
    """`-o` with these formats, the first by default."""
    return click.option(
        "-o",
        "--output",
        "style",
        type=click.Choice(choices or ("table", "json", "yaml")),
        default=(choices or ("table",))[0],
        show_default=True,
        help="Format of the result.",
    )


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as kubectl shows them: upper-case headers, three spaces between, no rules."""
    cells = [list(headers), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    lines = (
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )
    return "\n".join(lines)


def document(style: str, value: object) -> str:
    """`value` (of builtins, dataclasses or structs) as "json" or "yaml" text."""
    plain = msgspec.to_builtins(value, str_keys=style == "json")
    if style == "json":
        return msgspec.json.format(msgspec.json.encode(plain), indent=2).decode()
    import yaml

    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)).rstrip("\n")

"""`kubebee lb top`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubebee.cli import options, output
from kubebee.cli.lb.completing import complete_frontend

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kubebee.cli.lb.load import Load
    from kubebee.cli.lb.opening import Balancer

ROWS = 30


@click.command()
@click.argument("frontends", metavar="[FRONTEND]...", nargs=-1, shell_complete=complete_frontend)
@click.option(
    "--interval",
    type=click.FloatRange(0.1),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option(
    "--limit", type=click.IntRange(1), default=ROWS, show_default=True, help="Show at most so many frontends."
)
@options.bpffs
@output.format_option("table", "json", "yaml")
def top(frontends: tuple[str, ...], interval: float, limit: int, bpffs: Path, style: str) -> None:
    """Show the frontends with the most traffic, and their backends, until interrupted.

    Anywhere but on a terminal it looks twice and prints the rates between.

    \b
    Examples:
      kubebee lb top
      kubebee lb top shop/web --interval 5
      kubebee lb top -o json | jq '.[0]'
    """  # noqa: D301 (click wants the character)
    from kubebee.cli.lb.opening import open_balancer

    with open_balancer(bpffs) as balancer:
        asked = _Asked(balancer, frontends, interval, limit)
        if style == "table" and sys.stdout.isatty():
            _live(asked)
        else:
            _once(asked, style)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What to look at, and how."""

    balancer: Balancer
    frontends: tuple[str, ...]
    interval: float
    limit: int

    def look(self) -> Load:
        """Counters now; a frontend that goes between two looks is no error."""
        from kubebee.cli.lb.load import load_of

        return load_of(self.balancer.again(), self.frontends)


def _live(asked: _Asked) -> None:
    from kubebee.cli import live
    from kubebee.cli.lb.load import render

    before: Load | None = None

    def look() -> RenderableType:
        nonlocal before
        now = asked.look()
        shown = render(now, before, asked.limit)
        before = now
        return shown

    live.follow(look, asked.interval)


def _once(asked: _Asked, style: str) -> None:
    from kubebee.cli.lb.load import document, render

    before = asked.look()
    time.sleep(asked.interval)
    now = asked.look()
    if style == "table":
        from kubebee.cli import live

        click.echo(live.as_text(render(now, before, asked.limit)))
    else:
        click.echo(output.document(style, document(now, before, asked.limit)))

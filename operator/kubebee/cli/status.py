"""`kubebee status`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubebee.cli import options, output
from kubebee.cli.exit_codes import Exit

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kubebee.cli.snapshot import Observer, Snapshot

SECONDS = 1.0
"""Between two looks."""


@click.command()
@options.directory
@click.argument("names", metavar="[NAME]...", nargs=-1)
@options.bpffs
@output.format_option("table", "json", "yaml")
@click.option("--watch", is_flag=True, help="Look every second and show rates, until interrupted.")
@click.option("--rates", is_flag=True, help="Look twice, a second apart, and show rates.")
@click.option("--events/--no-events", default=True, show_default=True, help="Show recent Events too.")
def status(
    directory: Path, names: tuple[str, ...], bpffs: Path, style: str, watch: bool, rates: bool, events: bool
) -> None:
    """Show the resources of a folder, how far each is, and what it counts.

    States and Events are those that `kubebee run` last wrote; counters are read from the kernel now, and
    go on when kubebee doesn't run. XDP functions are always counted, others while a `kubebee run
    --enable-stats` runs.

    Exits with 3 if a resource is not ready.

    \b
    Examples:
      kubebee status -f examples/quickstart
      kubebee status -f DIR --watch
      kubebee status -f DIR packets -o yaml
      kubebee status -f DIR -o json | jq '.resources[].status.failures'
      until kubebee status -f DIR > /dev/null; do sleep 1; done
    """  # noqa: D301 (click wants the character)
    from kubebee.cli.snapshot import Observer

    observer = Observer(directory, bpffs, names, events=events)
    if watch and style == "table" and sys.stdout.isatty():
        _live(observer)
        return
    if watch:
        _log(observer, style)
    before = None
    if rates:
        before = observer.look()
        time.sleep(SECONDS)
    now = observer.look()
    click.echo(_text(now, before, style))
    sys.exit(Exit.OK if all(resource.ready for resource in now.resources) else Exit.NOT_READY)


def _live(observer: Observer) -> None:
    """Show the newest snapshot on a screen of its own until Ctrl-C; the terminal is then as it was."""
    from kubebee.cli import live, view

    before = None
    first = observer.look()  # what is wrong with the folder is said before the screen changes

    def look() -> RenderableType:
        nonlocal before
        now = first if before is None else observer.look()
        shown = view.render(now, before)
        before = now
        return shown

    live.follow(look, SECONDS)


def _log(observer: Observer, style: str) -> None:
    """Print every snapshot, one after the other, for programs and files."""
    before = None
    while True:
        now = observer.look()
        click.echo(_text(now, before, style))
        before = now
        time.sleep(SECONDS)


def _text(now: Snapshot, before: Snapshot | None, style: str) -> str:
    if style != "table":
        return output.document(style, _document(now))
    from kubebee.cli import live, view

    return live.as_text(view.render(now, before))


def _document(now: Snapshot) -> dict[str, object]:
    resources = [
        {
            "kind": r.kind,
            "metadata": {"name": r.name, "generation": r.generation},
            "ready": r.ready,
            "status": r.status,
        }
        for r in now.resources
    ]
    return {
        "resources": resources,
        "services": now.services,
        "events": list(now.events),
        "counters": _counters(now),
    }


def _counters(now: Snapshot) -> dict[str, object]:
    counters = now.counters
    return {
        "programs": [
            {"unit": str(f.key), "function": f.function, "runs": f.runs, "nanosecondsPerRun": f.mean_ns}
            | ({"verdicts": f.verdicts} if f.verdicts else {})
            for f in counters.functions
        ],
        "frontends": [
            {
                "name": now.frontends.get(f.key, ""),
                "address": str(f.key),
                **f.counts._asdict(),
                "backends": [
                    {"address": str(b.backend), "draining": b.draining, **b.counts._asdict()}
                    for b in f.backends
                ],
            }
            for f in counters.frontends
        ],
        "rules": list(counters.rules),
        "drops": [{"unit": str(d.key), "packets": d.packets} for d in counters.drops],
    }

"""`kubebee status`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from kubebee.cli import options, output
from kubebee.cli.exit_codes import Exit
from kubebee.errors import KubebeeError

EVENTS_SHOWN = 10
MESSAGE_CHARS = 160
POINTS_SHOWN = 4
_WATCH_SECONDS = 0.5
_HEADERS = ("KIND", "NAME", "READY", "REASON", "NODES", "ATTACHED TO")


class NoStatusError(KubebeeError):
    """Nothing was ever reported for a folder."""

    reason = "NoStatus"


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource's status document, as `kubectl get -o yaml` shows it.

    Attributes:
        generation: of the resource; what its status speaks of may be older.
    """

    kind: str
    name: str
    generation: int
    status: dict[str, Any]

    @property
    def condition(self) -> dict[str, Any]:
        """The Ready condition, {} if there is none yet."""
        return next((c for c in self.status.get("conditions", ()) if c.get("type") == "Ready"), {})

    @property
    def ready(self) -> bool:
        """Whether the newest generation is in force."""
        current = int(self.status.get("observedGeneration", 0)) >= self.generation
        return current and self.condition.get("status") == "True"


@click.command()
@options.directory
@click.argument("names", metavar="[NAME]...", nargs=-1)
@output.format_option("table", "json", "yaml")
@click.option("--watch", is_flag=True, help="Go on and show each change, until interrupted.")
@click.option("--events/--no-events", default=True, show_default=True, help="Show recent Events too.")
def status(directory: Path, names: tuple[str, ...], style: str, watch: bool, events: bool) -> None:
    """Show the resources of a folder and how far each is, as `kubebee run` last wrote it.

    Exits with 3 if one of them is not ready.

    \b
    Examples:
      kubebee status -f examples/quickstart
      kubebee status -f DIR packets -o yaml
      kubebee status -f DIR -o json | jq '.resources[].status.failures'
      until kubebee status -f DIR > /dev/null; do sleep 1; done
    """  # noqa: D301 (click wants the character)
    if watch:
        with contextlib.suppress(KeyboardInterrupt):
            _watch(directory, names, style, events)
        return
    resources = _resources(directory, names)
    click.echo(_text(resources, _events(directory, names) if events else [], style))
    sys.exit(Exit.OK if all(resource.ready for resource in resources) else Exit.NOT_READY)


def _watch(directory: Path, names: tuple[str, ...], style: str, events: bool) -> None:
    """Show everything again whenever it reads differently; a folder without a status may yet get one."""
    shown = ""
    while True:
        try:
            text = _text(_resources(directory, names), _events(directory, names) if events else [], style)
        except NoStatusError as error:
            text = str(error)
        if text != shown:
            if sys.stdout.isatty():
                click.clear()
            click.echo(text)
            shown = text
        time.sleep(_WATCH_SECONDS)


def _resources(directory: Path, names: Sequence[str]) -> list[Resource]:
    """Statuses of all resources, or of those named.

    Raises:
        NoStatusError: there are none, or not of that name.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found = []
    for path in sorted((directory / ".kubebee" / "status").glob("*/*.yaml")):
        try:
            body = yaml.load(path.read_bytes(), Loader=loader)  # noqa: S506 (both are safe loaders)
        except FileNotFoundError:
            continue  # deleted just now
        metadata = body["metadata"]
        found.append(Resource(body["kind"], metadata["name"], metadata["generation"], body.get("status", {})))
    missing = set(names) - {resource.name for resource in found}
    if missing or not found:
        raise NoStatusError(
            f"no resource is called {', '.join(sorted(missing))}"
            if missing
            else "no status was written here",
            where=str(directory),
            hint=f"`kubebee run -f {directory}` writes it",
        )
    return [resource for resource in found if not names or resource.name in names]


def _events(directory: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Events, the most recent last."""
    import msgspec

    from kubebee.store.state import StateDirectory

    records = StateDirectory(directory / ".kubebee").load_events()
    builtins = [msgspec.to_builtins(record) for record in records]
    return [event for event in builtins if not names or event["name"] in names]


def _text(resources: Sequence[Resource], events: Sequence[dict[str, Any]], style: str) -> str:
    if style != "table":
        listed = [
            {
                "kind": r.kind,
                "metadata": {"name": r.name, "generation": r.generation},
                "ready": r.ready,
                "status": r.status,
            }
            for r in resources
        ]
        return output.document(style, {"resources": listed, "events": list(events)})
    blocks = [output.table(_HEADERS, [_row(resource) for resource in resources])]
    blocks += [_failure(resource) for resource in resources if not resource.ready]
    if events:
        rows = [
            (e["lastTimestamp"], e["type"], e["reason"], f"{e['kind']}/{e['name']}", _short(e["message"]))
            for e in events[-EVENTS_SHOWN:]
        ]
        blocks.append(output.table(("LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"), rows))
    return "\n\n".join(blocks)


def _row(resource: Resource) -> tuple[str, ...]:
    points = list(dict.fromkeys(_point(each) for each in resource.status.get("attachments", ())))
    more = f" and {len(points) - POINTS_SHOWN} more" if len(points) > POINTS_SHOWN else ""
    return (
        resource.kind,
        resource.name,
        str(resource.condition.get("status", "Unknown")),
        str(resource.condition.get("reason", "-")),
        str(resource.status.get("nodes", {}).get("summary", "-")),
        (", ".join(points[:POINTS_SHOWN]) or "-") + more,
    )


def _point(attachment: dict[str, Any]) -> str:
    mode = f" ({attachment['mode']})" if attachment.get("mode") else ""
    return f"{attachment['type']} {attachment['point']}{mode}"


def _failure(resource: Resource) -> str:
    """Why a resource is not ready: its condition, then what the first failing node says."""
    lines = [f"{resource.kind}/{resource.name}: {resource.condition.get('message', 'no condition yet')}"]
    for failure in resource.status.get("failures", ())[:1]:
        where = " ".join(str(failure.get(name, "")) for name in ("stage", "reason", "errno")).strip()
        lines.append(f"  why:   {where} on {failure.get('node', '')}")
        lines += [f"  do:    {failure['hint']}"] if failure.get("hint") else []
        lines += [f"  | {line}" for line in str(failure.get("log", "")).strip().splitlines()]
    return "\n".join(lines)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MESSAGE_CHARS else f"{line[: MESSAGE_CHARS - 1]}…"

"""`kubebee prog`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kubebee.cli import output

if TYPE_CHECKING:
    from kubebee.bpf.inventory import AttachPoint, ProgramRecord

_HEADERS = ("ID", "TYPE", "NAME", "OWNER", "ATTACHED TO", "RUNS", "NS/RUN")


@click.group()
def prog() -> None:
    """Programs on this machine, whoever loaded them.

    \b
    Examples:
      kubebee prog list
      kubebee prog list -o json | jq '.[] | select(.owner != "kubebee")'
    """  # noqa: D301 (click wants the character)


@prog.command("list")
@output.format_option("table", "json", "yaml")
def list_(style: str) -> None:
    """List all programs: owner, attach points, runs and their time.

    Interfaces are those of this network namespace. The kernel counts runs only while statistics are on
    (`kubebee run --enable-stats`, or sysctl kernel.bpf_stats_enabled=1).
    """
    from kubebee.bpf.inventory import programs

    found = programs()
    if style == "table":
        click.echo(output.table(_HEADERS, [_row(record) for record in found]))
    else:
        click.echo(output.document(style, [_document(record) for record in found]))


def _row(record: ProgramRecord) -> tuple[object, ...]:
    points = ", ".join(_point(point) for point in record.attach_points)
    mean = f"{record.run_time_ns / record.run_cnt:.0f}" if record.run_cnt else "-"
    kind = record.type.name.lower()
    return (record.id, kind, record.name or "-", record.owner or "-", points or "-", record.run_cnt, mean)


def _point(point: AttachPoint) -> str:
    return f"{point.hook} {point.target}".rstrip()


def _document(record: ProgramRecord) -> dict[str, object]:
    return {
        "id": record.id,
        "type": record.type.name.lower(),
        "name": record.name,
        "tag": record.tag,
        "owner": record.owner,
        "attachPoints": [
            {"hook": p.hook, "target": p.target, "position": p.position, "linkId": p.link_id}
            for p in record.attach_points
        ],
        "runCount": record.run_cnt,
        "runTimeNanoseconds": record.run_time_ns,
        "uid": record.created_by_uid,
        "mapIds": list(record.map_ids),
        "pids": list(record.pids),
        "pins": list(record.pins),
    }

"""Counters of frontends and backends at one moment, and rates between two."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from kubebee.cli.lb.naming import chosen
from kubebee.cli.lb.opening import Balancer
from kubebee.cli.lb.tables import NONE
from kubebee.cli.rates import Name, Rates
from kubebee.cli.view import columns
from kubebee.lb.layout import Stat
from kubebee.lb.model import FrontendKey
from kubebee.lb.reading import Shown, counts

_COLUMNS = ("CONNECTIONS", "CONN/S", "PACKETS", "PACKETS/S", "BYTES/S")
_Backend = tuple[FrontendKey, int]


@dataclass(frozen=True)
class Load:
    """Counters at one moment.

    Attributes:
        at: monotonic seconds.
        frontends: with what each counted in all.
        backends: what was counted towards each, by frontend and number.
    """

    at: float
    frontends: tuple[tuple[Shown, Stat], ...]
    backends: dict[_Backend, Stat]


def load_of(balancer: Balancer, texts: Sequence[str]) -> Load:
    """Read the counters of the frontends that the texts mean, or of all.

    Raises:
        FrontendNotFoundError: a text means none.
        BpfError: a map can't be read.
    """
    frontends: list[tuple[Shown, Stat]] = []
    backends: dict[_Backend, Stat] = {}
    for tables, every in chosen(balancer.tables, texts):
        counted = counts(balancer.maps, tables, every)
        frontends += [(shown, counted.frontends[shown.key]) for shown in every]
        for shown in every:
            for member in shown.members:
                backends[shown.key, member.number] = counted.backends[member.number]
    return Load(time.monotonic(), tuple(frontends), backends)


def _counters(load: Load) -> Iterator[tuple[Name, int]]:
    for shown, stat in load.frontends:
        yield from _of(shown.key, stat)
    for backend, stat in load.backends.items():
        yield from _of(backend, stat)


def _of(what: FrontendKey | _Backend, stat: Stat) -> Iterator[tuple[Name, int]]:
    yield ("connections", what), stat.connections
    yield ("packets", what), stat.packets
    yield ("bytes", what), stat.ip_bytes


def _rates(now: Load, before: Load | None) -> Rates:
    if before is None or now.at <= before.at:
        return Rates(dict(_counters(now)), {}, 0.0)
    return Rates(dict(_counters(now)), dict(_counters(before)), now.at - before.at)


def _busiest(now: Load, rates: Rates, limit: int) -> list[Shown]:
    """Frontends in order of packets a second, then of all packets."""

    def weight(each: tuple[Shown, Stat]) -> tuple[float, int, FrontendKey]:
        shown, stat = each
        return -(rates.rate(("packets", shown.key)) or 0.0), -stat.packets, shown.key

    return [shown for shown, _ in sorted(now.frontends, key=weight)[:limit]]


def render(now: Load, before: Load | None, limit: int) -> RenderableType:
    """The busiest frontends and their backends."""
    if not now.frontends:
        return Text("no frontends")
    rates = _rates(now, before)
    table = columns("FRONTEND", "NAME", numbers=_COLUMNS)
    for shown in _busiest(now, rates, limit):
        table.add_row(str(shown.key), shown.name or NONE, *_cells(rates, shown.key))
        for member in shown.members:
            _add_backend(table, rates, shown, member.number)
    if len(now.frontends) > limit:
        table.add_row(f"and {len(now.frontends) - limit} more", style="dim")
    return table


def _add_backend(table: Table, rates: Rates, shown: Shown, number: int) -> None:
    member = next(each for each in shown.members if each.number == number)
    state = "" if member.state == "Active" else member.state
    style = "dim" if state else ""
    table.add_row(f"  {member.backend}", state, *_cells(rates, (shown.key, number)), style=style)


def _cells(rates: Rates, what: FrontendKey | _Backend) -> tuple[str, ...]:
    connections, packets = rates.cells(("connections", what)), rates.cells(("packets", what))
    return *connections, *packets, rates.cells(("bytes", what))[1]


def document(now: Load, before: Load, limit: int) -> list[dict[str, object]]:
    """The same for programs; a rate that is not known yet is null."""
    rates = _rates(now, before)
    stats = {shown.key: stat for shown, stat in now.frontends}
    return [
        {
            "frontend": str(shown.key),
            "name": shown.name,
            **_numbers(rates, shown.key, stats[shown.key]),
            "backends": [
                {
                    "address": str(member.backend),
                    "state": member.state,
                    **_numbers(rates, (shown.key, member.number), now.backends[shown.key, member.number]),
                }
                for member in shown.members
            ],
        }
        for shown in _busiest(now, rates, limit)
    ]


def _numbers(rates: Rates, what: FrontendKey | _Backend, stat: Stat) -> dict[str, object]:
    return {
        "connections": stat.connections,
        "connectionsPerSecond": rates.rate(("connections", what)),
        "packets": stat.packets,
        "packetsPerSecond": rates.rate(("packets", what)),
        "bytes": stat.ip_bytes,
        "bytesPerSecond": rates.rate(("bytes", what)),
    }

"""How full the load balancer's tables are, and when a change of that is worth a write of a status."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kubebee.lb.family import Family

STEP = 10
"""Percentage points: a smaller change is no news."""
SHOW_SECONDS = 300.0
"""At least so long lies between two changes of what is shown: a thousand nodes write three a second."""
HIGH = 90
"""Percent: a table that comes to be so full is told of sooner."""
HIGH_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Fill:
    """How full a table of one family is.

    Attributes:
        limit: the field of spec.limits that bounds it.
        family: IPv4 or IPv6.
        used: of its `size`.
    """

    limit: str
    family: str
    used: int
    size: int

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from other tables of the node."""
        return self.limit, self.family

    @property
    def percent(self) -> int:
        """Rounded down: 100 is full."""
        return 100 * self.used // self.size if self.size else 0


Rooms = Mapping[str, tuple[int, int]]
"""What is taken of a family's tables and what there is, by limit."""


def fills(
    rooms: Mapping[Family, Rooms], flows: Mapping[str, int], sizes: Mapping[str, int]
) -> tuple[Fill, ...]:
    """How full all tables are.

    Args:
        rooms: of those that user space alone writes.
        flows: entries by name of the maps of flows. Of SNAT's and DSR's the fuller one counts.
        sizes: entries that these have room for.
    """
    return tuple(fill for family, part in rooms.items() for fill in _of_family(family, part, flows, sizes))


def _of_family(
    family: Family, rooms: Rooms, flows: Mapping[str, int], sizes: Mapping[str, int]
) -> Iterator[Fill]:
    for limit, (used, size) in rooms.items():
        yield Fill(limit, family.name, used, size)
    known = [
        Fill("flows", family.name, flows[name], sizes[name])
        for name in (family.flows, family.dsr_flows)
        if name in flows and name in sizes
    ]
    if known:
        yield max(known, key=lambda fill: fill.percent)


def is_news(shown: Sequence[Fill], now: Sequence[Fill], seconds: float) -> bool:
    """Whether `now` shall be shown instead of what was shown so many seconds ago."""
    before = {fill.key: fill for fill in shown}
    if [(fill.key, fill.size) for fill in shown] != [(fill.key, fill.size) for fill in now]:
        return True
    changes = [(before[fill.key].percent, fill.percent) for fill in now]
    if seconds >= HIGH_SECONDS and any(was < HIGH <= this for was, this in changes):
        return True
    return seconds >= SHOW_SECONDS and any(abs(this - was) >= STEP for was, this in changes)

"""What the load balancer's maps say, for people: read by anybody who may open them, written by nobody.

The writer's own view (LbState) plans changes; this one only tells what packets and sockets find.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from kubebee import names
from kubebee.bpf.constants import MapFlag
from kubebee.bpf.map import Map
from kubebee.lb import layout
from kubebee.lb.family import FAMILIES, Family
from kubebee.lb.layout import BackendFlag, BackendValue, FrontendFlag, FrontendValue, NextHop, Stat
from kubebee.lb.model import Backend, Forwarding, FrontendKey, Prefix
from kubebee.lb.moving import NOBODY, NUMBER
from kubebee.lb.served import forwarding_of
from kubebee.lb.stats import backend_counts

_NO_STAT = Stat()


@dataclass(frozen=True, slots=True)
class Member:
    """A backend of a frontend.

    Attributes:
        number: by which tables and flows know it.
        leaving: it was removed, and goes once its last flow is over.
        outside, inside: whether new connections from outside, and of the node's sockets, may go there.
        hop: how it is reached; None = by a route lookup for each packet.
    """

    number: int
    backend: Backend
    leaving: bool
    outside: bool
    inside: bool
    hop: NextHop | None

    @property
    def state(self) -> str:
        """In one word."""
        if self.leaving:
            return "Draining"
        return "Active" if self.backend.weight else "NoNewConnections"


@dataclass(frozen=True, slots=True)
class Shown:
    """A frontend and its backends.

    Attributes:
        name: what declared it ("ServiceLB/shop:web"), "" if the maps don't say.
        value: as the maps have it.
        source_ranges: who may come from outside; () = everybody.
    """

    key: FrontendKey
    name: str
    value: FrontendValue
    members: tuple[Member, ...]
    source_ranges: tuple[Prefix, ...]

    @property
    def forwarding(self) -> Forwarding:
        """How packets reach its backends."""
        return forwarding_of(self.value.flags)

    @property
    def random(self) -> bool:
        """Whether the backend of a new connection from outside is drawn."""
        return bool(self.value.flags & FrontendFlag.RANDOM)

    @property
    def algorithm(self) -> str:
        """How the backend of a new connection from outside is chosen, as the API has it."""
        return "Random" if self.random else "Maglev"

    @property
    def active(self) -> int:
        """Backends that take new connections, of whichever side."""
        return sum(1 for member in self.members if member.state == "Active")

    @property
    def split(self) -> bool:
        """Whether the node's sockets have another table than packets from outside."""
        value = self.value
        return (value.base, value.size) != (value.inside_base, value.inside_size)

    @property
    def sockets_only(self) -> bool:
        """Whether no packet from outside is for it."""
        return bool(self.value.flags & FrontendFlag.SOCKETS_ONLY)

    @property
    def drop_outside(self) -> bool:
        """Whether packets from outside that find no backend are dropped, not refused."""
        return bool(self.value.flags & FrontendFlag.DROP_OUTSIDE)


@dataclass(frozen=True)
class Tables:
    """Frontends and backends of one family, at one moment."""

    family: Family
    frontends: Mapping[FrontendKey, FrontendValue]
    backends: Mapping[int, BackendValue]
    names: Mapping[int, str]
    ranges: Mapping[int, tuple[Prefix, ...]] = field(default_factory=dict)

    @cached_property
    def _by_frontend(self) -> Mapping[int, list[int]]:
        found: dict[int, list[int]] = {}
        for number, value in self.backends.items():
            found.setdefault(value.frontend, []).append(number)
        return found

    @cached_property
    def by_id(self) -> Mapping[int, FrontendKey]:
        """Frontends by the number that backends have of theirs."""
        return {value.id: key for key, value in self.frontends.items()}

    def shown(self, key: FrontendKey) -> Shown:
        """A frontend with its backends, in order of their addresses."""
        value = self.frontends[key]
        numbers = self._by_frontend.get(value.id, ())
        members = sorted(
            (_member(number, self.backends[number]) for number in numbers),
            key=lambda member: (member.leaving, member.backend),
        )
        ranges = self.ranges.get(value.id, ())
        return Shown(key, self.names.get(value.id, ""), value, tuple(members), ranges)

    def every(self) -> Iterator[Shown]:
        """All frontends, in order of their addresses."""
        for key in sorted(self.frontends):
            yield self.shown(key)


def _member(number: int, value: BackendValue) -> Member:
    leaving = bool(value.flags & BackendFlag.GONE)
    return Member(
        number=number,
        backend=Backend(value.address, value.port, value.weight),
        leaving=leaving,
        outside=not leaving and not value.flags & BackendFlag.NOT_OUTSIDE,
        inside=not leaving and not value.flags & BackendFlag.NOT_INSIDE,
        hop=value.hop,
    )


def read_tables(maps: Mapping[str, Map]) -> list[Tables]:
    """Read both families; of one that nothing is served of, nothing.

    Raises:
        BpfError: a map can't be read.
    """
    return [_read(maps, family) for family in FAMILIES if family.present(maps)]


def _read(maps: Mapping[str, Map], family: Family) -> Tables:
    frontends = {}
    for raw, value in maps[family.frontends].items():
        key = layout.unpack_key(raw)
        if isinstance(key, FrontendKey):
            frontends[key] = FrontendValue.unpack(value)
    backends = {}
    for raw, value in maps[family.backends].items():
        if any(value):
            backends[int.from_bytes(raw, sys.byteorder)] = BackendValue.unpack(value)
    known = names.read(maps[family.names]) if family.names in maps else {}
    ranges: dict[int, list[Prefix]] = {}
    if family.sources in maps:
        for raw in maps[family.sources].keys():  # noqa: SIM118 (a Map is no dict)
            frontend, prefix = layout.unpack_source(raw)
            ranges.setdefault(frontend, []).append(prefix)
    return Tables(
        family, frontends, backends, known, {number: tuple(sorted(of)) for number, of in ranges.items()}
    )


class Counts(NamedTuple):
    """Counters of some frontends, all read at one moment.

    Attributes:
        frontends: by key, backends that have left included.
        backends: by number.
    """

    frontends: Mapping[FrontendKey, Stat]
    backends: Mapping[int, Stat]


def counts(maps: Mapping[str, Map], tables: Tables, frontends: Iterable[Shown]) -> Counts:
    """Read what was counted of some frontends.

    Raises:
        BpfError: a map can't be read.
    """
    every = list(frontends)
    numbers = [member.number for shown in every for member in shown.members]
    backends = backend_counts(maps[tables.family.backend_counts], numbers)
    left = maps[tables.family.frontend_counts]
    totals = {}
    for shown in every:
        total = Stat.sum(left.lookup(layout.u32(shown.value.id)) or _NO_STAT.pack())
        for member in shown.members:
            total = total.plus(backends[member.number])
        totals[shown.key] = total
    return Counts(totals, backends)


def slots(maps: Mapping[str, Map], family: Family, base: int, size: int) -> array[int]:
    """A table: the number of a backend for each slot.

    Raises:
        BpfError: the map can't be read.
    """
    return array("I", (word & NUMBER for word in slot_words(maps, family, base, size)))


def slot_words(maps: Mapping[str, Map], family: Family, base: int, size: int) -> array[int]:
    """A table as it is, with the flags of slots that changed of late (see moving.py).

    Raises:
        BpfError: the map can't be read.
    """
    table = maps[family.slots]
    row, first = divmod(base, layout.ROW_SLOTS)
    rows = -(-(first + size) // layout.ROW_SLOTS)
    if not size:
        return array("I")
    if table.info.map_flags & MapFlag.MMAPABLE:
        with table.mmap(writable=False) as memory:
            raw = memory[row * layout.ROW_BYTES : (row + rows) * layout.ROW_BYTES]
    else:
        raw = b"".join(table.lookup(layout.u32(row + i)) or bytes(layout.ROW_BYTES) for i in range(rows))
    return array("I", raw)[first : first + size]


def shares(maps: Mapping[str, Map], tables: Tables, shown: Shown) -> tuple[Counter[int], Counter[int]]:
    """Slots that each backend has, by number: of the table for packets, and of that for sockets.

    Raises:
        BpfError: a map can't be read.
    """
    value, family = shown.value, tables.family
    outside = _shares(maps, family, value.base, value.size)
    if not shown.split:
        return outside, outside
    return outside, _shares(maps, family, value.inside_base, value.inside_size)


def _shares(maps: Mapping[str, Map], family: Family, base: int, size: int) -> Counter[int]:
    counted = Counter(slots(maps, family, base, size))
    del counted[NOBODY]
    return counted

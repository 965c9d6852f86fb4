"""Source ranges of frontends: who may come from outside (loadBalancerSourceRanges).

A frontend with the flag SOURCES serves those that a prefix in the map covers. Prefixes are there before the
flag and go after it, so that nobody is let in or shut out for a moment.
"""

from __future__ import annotations

from collections import defaultdict

from kubebee.bpf.map import Map
from kubebee.lb import layout
from kubebee.lb.model import Prefix
from kubebee.lb.writer import TableWriter


class SourceRanges:
    """What one family's map has.

    Args:
        capacity: entries of the map.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._written: dict[int, frozenset[bytes]] = {}
        self._count = 0

    @classmethod
    def adopt(cls, table: Map) -> SourceRanges:
        """Read the map."""
        found: defaultdict[int, set[bytes]] = defaultdict(set)
        for key in table.keys():  # noqa: SIM118  a Map is no dict
            found[layout.unpack_source(key)[0]].add(key)
        ranges = cls(table.info.max_entries)
        ranges._written = {frontend: frozenset(keys) for frontend, keys in found.items()}
        ranges._count = sum(map(len, found.values()))
        return ranges

    def of(self, frontend: int) -> tuple[Prefix, ...]:
        """The ranges of a frontend, by its id, in order."""
        return tuple(sorted(layout.unpack_source(key)[1] for key in self._written.get(frontend, ())))

    def room_for(self, frontend: int | None, prefixes: tuple[Prefix, ...]) -> bool:
        """Whether the map has room for a frontend's ranges beside those of all others."""
        has = 0 if frontend is None else len(self._written.get(frontend, ()))
        return self._count - has + len(prefixes) <= self._capacity

    def write(self, writer: TableWriter, frontend: int, prefixes: tuple[Prefix, ...]) -> None:
        """Let exactly these be the ranges of a frontend, by its id."""
        before = self._written.get(frontend)
        if before is None and not prefixes:
            return
        wanted = frozenset(layout.pack_source(frontend, prefix) for prefix in prefixes)
        before = before or frozenset()
        writer.admit(wanted - before)
        writer.expel(before - wanted)
        self._count += len(wanted) - len(before)
        if wanted:
            self._written[frontend] = wanted
        else:
            self._written.pop(frontend, None)

    def forget_unknown(self, writer: TableWriter, known: set[int]) -> None:
        """Remove what belongs to no frontend: a write that was cut short."""
        for frontend in self._written.keys() - known:
            self.write(writer, frontend, ())

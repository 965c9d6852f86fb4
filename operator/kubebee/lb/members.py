"""A frontend's backends as one list, and what its two tables make of them.

Packets from outside and the node's sockets may each have a table of their own. A backend that is in both has
one number and one row of counters.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

from kubebee.lb import tables
from kubebee.lb.layout import BackendFlag
from kubebee.lb.model import Backend, Frontend

_SIDES = int(BackendFlag.NOT_OUTSIDE | BackendFlag.NOT_INSIDE)
_SIDES_OF_FLAGS = bytes(flags & _SIDES for flags in range(256))


class Members(NamedTuple):
    """Backends of a frontend, sorted.

    Attributes:
        sides: a BackendFlag byte each, which says that a backend is missing from one of the tables; b"" where
            none is, so that one table serves both.
    """

    every: tuple[Backend, ...] = ()
    sides: bytes = b""

    @classmethod
    def of(cls, frontend: Frontend) -> Members:
        """The backends that a frontend wants."""
        outside, inside = frontend.backends, frontend.inside
        if inside is None:
            every = tuple(sorted(outside))
            return cls(outside if every == outside else every)  # those of Services are sorted: once in memory
        missing = dict.fromkeys(outside, BackendFlag.NOT_INSIDE)
        for backend in inside:
            missing[backend] = BackendFlag(0) if backend in missing else BackendFlag.NOT_OUTSIDE
        every = tuple(sorted(missing))
        return cls.with_sides(every, bytes(missing[backend] for backend in every))

    @classmethod
    def with_sides(cls, every: tuple[Backend, ...], flags: bytes) -> Members:
        """Sorted backends, by the flags that the maps have of each."""
        sides = flags.translate(_SIDES_OF_FLAGS)
        return cls(every, sides if any(sides) else b"")

    def side(self, index: int) -> int:
        """The flags of one backend."""
        return self.sides[index] if self.sides else 0

    def without(self, flag: BackendFlag) -> tuple[Backend, ...]:
        """The backends that are in one of the tables: NOT_OUTSIDE gives those for packets."""
        if not self.sides:
            return self.every
        return tuple(backend for backend, side in zip(self.every, self.sides, strict=True) if not side & flag)


class Contents(NamedTuple):
    """What a frontend's tables hold.

    Attributes:
        outside, inside: members as _maglev takes them; the same object where one table serves both.
        size, inside_size: slots.
    """

    outside: bytes
    size: int
    inside: bytes
    inside_size: int

    @classmethod
    def of(cls, members: Members, ids: array[int]) -> Contents:
        """The tables for members that have these numbers."""
        if not members.sides:
            packed, size = tables.pack_members(members.every, ids), tables.table_size(members.every)
            return cls(packed, size, packed, size)
        return cls(
            *_part(members, ids, BackendFlag.NOT_OUTSIDE), *_part(members, ids, BackendFlag.NOT_INSIDE)
        )

    @property
    def shared(self) -> bool:
        """Whether one table serves both."""
        return self.inside is self.outside

    @property
    def rows(self) -> int:
        """Rows of the slot array that both tables take."""
        own = 0 if self.shared else tables.rows_of(self.inside_size)
        return tables.rows_of(self.size) + own

    @property
    def fingerprint(self) -> int:
        """Tells these tables from others."""
        if self.shared:
            return tables.fingerprint((self.outside, self.size))
        return tables.fingerprint((self.outside, self.size), (self.inside, self.inside_size))


def _part(members: Members, ids: array[int], missing: BackendFlag) -> tuple[bytes, int]:
    chosen = [
        (backend, number)
        for backend, number, side in zip(members.every, ids, members.sides, strict=True)
        if not side & missing
    ]
    backends = [backend for backend, _ in chosen]
    return tables.pack_members(backends, (number for _, number in chosen)), tables.table_size(backends)

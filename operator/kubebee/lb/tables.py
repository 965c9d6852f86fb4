"""Slot tables: how large, what is in them, and where in the slot array they lie."""

from __future__ import annotations

import bisect
import struct
import zlib
from collections.abc import Iterable, Sequence

from kubebee.lb import _maglev
from kubebee.lb.layout import ROW_SLOTS
from kubebee.lb.model import Backend

# A change of size moves most flows, so sizes are few: each serves twice as many backends as the one
# before, at 100 slots a backend or more. Primes, as each backend's permutation needs.
_SIZES = (101, 211, 509, 1009, 2003, 4001, 8009, 16001, 32003, 65537)
LARGEST_TABLE = _SIZES[-1]
_SLOTS_PER_BACKEND = 100
_ALGORITHM = 1
"""Part of the fingerprint: raise it when _maglev.c would fill a table differently."""

_MEMBER = struct.Struct("=QII")
_SIZE = struct.Struct("=I")
_HALVES = struct.Struct(">QQ")
_MIX, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1


def table_size(backends: Sequence[Backend]) -> int:
    """Return the slots of a table for backends; 0 if none of them takes connections."""
    active = sum(1 for backend in backends if backend.weight)
    if not active:
        return 0
    index = bisect.bisect_left(_SIZES, active * _SLOTS_PER_BACKEND)
    return _SIZES[min(index, len(_SIZES) - 1)]


def rows_of(size: int) -> int:
    """Return how many rows of the slot array a table takes."""
    return -(-size // ROW_SLOTS)


def pack_members(backends: Iterable[Backend], ids: Iterable[int]) -> bytes:
    """Return what fill() wants of backends, which the caller has sorted, and their numbers."""
    pack, number_of = _MEMBER.pack, int.from_bytes
    return b"".join(
        pack(
            number_of(address) << 16 | port if len(address) == 4 else _long_identity(address, port),
            number,
            weight,
        )
        for (address, port, weight), number in zip(backends, ids, strict=True)
    )


def _long_identity(address: bytes, port: int) -> int:
    """An IPv6 address and port in 64 bits. Should two be the same, only their permutations are."""
    halves: tuple[int, int] = _HALVES.unpack(address)
    high, low = halves
    x = (high * _MIX + low) & _MASK
    x ^= x >> 32
    return (x * _MIX + port) & _MASK


def fingerprint(*parts: tuple[bytes, int]) -> int:
    """Return a 32-bit number that tells these tables from others; a part is members and a size."""
    value = _ALGORITHM
    for members, size in parts:
        value = zlib.crc32(members, zlib.crc32(_SIZE.pack(size), value))
    return value


def fill(slots: bytearray, row: int, size: int, members: bytes) -> None:
    """Write a table of `size` slots into rows of a buffer, from row `row` on."""
    _maglev.fill(slots, row * ROW_SLOTS * 4, size, members)


class RowSpace:
    """Which rows of the slot array are free. First fit; neighbours merge.

    Released rows rest until reclaim(): a packet on another CPU may still read them.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._free = [(0, rows)]
        self._resting: list[tuple[int, int]] = []

    @property
    def used(self) -> int:
        """Rows that tables take, those at rest included."""
        return self.rows - sum(length for _, length in self._free)

    @property
    def held(self) -> int:
        """The same without those at rest."""
        return self.used - sum(length for _, length in self._resting)

    @property
    def resting(self) -> bool:
        """Whether reclaim() would win anything."""
        return bool(self._resting)

    def take(self, rows: int) -> int | None:
        """Return the first row of a free run, None if there is none."""
        for index, (start, length) in enumerate(self._free):
            if length < rows:
                continue
            if length == rows:
                del self._free[index]
            else:
                self._free[index] = (start + rows, length - rows)
            return start
        return None

    def reserve(self, start: int, rows: int) -> bool:
        """Take exactly these rows; False if they are not all free."""
        index = bisect.bisect_right(self._free, (start, self.rows)) - 1
        if index < 0:
            return False
        free_start, length = self._free[index]
        before, after = start - free_start, free_start + length - (start + rows)
        if after < 0:
            return False
        rest = [(free_start, before), (start + rows, after)]
        self._free[index : index + 1] = [run for run in rest if run[1]]
        return True

    def release(self, start: int, rows: int) -> None:
        """Give rows back, to rest."""
        if rows:
            self._resting.append((start, rows))

    def reclaim(self) -> None:
        """Make resting rows free. Call it when no program run that began before the release still runs."""
        merged: list[tuple[int, int]] = []
        for start, length in sorted(self._free + self._resting):
            if merged and sum(merged[-1]) == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + length)
            else:
                merged.append((start, length))
        self._free = merged
        self._resting = []


class NumberPool:
    """Small integers, lowest fresh ones first, freed ones in the order they came back."""

    def __init__(self, capacity: int, used: frozenset[int] = frozenset()) -> None:
        self.capacity = capacity
        self._fresh = max(used, default=-1) + 1
        self._back = [number for number in range(self._fresh) if number not in used]

    @property
    def available(self) -> int:
        """How many take() would still give."""
        return len(self._back) + self.capacity - self._fresh

    def take(self) -> int:
        """Return a number that is in no use. The caller has looked at `available`."""
        if self._fresh < self.capacity:
            self._fresh += 1
            return self._fresh - 1
        return self._back.pop(0)

    def give_back(self, number: int) -> None:
        """Return a number to the pool."""
        self._back.append(number)

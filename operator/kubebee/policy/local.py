"""Writes the addresses that mean this host: a HostPolicy judges packets to these and to no others.

An address belongs to one line of kb_policy.local (templates/include/policy_types.h); what a line has no
room for is in the hash kb_p_crowded, which packets ask only behind a full line. At every moment, and
wherever the writer is killed, an address that stays is in one of the two.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kubebee.bpf.map import Map
from kubebee.policy import layout

_EMPTY = 0


@dataclass(frozen=True, slots=True)
class LocalReport:
    """How many addresses apply_local() added and removed."""

    added: int = 0
    removed: int = 0


def apply_local(maps: Mapping[str, Map], addresses: Iterable[bytes]) -> LocalReport:
    """Write the addresses (IPv4, network order) that mean this host; only differences.

    New ones are added before old ones go.

    Raises:
        BpfError: the hash is full.
    """
    crowded = maps[layout.CROWDED_MAP]
    with (
        maps[layout.VARIABLE_MAP].mmap() as memory,
        memoryview(memory) as view,
        view[layout.LOCAL_AT : layout.LOCAL_AT + layout.LOCAL_BYTES] as part,
        part.cast("I") as slots,
    ):
        return _Lines(slots, crowded).become(
            {int.from_bytes(address, sys.byteorder) for address in addresses} - {_EMPTY}
        )


def line_of(address: bytes) -> int:
    """The line of an address."""
    return (int.from_bytes(address) * layout.LOCAL_HASH & 0xFFFFFFFF) >> (32 - layout.LOCAL_LINE_BITS)


class _Lines:
    """Both maps; addresses as numbers that their bytes in network order make."""

    def __init__(self, slots: memoryview, crowded: Map) -> None:
        self._slots = slots
        self._map = crowded
        self._in_lines = {*slots} - {_EMPTY}
        self._crowded: dict[int, set[int]] = defaultdict(set)  # by line
        for key, _ in crowded.items():
            address = int.from_bytes(key, sys.byteorder)
            self._crowded[_line(address)].add(address)

    def become(self, wanted: set[int]) -> LocalReport:
        crowded = {address for line in self._crowded.values() for address in line}
        for address in crowded & self._in_lines:
            self._leave_crowd(address)
        present = self._in_lines | crowded
        for address in sorted(wanted - present):
            self._add(address)
        for address in sorted(crowded - self._in_lines - wanted):
            self._leave_crowd(address)
        for address in sorted(self._in_lines - wanted):
            self._remove(address)
        return LocalReport(len(wanted - present), len(present - wanted))

    def _slot_with(self, value: int, line: int) -> int | None:
        first = line * layout.LOCAL_SLOTS
        return next((i for i in range(first, first + layout.LOCAL_SLOTS) if self._slots[i] == value), None)

    def _add(self, address: int) -> None:
        line = _line(address)
        free = self._slot_with(_EMPTY, line)
        if free is not None:
            self._slots[free] = address
            return
        self._map.update(address.to_bytes(4, sys.byteorder), b"\1")
        self._crowded[line].add(address)

    def _remove(self, address: int) -> None:
        """Give the slot to one of the crowd: a line that has a crowd must be full.

        It stays in the hash too until the next apply_local(): a packet may have read the slot and not the
        hash yet.
        """
        line = _line(address)
        slot = self._slot_with(address, line)
        if slot is not None:
            self._slots[slot] = self._crowded[line].pop() if self._crowded[line] else _EMPTY

    def _leave_crowd(self, address: int) -> None:
        self._map.delete(address.to_bytes(4, sys.byteorder))
        self._crowded[_line(address)].discard(address)


def _line(stored: int) -> int:
    return line_of(stored.to_bytes(4, sys.byteorder))

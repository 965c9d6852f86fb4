"""Writes a compiled rule set into the maps: a packet sees the old rules or the new ones, never a mix."""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from kubebee.bpf.map import Map, possible_cpus
from kubebee.names import NameTable
from kubebee.policy import layout
from kubebee.policy.compile import CompiledPolicy
from kubebee.policy.model import PolicyError

_PAGE = 4096
_SYS_MEMBARRIER = {"x86_64": 324, "aarch64": 283}
_MEMBARRIER_CMD_GLOBAL = 1
_U64 = struct.Struct("=Q")


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What apply() did.

    Attributes:
        switched: whether the rules changed (the active half did).
        bytes_written: into the tables; only pages that differ are written.
        slots_reset: counters that started at 0 for a rule that was not there before.
    """

    switched: bool = False
    bytes_written: int = 0
    slots_reset: int = 0


@dataclass
class PolicyState:
    """What user space knows of the maps: the counter slots in use.

    Attributes:
        slots: counter slot by RuleKey.identity.
        switched_at: monotonic seconds of the last switch by this process.
        names: of the rules, by counter slot.
    """

    slots: dict[int, int] = field(default_factory=dict)
    switched_at: float = float("-inf")
    names: NameTable = field(default_factory=NameTable)

    @classmethod
    def adopt(cls, maps: Mapping[str, Map]) -> PolicyState:
        """Read the slots of the rules in force back from the maps; nothing for maps just created."""
        data = _read(maps, layout.TABLES["rules"], _active(maps)[0], layout.TABLES["rules"].size)
        slots = {identity: slot for identity, slot, _ in layout.RULE.iter_unpack(data) if slot}
        # What an earlier version pinned has none; it is only ever looked at.
        names = NameTable.adopt(maps[layout.NAMES_MAP]) if layout.NAMES_MAP in maps else NameTable()
        return cls(slots, names=names)

    def apply(self, maps: Mapping[str, Map], compiled: CompiledPolicy) -> SyncReport:
        """Put a rule set in force. It must have been compiled with this state's slots.

        The half that no packet uses is filled, then one store switches to it. Nothing happens if the
        half in use already has these contents.

        Raises:
            BpfError: if the kernel refuses; the rules in force stay.
            PolicyError: if a table does not fit its map.
        """
        self._write_names(maps[layout.NAMES_MAP], compiled)
        active, flags = _active(maps)
        if flags == compiled.flags and all(
            _read(maps, layout.TABLES[name], active, len(data)) == data
            for name, data in compiled.tables.items()
        ):
            self.slots = dict(compiled.slots)
            return SyncReport()
        self._wait_for_readers()
        inactive = 1 - active
        written = sum(
            _fill(maps, layout.TABLES[name], inactive, data) for name, data in compiled.tables.items()
        )
        fresh = [slot for identity, slot in compiled.slots.items() if identity not in self.slots]
        _reset(maps[layout.HITS_MAP], fresh)
        _switch(maps, layout.ACTIVE_HALF.pack(inactive, compiled.flags))
        self.switched_at = time.monotonic()
        self.slots = dict(compiled.slots)
        return SyncReport(switched=True, bytes_written=written, slots_reset=len(fresh))

    def _write_names(self, table: Map, compiled: CompiledPolicy) -> None:
        wanted = {rule.slot: "/".join(rule.key) for rule in compiled.rules}
        self.names.forget(table, self.names.written.keys() - wanted.keys())
        self.names.write(table, wanted)

    def _wait_for_readers(self) -> None:
        """Wait until no packet is still being judged by the half about to be written.

        Only after a switch a moment ago: a packet takes far less than a second. membarrier(2)'s global
        command waits for an RCU grace period, which every XDP program runs inside of.
        """
        if time.monotonic() - self.switched_at < 1:
            _wait_for_grace_period()


def _active(maps: Mapping[str, Map]) -> tuple[int, int]:
    """The half that serves packets, and its policy flags."""
    with maps[layout.VARIABLE_MAP].mmap(writable=False) as memory:
        half, flags = layout.ACTIVE_HALF.unpack_from(memory)
    return half % layout.HALVES, flags


def _switch(maps: Mapping[str, Map], active: bytes) -> None:
    """Write struct kb_policy_active by one store of 8 bytes, which x86 does after those to the tables."""
    (value,) = _U64.unpack(active)
    with (
        maps[layout.VARIABLE_MAP].mmap() as memory,
        memoryview(memory) as view,
        view[: _U64.size] as head,
        head.cast("Q") as word,
    ):
        word[0] = value


def _read(maps: Mapping[str, Map], table: layout.Table, half: int, size: int) -> bytes:
    start = table.start(half)
    with maps[table.map].mmap(writable=False) as memory:
        return memory[start : start + size]


def _fill(maps: Mapping[str, Map], table: layout.Table, half: int, data: bytes) -> int:
    """Write the pages that differ; returns the bytes written."""
    if len(data) > table.size:
        raise PolicyError(
            f"{len(data)} bytes do not fit", reason="PolicyTooLarge", where=f"table {table.name}"
        )
    start, written = table.start(half), 0
    with maps[table.map].mmap() as memory:
        for offset in range(0, len(data), _PAGE):
            page = data[offset : offset + _PAGE]
            at = start + offset
            if memory[at : at + len(page)] != page:
                memory[at : at + len(page)] = page
                written += len(page)
    return written


def _reset(hits: Map, slots: list[int]) -> None:
    zero = bytes(layout.HITS.size * possible_cpus())
    keys = b"".join(layout.INDEX.pack(slot) for slot in slots)
    hits.update_batch(keys, zero * len(slots), len(slots))


def _wait_for_grace_period() -> None:
    number = _SYS_MEMBARRIER.get(os.uname().machine)
    libc = ctypes.CDLL(None, use_errno=True)
    if number is None or libc.syscall(number, _MEMBARRIER_CMD_GLOBAL, 0, 0) < 0:
        # Not built in, or nohz_full CPUs: a packet takes microseconds, so this is a grace period too.
        time.sleep(0.05)

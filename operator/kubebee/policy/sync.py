"""Writes a compiled rule set into the maps: a packet sees the old rules or the new ones, never a mix."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kubebee.bpf.map import Map, possible_cpus
from kubebee.policy import layout
from kubebee.policy.compile import CompiledPolicy
from kubebee.policy.model import PolicyError

_PAGE = 4096
_SYS_MEMBARRIER = {"x86_64": 324, "aarch64": 283}
_MEMBARRIER_CMD_GLOBAL = 1
_KEY_0 = layout.INDEX.pack(0)


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What apply() did.

    Attributes:
        switched: whether the rules changed (the active half did).
        bytes_written: into the tables; only pages that differ are written.
        slots_reset: counters that started at 0 for a rule that was not there before.
        local_added, local_removed: addresses.
    """

    switched: bool = False
    bytes_written: int = 0
    slots_reset: int = 0
    local_added: int = 0
    local_removed: int = 0


@dataclass
class PolicyState:
    """What user space knows of the maps: the counter slots in use.

    Attributes:
        slots: counter slot by RuleKey.identity.
        switched_at: monotonic seconds of the last switch by this process.
    """

    slots: dict[int, int] = field(default_factory=dict)
    switched_at: float = float("-inf")

    @classmethod
    def adopt(cls, maps: Mapping[str, Map]) -> PolicyState:
        """Read the slots of the rules in force back from the maps; nothing for maps just created."""
        table = _table("kb_p_rules")
        start = _active(maps)[0] * table.half_size
        with maps[table.map].mmap(writable=False) as memory:
            data = memory[start : start + table.half_size]
        return cls({identity: slot for identity, slot, _ in layout.RULE.iter_unpack(data) if slot})

    def apply(self, maps: Mapping[str, Map], compiled: CompiledPolicy) -> SyncReport:
        """Put a rule set in force. It must have been compiled with this state's slots.

        The half that no packet uses is filled, then one store switches to it. Nothing happens if the
        half in use already has these contents.

        Raises:
            BpfError: if the kernel refuses; the rules in force stay.
            PolicyError: if a table does not fit its map.
        """
        active, flags = _active(maps)
        if flags == compiled.flags and all(
            _same(maps, table, active, compiled.tables[table.map]) for table in layout.TABLES
        ):
            self.slots = dict(compiled.slots)
            return SyncReport()
        self._wait_for_readers()
        inactive = 1 - active
        written = sum(_fill(maps, table, inactive, compiled.tables[table.map]) for table in layout.TABLES)
        fresh = [slot for identity, slot in compiled.slots.items() if identity not in self.slots]
        _reset(maps[layout.HITS_MAP], fresh)
        maps[layout.ACTIVE].update(_KEY_0, layout.ACTIVE_HALF.pack(inactive, compiled.flags))
        self.switched_at = time.monotonic()
        self.slots = dict(compiled.slots)
        return SyncReport(switched=True, bytes_written=written, slots_reset=len(fresh))

    def _wait_for_readers(self) -> None:
        """Wait until no packet is still being judged by the half about to be written.

        Only after a switch a moment ago: a packet takes far less than a second. membarrier(2)'s global
        command waits for an RCU grace period, which every XDP program runs inside of.
        """
        if time.monotonic() - self.switched_at < 1:
            _wait_for_grace_period()


def apply_local(maps: Mapping[str, Map], addresses: Iterable[int]) -> SyncReport:
    """Write the addresses (IPv4, host order) that mean this host; only differences.

    New ones are added before old ones go. Raises BpfError if the map is full.
    """
    target = maps[layout.LOCAL]
    wanted = {address.to_bytes(4, "big") for address in addresses}
    present = set(target.keys())
    added, removed = sorted(wanted - present), sorted(present - wanted)
    target.update_batch(b"".join(added), b"\1" * len(added), len(added))
    target.delete_batch(b"".join(removed), len(removed))
    return SyncReport(local_added=len(added), local_removed=len(removed))


def _table(name: str) -> layout.Table:
    return next(table for table in layout.TABLES if table.map == name)


def _active(maps: Mapping[str, Map]) -> tuple[int, int]:
    """The half that serves packets, and its policy flags."""
    value = maps[layout.ACTIVE].lookup(_KEY_0)
    half, flags = layout.ACTIVE_HALF.unpack(value or bytes(layout.ACTIVE_HALF.size))
    return half % layout.HALVES, flags


def _same(maps: Mapping[str, Map], table: layout.Table, half: int, data: bytes) -> bool:
    start = half * table.half_size
    with maps[table.map].mmap(writable=False) as memory:
        return memory[start : start + len(data)] == data


def _fill(maps: Mapping[str, Map], table: layout.Table, half: int, data: bytes) -> int:
    """Write the pages that differ; returns the bytes written."""
    if len(data) > table.half_size:
        raise PolicyError(f"{len(data)} bytes do not fit", reason="PolicyTooLarge", where=f"map {table.map}")
    start, written = half * table.half_size, 0
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

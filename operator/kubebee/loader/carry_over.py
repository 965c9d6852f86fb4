"""Contents of a map that has to be made anew: kept where the new one can hold them, else said to be lost."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from kubebee.bpf.constants import MapType
from kubebee.bpf.map import Map
from kubebee.errors import KubebeeError

_COPYABLE = frozenset(
    {
        MapType.HASH,
        MapType.ARRAY,
        MapType.LRU_HASH,
        MapType.LPM_TRIE,
        MapType.PERCPU_HASH,
        MapType.PERCPU_ARRAY,
    }
)


def carry_over(created: Map, old_pins: Sequence[Path], name: str) -> str:
    """Copy an earlier version's contents where keys and values have the same size.

    Returns:
        What to tell the user; empty if there was no earlier version.
    """
    for path in old_pins:
        with contextlib.suppress(KubebeeError), Map.from_pin(path) as old:
            new, info = created.info, old.info
            same = (info.type, info.key_size, info.value_size) == (new.type, new.key_size, new.value_size)
            if not same or info.type not in _COPYABLE or name.startswith("."):
                return f"map {name} was made anew: its layout changed, its contents are lost"
            copied, lost = _copy(old, created)
            rest = f", {lost} did not fit" if lost else ""
            why = "its size changed, " if info.max_entries != new.max_entries else ""
            return f"map {name} was made anew: {why}{copied} entries kept{rest}"
    return ""


def _copy(old: Map, new: Map) -> tuple[int, int]:
    """Copy entries in batches; returns how many were copied and how many found no room."""
    entries = list(old.items())
    if new.info.type in (MapType.ARRAY, MapType.PERCPU_ARRAY):
        entries = entries[: new.info.max_entries]
    try:
        new.update_batch(b"".join(k for k, _ in entries), b"".join(v for _, v in entries), len(entries))
    except KubebeeError:  # full: what fits, one by one
        return _copy_singly(entries, new)
    return len(entries), 0


def _copy_singly(entries: list[tuple[bytes, bytes]], new: Map) -> tuple[int, int]:
    lost = 0
    for key, value in entries:
        try:
            new.update(key, value)
        except KubebeeError:
            lost += 1
    return len(entries) - lost, lost

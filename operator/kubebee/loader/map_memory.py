"""How much memory maps take, and whether a node has it: asked before the first of them is made.

The kernel would refuse them in the end, or end somebody else's process first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from kubebee.bpf.constants import MapType
from kubebee.errors import KubebeeError
from kubebee.loader.facts import MapSchema

SHARE = 2
"""All maps of a unit together may take one part in so many of the node's memory."""
_HASH_ELEMENT, _BUCKET, _TRIE_NODE, _POINTER = 48, 16, 40, 8  # struct htab_elem, bucket, lpm_trie_node
_HASHES = frozenset({MapType.HASH, MapType.LRU_HASH})
_MEMINFO = Path("/proc/meminfo")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_MIB = 1 << 20


class MapMemoryError(KubebeeError):
    """The maps would take more memory than the node can give them."""

    reason = "NotEnoughMemory"


def map_bytes(schema: MapSchema, cpus: int) -> int:
    """Memory of a map, full, in bytes; 0 for kinds that take little or are not known."""
    key, value, entries = _round(schema.key_size), _round(schema.value_size), schema.max_entries
    if schema.type in _HASHES:
        buckets = 1 << max(entries - 1, 0).bit_length()
        return entries * (_HASH_ELEMENT + key + value) + buckets * _BUCKET
    if schema.type == MapType.ARRAY:
        return entries * value
    if schema.type == MapType.PERCPU_ARRAY:
        return entries * (_POINTER + cpus * value)
    if schema.type == MapType.LPM_TRIE:
        return entries * (_TRIE_NODE + key + value)
    return 0


def check(schemas: Iterable[MapSchema], sizes: Mapping[str, int], where: str) -> None:
    """Refuse maps that take more than their share of the node's memory.

    Args:
        schemas: of the maps; several of one name are one map.
        sizes: max_entries of some, in place of the schemas'.
        where: the field that decides about them.

    Raises:
        MapMemoryError: they do.
    """
    cpus = os.cpu_count() or 1
    by_name = {schema.name: map_bytes(_sized(schema, sizes), cpus) for schema in schemas}
    needed, there = sum(by_name.values()), _memory()
    if there and needed > there // SHARE:
        largest = max(by_name, key=lambda name: by_name[name])
        raise MapMemoryError(
            f"the maps would take {needed // _MIB} MiB, more than 1/{SHARE} of the {there // _MIB} MiB that"
            f" there are; the largest is {largest} with {by_name[largest] // _MIB} MiB",
            where=where,
            hint="make it smaller, or choose nodes with more memory",
        )


def _sized(schema: MapSchema, sizes: Mapping[str, int]) -> MapSchema:
    return msgspec.structs.replace(schema, max_entries=sizes.get(schema.name, schema.max_entries))


def _round(size: int) -> int:
    return -(-size // 8) * 8


def _memory() -> int:
    """Bytes that this process may have: the machine's, or its cgroup's if that has a limit; 0 = unknown."""
    found = []
    for line in _lines(_MEMINFO):
        if line.startswith("MemTotal:"):
            found.append(int(line.split()[1]) * 1024)
    found += [int(line) for line in _lines(_CGROUP_LIMIT) if line.isdecimal()]
    return min(found, default=0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []

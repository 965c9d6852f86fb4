"""Backends on this node, found by address: for packets that another balancer sends here inside IP-in-IP.

Of several backends of a frontend at one address the one that was written last is found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from kubebee.bpf.map import Map
from kubebee.lb import layout
from kubebee.lb.family import Family
from kubebee.lb.layout import BackendValue


def forget_here(maps: Mapping[str, Map], family: Family, number: int, value: BackendValue) -> None:
    """A backend is no longer on this node, or no longer there."""
    if family.here not in maps:
        return
    table, key = maps[family.here], layout.pack_here(value.frontend, value.address)
    if table.lookup(key) == layout.u32(number):
        table.delete(key)


def repair_here(maps: Mapping[str, Map], family: Family, local: Iterable[tuple[int, BackendValue]]) -> None:
    """Let the map have exactly these backends, after a writer that was killed or that knew no such map.

    Raises:
        BpfError: the map refused a write.
    """
    if family.here not in maps:
        return
    table = maps[family.here]
    present = dict(table.items())
    wanted: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for number, value in local:
        wanted[layout.pack_here(value.frontend, value.address)].append(layout.u32(number))
    wrong = {key: numbers[-1] for key, numbers in wanted.items() if present.get(key) not in numbers}
    table.update_batch(b"".join(wrong), b"".join(wrong.values()), len(wrong))
    stale = present.keys() - wanted.keys()
    table.delete_batch(b"".join(stale), len(stale))

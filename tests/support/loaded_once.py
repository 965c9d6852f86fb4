"""Loaded programs that tests have one after the other: the verifier runs once, maps are as new each time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from kubebee.bpf.constants import MapType
from kubebee.bpf.map import Map
from kubebee.bpf.program import Program

KEPT = 6
"""Of so many kinds one is kept that nobody uses: each has maps of some ten MB."""
_ARRAYS = frozenset({MapType.ARRAY, MapType.PERCPU_ARRAY})
_TABLES = frozenset(
    {MapType.HASH, MapType.LRU_HASH, MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH, MapType.LPM_TRIE}
)


@dataclass
class Loaded:
    """Programs and their maps, by name.

    Attributes:
        more: other maps that their runs change.
    """

    programs: Mapping[str, Program]
    maps: Mapping[str, Map]
    more: tuple[Map, ...] = ()
    _fresh: dict[int, dict[bytes, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for each in self._changing():
            if each.info.type in _ARRAYS:
                blank = bytes(each.info.value_stride)
                self._fresh[each.info.id] = {key: value for key, value in each.items() if value != blank}

    def _changing(self) -> Iterator[Map]:
        yield from (each for name, each in self.maps.items() if not name.startswith(".rodata"))
        yield from self.more

    def restore(self) -> None:
        """Give all maps what they had when they were loaded."""
        for each in self._changing():
            _restore(each, self._fresh.get(each.info.id, {}))

    def close(self) -> None:
        """Let the kernel have them back."""
        for each in (*self.programs.values(), *self.maps.values(), *self.more):
            each.close()


_idle: OrderedDict[Hashable, Loaded] = OrderedDict()


@contextmanager
def lent(key: Hashable, load: Callable[[], Loaded]) -> Iterator[Loaded]:
    """What `load` gives, or what it gave before by the same key and nobody has at the moment."""
    loaded = _idle.pop(key, None) or load()
    try:
        yield loaded
    finally:
        loaded.restore()
        _idle[key] = loaded
        while len(_idle) > KEPT:
            _idle.popitem(last=False)[1].close()


def _restore(table: Map, fresh: Mapping[bytes, bytes]) -> None:
    info = table.info
    if info.type in _ARRAYS:
        blank = bytes(info.value_stride)
        changed = {
            key: fresh.get(key, blank) for key, value in table.items() if value != fresh.get(key, blank)
        }
        table.update_batch(b"".join(changed), b"".join(changed.values()), len(changed))
    else:
        assert info.type in _TABLES, f"{info.name}: how to empty a map of type {info.type.name}?"
        keys = [key for key, _ in table.items()]
        table.delete_batch(b"".join(keys), len(keys))

"""The code that an interface runs, loaded once more over maps of its own.

Nothing that a run does reaches what is live: maps that the program may write to are fresh ones, with copies
of the few entries that matter to one packet. Maps that only user space writes to are shared as they are.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kubebee.bpf.constants import MapFlag, MapType
from kubebee.bpf.map import Map
from kubebee.bpf.object import BpfObject
from kubebee.bpf.program import TestRun
from kubebee.bpf.syscall import BpfError
from kubebee.errors import KubebeeError
from kubebee.trace.live import At, LiveChain

READ_ONLY = frozenset(
    {
        *("kb_lb_fe", "kb_lb_slots", "kb_lb_be", "kb_lb_fe_stat", "kb_lb_cfg", "kb_lb_sources"),
        *("kb_lb_devs", "kb_lb_names", "kb_lb_here", "kb_lb_own", "kb_lb_cut"),
        *(".bss", "kb_p_chunks", "kb_p_crowded", "kb_p_names"),
    }
)
"""Maps of the built-in stages that no program writes to; so their IPv6 twins, whose names end in 6."""

WRITTEN = frozenset(
    {
        *("kb_drops", "kb_run", "kb_lb_be_stat", "kb_lb_flow", "kb_lb_rev", "kb_lb_dsr_flow"),
        *("kb_lb_affinity", "kb_lb_replies", "kb_lb_scratch", "kb_lb_frags", "kb_p_hits", "kb_p_fragments"),
        "kb_lb_theirs",
    }
)
"""Maps of the built-in stages that a run writes to."""

ROOM = 1024
"""Entries of a private table: one packet needs few of them."""
_COPIED_BYTES = 16 << 20
"""Of a user's map; a larger one starts out empty."""
_TABLES = frozenset({MapType.HASH, MapType.LRU_HASH, MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH})
_COPIED = _TABLES | {MapType.ARRAY, MapType.PERCPU_ARRAY, MapType.LPM_TRIE}
_XDP_CONTEXT = struct.Struct("=6I")  # xdp_md: data, data_end, data_meta, ingress_ifindex, rx queue, egress
_TC_CONTEXT = struct.Struct("=40xI148x")  # __sk_buff: ifindex; most of the rest has to be 0


class NotTheSameError(KubebeeError):
    """What would be run is not what runs."""

    reason = "NotTheSame"


class MapName(NamedTuple):
    """A map of a chain: which stage's, and what the stage's source calls it."""

    stage: int
    name: str


def ipv4_twin(name: str) -> str:
    """What a map of the built-in stages is called for IPv4."""
    return name.removesuffix("6") if name.startswith("kb_") else name


class PrivateChain:
    """The code of a live chain over private maps; a context manager.

    Attributes:
        notes: what is not as in the live chain.
    """

    def __init__(self, live: LiveChain) -> None:
        self.live = live
        self.notes: list[str] = []
        self._stack = contextlib.ExitStack()
        self._live: dict[MapName, Map] = {}
        self._own: dict[MapName, Map] = {}
        self._full: set[MapName] = set()

    def __enter__(self) -> PrivateChain:
        try:
            self._load()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _load(self) -> None:
        made_from = self.live.made_from
        opened = self._stack.enter_context(BpfObject.open(made_from.elf, name="kb_trace"))
        for name, program in opened.programs.items():
            program.set_autoload(name == made_from.entry)
        for each in made_from.maps:
            key, declared = MapName(each.stage, each.name), opened.maps.get(each.linked)
            if declared is None:
                continue
            live = self._live[key] = self._stack.enter_context(_by_id(each.id, each.name))
            if self._is_shared(key, live):
                declared.reuse_fd(live.fd)
            elif declared.type in _TABLES and made_from.stages[each.stage].builtin:
                declared.set_max_entries(min(ROOM, live.info.max_entries))
            elif ipv4_twin(each.name) == "kb_lb_be_stat":
                declared.set_max_entries(1)  # nobody reads it, and for each CPU it can be megabytes
            else:
                declared.set_max_entries(live.info.max_entries)
        opened.load()
        self._program = self._stack.enter_context(opened.programs[made_from.entry].duplicate())
        self._check_tag()
        for each in made_from.maps:
            key = MapName(each.stage, each.name)
            if each.linked in opened.maps and not self._is_shared(key, self._live[key]):
                self._own[key] = self._stack.enter_context(opened.maps[each.linked].duplicate())
                if not made_from.stages[each.stage].builtin and each.name != "kb_run":
                    self._copy_all(key)

    def _is_shared(self, key: MapName, live: Map) -> bool:
        if live.info.map_flags & MapFlag.RDONLY_PROG:
            return True
        return self.live.made_from.stages[key.stage].builtin and ipv4_twin(key.name) in READ_ONLY

    def _check_tag(self) -> None:
        tag = self._program.info.tag
        if tag != self.live.tag:
            raise NotTheSameError(
                f"what is kept of its code (tag {tag}) is not what runs (tag {self.live.tag})",
                where=self.live.interface,
                hint="somebody else exchanged the program; `kubebee prog list` says what is attached",
            )

    def _copy_all(self, key: MapName) -> None:
        """Let a user's map start with what the live one holds now."""
        live, own = self._live[key], self._own[key]
        info = live.info
        if info.type not in _COPIED or info.max_entries * (info.key_size + info.value_stride) > _COPIED_BYTES:
            self.notes.append(f"map {key.name} of {self.unit(key.stage)} starts out empty")
            return
        for keys, values, count in live.batches():
            own.update_batch(keys, values, count)

    def unit(self, stage: int) -> str:
        """What a stage is of, for people."""
        found = self.live.made_from.stages[stage]
        return f"{found.kind}/{found.unit}"

    def maps(self, stage: int) -> Mapping[str, Map]:
        """All maps of a stage as the run sees them."""
        return {key.name: self._own.get(key, live) for key, live in self._live.items() if key.stage == stage}

    def has(self, name: str) -> bool:
        """Whether a built-in stage has a map of this name."""
        return self.live_map(name) is not None

    def live_map(self, name: str) -> Map | None:
        """The live map that built-in stages share under this name; only for looking."""
        stages = self.live.made_from.stages
        found = (live for key, live in self._live.items() if key.name == name and stages[key.stage].builtin)
        return next(found, None)

    def seed(self, name: str, key: bytes) -> bytes | None:
        """Copy the live entry of a key, if any, to every stage that has the map; returns its value."""
        live = self.live_map(name)
        value = live.lookup(key) if live is not None else None
        if value is not None:
            for own in self._copies(name):
                own.update(key, value)
        return value

    def fill(self, name: str) -> None:
        """Let a private table take nothing new."""
        for own in self._copies(name):
            info = own.info
            room = info.max_entries - sum(1 for _ in own.keys())  # noqa: SIM118 (a Map is no dict)
            keys = b"".join(b"\xff" * (info.key_size - 4) + i.to_bytes(4) for i in range(room))
            own.update_batch(keys, bytes(info.value_size * room), room)

    def entries(self, name: str) -> dict[bytes, bytes]:
        """What private tables of this name hold now."""
        return {key: value for own in self._copies(name) for key, value in own.items()}

    def _copies(self, name: str) -> list[Map]:
        stages = self.live.made_from.stages
        return [own for key, own in self._own.items() if key.name == name and stages[key.stage].builtin]

    def clear(self) -> None:
        """Empty the private tables of the built-in stages, and set their counters to 0."""
        for key, own in self._own.items():
            if not self.live.made_from.stages[key.stage].builtin and key.name != "kb_run":
                continue
            if own.info.type in _TABLES:
                keys = list(own.keys())
                own.delete_batch(b"".join(keys), len(keys))
            elif own.info.type in (MapType.ARRAY, MapType.PERCPU_ARRAY):
                for index, value in own.items():
                    if any(value):
                        own.update(index, bytes(len(value)))

    def run(self, frame: bytes) -> TestRun:
        """Let a frame come in by the interface.

        Raises:
            BpfError: the kernel refuses the test run.
        """
        if self.live.at is At.TC:
            return self._program.test_run(frame, _TC_CONTEXT.pack(self.live.ifindex))
        context = _XDP_CONTEXT.pack(0, len(frame), 0, self.live.ifindex, 0, 0)
        return self._program.test_run(frame, context)


@contextlib.contextmanager
def _by_id(number: int, name: str) -> Iterator[Map]:
    try:
        opened = Map.from_id(number)
    except BpfError as error:
        raise BpfError(
            f"the live map {name} is gone", error.errno, hint="try again: it was just replaced"
        ) from error
    with opened:
        yield opened

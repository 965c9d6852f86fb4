"""One packet through the code that runs, until what it finds is what it would find among the live entries."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from kubebee import drops, names
from kubebee.bpf.map import Map, split_percpu
from kubebee.lb.family import FAMILIES, family_of
from kubebee.lb.layout import FlowKey
from kubebee.loader.counted import RUN_MAP, WENT_ON, XDP_VERDICTS, of_stage
from kubebee.planner.plan import ResourceKey
from kubebee.policy import layout as policy_layout
from kubebee.trace.live import At, LiveChain
from kubebee.trace.packet import Flow
from kubebee.trace.private import PrivateChain

FLOW_MAPS = tuple(name for family in FAMILIES for name in (family.flows, family.reverse, family.dsr_flows))
_ROUNDS = 64
"""How often what a run made may turn out to be taken; the datapath itself tries 6 ports."""
_NOT_REACHED = ""
_TC_VERDICTS = {2: "DROP", 7: "REDIRECT"}
"""As XDP calls them: TC_ACT_SHOT, TC_ACT_REDIRECT; else the packet goes on to the stack."""
Seed = tuple[str, bytes]
"""A map and a key."""
_BATCH = 65536


@dataclass(frozen=True, slots=True)
class StageRun:
    """What one stage did.

    Attributes:
        unit: "HostPolicy/_0123abcd", as pins have it.
        verdict: as of XDP, `NEXT` if it left the packet to the next stage, "" if it was not reached.
        dropped: reasons that it counted.
        rules: of a HostPolicy, that matched, those in audit mode apart.
    """

    unit: str
    function: str
    builtin: bool
    verdict: str
    dropped: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    audited: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a flow map."""

    table: str
    key: bytes
    value: bytes

    @property
    def backend(self) -> int:
        """Number of the backend that it is about; all kinds have it behind a time of 8 bytes."""
        return int.from_bytes(self.value[8:12], sys.byteorder)


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a packet would meet.

    Attributes:
        verdict: as of XDP: what tc sends out of an interface is a REDIRECT, what goes on a PASS.
        before, after: the frame.
        found: live entries that were there for it.
        made: entries that it would make.
    """

    live: LiveChain
    verdict: str
    before: bytes
    after: bytes
    stages: tuple[StageRun, ...]
    found: tuple[Entry, ...]
    made: tuple[Entry, ...]
    notes: tuple[str, ...]


def rehearse(live: LiveChain, flow: Flow, frame: bytes, wanted: Sequence[Seed] = ()) -> Rehearsal:
    """Let a frame come in by the interface of a chain; nothing live changes.

    Args:
        live: what runs there.
        flow: of the frame.
        frame: as it arrives.
        wanted: live entries that it needs, besides those of its flow.

    Raises:
        NotTheSameError: what runs is not what was kept.
        BpfError: the kernel refuses to load or to run it.
    """
    with PrivateChain(live) as private:
        return rehearse_in(private, flow, frame, wanted)


def rehearse_in(private: PrivateChain, flow: Flow, frame: bytes, wanted: Sequence[Seed] = ()) -> Rehearsal:
    """The same in code that is loaded already; users' programs find what the run before left."""
    seeds = frozenset((*_own_keys(private, flow), *wanted))
    run = _until_true(private, frame, seeds, frozenset())
    full = {entry.table for entry in run.made if _is_full(private, entry.table)}
    return _until_true(private, frame, seeds, full) if full else run


def _until_true(private: PrivateChain, frame: bytes, own: Set[Seed], full: Set[str]) -> Rehearsal:
    """Run until nothing that it makes is taken by a live entry.

    Args:
        private: the code.
        frame: what comes in.
        own: live entries that it may find.
        full: flow maps that take nothing new.
    """
    seeds = set(own)
    for _ in range(_ROUNDS):
        private.clear()
        found = [entry for seed in sorted(seeds) for entry in _seed(private, *seed)]
        for table in full:
            private.fill(table)
        ran = private.run(frame)
        made = [] if full else _made(private, found)
        taken = {(entry.table, entry.key) for entry in made if _is_live(private, entry)} - seeds
        if not taken:
            break
        seeds |= taken
    verdict = _verdict(private.live.at, ran.retval)
    return Rehearsal(
        live=private.live,
        verdict=verdict,
        before=frame,
        after=ran.data,
        stages=tuple(_stages(private, verdict)),
        found=tuple(entry for entry in found if (entry.table, entry.key) in own),
        made=tuple(made),
        notes=(*private.notes, *(f"table {name} is full" for name in sorted(full))),
    )


def _own_keys(private: PrivateChain, flow: Flow) -> Iterator[Seed]:
    """Entries of a packet's flow: as a client's, and as an answer."""
    family = family_of(flow.source)
    key = FlowKey(flow.source, flow.destination, flow.source_port, flow.destination_port, flow.protocol)
    for table in (family.flows, family.reverse, family.dsr_flows):
        if private.has(table):
            yield table, key.pack()


def _seed(private: PrivateChain, table: str, key: bytes) -> Iterator[Entry]:
    value = private.seed(table, key)
    if value is not None:
        yield Entry(table, key, value)


def _entries(private: PrivateChain) -> Iterator[Entry]:
    for table in FLOW_MAPS:
        for key, value in private.entries(table).items():
            yield Entry(table, key, value)


def _made(private: PrivateChain, found: Sequence[Entry]) -> list[Entry]:
    """What was not there before, or leads to another backend now."""
    backends = {(entry.table, entry.key): entry.backend for entry in found}
    return [each for each in _entries(private) if backends.get((each.table, each.key)) != each.backend]


def _is_live(private: PrivateChain, entry: Entry) -> bool:
    live = private.live_map(entry.table)
    return live is not None and live.lookup(entry.key) is not None


def _is_full(private: PrivateChain, table: str) -> bool:
    live = private.live_map(table)
    return live is not None and sum(count for _, _, count in live.batches(_BATCH)) >= live.info.max_entries


def _verdict(at: At, returned: int) -> str:
    if at is At.TC:
        return _TC_VERDICTS.get(returned, "PASS")
    return XDP_VERDICTS[returned] if returned < len(XDP_VERDICTS) else "ABORTED"


def _stages(private: PrivateChain, whole: str) -> Iterator[StageRun]:
    for index, stage in enumerate(private.live.made_from.stages):
        maps, unit = private.maps(index), private.unit(index)
        verdict = _of_stage(maps[RUN_MAP]) if RUN_MAP in maps else whole.replace("PASS", WENT_ON)
        if not stage.builtin:
            yield StageRun(unit, stage.function, stage.builtin, verdict)
            continue
        dropped = tuple(reason for reason, count in drops.read(maps).items() if count)
        rules, audited = _rules(maps) if policy_layout.HITS_MAP in maps else ((), ())
        yield StageRun(unit, stage.function, stage.builtin, verdict, dropped, rules, audited)


def _of_stage(run_map: Map) -> str:
    """What the dispatcher counted in one run; at tc there is none, and nobody counts."""
    ran = of_stage(ResourceKey("", ""), "", "XDP", (), run_map)
    return next((name for name, count in ran.verdicts.items() if count), _NOT_REACHED)


def _rules(maps: Mapping[str, Map]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the rules that a run counted: those that decided, and those that would have."""
    known = names.read(maps[policy_layout.NAMES_MAP]) if policy_layout.NAMES_MAP in maps else {}
    decided, audited = [], []
    for key, values in maps[policy_layout.HITS_MAP].items():
        per_cpu = (policy_layout.HITS.unpack(each) for each in split_percpu(values, policy_layout.HITS.size))
        packets, _, audit_packets, _ = (sum(column) for column in zip(*per_cpu, strict=True))
        name = known.get(slot := policy_layout.INDEX.unpack(key)[0], f"number {slot}")
        decided += [name] if packets else []
        audited += [name] if audit_packets else []
    return tuple(decided), tuple(audited)

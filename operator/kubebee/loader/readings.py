"""What runs here and how much, read from the kernel at one moment: for metrics and the live view.

`take` must be called on the loader's thread: between its awaits the loader's maps and programs are open.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from kubebee import drops
from kubebee.bpf.constants import MapType
from kubebee.bpf.map import Map
from kubebee.lb import stats as lb_stats
from kubebee.lb.health.board import Reading
from kubebee.lb.stats import FrontendStats
from kubebee.loader.counted import MAX_FRONTENDS, DropsReading, FunctionReading, of_program, of_stage
from kubebee.loader.loaded import Loaded
from kubebee.loader.loader import Loader
from kubebee.loader.unit import owner_of
from kubebee.planner.plan import ResourceKey
from kubebee.policy import stats as policy_stats
from kubebee.policy.stats import RuleStats

_COUNTED = frozenset(
    {MapType.HASH, MapType.PERCPU_HASH, MapType.LRU_HASH, MapType.LRU_PERCPU_HASH, MapType.LPM_TRIE}
)
COUNT_LIMIT = 65_536
"""A map of more entries is not counted: there is no count to ask for, so all entries must be read."""


@dataclass(frozen=True, slots=True)
class MapReading:
    """Fill of a hash or LPM map; `entries` is None if it has room for more than `COUNT_LIMIT`."""

    key: ResourceKey
    name: str
    entries: int | None
    max_entries: int


@dataclass(frozen=True, slots=True)
class UnitReading:
    """A unit and how far it is.

    Attributes:
        stage: of kubebee.planner.report.Stage, as text: "Running" if nothing failed.
        reason: of its failure, else "".
    """

    key: ResourceKey
    stage: str
    reason: str


@dataclass(frozen=True, slots=True)
class Readings:
    """Everything that is counted on this node.

    Attributes:
        frontends: empty if there are more than `MAX_FRONTENDS`; `frontend_count` is always right.
        checked: backends that are checked.
    """

    units: tuple[UnitReading, ...]
    functions: tuple[FunctionReading, ...]
    frontends: tuple[FrontendStats, ...]
    frontend_count: int
    rules: tuple[RuleStats, ...]
    drops: tuple[DropsReading, ...]
    maps: tuple[MapReading, ...]
    checked: tuple[Reading, ...] = ()

    def with_maps(self, maps: tuple[MapReading, ...]) -> Readings:
        """The same with maps of another reading."""
        return replace(self, maps=maps)


def take(loader: Loader, *, count_maps: bool = True) -> Readings:
    """Read all counters.

    Args:
        loader: it may be between two steps of a pass, but must not be running.
        count_maps: False leaves `maps` empty; counting is what costs most.

    Raises:
        BpfError: a map or program can't be read.
        LookupError: a pass is under way and maps don't match its plan yet; the next reading will do.
    """
    active = [(key, state.active) for key, state in sorted(loader.states.items(), key=_by_name)]
    loaded = [(key, version) for key, version in active if version is not None]
    served = loader.lb.state.served if loader.lb.state is not None else {}
    return Readings(
        units=tuple(_units(loader)),
        functions=tuple(reading for key, version in loaded for reading in _functions(loader, key, version)),
        frontends=tuple(_frontends(loader)) if len(served) <= MAX_FRONTENDS else (),
        frontend_count=len(served),
        rules=tuple(_rules(loader)),
        drops=tuple(
            DropsReading(key, drops.read(version.maps))
            for key, version in loaded
            if drops.MAP in version.maps
        ),
        maps=tuple(_maps(loaded)) if count_maps else (),
        checked=loader.lb_checks.readings(),
    )


def _by_name(item: tuple[ResourceKey, object]) -> str:
    return str(item[0])


def _units(loader: Loader) -> Iterator[UnitReading]:
    for key, state in loader.states.items():
        if state.failure is not None:
            yield UnitReading(key, state.failure.stage.value, state.failure.reason)
        elif state.active is None:
            yield UnitReading(key, "Fetch", "")
        elif state.missing:
            yield UnitReading(key, "Attach", "TargetNotFound")
        else:
            yield UnitReading(key, "Running", "")


def _functions(loader: Loader, key: ResourceKey, version: Loaded) -> Iterator[FunctionReading]:
    plans = {plan.name: plan for plan in version.unit.functions}
    for name, plan in plans.items():
        points = tuple(_points(loader, key, name))
        if name in version.programs:
            yield of_program(key, name, plan.attach.type, points, version.programs[name].info)
        elif name in version.run_maps:
            yield of_stage(key, name, plan.attach.type, points, version.run_maps[name])


def _points(loader: Loader, key: ResourceKey, function: str) -> Iterator[str]:
    for interface, chain in sorted(loader.xdp.active.items()):
        if any((stage.key, stage.function) == (key, function) for stage in chain.chain.stages):
            yield interface
    for link in loader.links.of_unit(key):
        if link.function == function:
            yield link.target.point


def _frontends(loader: Loader) -> list[FrontendStats]:
    if loader.lb.state is None:
        return []
    version = next((s.active for key, s in loader.states.items() if key.kind == "ServiceLB"), None)
    return lb_stats.read(version.maps, loader.lb.state) if version is not None else []


def _rules(loader: Loader) -> Iterator[RuleStats]:
    for key, data in loader.policies.items():
        state = loader.states.get(key)
        if state is not None and state.active is not None and data.compiled is not None:
            yield from policy_stats.read(state.active.maps, data.compiled)


def _maps(loaded: list[tuple[ResourceKey, Loaded]]) -> Iterator[MapReading]:
    for key, version in loaded:
        for name, bpf_map in sorted(version.maps.items()):
            info = bpf_map.info
            if info.type in _COUNTED and owner_of(name, version.unit) == key:
                yield MapReading(key, name, _count(bpf_map, info.max_entries), info.max_entries)


def _count(bpf_map: Map, room: int) -> int | None:
    if room > COUNT_LIMIT:
        return None
    # A map that changes under the walk may send it back to the start: a full map ends it.
    return sum(1 for _ in itertools.islice(bpf_map.items(), room))

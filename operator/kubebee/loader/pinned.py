"""Counters read through pins: from any process, and after the loader is gone.

Maps and programs hold numbers, not names: what they are called comes from the resources in force.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kubebee import drops
from kubebee.bpf.map import Map
from kubebee.bpf.program import Program
from kubebee.errors import KubebeeError
from kubebee.lb import stats as lb_stats
from kubebee.lb import sync as lb_sync
from kubebee.lb.stats import FrontendStats
from kubebee.loader.counted import (
    MAX_FRONTENDS,
    RUN_MAP,
    DropsReading,
    FunctionReading,
    of_program,
    of_stage,
)
from kubebee.loader.pins import PinRoot
from kubebee.planner.plan import PolicyUnit, ResourceKey
from kubebee.policy import layout as policy_layout
from kubebee.policy import stats as policy_stats
from kubebee.policy.compile import CompiledPolicy, compile_policies
from kubebee.policy.stats import RuleStats
from kubebee.policy.sync import PolicyState

_POLICY_MAPS = frozenset({policy_layout.VARIABLE_MAP, policy_layout.HITS_MAP})


@dataclass(frozen=True, slots=True)
class Attached:
    """A function of a unit and where it is attached, as a status says."""

    unit: ResourceKey
    function: str
    type: str
    points: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Counters:
    """What the kernel counted of one instance.

    Attributes:
        functions: those that are pinned.
        frontends: empty if there are more than `MAX_FRONTENDS`.
    """

    functions: tuple[FunctionReading, ...] = ()
    frontends: tuple[FrontendStats, ...] = ()
    rules: tuple[RuleStats, ...] = ()
    drops: tuple[DropsReading, ...] = ()


@dataclass
class PinnedReader:
    """Reads the counters of one instance as often as asked; remembers what rule sets compile to.

    Args:
        pins: of the instance.
    """

    pins: PinRoot
    _compiled: dict[ResourceKey, tuple[PolicyUnit, Mapping[int, int], CompiledPolicy]] = field(
        default_factory=dict, init=False
    )

    def read(
        self, attached: Sequence[Attached], lb: ResourceKey, frontends: int, policies: Sequence[PolicyUnit]
    ) -> Counters:
        """Read everything that is pinned now; what goes at this moment is left out.

        Args:
            attached: functions to read.
            lb: the load balancer's unit.
            frontends: how many it has.
            policies: the firewall's units, for the names of their rules.

        Raises:
            BpfError: EPERM: not allowed to read maps.
        """
        units = dict.fromkeys([*(item.unit for item in attached), *(unit.key for unit in policies)])
        with contextlib.ExitStack() as stack:
            maps = {key: self._open_maps(key, stack) for key in units}
            few = 0 < frontends <= MAX_FRONTENDS
            return Counters(
                functions=tuple(f for each in attached for f in self._function(each, maps[each.unit])),
                frontends=tuple(_frontends(maps.get(lb, {}))) if few else (),
                rules=tuple(rule for unit in policies for rule in self._rules(unit, maps[unit.key])),
                drops=tuple(
                    DropsReading(key, drops.read(opened))
                    for key, opened in maps.items()
                    if drops.MAP in opened
                ),
            )

    def _open_maps(self, key: ResourceKey, stack: contextlib.ExitStack) -> dict[str, Map]:
        opened = {}
        for name, paths in self.pins.maps_of(key).items():
            with _unless_gone():
                opened[name] = stack.enter_context(Map.from_pin(paths[-1]))
        return opened

    def _function(self, item: Attached, maps: Mapping[str, Map]) -> Iterator[FunctionReading]:
        what = (item.unit, item.function, item.type, item.points)
        run_map = maps.get(f"{RUN_MAP}-{item.function}")
        if run_map is not None:
            yield of_stage(*what, run_map)
            return
        for path in self.pins.programs_of(item.unit).get(item.function, [])[-1:]:
            with _unless_gone(), Program.from_pin(path) as program:
                yield of_program(*what, program.info)

    def _rules(self, unit: PolicyUnit, maps: Mapping[str, Map]) -> list[RuleStats]:
        if not maps.keys() >= _POLICY_MAPS:
            return []
        slots = PolicyState.adopt(maps).slots
        known = self._compiled.get(unit.key)
        if known is None or known[:2] != (unit, slots):
            compiled = compile_policies(unit.policies, slots, unit.failsafe)
            known = self._compiled[unit.key] = (unit, slots, compiled)
        return policy_stats.read(maps, known[2])


def _frontends(maps: Mapping[str, Map]) -> list[FrontendStats]:
    if not lb_sync.has_maps(maps):
        return []
    return lb_stats.read(maps, lb_sync.LbState.observe(maps))


@contextlib.contextmanager
def _unless_gone() -> Iterator[None]:
    """A pin that goes between listing and opening it is as good as never listed."""
    try:
        yield
    except KubebeeError as error:
        if getattr(error, "errno_name", "") != "ENOENT":
            raise

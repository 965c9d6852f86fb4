"""All resources to the plan of one node."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Protocol

from kubebee.api.v1alpha1.bpfprogram import BpfProgram
from kubebee.api.v1alpha1.hostpolicy import HostPolicy
from kubebee.api.v1alpha1.resources import AnyResource
from kubebee.api.v1alpha1.servicelb import ServiceLB
from kubebee.errors import KubebeeError
from kubebee.planner import bpfprogram, hostpolicy, servicelb
from kubebee.planner.declared import Declared, Inputs
from kubebee.planner.frontends import Balanced
from kubebee.planner.plan import NodePlan, PolicyUnit, ProgramUnit, ResourceKey
from kubebee.policy import model as policy_model


@dataclass(frozen=True)
class Planned:
    """A plan, and what became of resources that are not in it.

    Attributes:
        refused: resources that can't be acted on, and why; their last good version is held.
        idle: resources that this node doesn't run, and why: suspended, or for other nodes.
        warnings: what the user should know though it is in force.
    """

    plan: NodePlan
    refused: dict[ResourceKey, KubebeeError]
    idle: dict[ResourceKey, str]
    warnings: dict[ResourceKey, tuple[str, ...]]


class BuiltinSources(servicelb.Sources, Protocol):
    """C text of the built-in datapaths."""

    def hostpolicy(self, lb_reverse: bool) -> str:
        """The firewall's stage; `lb_reverse`: answers from SNAT backends are looked up there."""


class Planner:
    """Plans one node; remembers what unchanged resources came to, which changes no result.

    Args:
        sources: renders the built-in datapaths.
    """

    def __init__(self, sources: BuiltinSources) -> None:
        self._sources = sources
        self._merged = servicelb.Merged()
        self._programs: dict[ResourceKey, tuple[Declared, ProgramUnit | KubebeeError]] = {}

    def plan(self, inputs: Inputs) -> Planned:
        """What the node shall run; a resource that can't be planned is refused and disturbs no other."""
        refused: dict[ResourceKey, KubebeeError] = {}
        idle: dict[ResourceKey, str] = {}
        programs: list[ProgramUnit] = []
        lbs: list[servicelb.Candidate] = []
        policies: list[tuple[Declared, HostPolicy, policy_model.Policy]] = []
        for declared in sorted(inputs.resources, key=lambda item: item.seniority):
            resource = declared.resource
            why = _idle(resource, inputs)
            if why:
                idle[declared.key] = why
                continue
            try:
                if isinstance(resource, BpfProgram):
                    programs.append(self._program(declared, resource, inputs))
                elif isinstance(resource, ServiceLB):
                    assert isinstance(declared.prepared, Balanced)
                    served = servicelb.Served(declared, resource.spec, declared.prepared)
                    lbs.append((served, self._merged.in_force.get(declared.key)))
                elif isinstance(resource, HostPolicy):
                    assert isinstance(declared.prepared, policy_model.Policy)
                    policies.append((declared, resource, declared.prepared))
            except KubebeeError as error:
                refused[declared.key] = error
        self._merged = servicelb.unit(lbs, self._sources, refused.__setitem__, self._merged, inputs.services)
        lb = self._merged.unit
        reverse = lb is not None and lb.translates
        units = hostpolicy.units(policies, self._sources.hostpolicy(reverse)) if policies else []
        self._forget_all_but({declared.key for declared in inputs.resources})
        held = frozenset(key for key in refused if key.kind == "BpfProgram")
        plan = NodePlan(tuple(programs), lb, tuple(units), held)
        return Planned(plan, refused, idle, overlap_warnings(units))

    def _forget_all_but(self, present: Set[ResourceKey]) -> None:
        for key in [key for key in self._programs if key not in present]:
            del self._programs[key]

    def _program(self, declared: Declared, program: BpfProgram, inputs: Inputs) -> ProgramUnit:
        known = self._programs.get(declared.key)
        fixed = program.spec.source.config_map is None or declared.rendered is not None
        if known is None or not fixed or known[0] != declared:
            outcome: ProgramUnit | KubebeeError
            try:
                outcome = bpfprogram.unit(declared, program, inputs)
            except KubebeeError as error:
                outcome = error  # a template that takes too long is not to be tried at every pass
            known = self._programs[declared.key] = (declared, outcome)
        if isinstance(known[1], KubebeeError):
            raise known[1]
        return known[1]


def _idle(resource: AnyResource, inputs: Inputs) -> str:
    if isinstance(resource, BpfProgram) and resource.spec.suspend:
        return "Suspended"
    selector = getattr(resource.spec, "node_selector", {})
    labels = inputs.node.labels
    if any(labels.get(key) != value for key, value in selector.items()):
        return "NoNodeSelected"
    return ""


def overlap_warnings(units: list[PolicyUnit]) -> dict[ResourceKey, tuple[str, ...]]:
    """Rules of HostPolicies that contradict each other, by resource."""
    warnings: dict[ResourceKey, tuple[str, ...]] = {}
    for unit in units:
        for overlap in policy_model.overlaps(unit.policies):
            for rule in (overlap.first, overlap.second):
                key = ResourceKey("HostPolicy", rule.policy)
                warnings[key] = (*warnings.get(key, ()), str(overlap))
    return warnings

"""Resources that can't be in force on one node together, or that contradict each other there."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kubebee.api.v1alpha1.hostpolicy import HostPolicy
from kubebee.api.v1alpha1.servicelb import ServiceLB
from kubebee.errors import KubebeeError
from kubebee.lb.features import Features
from kubebee.planner import hostpolicy, servicelb
from kubebee.planner.build import overlap_warnings
from kubebee.planner.candidate import Candidate
from kubebee.planner.declared import Declared
from kubebee.planner.frontends import Balanced
from kubebee.planner.plan import ResourceKey
from kubebee.planner.selection import Labels
from kubebee.policy.model import Policy

Chosen = Callable[[Labels], tuple[str, ...]]
"""Names of the nodes that a selector chooses."""


class _NoText:
    """Whether two load balancers get on is told without their C."""

    def servicelb(self, features: Features, tc: bool, six: bool) -> str:  # noqa: ARG002
        return ""

    def socketlb(self, features: Features) -> str:  # noqa: ARG002
        return ""


def refusals(candidates: Iterable[Candidate], chosen: Chosen) -> dict[ResourceKey, KubebeeError]:
    """ServiceLBs whose newest version claims what an older one has on one of its nodes, and why."""
    refused: dict[ResourceKey, KubebeeError] = {}
    accepted: list[tuple[servicelb.Served, frozenset[str]]] = []
    for declared, nodes in _in_force(candidates, chosen):
        if not isinstance(declared.resource, ServiceLB):
            continue
        assert isinstance(declared.prepared, Balanced)
        served = servicelb.Served(declared, declared.resource.spec, declared.prepared)
        for older, theirs in accepted:
            if not nodes.isdisjoint(theirs) and not _disjoint(older, served):
                servicelb.unit([(older, None), (served, None)], _NoText(), refused.__setitem__)
        if declared.key not in refused:
            accepted.append((served, nodes))
    return refused


def _disjoint(one: servicelb.Served, other: servicelb.Served) -> bool:
    if not servicelb.sockets_agree(one.spec.socket_lb, other.spec.socket_lb):
        return False
    mine, its = one.balanced, other.balanced
    return mine.config == its.config and mine.frontends.keys().isdisjoint(its.frontends)


def warnings(candidates: Iterable[Candidate], chosen: Chosen) -> dict[ResourceKey, tuple[str, ...]]:
    """Rules of HostPolicies of one node that say the opposite of each other."""
    policies: dict[ResourceKey, Declared] = {}
    by_node: dict[str, list[ResourceKey]] = {}
    for declared, nodes in _in_force(candidates, chosen):
        if isinstance(declared.resource, HostPolicy):
            policies[declared.key] = declared
            for node in nodes:
                by_node.setdefault(node, []).append(declared.key)
    found: dict[ResourceKey, dict[str, None]] = {}
    for keys in {tuple(keys) for keys in by_node.values() if len(keys) > 1}:
        units = hostpolicy.units([_entry(policies[key]) for key in keys], "")
        for key, texts in overlap_warnings(units).items():
            found.setdefault(key, {}).update(dict.fromkeys(texts))
    return {key: tuple(sorted(texts)) for key, texts in found.items()}


def _in_force(candidates: Iterable[Candidate], chosen: Chosen) -> list[tuple[Declared, frozenset[str]]]:
    """Resources whose newest version is to run, oldest first, and their nodes."""
    return sorted(
        (
            (candidate.wish.declared, frozenset(chosen(candidate.wish.selector)))
            for candidate in candidates
            if candidate.wish.declared is not None
            and candidate.wish.encoded is not None
            and candidate.wish.selector is not None
            and not candidate.deleting
        ),
        key=lambda item: item[0].seniority,
    )


def _entry(declared: Declared) -> tuple[Declared, HostPolicy, Policy]:
    assert isinstance(declared.resource, HostPolicy)
    assert isinstance(declared.prepared, Policy)
    return declared, declared.resource, declared.prepared

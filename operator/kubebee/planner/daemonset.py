"""The loader's DaemonSet: the chart's manifest, on the nodes that something is for."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_TERMS = 64
"""Above this the DaemonSet goes to all nodes: each pod is matched with each term."""

Term = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Placement:
    """Which nodes need a loader.

    Attributes:
        everywhere: all nodes.
        selectors: label maps, sorted; a node with all labels of one of them needs a loader.
        names: nodes that none of them selects and that still run something of ours, sorted.
    """

    everywhere: bool = False
    selectors: tuple[tuple[tuple[str, str], ...], ...] = ()
    names: tuple[str, ...] = ()

    @property
    def nowhere(self) -> bool:
        """Whether no node needs one."""
        return not (self.everywhere or self.selectors or self.names)


def daemonset(manifest: Mapping[str, Any], placement: Placement) -> dict[str, Any] | None:
    """The DaemonSet to apply, None where there shall be none.

    Args:
        manifest: of the chart; its own node affinity and nodeSelector go on to hold.
        placement: where loaders are needed.
    """
    if placement.nowhere:
        return None
    made = copy.deepcopy(dict(manifest))
    terms = _terms(placement)
    if terms:
        affinity = made["spec"]["template"]["spec"].setdefault("affinity", {})
        node_affinity = affinity.setdefault("nodeAffinity", {})
        required = node_affinity.setdefault("requiredDuringSchedulingIgnoredDuringExecution", {})
        own: list[Term] = required.get("nodeSelectorTerms") or [{}]
        if len(own) * len(terms) <= MOST_TERMS:
            required["nodeSelectorTerms"] = [_both(mine, ours) for mine in own for ours in terms]
        elif own == [{}]:
            del node_affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    return made


def _terms(placement: Placement) -> list[Term]:
    """One of them must hold; none: all nodes."""
    if placement.everywhere:
        return []
    by_labels: list[Term] = [
        {"matchExpressions": [{"key": key, "operator": "In", "values": [value]} for key, value in selector]}
        for selector in placement.selectors
    ]
    # matchFields takes one name for each term: ValidateNodeFieldSelectorRequirement of k8s.io/kubernetes.
    by_name: list[Term] = [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}
        for name in placement.names
    ]
    return by_labels + by_name


def _both(one: Term, other: Term) -> Term:
    """A term that holds where both do."""
    joined = {
        part: [*(one.get(part) or ()), *(other.get(part) or ())]
        for part in ("matchExpressions", "matchFields")
    }
    return {part: requirements for part, requirements in joined.items() if requirements}

"""What is known of a cluster, and what shall be written to it.

No plan depends on the order in which its writes are made, nor on all of them being made: what must be there
first (a bundle before the node that runs it, a finalizer, a decision in `status.rollout`) is asked for in one
plan and relied upon in the next, when the API server has it. So write what a plan asks for, feed back what
the API server answers, and plan again until a plan is empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kubebee.planner.daemonset import Placement
from kubebee.planner.events import PlannedEvent
from kubebee.planner.nodes import BpfNodeRecord, Ref
from kubebee.planner.plan import ResourceKey
from kubebee.planner.wire import Encoded

FINALIZER = "kubebee.dev/nodes"


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A Node of the cluster.

    Attributes:
        ready: its condition Ready is True.
        since: lastTransitionTime of that condition, RFC 3339; empty where unknown.
    """

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ready: bool = True
    since: str = ""


@dataclass(frozen=True)
class ClusterState:
    """Everything that a plan depends on, but for the time.

    Attributes:
        resources: manifests of BpfPrograms, ServiceLBs and HostPolicies as the API server has them.
        config_maps: data by (namespace, name) of those that resources name as sources; absent: there is none.
        nodes, bpf_nodes: by name.
        bundles: names of the ConfigMaps with the label `kubebee.dev/bundle`.
    """

    resources: Mapping[ResourceKey, Mapping[str, Any]] = field(default_factory=dict)
    config_maps: Mapping[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    nodes: Mapping[str, ClusterNode] = field(default_factory=dict)
    bpf_nodes: Mapping[str, BpfNodeRecord] = field(default_factory=dict)
    bundles: Set[str] = frozenset()


@dataclass(frozen=True)
class ClusterPlan:
    """What to write; each write is safe on its own.

    Attributes:
        bundles: ConfigMaps to create.
        finalizers: by resource, whether `FINALIZER` shall be there; only where it is otherwise.
        bpf_nodes: bundles of the BpfNodes to create or change, whole, in order.
        statuses: whole status of the resources whose status changes.
        events: Events to make, before the statuses; asked for once.
        gone: BpfNodes to delete.
        unused: bundles to delete.
        loaders: where the DaemonSet shall run; told always, `daemonset.daemonset` makes the manifest.
        next_at: when to plan again though nothing changed.
    """

    bundles: tuple[Encoded, ...] = ()
    finalizers: Mapping[ResourceKey, bool] = field(default_factory=dict)
    bpf_nodes: Mapping[str, tuple[Ref, ...]] = field(default_factory=dict)
    statuses: Mapping[ResourceKey, dict[str, Any]] = field(default_factory=dict)
    events: tuple[PlannedEvent, ...] = ()
    gone: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    loaders: Placement = field(default_factory=Placement)
    next_at: datetime | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write, apart from the DaemonSet."""
        return not (
            self.bundles
            or self.finalizers
            or self.bpf_nodes
            or self.statuses
            or self.events
            or self.gone
            or self.unused
        )

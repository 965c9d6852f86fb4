"""The planner of a cluster, which plans anew only what a change concerns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from kubebee.api.v1alpha1.bpfprogram import TemplateSource
from kubebee.planner.cluster import ClusterNode, ClusterPlan, ClusterState
from kubebee.planner.declared import Rendered
from kubebee.planner.nodes import BpfNodeRecord
from kubebee.planner.plan import ResourceKey

Render = Callable[[TemplateSource], Rendered]


def plan_cluster(state: ClusterState, now: datetime, render: Render) -> ClusterPlan:
    """What to write, from all that is known.

    Args:
        state: the cluster.
        now: with a time zone.
        render: turns a template source into C; raises KubebeeError.
    """
    raise NotImplementedError


class ClusterPlanner:
    """Keeps the state of a cluster and plans what changed since the last plan.

    Give it the whole state before the first plan: a resource that it was not told of does not exist. All
    `put_*` take the newest version, an unchanged one costs next to nothing; feed the API server's answers to
    writes back through them too, or the next plan asks for the same writes again.

    Args:
        render: turns a template source into C; raises KubebeeError.
    """

    def __init__(self, render: Render) -> None:
        self._render = render

    def put_resource(self, manifest: Mapping[str, Any]) -> None:
        """A BpfProgram, ServiceLB or HostPolicy as the API server has it."""
        raise NotImplementedError

    def drop_resource(self, key: ResourceKey) -> None:
        """It is gone, finalizers and all."""
        raise NotImplementedError

    def put_config_map(self, namespace: str, name: str, data: Mapping[str, str]) -> None:
        """A ConfigMap that is a source."""
        raise NotImplementedError

    def drop_config_map(self, namespace: str, name: str) -> None:
        """There is no such ConfigMap."""
        raise NotImplementedError

    def put_node(self, node: ClusterNode) -> None:
        """A Node."""
        raise NotImplementedError

    def drop_node(self, name: str) -> None:
        """The Node is gone."""
        raise NotImplementedError

    def put_bpf_node(self, record: BpfNodeRecord) -> None:
        """A BpfNode; see `nodes.read_bpf_node`."""
        raise NotImplementedError

    def drop_bpf_node(self, name: str) -> None:
        """The BpfNode is gone."""
        raise NotImplementedError

    def put_bundle(self, name: str) -> None:
        """A bundle's ConfigMap is there."""
        raise NotImplementedError

    def drop_bundle(self, name: str) -> None:
        """A bundle's ConfigMap is gone."""
        raise NotImplementedError

    @property
    def sources(self) -> frozenset[tuple[str, str]]:
        """ConfigMaps (namespace, name) that resources name, to be watched."""
        raise NotImplementedError

    @property
    def state(self) -> ClusterState:
        """All that it was told."""
        raise NotImplementedError

    def plan(self, now: datetime) -> ClusterPlan:
        """What to write for what changed since the last plan, or is due by now.

        What the last plan asked for and is not there is asked for again.
        """
        raise NotImplementedError

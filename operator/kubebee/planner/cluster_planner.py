"""The planner of a cluster, which plans anew only what a change concerns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from datetime import datetime
from typing import Any

from kubebee.errors import KubebeeError
from kubebee.planner import conflicts
from kubebee.planner.candidate import Candidate, Render, read, wish_of
from kubebee.planner.cluster import ClusterNode, ClusterPlan, ClusterState
from kubebee.planner.daemonset import Placement
from kubebee.planner.events import NodeNews, Told
from kubebee.planner.members import Version, recorded_version, stable_version
from kubebee.planner.nodes import BpfNodeRecord, Ref
from kubebee.planner.plan import ResourceKey
from kubebee.planner.resource_plan import KnownMember, Outlook, ResourcePlan, plan_resource
from kubebee.planner.selection import Labels, Selection, selects


def plan_cluster(state: ClusterState, now: datetime, render: Render) -> ClusterPlan:
    """What to write, from all that is known.

    Args:
        state: the cluster.
        now: with a time zone.
        render: turns a template source into C; raises KubebeeError.
    """
    planner = ClusterPlanner(render)
    for (namespace, name), data in state.config_maps.items():
        planner.put_config_map(namespace, name, data)
    for node in state.nodes.values():
        planner.put_node(node)
    for record in state.bpf_nodes.values():
        planner.put_bpf_node(record)
    for bundle in state.bundles:
        planner.put_bundle(bundle)
    for manifest in state.resources.values():
        planner.put_resource(manifest)
    return planner.plan(now)


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
        self._manifests: dict[ResourceKey, Mapping[str, Any]] = {}
        self._candidates: dict[ResourceKey, Candidate] = {}
        self._config_maps: dict[tuple[str, str], Mapping[str, str]] = {}
        self._nodes: dict[str, ClusterNode] = {}
        self._records: dict[str, BpfNodeRecord] = {}
        self._bundles: set[str] = set()
        self._selection = Selection()
        self._holders: dict[ResourceKey, set[str]] = {}  # nodes whose BpfNode names the resource anywhere
        self._named: Counter[str] = Counter()  # bundles, by how many BpfNodes name them
        self._news = NodeNews()
        self._told = Told()
        self._refused: dict[ResourceKey, KubebeeError] = {}
        self._warnings: dict[ResourceKey, tuple[str, ...]] = {}
        self._members: dict[ResourceKey, dict[str, KnownMember]] = {}
        self._dirty: set[ResourceKey] = set()
        self._changed = True  # since the last plan, or that asked for something
        self._due: dict[ResourceKey, datetime] = {}
        self._conflicts_stale = True
        self._placement: Placement | None = None

    # -- what it is told -------------------------------------------------------------------------------------

    def put_resource(self, manifest: Mapping[str, Any]) -> None:
        """A BpfProgram, ServiceLB or HostPolicy as the API server has it, with apiVersion and kind."""
        key = ResourceKey(str(manifest["kind"]), str(manifest["metadata"]["name"]))
        before = self._candidates.get(key)
        candidate = read(manifest, self._config_maps, self._render, before)
        self._manifests[key] = manifest
        self._take(before, candidate)

    def drop_resource(self, key: ResourceKey) -> None:
        """It is gone, finalizers and all."""
        self._manifests.pop(key, None)
        before = self._candidates.pop(key, None)
        if before is not None:
            self._news.forget(key)
            self._due.pop(key, None)
            self._touch(key)
            self._conflicts_stale, self._placement = True, None

    def put_config_map(self, namespace: str, name: str, data: Mapping[str, str]) -> None:
        """A ConfigMap that is a source."""
        if self._config_maps.get((namespace, name)) != data:
            self._config_maps[namespace, name] = dict(data)
            self._source_changed((namespace, name))

    def drop_config_map(self, namespace: str, name: str) -> None:
        """There is no such ConfigMap."""
        if self._config_maps.pop((namespace, name), None) is not None:
            self._source_changed((namespace, name))

    def put_node(self, node: ClusterNode) -> None:
        """A Node."""
        before = self._nodes.get(node.name)
        self._nodes[node.name] = node
        if self._selection.put(node.name, node.labels):
            self._conflicts_stale, self._placement = True, None
            self._touch(*self._candidates)
        elif before is not None and before.ready != node.ready:
            self._touch(*self._concerning(node))

    def drop_node(self, name: str) -> None:
        """The Node is gone."""
        node = self._nodes.pop(name, None)
        if node is not None:
            self._touch(*self._concerning(node))
            self._selection.drop(name)
            for known in self._members.values():
                known.pop(name, None)
            self._conflicts_stale, self._placement = True, None

    def put_bpf_node(self, record: BpfNodeRecord) -> None:
        """A BpfNode; see `nodes.read_bpf_node`."""
        before = self._records.get(record.name)
        self._records[record.name] = record
        self._news.put(before, record)
        self._take_record(record.name, before or BpfNodeRecord(record.name), record)

    def drop_bpf_node(self, name: str) -> None:
        """The BpfNode is gone."""
        before = self._records.pop(name, None)
        if before is not None:
            self._take_record(name, before, BpfNodeRecord(name))

    def put_bundle(self, name: str) -> None:
        """A bundle's ConfigMap is there."""
        if name not in self._bundles:
            self._bundles.add(name)
            self._touch(*self._naming(name))

    def drop_bundle(self, name: str) -> None:
        """A bundle's ConfigMap is gone."""
        if name in self._bundles:
            self._bundles.remove(name)
            self._touch(*self._naming(name))

    @property
    def sources(self) -> frozenset[tuple[str, str]]:
        """ConfigMaps (namespace, name) that resources name, to be watched."""
        wanted = (candidate.wish.source for candidate in self._candidates.values())
        return frozenset(source for source in wanted if source is not None)

    @property
    def state(self) -> ClusterState:
        """All that it was told."""
        return ClusterState(
            dict(self._manifests),
            dict(self._config_maps),
            dict(self._nodes),
            dict(self._records),
            frozenset(self._bundles),
        )

    def _take(self, before: Candidate | None, candidate: Candidate) -> None:
        if before == candidate:
            return
        key = candidate.key
        self._candidates[key] = candidate
        self._touch(key)
        if before is None or before.wish is not candidate.wish or before.deleting != candidate.deleting:
            self._conflicts_stale, self._placement = True, None

    def _take_record(self, name: str, before: BpfNodeRecord, after: BpfNodeRecord) -> None:
        changed = _differing(before.bundles, after.bundles) | _differing(before.reports, after.reports)
        for key in changed:
            held, holds = before.names(key), after.names(key)
            if held != holds:
                self._placement = None
                holders = self._holders.setdefault(key, set())
                (holders.add if holds else holders.discard)(name)
                if not holders:
                    del self._holders[key]
        self._named.update(ref.config_map for ref in after.bundles.values())
        for ref in before.bundles.values():
            self._named[ref.config_map] -= 1
            if not self._named[ref.config_map]:
                del self._named[ref.config_map]
        self._touch(*changed)

    def _source_changed(self, source: tuple[str, str]) -> None:
        for key, candidate in list(self._candidates.items()):
            if candidate.wish.source == source:
                wish = wish_of(self._manifests[key], self._config_maps, self._render)
                self._take(candidate, replace(candidate, wish=wish))

    def _touch(self, *keys: ResourceKey) -> None:
        self._changed = True
        self._dirty.update(keys)

    def _concerning(self, node: ClusterNode) -> list[ResourceKey]:
        """Resources that are for a node, or that it has."""
        record = self._records.get(node.name)
        return [
            key
            for key, candidate in self._candidates.items()
            if (candidate.wish.selector is not None and selects(candidate.wish.selector, node.labels))
            or (record is not None and record.names(key))
        ]

    def _naming(self, bundle: str) -> list[ResourceKey]:
        return [key for key, candidate in self._candidates.items() if bundle in _bundles_of(candidate)]

    # -- what follows from it --------------------------------------------------------------------------------

    def plan(self, now: datetime) -> ClusterPlan:
        """What to write for what changed since the last plan, or is due by now.

        What the last plan asked for and is not there is asked for again, apart from Events.
        """
        self._look_for_conflicts()
        due = {key for key, moment in self._due.items() if moment <= now}
        if not self._changed and not due and not self._news.waiting:
            return ClusterPlan(loaders=self._loaders(), next_at=min(self._due.values(), default=None))
        plan = self._plan(sorted(self._dirty | due, key=str), now)
        self._changed = bool(self._dirty) or not plan.empty
        return plan

    def _plan(self, keys: Sequence[ResourceKey], now: datetime) -> ClusterPlan:
        plans = {key: self._plan_resource(key, now) for key in keys}
        for key, plan in plans.items():
            if plan.nothing:
                self._dirty.discard(key)
                if key not in self._candidates:
                    self._members.pop(key, None)
            self._due.pop(key, None)
            if plan.due is not None:
                self._due[key] = plan.due
        bpf_nodes = self._bpf_nodes(plans)
        events = [event for plan in plans.values() for event in plan.events]
        events += self._news.take(self._candidates, now)
        events = [event for event in events if self._told.first(event)]
        return ClusterPlan(
            bundles=tuple(plan.bundle for plan in plans.values() if plan.bundle is not None),
            finalizers={key: plan.finalizer for key, plan in plans.items() if plan.finalizer is not None},
            bpf_nodes=bpf_nodes,
            statuses={key: plan.status for key, plan in plans.items() if plan.status is not None},
            events=tuple(events),
            gone=self._gone(bpf_nodes),
            unused=self._unused(bpf_nodes),
            loaders=self._loaders(),
            next_at=min(self._due.values(), default=None),
        )

    def _plan_resource(self, key: ResourceKey, now: datetime) -> ResourcePlan:
        candidate = self._candidates.get(key)
        chosen: tuple[str, ...] = ()
        if candidate is not None and candidate.wish.selector is not None:
            chosen = self._selection.chosen(candidate.wish.selector)
        refused = self._refused.get(key)
        if candidate is not None and refused is not None and candidate.wish.error is None:
            candidate = replace(candidate, wish=replace(candidate.wish, error=refused))
        holders: Set[str] = self._holders.get(key, set())
        known = self._members.setdefault(key, {})
        outlook = Outlook(key, candidate, chosen, holders, self._nodes, self._records, self._there, known)
        return plan_resource(outlook, self._warnings.get(key, ()), now)

    def _look_for_conflicts(self) -> None:
        if not self._conflicts_stale:
            return
        self._conflicts_stale = False
        refused = conflicts.refusals(self._candidates.values(), self._selection.chosen)
        warnings = conflicts.warnings(self._candidates.values(), self._selection.chosen)
        before = {key: (str(error), error.reason) for key, error in self._refused.items()}
        after = {key: (str(error), error.reason) for key, error in refused.items()}
        self._touch(*_differing(before, after), *_differing(self._warnings, warnings))
        self._refused, self._warnings = refused, warnings

    def _there(self, version: Version) -> bool:
        return version.config_map in self._bundles

    def _bpf_nodes(self, plans: Mapping[ResourceKey, ResourcePlan]) -> dict[str, tuple[Ref, ...]]:
        changed: dict[str, dict[ResourceKey, Ref]] = {}
        for key, plan in plans.items():
            for name, ref in plan.refs.items():
                if name not in changed:
                    record = self._records.get(name)
                    changed[name] = dict(record.bundles) if record else {}
                if ref is None:
                    changed[name].pop(key, None)
                else:
                    changed[name][key] = ref
        return {
            name: tuple(sorted(refs.values(), key=lambda ref: (ref.kind, ref.name)))
            for name, refs in changed.items()
            if name in self._nodes
        }

    def _gone(self, written: Mapping[str, object]) -> tuple[str, ...]:
        """BpfNodes without a node, and those of nodes that run nothing and shall run nothing."""
        selectors = self._selectors()

        def idle(name: str, record: BpfNodeRecord) -> bool:
            labels = self._nodes[name].labels
            return not (record.occupied or name in written or any(selects(s, labels) for s in selectors))

        return tuple(
            name for name, record in self._records.items() if name not in self._nodes or idle(name, record)
        )

    def _selectors(self) -> set[Labels]:
        """Of the resources that need loaders: those that nodes have or shall have."""
        return {
            candidate.wish.selector
            for key, candidate in self._candidates.items()
            if candidate.wish.selector is not None and (key in self._holders or _shall_run(candidate))
        }

    def _unused(self, written: Mapping[str, tuple[Ref, ...]]) -> tuple[str, ...]:
        needed = {ref.config_map for refs in written.values() for ref in refs}
        for candidate in self._candidates.values():
            needed.update(_bundles_of(candidate))
        return tuple(sorted(name for name in self._bundles - needed if not self._named[name]))

    def _loaders(self) -> Placement:
        if self._placement is None:
            self._placement = self._place()
        return self._placement

    def _place(self) -> Placement:
        selectors = self._selectors()
        names = (
            name
            for name, record in self._records.items()
            if record.occupied
            and (node := self._nodes.get(name)) is not None
            and not any(selects(selector, node.labels) for selector in selectors)
        )
        if () in selectors:
            return Placement(everywhere=True)
        return Placement(selectors=tuple(sorted(selectors)), names=tuple(sorted(names)))


def _shall_run(candidate: Candidate) -> bool:
    """Whether there is a version for nodes to run."""
    return not (candidate.deleting or candidate.wish.suspended) and bool(_bundles_of(candidate))


def _bundles_of(candidate: Candidate) -> set[str]:
    """Names of the bundles that a resource may yet need: newest, on record and stable."""
    record = candidate.status.rollout if candidate.status else None
    versions = (candidate.version, recorded_version(candidate.key, record), stable_version(record))
    return {version.config_map for version in versions if version is not None}


def _differing(before: Mapping[ResourceKey, object], after: Mapping[ResourceKey, object]) -> set[ResourceKey]:
    """Keys whose values are not the same."""
    if before == after:
        return set()
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}

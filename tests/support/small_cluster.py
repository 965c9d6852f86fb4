"""A cluster in memory: an API server's objects, and loaders that do what their BpfNode says.

The planner is pure, and this is the shortest honest model of what its plans meet. It refuses what no cluster
should see: a BpfNode that names a bundle that is not there, or a resource without finalizer.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from kubebee.api.v1alpha1.bpfprogram import TemplateSource
from kubebee.planner.cluster import FINALIZER, ClusterNode, ClusterPlan, ClusterState
from kubebee.planner.declared import Rendered
from kubebee.planner.nodes import BpfNodeRecord, bpf_node_spec, read_bpf_node
from kubebee.planner.plan import ResourceKey
from kubebee.planner.wire import Encoded, decode

KEY = ResourceKey("BpfProgram", "probe")
START = datetime(2026, 1, 1, tzinfo=UTC)
NO_ROLLOUT: dict[str, Any] = {}


def render(source: TemplateSource) -> Rendered:
    return Rendered(f"/* {source.inline} */")


def program(text: str, **spec: Any) -> dict[str, Any]:
    """Spec of a BpfProgram with this source."""
    attach = {"type": "Tracepoint", "category": "sched", "name": "sched_switch"}
    return {"source": {"inline": text}, "programs": [{"name": "f", "attach": attach}], **spec}


def broken(text: str, *nodes: str, passing: bool = False) -> str:
    """A source that fails on these nodes; on none named, on all."""
    return f"{text} {'passing' if passing else 'broken'} {','.join(nodes) or '*'}"


@dataclass
class SmallCluster:
    """Objects as the API server has them."""

    now: datetime = START
    resources: dict[ResourceKey, dict[str, Any]] = field(default_factory=dict)
    config_maps: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    nodes: dict[str, ClusterNode] = field(default_factory=dict)
    bpf_nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    bundles: dict[str, Encoded] = field(default_factory=dict)
    events: dict[str, Any] = field(default_factory=dict)
    uids: int = 0

    @property
    def state(self) -> ClusterState:
        return ClusterState(
            resources=copy.deepcopy(self.resources),
            config_maps=copy.deepcopy(self.config_maps),
            nodes=dict(self.nodes),
            bpf_nodes={name: read_bpf_node(document) for name, document in self.bpf_nodes.items()},
            bundles=frozenset(self.bundles),
        )

    # -- what users and nodes do -----------------------------------------------------------------------------

    def apply(self, spec: Mapping[str, Any], key: ResourceKey = KEY) -> None:
        """Create or edit a resource."""
        if key not in self.resources:
            self.uids += 1
            metadata = {
                "name": key.name,
                "uid": f"uid-{self.uids}",
                "generation": 0,
                "creationTimestamp": f"2026-01-01T00:00:{self.uids % 60:02}Z",
            }
            self.resources[key] = {
                "apiVersion": "kubebee.dev/v1alpha1",
                "kind": key.kind,
                "metadata": metadata,
            }
        manifest = self.resources[key]
        if manifest.get("spec") != spec:
            manifest["spec"] = copy.deepcopy(dict(spec))
            manifest["metadata"]["generation"] += 1

    def delete(self, key: ResourceKey = KEY) -> None:
        metadata = self.resources[key]["metadata"]
        metadata.setdefault("deletionTimestamp", "2026-01-01T00:00:00Z")
        metadata["generation"] += 1
        self._collect(key)

    def join(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        self.nodes[name] = ClusterNode(name, dict(labels or {}), True, self.moment)

    def set_ready(self, name: str, ready: bool) -> None:
        node = self.nodes[name]
        if node.ready != ready:
            self.nodes[name] = ClusterNode(name, node.labels, ready, self.moment)

    def leave(self, name: str) -> None:
        del self.nodes[name]

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @property
    def moment(self) -> str:
        return self.now.strftime("%Y-%m-%dT%H:%M:%SZ")

    def load(self, name: str) -> None:
        """What the loader of a node does, to the end."""
        document = self.bpf_nodes.get(name)
        if document is None or name not in self.nodes or not self.nodes[name].ready:
            return
        reports = [self._report(name, ref) for ref in document["spec"]["bundles"]]
        document["status"] = {
            **document.get("status", {}),
            "observedGeneration": document["metadata"]["generation"],
            "resources": reports,
        }

    def load_all(self) -> None:
        for name in sorted(self.bpf_nodes):
            self.load(name)

    def _report(self, node: str, ref: Mapping[str, Any]) -> dict[str, Any]:
        declared = decode(self.bundles[ref["configMap"]].data, ref["generation"], ref["hash"])
        text = str(declared.resource.spec.source.inline) if ref["kind"] == "BpfProgram" else ""  # type: ignore[union-attr]
        words = text.split()
        report = {
            "kind": ref["kind"],
            "name": ref["name"],
            "generation": ref["generation"],
            "bundle": ref["hash"],
        }
        for word, permanent in (("broken", True), ("passing", False)):
            if word in words and words[words.index(word) + 1] in ("*", *_lists_with(words, node)):
                failure = {
                    "node": "",
                    "stage": "Compile",
                    "reason": "CompileFailed",
                    "message": "probe.c:3:1: error: no such type",
                    "permanent": permanent,
                }
                return {**report, "stage": "Compile", "failure": failure}
        place = {"type": "Tracepoint", "point": "sched/sched_switch", "linkId": 7}
        running = {"function": "f", "progId": 5, "attachments": [place]}
        return {
            **report,
            "stage": "Running",
            "wantedHash": "c0de",
            "runningHash": "c0de",
            "programs": [running],
        }

    # -- what a controller writes ----------------------------------------------------------------------------

    def write(self, plan: ClusterPlan) -> None:
        for write in self.writes(plan):
            self.make(plan, write)

    @staticmethod
    def writes(plan: ClusterPlan) -> list[tuple[str, Any]]:
        """Every single write of a plan."""
        return [
            *(("bundle", bundle) for bundle in plan.bundles),
            *(("finalizer", key) for key in plan.finalizers),
            *(("bpf_node", name) for name in plan.bpf_nodes),
            *(("event", event) for event in plan.events),
            *(("status", key) for key in plan.statuses),
            *(("gone", name) for name in plan.gone),
            *(("unused", name) for name in plan.unused),
        ]

    def make(self, plan: ClusterPlan, write: tuple[str, Any]) -> None:
        what, item = write
        if what == "bundle":
            assert item.config_map not in self.bundles
            self.bundles[item.config_map] = item
        elif what == "finalizer":
            self._set_finalizer(item, plan.finalizers[item])
        elif what == "bpf_node":
            self._write_bpf_node(item, bpf_node_spec(plan.bpf_nodes[item]))
        elif what == "event":
            self.events.setdefault(item.name, item)
        elif what == "status" and item in self.resources:
            self.resources[item]["status"] = copy.deepcopy(plan.statuses[item])
        elif what == "gone":
            del self.bpf_nodes[item]
        elif what == "unused":
            del self.bundles[item]
            named = {ref["configMap"] for node in self.bpf_nodes.values() for ref in node["spec"]["bundles"]}
            assert item not in named

    def _set_finalizer(self, key: ResourceKey, wanted: bool) -> None:
        metadata = self.resources[key]["metadata"]
        assert not (wanted and "deletionTimestamp" in metadata), "the API server refuses that"
        metadata["finalizers"] = [FINALIZER] if wanted else []
        self._collect(key)

    def _collect(self, key: ResourceKey) -> None:
        metadata = self.resources[key]["metadata"]
        if "deletionTimestamp" in metadata and not metadata.get("finalizers"):
            del self.resources[key]

    def _write_bpf_node(self, name: str, spec: dict[str, Any]) -> None:
        for ref in spec["bundles"]:
            assert ref["configMap"] in self.bundles, "a BpfNode names a bundle that is not there"
            manifest = self.resources.get(ResourceKey(ref["kind"], ref["name"]))
            assert manifest is None or FINALIZER in manifest["metadata"].get("finalizers", ())
        document = self.bpf_nodes.setdefault(name, {"metadata": {"name": name, "generation": 0}, "spec": {}})
        if document["spec"] != spec:
            document["spec"] = spec
            document["metadata"]["generation"] += 1

    # -- what tests look at ----------------------------------------------------------------------------------

    def record(self, name: str) -> BpfNodeRecord:
        return read_bpf_node(self.bpf_nodes[name]) if name in self.bpf_nodes else BpfNodeRecord(name)

    def has(self, name: str, key: ResourceKey = KEY) -> str:
        """Digest that a node was given, empty for none."""
        ref = self.record(name).bundles.get(key)
        return ref.hash if ref else ""

    def runs(self, name: str, digest: str, key: ResourceKey = KEY) -> bool:
        report = self.record(name).reports.get(key)
        return self.has(name, key) == digest and report is not None and report.ready(digest)

    def status(self, key: ResourceKey = KEY) -> dict[str, Any]:
        status: dict[str, Any] = self.resources[key].get("status") or {}
        return status

    def condition(self, type_: str, key: ResourceKey = KEY) -> dict[str, Any]:
        found = [each for each in self.status(key).get("conditions", ()) if each["type"] == type_]
        return found[0] if found else {}

    def phase(self, key: ResourceKey = KEY) -> str:
        return str(self.status(key).get("rollout", {}).get("phase", ""))


def _lists_with(words: list[str], node: str) -> list[str]:
    """Words of a source that are lists of nodes with this one."""
    return [word for word in words if node in word.split(",")]

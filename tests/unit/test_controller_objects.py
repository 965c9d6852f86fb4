"""What is kept of objects, what is made of wishes, and how they are named."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubebee.controller import documents
from kubebee.controller.inbox import Key
from kubebee.controller.kinds import BPF_NODES, EVENTS, OURS, bundles, daemon_sets
from kubebee.controller.loaders import LoaderManifestError, Loaders, read_manifest
from kubebee.controller.metrics import Metrics
from kubebee.controller.objects import BUNDLE, SOURCE, Workload, news_of
from kubebee.planner import wire
from kubebee.planner.cluster import FINALIZER, ClusterNode
from kubebee.planner.daemonset import Placement
from kubebee.planner.nodes import BpfNodeRecord
from support.site import counter, program

DOCS = Path(__file__).parents[2] / "docs"
MANIFEST: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"name": "kubebee-loader"},
    "spec": {"template": {"spec": {"containers": []}}},
}


def metadata(**more: Any) -> dict[str, Any]:
    return {"name": "x", "resourceVersion": "7", "uid": "u", "generation": 2, **more}


def test_a_node_is_its_labels_and_whether_it_is_ready() -> None:
    ready = {"type": "Ready", "status": "Unknown", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    document = {
        "metadata": metadata(labels={"a": "b"}),
        "status": {"conditions": [{"type": "DiskPressure", "status": "True"}, ready], "images": [1] * 50},
    }
    news = news_of("Node", document)
    assert (news.key, news.version) == (Key("Node", "", "x"), 7)
    assert news.content == ClusterNode("x", {"a": "b"}, False, "2026-01-01T00:00:00Z")
    assert news_of("Node", {"metadata": metadata()}).content == ClusterNode("x", {}, False, "")


def test_of_a_resource_all_is_kept_but_what_is_kubectls_and_the_servers() -> None:
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "mine": "1"}
    document = {
        "metadata": metadata(managedFields=[1], annotations=annotations),
        "spec": {"a": 1},
        "status": {},
    }
    kept: Any = news_of("HostPolicy", document).content
    assert kept["kind"] == "HostPolicy"
    assert kept["metadata"]["annotations"] == {"mine": "1"}
    assert "managedFields" not in kept["metadata"]
    assert kept["spec"] == {"a": 1}


def test_what_is_deleted_has_no_content() -> None:
    assert news_of("BpfNode", {"metadata": metadata()}, gone=True).content is None


def test_the_other_kinds() -> None:
    in_namespace = metadata(namespace="ns")
    assert news_of(SOURCE, {"metadata": in_namespace, "data": {"a": "b"}}).content == {"a": "b"}
    assert news_of(SOURCE, {"metadata": in_namespace}).content == {}
    assert news_of(BUNDLE, {"metadata": in_namespace}).content == Workload("u", 2)
    assert news_of("BpfNode", {"metadata": metadata()}).content == BpfNodeRecord("x", 2)
    assert news_of("Node", {"metadata": metadata(resourceVersion="opaque")}).version == 0


def test_paths() -> None:
    assert BPF_NODES.named("n", "status") == "/apis/kubebee.dev/v1alpha1/bpfnodes/n/status"
    assert bundles("ns").path == "/api/v1/namespaces/ns/configmaps"
    assert bundles("ns").query == {"labelSelector": "kubebee.dev/bundle=true"}
    assert daemon_sets("ns", "x").query == {"fieldSelector": "metadata.name=x"}
    assert EVENTS.path == "/api/v1/namespaces/default/events"
    assert {each.plural for each in OURS.values()} == {
        "bpfprograms",
        "servicelbs",
        "hostpolicies",
        "bpfnodes",
    }


def test_a_bundle_is_immutable_and_has_its_label() -> None:
    manifest = program("p", counter())
    small = documents.bundle(wire.encode(manifest, ""))
    assert small["immutable"] is True
    assert small["metadata"]["labels"] == {"kubebee.dev/bundle": "true"}
    assert json.loads(small["data"]["bundle.json"])["manifest"]["metadata"]["name"] == "p"
    manifest["spec"]["source"]["inline"] = "/* " + "x" * 400_000 + " */"
    large = documents.bundle(wire.encode(manifest, ""))
    packed = base64.b64decode(large["binaryData"]["bundle.json.gz"])
    assert json.loads(gzip.decompress(packed))["manifest"]["metadata"]["name"] == "p"


@given(st.lists(st.sampled_from(["a/b", "c/d", FINALIZER]), unique=True))
def test_only_our_finalizer_is_taken_away_and_from_no_newer_object(finalizers: list[str]) -> None:
    patch = documents.without_finalizer(metadata(finalizers=finalizers))["metadata"]
    assert patch == {"resourceVersion": "7", "finalizers": [each for each in finalizers if each != FINALIZER]}


# -- the loaders' DaemonSet ----------------------------------------------------------------------------------


class Server:
    """Answers as if it made the DaemonSet."""

    def __init__(self) -> None:
        self.generation = 0
        self.applied: list[dict[str, Any]] = []

    def apply(self, _collection: object, document: dict[str, Any]) -> dict[str, Any]:
        self.applied.append(document)
        self.generation += 1
        return {"metadata": {**document["metadata"], "uid": "d", "generation": self.generation}}

    def delete(self, _collection: object, _name: str) -> None:
        self.generation = 0


def loaders(server: Server, owner: dict[str, Any] | None = None) -> Loaders:
    return Loaders(server, "ns", MANIFEST, owner)  # type: ignore[arg-type]


def test_the_daemonset_is_applied_until_it_is_there_and_when_it_is_changed() -> None:
    server = Server()
    made = loaders(server, {"kind": "Deployment", "name": "d", "uid": "o"})
    everywhere = Placement(everywhere=True)
    write = made.due(everywhere)
    assert write is not None
    news = write.send()
    assert news is not None
    assert server.applied[0]["metadata"] == {
        "name": "kubebee-loader",
        "namespace": "ns",
        "ownerReferences": [{"kind": "Deployment", "name": "d", "uid": "o"}],
    }
    made.put(news.content)  # type: ignore[arg-type]
    assert made.due(everywhere) is None
    made.put(Workload("d", 2))  # somebody edited it
    assert made.due(everywhere) is not None
    made.put(None)  # or deleted it
    assert made.due(everywhere) is not None


def test_where_nothing_runs_there_is_no_daemonset() -> None:
    made = loaders(Server())
    assert made.due(Placement()) is None
    made.put(Workload("d", 1))
    write = made.due(Placement())
    assert write is not None
    assert write.what == "daemonset deletion"


@pytest.mark.parametrize("text", ["", "[", "kind: Pod", "kind: DaemonSet\nmetadata: {}", "kind: DaemonSet"])
def test_a_manifest_that_is_no_daemonset_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "daemonset.yaml"
    path.write_text(text)
    with pytest.raises(LoaderManifestError) as caught:
        read_manifest(path)
    assert caught.value.where == str(path)
    assert caught.value.hint
    with pytest.raises(LoaderManifestError):
        read_manifest(tmp_path / "missing.yaml")


# -- metrics -------------------------------------------------------------------------------------------------


def test_every_metric_is_in_the_docs_and_the_other_way_round() -> None:
    told = set(re.findall(r"^\| `(kubebee_controller_\w+)`", (DOCS / "metrics.md").read_text(), re.MULTILINE))
    families = Metrics().registry.collect()
    made = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert told == made - {"kubebee_build_info"}

"""What a loader's own token may do, and what not: the chart's roles and policy on a real API server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster import Cluster
from cluster.node_files import PAUSE_IMAGE
from helm.binaries import build
from helm.manifests import render
from kubebee.store import api_access
from kubebee.store.api_client import ApiClient
from kubebee.store.node import NodeStore
from kubebee.store.node_api import NodeApi
from kubebee.store.node_cache import NodeCache
from support.running import wait_for

ROOT = Path(__file__).parents[2]
_NODES = "/apis/kubebee.dev/v1alpha1/bpfnodes"
_ACCESS = {
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}


@dataclass(frozen=True)
class Loader:
    """A loader's place in a cluster: a namespace of this run, and a pod's token for each of two nodes."""

    cluster: Cluster
    namespace: str
    nodes: tuple[str, str]

    def token(self, *bound: str) -> str:
        """A token of the loaders' service account."""
        argv = ("create", "token", "kubebee-loader", "--namespace", self.namespace, *bound)
        return self.cluster.kubectl(*argv).stdout.strip()

    def token_on(self, node: str) -> str:
        """The token that a loader's pod on a node has."""
        return self.token("--bound-object-kind", "Pod", "--bound-object-name", f"loader-{node}")

    def service_account(self, folder: Path, node: str) -> Path:
        """The folder that the kubelet mounts into the pod."""
        folder.mkdir(exist_ok=True)
        (folder / "token").write_text(self.token_on(node))
        (folder / "namespace").write_text(self.namespace)
        config = self.cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json").stdout
        (folder / "ca.crt").write_bytes(_authority(json.loads(config)))
        return folder

    def ask(self, token: str, method: str, path: str, body: object = None, kind: str = "") -> tuple[int, str]:
        """Status and message of an answer to a request with a token."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": kind or "application/json"}
        url = f"https://{self.cluster.spec.gateway}:6443{path}"
        request = urllib.request.Request(url, data, headers, method=method)
        context = ssl._create_unverified_context()  # noqa: S323 (who may do what, not who the server is)
        try:
            with urllib.request.urlopen(request, context=context, timeout=30) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())["message"]

    def write(self, token: str, node: str) -> tuple[int, str]:
        """Write a node's status."""
        patch = [{"op": "add", "path": "/status", "value": {"kernel": "6.18"}}]
        return self.ask(token, "PATCH", f"{_NODES}/{node}/status", patch, "application/json-patch+json")


def _authority(config: dict[str, Any]) -> bytes:
    return base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"])


def _renamed(document: dict[str, Any], suffix: str) -> dict[str, Any]:
    """Objects of the whole cluster under names of this run: an installed kubebee has the usual ones."""
    name = f"{document['metadata']['name']}-{suffix}"
    if document["kind"] in ("ClusterRole", "ClusterRoleBinding") or "Validating" in document["kind"]:
        document["metadata"]["name"] = name
        if "roleRef" in document:
            document["roleRef"]["name"] = name
        if "policyName" in document.get("spec", {}):
            document["spec"]["policyName"] = name
    return document


@pytest.fixture(scope="module")
def loader(cluster: Cluster) -> Iterator[Loader]:
    made = Loader(cluster, f"access-{uuid.uuid4().hex[:8]}", (cluster.node(1).name, cluster.node(2).name))
    cluster.kubectl("apply", "-f", str(ROOT / "crds"))
    cluster.kubectl("wait", "--for=condition=Established", "crd/bpfnodes.kubebee.dev", "--timeout=60s")
    chart = render(build(3), "--namespace", made.namespace)
    ours = [one for one in chart if one["kind"] in _ACCESS and one["metadata"]["name"] == "kubebee-loader"]
    assert {one["kind"] for one in ours} == _ACCESS
    objects = [_renamed(one, made.namespace) for one in ours]
    with contextlib.ExitStack() as stack:
        cluster.kubectl("create", "namespace", made.namespace)
        stack.callback(cluster.kubectl, "delete", "namespace", made.namespace, "--wait=false")
        cluster.apply(objects)
        for one in objects:
            if "namespace" not in one["metadata"]:
                stack.callback(cluster.kubectl, "delete", one["kind"], one["metadata"]["name"])
        for node in made.nodes:
            cluster.apply(_pod(made.namespace, node))
            if cluster.kubectl("get", "bpfnode", node, check=False).returncode:
                cluster.apply(_bpf_node(node))
                stack.callback(cluster.kubectl, "delete", "bpfnode", node)
        wait_for("the policy is in force", lambda: made.write(made.token(), made.nodes[0])[0] == 403)
        yield made


def _pod(namespace: str, node: str) -> dict[str, Any]:
    container = {"name": "pause", "image": PAUSE_IMAGE, "imagePullPolicy": "Never"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"loader-{node}", "namespace": namespace},
        "spec": {"serviceAccountName": "kubebee-loader", "nodeName": node, "containers": [container]},
    }


def _bpf_node(node: str) -> dict[str, Any]:
    body = {"apiVersion": "kubebee.dev/v1alpha1", "kind": "BpfNode", "metadata": {"name": node}}
    return {**body, "spec": {"bundles": []}}


def test_a_loader_writes_the_status_of_its_own_node(loader: Loader) -> None:
    for node in loader.nodes:
        assert loader.write(loader.token_on(node), node)[0] == 200


def test_a_loaders_token_cannot_write_another_nodes_status(loader: Loader) -> None:
    ours, others = loader.nodes
    status, why = loader.write(loader.token_on(ours), others)
    assert status == 403
    assert f"the loader of node '{ours}' may write its own BpfNode only, not '{others}'" in why


def test_a_token_that_is_of_no_pod_writes_nothing(loader: Loader) -> None:
    assert [loader.write(loader.token(), node)[0] for node in loader.nodes] == [403, 403]


def test_all_else_is_refused(loader: Loader) -> None:
    node, token = loader.nodes[0], loader.token_on(loader.nodes[0])
    merge, label = "application/merge-patch+json", {"metadata": {"labels": {"a": "b"}}}
    service = "/api/v1/namespaces/default/services/kubernetes"
    requests = [
        ("PATCH", f"{_NODES}/{node}", {"spec": {"bundles": []}}, merge),
        ("PATCH", f"{_NODES}/{node}", label, merge),
        ("DELETE", f"{_NODES}/{node}", None, ""),
        ("POST", _NODES, _bpf_node("another"), ""),
        ("GET", f"/api/v1/namespaces/{loader.namespace}/configmaps", None, ""),
        ("GET", "/api/v1/namespaces/kube-system/configmaps/coredns", None, ""),
        ("GET", f"/api/v1/namespaces/{loader.namespace}/secrets", None, ""),
        ("GET", f"/api/v1/namespaces/{loader.namespace}/pods/loader-{node}", None, ""),
        ("DELETE", f"/api/v1/namespaces/{loader.namespace}/pods/loader-{node}", None, ""),
        ("GET", f"/api/v1/nodes/{node}/proxy/pods", None, ""),
        ("PATCH", f"/api/v1/nodes/{node}", label, merge),
        ("PATCH", service, label, merge),
        ("DELETE", service, None, ""),
        ("GET", "/apis/kubebee.dev/v1alpha1/bpfprograms", None, ""),
    ]
    granted = [
        (method, path)
        for method, path, body, kind in requests
        if loader.ask(token, method, path, body, kind)[0] != 403
    ]
    assert granted == []


def test_what_a_service_lb_needs_can_be_listed(loader: Loader) -> None:
    token = loader.token_on(loader.nodes[0])
    pods = f"/api/v1/pods?fieldSelector=spec.nodeName%3D{loader.nodes[0]}"
    lists = ("/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices", "/api/v1/nodes", pods)
    assert [loader.ask(token, "GET", path)[0] for path in lists] == [200, 200, 200, 200]


def test_its_store_needs_no_more_and_takes_a_token_that_is_exchanged(loader: Loader, tmp_path: Path) -> None:
    """By the address that k8sServiceHost names, which must be one that the server's certificate is for."""
    node = loader.nodes[0]
    folder = loader.service_account(tmp_path / "account", node)
    environment = {"KUBERNETES_SERVICE_HOST": loader.cluster.spec.gateway, "KUBERNETES_SERVICE_PORT": "6443"}
    access = api_access.in_cluster(environment, folder)
    assert api_access.pod_namespace(folder) == loader.namespace

    async def test() -> None:
        async with ApiClient(access) as client:
            api = NodeApi(client, node, loader.namespace)
            store = NodeStore(api, NodeCache(tmp_path / "cache", node))
            task = asyncio.create_task(store.follow(1.0))
            try:
                await asyncio.to_thread(wait_for, "a watch", lambda: store.watching)
                uid = json.loads(await client.read("get", f"{_NODES}/{node}"))["metadata"]["uid"]
                await api.write_status(uid, {"kernel": "first"})
                whole = (folder / "token").read_text()
                (folder / "token").write_text("of yesterday")
                with pytest.raises(Exception, match="401"):
                    await api.write_status(uid, {"kernel": "second"})
                (folder / "token").write_text(whole)
                await api.write_status(uid, {"kernel": "third"})
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(test())
    assert loader.cluster.get("bpfnode", node)["status"]["kernel"] == "third"

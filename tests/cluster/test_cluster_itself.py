"""The e2e cluster is what it says: real nodes, pods, DNS, Services; and what is done to it has its effect."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import Cluster, ClusterError, Node
from cluster.images import Image, write_archive
from support.cluster_manifests import web_servers

NAMESPACE = "cluster-itself"
NODE_PORT = 31380
_PORTS = [{"port": 80, "targetPort": 8080, "nodePort": NODE_PORT}]


@pytest.fixture(scope="module", autouse=True)
def web(cluster: Cluster) -> Iterator[None]:
    """A web server on each node, and its Service."""
    cluster.apply(web_servers(NAMESPACE, _PORTS))
    cluster.wait_available("daemonset/web", NAMESPACE)
    yield
    cluster.kubectl("delete", "namespace", NAMESPACE, timeout=120)


@pytest.fixture(scope="module")
def extra(cluster: Cluster) -> Iterator[Node]:
    """A node that was added to a running cluster, for what would disturb the others."""
    node = cluster.add_node()
    yield node
    cluster.remove_node(node)


@pytest.fixture
def kube_proxy(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """kube-proxy on every node, in the mode of the test's parameter."""
    for node in cluster.nodes:
        node.kube_proxy_on(request.param)
    yield request.param
    for node in cluster.nodes:
        node.kube_proxy_off()


def pod_on(cluster: Cluster, node: Node) -> dict[str, Any]:
    """The web server of a node, Ready."""

    def ready() -> dict[str, Any] | None:
        for pod in cluster.get("pods", namespace=NAMESPACE, selector="app=web")["items"]:
            states = pod["status"].get("containerStatuses", [])
            if pod["spec"].get("nodeName") == node.name and states and all(each["ready"] for each in states):
                return dict(pod)
        return None

    pod = cluster.wait_until(ready, f"a web server on {node.name}", 60)
    assert pod is not None
    return pod


def in_pod(cluster: Cluster, node: Node, *argv: str, check: bool = True) -> str:
    """Output of a command in the web server's pod of a node."""
    name = pod_on(cluster, node)["metadata"]["name"]
    return cluster.kubectl("exec", "-n", NAMESPACE, name, "--", *argv, check=check).stdout


def ask_by_node_port(cluster: Cluster, node: Node) -> str:
    """The name of the pod that answers to the outside client at a node's port."""
    url = f"http://{node.address}:{NODE_PORT}/hostname"
    return cluster.client.run("curl", "-sS", "--max-time", "2", url).stdout


def api_reached_by(cluster: Cluster, node: Node) -> bool:
    """Whether a node gets any answer from the API server."""
    asked = node.run("curl", "-sk", "--max-time", "1", f"{cluster.spec.server}/readyz", check=False)
    return asked.returncode == 0


def test_nodes_are_ready_and_say_the_version_that_was_built(cluster: Cluster) -> None:
    for node in cluster.nodes:
        info = cluster.get("node", node.name)["status"]["nodeInfo"]
        assert re.fullmatch(r"v1\.34\.\d+", info["kubeletVersion"])
        assert info["containerRuntimeVersion"].startswith("containerd://")


def test_pods_of_all_nodes_reach_each_other_and_the_control_plane_reaches_them(cluster: Cluster) -> None:
    first, second = cluster.nodes[:2]
    there = pod_on(cluster, second)
    answer = in_pod(cluster, first, "curl", "-sS", f"http://{there['status']['podIP']}:8080/hostname")
    assert answer == there["metadata"]["name"]
    assert "hostname" in cluster.kubectl("logs", "-n", NAMESPACE, there["metadata"]["name"]).stdout


def test_pods_run_in_the_cgroup_of_their_node_alone(cluster: Cluster) -> None:
    first, second = cluster.nodes[:2]
    uid = pod_on(cluster, first)["metadata"]["uid"]
    assert list(first.cgroup.rglob(f"*{uid}"))
    assert not list(second.cgroup.rglob(f"*{uid}"))


def test_each_node_has_a_bpf_file_system_of_its_own(cluster: Cluster) -> None:
    first, second = cluster.nodes[:2]
    first.run("mkdir", "/sys/fs/bpf/mark")
    try:
        assert "mark" not in second.run("ls", "/sys/fs/bpf").stdout
    finally:
        first.run("rmdir", "/sys/fs/bpf/mark")


def test_without_kube_proxy_nobody_serves_services(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match=r"Failed to connect|timed out"):
        ask_by_node_port(cluster, cluster.nodes[0])


@pytest.mark.parametrize("kube_proxy", ["nftables", "iptables"], indirect=True)
def test_kube_proxy_serves_services_and_dns_resolves(cluster: Cluster, kube_proxy: str) -> None:
    for node in cluster.nodes[:2]:
        cluster.wait_until(lambda node=node: ask_by_node_port(cluster, node), f"node port of {node.name}", 30)
        answer = in_pod(cluster, node, "curl", "-sS", "--max-time", "5", f"http://web.{NAMESPACE}/hostname")
        assert answer.startswith("web-")
        address = cluster.get("service", "web", namespace=NAMESPACE)["spec"]["clusterIP"]
        found = in_pod(cluster, node, "dig", "+short", f"web.{NAMESPACE}.svc.cluster.local")
        assert found.strip() == address


def test_kube_proxy_leaves_no_rules_when_it_is_switched_off(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.kube_proxy_on("nftables")
    cluster.wait_until(lambda: "kube-proxy" in node.run("nft", "list", "tables").stdout, "its table", 30)
    node.kube_proxy_off()
    assert "kube-proxy" not in node.run("nft", "list", "tables").stdout


def test_an_added_node_runs_pods_and_the_others_stay_ready(cluster: Cluster, extra: Node) -> None:
    assert pod_on(cluster, extra)["status"]["hostIP"] == extra.address
    cluster.wait_nodes_ready(within=1)


def test_an_added_node_has_the_images_that_were_loaded_into_all(
    cluster: Cluster, extra: Node, tmp_path: Path
) -> None:
    image = Image(f"kubebee.dev/e2e/late-{uuid.uuid4().hex[:8]}:1", "agnhost")
    archive = write_archive(image, cluster.programs / "agnhost", None, tmp_path / image.file)
    cluster.load_image(archive)
    late = cluster.add_node()
    try:
        assert image.name in late.images()
        assert image.name in extra.images()
    finally:
        cluster.remove_node(late)
    assert late.name not in cluster.kubectl("get", "nodes").stdout


def test_what_a_reader_of_a_failure_needs_is_collected_from_all_parts(
    cluster: Cluster, extra: Node, tmp_path: Path
) -> None:
    pod = pod_on(cluster, extra)["metadata"]
    cluster.collect(tmp_path)
    assert pod["name"] in (tmp_path / "kubectl-describe-pods-A.txt").read_text()
    assert list((tmp_path / extra.name / "pods").glob(f"{NAMESPACE}_{pod['name']}_*/web/*.log"))
    assert (tmp_path / extra.name / "kubelet.log").stat().st_size
    assert (tmp_path / "control-plane" / "kube-apiserver.log").stat().st_size
    assert "xdp" in (tmp_path / extra.name / "bpftool-prog-list.txt").read_text()


def test_a_stopped_node_is_not_ready_and_comes_back_with_its_disk(cluster: Cluster, extra: Node) -> None:
    extra.run("touch", "/var/lib/mark")
    cluster.stop_node(extra)
    assert not extra.runs
    with pytest.raises(ClusterError, match="is down"):
        extra.run("true")
    cluster.wait_node_not_ready(extra)
    cluster.start_node(extra)
    assert "mark" in extra.run("ls", "/var/lib").stdout
    assert pod_on(cluster, extra)


def test_a_rebooted_node_has_an_empty_bpf_file_system_and_new_containers(
    cluster: Cluster, extra: Node
) -> None:
    pod = pod_on(cluster, extra)
    before = pod["status"]["containerStatuses"][0]["containerID"]
    extra.run("mkdir", "/sys/fs/bpf/mark")
    cluster.reboot_node(extra)
    assert "mark" not in extra.run("ls", "/sys/fs/bpf").stdout

    def anew() -> bool:
        status = pod_on(cluster, extra)["status"]["containerStatuses"][0]
        return bool(status["containerID"] != before)

    cluster.wait_until(anew, "its container runs anew", 60)


def test_a_node_that_is_cut_off_misses_the_api_server_and_nothing_else(cluster: Cluster, extra: Node) -> None:
    neighbour = cluster.nodes[0]
    extra.cut_off()
    try:
        assert not api_reached_by(cluster, extra)
        assert api_reached_by(cluster, neighbour)
        assert extra.run("ping", "-c1", "-W2", neighbour.address).returncode == 0
        cluster.wait_node_not_ready(extra)
    finally:
        extra.reconnect()
    cluster.wait_nodes_ready(extra)


def test_the_api_server_stops_and_starts(cluster: Cluster) -> None:
    cluster.stop_api()
    try:
        assert not cluster.is_up
        with pytest.raises(ClusterError, match="refused"):
            cluster.kubectl("get", "nodes")
    finally:
        cluster.start_api()
    cluster.wait_nodes_ready(within=60)


def test_etcd_stops_and_starts_and_forgets_nothing(cluster: Cluster) -> None:
    cluster.stop_etcd()
    try:
        with pytest.raises(ClusterError):
            cluster.kubectl("create", "configmap", "lost", "-n", NAMESPACE, "--request-timeout=2s")
    finally:
        cluster.start_etcd()
    cluster.kubectl("create", "configmap", "kept", "-n", NAMESPACE)
    assert cluster.get("daemonset", "web", namespace=NAMESPACE)


def test_bringing_it_up_again_changes_nothing(cluster: Cluster) -> None:
    pids = [node.pid for node in cluster.nodes]
    cluster.up(nodes=2)
    assert [node.pid for node in cluster.nodes] == pids


def test_a_killed_kubelet_is_started_by_bringing_it_up(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.stop_kubelet()
    cluster.wait_node_not_ready(node)
    cluster.up(nodes=2)
    cluster.wait_nodes_ready(node)

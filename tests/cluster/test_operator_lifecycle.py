"""Helm's verbs on a real cluster with the datapath running."""

from __future__ import annotations

import shutil
from pathlib import Path

from cluster import Cluster
from support.cluster_manifests import counter
from support.installed import NAMESPACE, Installed, Pings

_CHART = Path(__file__).parents[2] / "charts" / "kubebee"


def another_version(to: Path, version: str) -> Path:
    """The chart as another version of it."""
    chart = to / f"kubebee-{version}"
    shutil.copytree(_CHART, chart)
    file = chart / "Chart.yaml"
    lines = [
        f"version: {version}" if line.startswith("version:") else line
        for line in file.read_text().splitlines()
    ]
    file.write_text("\n".join(lines) + "\n")
    return chart


def test_upgrade_and_rollback_lose_no_packet(cluster: Cluster, operator: Installed, tmp_path: Path) -> None:
    operator.apply(counter())
    operator.wait_ready("bpfprogram", "packets", nodes=2)
    node = cluster.nodes[0]
    before, pod = operator.xdp(node), operator.loader_pod(node)
    with Pings(cluster.client, node.address) as pings:
        operator.install(
            "--set", "loader.podAnnotations.test=upgraded", chart=another_version(tmp_path, "0.1.1")
        )
        cluster.wait_until(lambda: replaced(operator, pod) and all_ready(operator), "new loaders", 180)
        upgraded = operator.loader_pod(node)
        operator.helm("rollback", "kubebee", "--wait")
        cluster.wait_until(lambda: replaced(operator, upgraded) and all_ready(operator), "old loaders", 180)
    assert pings.sent > 500
    assert pings.lost == 0
    assert operator.xdp(node) == before
    operator.wait_ready("bpfprogram", "packets", nodes=2)


def replaced(operator: Installed, pod: str) -> bool:
    """Whether a pod is there no more."""
    return pod not in {item["metadata"]["name"] for item in operator.pods("loader")}


def all_ready(operator: Installed) -> bool:
    """Whether every loader's pod is Ready."""
    pods = operator.pods("loader")
    states = [{c["type"]: c["status"] for c in pod["status"].get("conditions", [])} for pod in pods]
    return len(pods) == 2 and all(state.get("Ready") == "True" for state in states)


def test_uninstalling_with_resources_present_leaves_nothing_on_the_nodes(
    cluster: Cluster, operator: Installed
) -> None:
    operator.apply(counter())
    operator.wait_ready("bpfprogram", "packets", nodes=2)
    operator.uninstall()
    for node in cluster.nodes:
        assert operator.nothing_left(node), (operator.pins(node), operator.xdp(node))
    left = cluster.kubectl("get", "all,configmaps,leases", "-n", NAMESPACE, "-o", "name").stdout.split()
    assert [name for name in left if "kube-root-ca.crt" not in name] == []
    operator.install()
    operator.delete_all()


def test_helm_test_passes(operator: Installed) -> None:
    assert "Succeeded" in operator.helm("test", "kubebee").stdout

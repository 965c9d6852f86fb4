"""What goes wrong on a real cluster: nodes, loaders, controllers and the API server go, under traffic."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from cluster import Cluster, Node
from support.cluster_manifests import BROKEN, counter, source
from support.installed import NAMESPACE, Installed, Pings


@pytest.fixture
def third(cluster: Cluster, operator: Installed) -> Iterator[Node]:
    """A node of the test's own."""
    node = cluster.add_node()
    yield node
    if not node.runs:
        cluster.start_node(node)
    operator.delete_all()
    cluster.remove_node(node)


def test_a_node_that_joins_gets_what_all_have_and_one_that_leaves_is_forgotten(
    cluster: Cluster, operator: Installed
) -> None:
    operator.apply(counter())
    operator.wait_ready("bpfprogram", "packets", nodes=2)
    node = cluster.add_node()
    try:
        operator.wait_ready("bpfprogram", "packets", nodes=3, within=120)
        assert operator.xdp(node)
    finally:
        cluster.remove_node(node)
    operator.wait_ready("bpfprogram", "packets", nodes=2, within=120)
    names = {item["metadata"]["name"] for item in cluster.get("bpfnodes")["items"]}
    assert node.name not in names


def test_a_rebooted_node_runs_everything_again(cluster: Cluster, operator: Installed, third: Node) -> None:
    operator.apply(counter())
    operator.wait_ready("bpfprogram", "packets", nodes=3, within=120)
    cluster.reboot_node(third)
    cluster.wait_until(lambda: operator.xdp(third), "the program after the reboot", 120)
    operator.wait_ready("bpfprogram", "packets", nodes=3, within=120)


def test_deleting_while_a_node_is_down_is_not_held_up_and_made_good_later(
    cluster: Cluster, operator: Installed, third: Node
) -> None:
    operator.apply(counter())
    operator.wait_ready("bpfprogram", "packets", nodes=3, within=120)
    cluster.stop_node(third)
    cluster.wait_node_not_ready(third)
    operator.delete("bpfprogram", "packets")
    cluster.start_node(third)
    cluster.wait_until(lambda: not operator.xdp(third), "nothing of it after the node is back", 120)


def test_a_killed_loader_loses_no_packet(cluster: Cluster, operator: Installed) -> None:
    operator.apply(counter())
    operator.wait_ready("bpfprogram", "packets", nodes=2)
    node = cluster.nodes[0]
    before = operator.xdp(node)
    counted = operator.map_sum(node, "bpfprogram-packets", "counts")
    old = operator.loader_pod(node)
    with Pings(cluster.client, node.address) as pings:
        cluster.kubectl("delete", "pod", "-n", NAMESPACE, old, "--grace-period=0", "--force")
        cluster.wait_until(lambda: ready_loader(operator, node) not in ("", old), "another loader", 120)
    assert pings.sent > 100
    assert pings.lost == 0
    assert operator.xdp(node) == before
    assert operator.map_sum(node, "bpfprogram-packets", "counts") - counted >= pings.sent
    operator.wait_ready("bpfprogram", "packets", nodes=2)


def ready_loader(operator: Installed, node: Node) -> str:
    """Name of the node's loader once it is Ready."""
    for pod in operator.pods("loader"):
        conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}
        if pod["spec"].get("nodeName") == node.name and conditions.get("Ready") == "True":
            return str(pod["metadata"]["name"])
    return ""


def test_a_broken_version_stops_at_its_canary_and_is_rolled_back(
    cluster: Cluster, operator: Installed
) -> None:
    canary, other = cluster.nodes[:2]
    rollout = {"canary": {"nodes": [canary.name], "minReadySeconds": 1}, "autoRollback": True}
    operator.apply(counter(rollout=rollout))
    operator.wait_ready("bpfprogram", "packets", nodes=2)
    programs = {node.name: operator.xdp(node) for node in (canary, other)}
    operator.apply(counter(code=BROKEN, rollout=rollout))
    status = operator.wait("bpfprogram", "packets", lambda s: s.rollout.get("phase") == "RolledBack")
    assert canary.name in status.rollout["message"]
    assert {node.name: operator.xdp(node) for node in (canary, other)} == programs
    operator.wait("bpfprogram", "packets", lambda s: s.rollout.get("onStable") == 2)
    operator.apply(counter(code=source(3), rollout=rollout))
    operator.wait_ready("bpfprogram", "packets", nodes=2)


def test_a_canary_goes_first_and_the_others_follow(cluster: Cluster, operator: Installed) -> None:
    canary, other = cluster.nodes[:2]
    rollout = {"canary": {"nodes": [canary.name], "minReadySeconds": 5}}
    operator.apply(counter(rollout=rollout))
    operator.wait_ready("bpfprogram", "packets", nodes=2)
    before = operator.xdp(other)
    operator.apply(counter(code=source(2), rollout=rollout))
    status = operator.wait(
        "bpfprogram",
        "packets",
        lambda s: s.rollout.get("generation") == 2 and s.rollout.get("updated") == 1,
    )
    assert status.rollout["phase"] == "Canary"
    assert operator.xdp(other) == before
    operator.wait("bpfprogram", "packets", lambda s: s.ready and s.nodes == "2/2" and s.generation == 2)
    assert operator.xdp(other) != before


def test_a_controller_killed_in_a_rollout_is_followed_by_another(
    cluster: Cluster, operator: Installed
) -> None:
    rollout = {"maxUnavailable": 1}
    operator.apply(counter(rollout=rollout))
    operator.wait_ready("bpfprogram", "packets", nodes=2)
    for version in range(2, 5):
        operator.apply(counter(code=source(version), rollout=rollout))
        kill_controllers(cluster)
    operator.wait(
        "bpfprogram", "packets", lambda s: s.ready and s.nodes == "2/2" and s.generation == 4, within=120
    )


def kill_controllers(cluster: Cluster) -> None:
    """End every controller at once."""
    selector = "app.kubernetes.io/component=controller"
    cluster.kubectl(
        "delete", "pods", "-n", NAMESPACE, "-l", selector, "--grace-period=0", "--force", "--wait=false"
    )


@pytest.mark.full
def test_an_outage_of_the_api_server_stops_no_packet_and_edits_go_on_after_it(
    cluster: Cluster, operator: Installed
) -> None:
    operator.apply(counter())
    operator.wait_ready("bpfprogram", "packets", nodes=2)
    node = cluster.nodes[0]
    before = operator.xdp(node)
    with Pings(cluster.client, node.address, per_second=200) as pings:
        cluster.stop_api()
        try:
            end = time.monotonic() + 60
            while time.monotonic() < end:
                node.run("true", timeout=10)
                time.sleep(1)
        finally:
            cluster.start_api()
    assert pings.sent > 5000
    assert pings.lost == 0
    assert operator.xdp(node) == before
    operator.apply(counter(code=source(2)))
    operator.wait(
        "bpfprogram", "packets", lambda s: s.ready and s.nodes == "2/2" and s.generation == 2, within=120
    )


def test_two_controllers_do_the_work_of_one(cluster: Cluster, operator: Installed) -> None:
    cluster.kubectl("scale", "deployment", "-n", NAMESPACE, "kubebee-controller", "--replicas=2")
    try:
        cluster.wait_available("deployment/kubebee-controller", NAMESPACE)
        operator.apply(counter())
        operator.wait_ready("bpfprogram", "packets", nodes=2)
        (lease,) = [
            item
            for item in cluster.get("leases", namespace=NAMESPACE)["items"]
            if item["metadata"]["name"] == "kubebee-controller"
        ]
        holder = lease["spec"]["holderIdentity"]
        cluster.kubectl("delete", "pod", "-n", NAMESPACE, holder.split("_")[0], "--grace-period=0", "--force")
        operator.apply(counter(code=source(2)))
        operator.wait(
            "bpfprogram", "packets", lambda s: s.ready and s.nodes == "2/2" and s.generation == 2, within=90
        )
    finally:
        cluster.kubectl("scale", "deployment", "-n", NAMESPACE, "kubebee-controller", "--replicas=1")

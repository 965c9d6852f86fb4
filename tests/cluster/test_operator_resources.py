"""Resources on a real cluster: from kubectl apply to packets, and back again."""

from __future__ import annotations

import json

import pytest

from cluster import Cluster
from support.cluster_manifests import (
    BROKEN,
    REFUSED,
    balancer,
    config_map,
    counter,
    from_config_map,
    policy,
    source,
)
from support.installed import Installed

VIP = "172.18.0.150"


def send(cluster: Cluster, to: str, count: int = 20) -> None:
    """Packets from outside to a node."""
    cluster.client.run("ping", "-q", "-c", str(count), "-i", "0.01", "-W", "1", to, check=False)


def test_a_program_counts_packets_on_every_node(cluster: Cluster, operator: Installed) -> None:
    operator.apply(counter())
    status = operator.wait_ready("bpfprogram", "packets", nodes=2)
    assert {place["node"] for place in status.status["attachments"]} == {n.name for n in cluster.nodes}
    for node in cluster.nodes:
        before = operator.map_sum(node, "bpfprogram-packets", "counts")
        send(cluster, node.address)
        after = operator.map_sum(node, "bpfprogram-packets", "counts")
        assert after - before >= 20


def test_kubectl_wait_get_describe_and_explain_speak_to_the_user(
    cluster: Cluster, operator: Installed
) -> None:
    operator.apply(counter())
    cluster.kubectl("wait", "bpfprogram/packets", "--for=condition=Ready", "--timeout=60s")
    head, row = cluster.kubectl("get", "bpfprogram", "packets").stdout.splitlines()
    assert head.split()[:3] == ["NAME", "READY", "NODES"]
    assert row.split()[:3] == ["packets", "True", "2/2"]
    described = cluster.wait_until(
        lambda: (
            "RolloutComplete" in (text := cluster.kubectl("describe", "bpfprogram", "packets").stdout)
            and text
        ),
        "an Event in describe",
    )
    assert "Ready" in str(described)
    explained = cluster.kubectl("explain", "bpfprogram.spec.rollout.maxUnavailable").stdout
    assert "How many nodes may be at work on a new generation at the same time" in " ".join(explained.split())


def test_an_edit_of_a_global_reloads_nothing(cluster: Cluster, operator: Installed) -> None:
    operator.apply(counter(globals={"step": 1}))
    operator.wait_ready("bpfprogram", "packets", nodes=2)
    node = cluster.nodes[0]
    before = operator.xdp(node)
    operator.apply(counter(globals={"step": 1000}))
    operator.wait_ready("bpfprogram", "packets", nodes=2)
    assert operator.xdp(node) == before
    counted = operator.map_sum(node, "bpfprogram-packets", "counts")
    send(cluster, node.address)
    assert operator.map_sum(node, "bpfprogram-packets", "counts") - counted >= 20_000


def test_an_edit_of_the_code_replaces_it_and_keeps_its_counts(cluster: Cluster, operator: Installed) -> None:
    operator.apply(counter())
    operator.wait_ready("bpfprogram", "packets", nodes=2)
    node = cluster.nodes[0]
    send(cluster, node.address)
    counted = operator.map_sum(node, "bpfprogram-packets", "counts")
    before = operator.xdp(node)["id"]
    operator.apply(counter(code=source(2)))
    operator.wait("bpfprogram", "packets", lambda s: s.ready and s.generation == 2 and s.nodes == "2/2")
    assert operator.xdp(node)["id"] != before
    assert operator.map_sum(node, "bpfprogram-packets", "counts") >= counted


def test_a_selector_moves_a_program_and_nodes_without_one_run_no_loader(
    cluster: Cluster, operator: Installed
) -> None:
    first, second = cluster.nodes[:2]
    operator.apply(counter(nodeSelector={"kubernetes.io/hostname": first.name}))
    operator.wait_ready("bpfprogram", "packets", nodes=1)
    assert operator.xdp(first)
    cluster.wait_until(lambda: loader_nodes(operator) == {first.name}, "a loader on the first node alone")
    operator.apply(counter(nodeSelector={"kubernetes.io/hostname": second.name}))
    operator.wait("bpfprogram", "packets", lambda s: s.ready and s.generation == 2 and s.nodes == "1/1")
    cluster.wait_until(lambda: operator.xdp(second) and not operator.xdp(first), "moved to the second node")
    cluster.wait_until(lambda: loader_nodes(operator) == {second.name}, "a loader on the second node alone")
    assert not operator.pins(first)


def loader_nodes(operator: Installed) -> set[str]:
    """Nodes with a loader's pod."""
    return {pod["spec"].get("nodeName", "") for pod in operator.pods("loader")}


def test_deleting_it_leaves_nothing_on_the_nodes(cluster: Cluster, operator: Installed) -> None:
    operator.apply(counter())
    operator.wait_ready("bpfprogram", "packets", nodes=2)
    operator.delete("bpfprogram", "packets")
    for node in cluster.nodes:
        assert not operator.xdp(node)
        assert not [pin for pin in operator.pins(node) if "packets" in pin]


def test_a_firewall_denies_and_allows_on_every_node(cluster: Cluster, operator: Installed) -> None:
    rule = {
        "name": "no-web",
        "action": "Deny",
        "from": [{"cidr": f"{cluster.client.address}/32"}],
        "protocols": [{"protocol": "TCP", "ports": ["8080"]}],
    }
    node = cluster.nodes[0]
    server = node.popen("python3", "-m", "http.server", "8080", "--directory", "/usr/share/common-licenses")
    other = node.popen("python3", "-m", "http.server", "8081", "--directory", "/usr/share/common-licenses")
    try:
        cluster.wait_until(lambda: fetch(cluster, node.address, 8080), "an answer without a policy")
        operator.apply(policy("edge", rule))
        operator.wait_ready("hostpolicy", "edge", nodes=2)
        assert not fetch(cluster, node.address, 8080)
        assert fetch(cluster, node.address, 8081)
        operator.delete("hostpolicy", "edge")
        assert fetch(cluster, node.address, 8080)
    finally:
        for process in (server, other):
            process.kill()
            process.wait()


def fetch(cluster: Cluster, address: str, port: int, path: str = "GPL-2") -> bool:
    """Whether the outside client gets an answer by HTTP."""
    url = f"http://{address}:{port}/{path}"
    return (
        cluster.client.run("curl", "-sf", "--max-time", "2", "-o", "/dev/null", url, check=False).returncode
        == 0
    )


def test_a_balancer_spreads_connections_over_two_nodes(cluster: Cluster, operator: Installed) -> None:
    entry = cluster.add_node() if len(cluster.nodes) < 3 else cluster.nodes[2]
    backends = cluster.nodes[:2]
    servers = [
        node.popen(
            "sh",
            "-c",
            f"mkdir -p /run/web && echo {node.name} >/run/web/name && "
            "exec python3 -m http.server 8088 --directory /run/web",
        )
        for node in backends
    ]
    try:
        operator.apply(
            balancer(
                "shop",
                VIP,
                80,
                [(node.address, 8088) for node in backends],
                nodeSelector={"kubernetes.io/hostname": entry.name},
                socketLB={"enabled": False},
            )
        )
        operator.wait_ready("servicelb", "shop", nodes=1)
        for node in backends:
            cluster.wait_until(
                lambda a=node.address: fetch(cluster, a, 8088, "name"), f"a server on {node.name}"
            )
        cluster.client.run("ip", "route", "replace", VIP, "via", entry.address)
        answered = set()
        for _ in range(40):
            answer = cluster.client.run("curl", "-sf", "--max-time", "3", f"http://{VIP}/name", check=False)
            answered.add(answer.stdout.strip())
        assert answered == {node.name for node in backends}
    finally:
        cluster.client.run("ip", "route", "del", VIP, check=False)
        for server in servers:
            server.kill()
            server.wait()
        operator.delete_all()
        cluster.remove_node(entry)


@pytest.mark.parametrize(
    ("code", "reason", "words"), [(BROKEN, "CompileFailed", "pakets"), (REFUSED, "VerifierRefused", "")]
)
def test_code_that_is_refused_is_told_with_node_and_line(
    cluster: Cluster, operator: Installed, code: str, reason: str, words: str
) -> None:
    operator.apply(counter(code=code))
    status = operator.wait(
        "bpfprogram",
        "packets",
        lambda s: s.current and s.reason == reason and s.condition("Stalled").get("status") == "True",
    )
    failure = status.status["failures"][0]
    assert failure["node"] in {node.name for node in cluster.nodes}
    assert words in failure["log"] + failure["message"]
    event = cluster.wait_until(
        lambda: [e for e in operator.events("packets") if e["type"] == "Warning"], "a Warning Event"
    )
    assert failure["node"] in json.dumps(event)


def test_a_config_map_source_is_followed(cluster: Cluster, operator: Installed) -> None:
    operator.apply(from_config_map("packets", "code"))
    operator.wait(
        "bpfprogram",
        "packets",
        lambda s: s.current and not s.ready and "code" in s.condition("Ready")["message"],
    )
    operator.apply(config_map("code", source(1)))
    try:
        operator.wait_ready("bpfprogram", "packets", nodes=2)
        before = operator.xdp(cluster.nodes[0])["id"]
        operator.apply(config_map("code", source(2)))
        cluster.wait_until(lambda: operator.xdp(cluster.nodes[0])["id"] != before, "the new code")
        operator.wait_ready("bpfprogram", "packets", nodes=2)
        cluster.kubectl("delete", "configmap", "code")
        status = operator.wait("bpfprogram", "packets", lambda s: not s.ready)
        assert "code" in status.condition("Ready")["message"]
        assert operator.xdp(cluster.nodes[0])
    finally:
        cluster.kubectl("delete", "configmap", "code", "--ignore-not-found")


def test_fifty_at_once_all_become_ready(cluster: Cluster, operator: Installed) -> None:
    code = source().replace('SEC("xdp")', 'SEC("tracepoint")')
    code = code.replace("struct xdp_md *ctx", "void *ctx").replace("XDP_PASS", "0")
    items = []
    for number in range(50):
        item = counter(f"many-{number}", code=code.replace("zero", f"zero{number}"))
        # All nodes here share one kernel, whose tracepoints take 64 programs each.
        name = ("sched_process_exit", "sched_process_fork")[number % 2]
        item["spec"]["programs"][0]["attach"] = {"type": "Tracepoint", "category": "sched", "name": name}
        items.append(item)
    cluster.apply(items)
    for item in items:
        operator.wait_ready("bpfprogram", item["metadata"]["name"], nodes=2, within=120)

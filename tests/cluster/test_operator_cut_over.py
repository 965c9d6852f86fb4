"""On a real cluster kubebee takes over from kube-proxy, and no connection breaks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Self

import pytest

from cluster import Cluster, Node
from support.calls import PYTHON
from support.cluster_manifests import resource, web_servers
from support.installed import Installed

NAMESPACE = "cut-over"
TCP, UDP = 31480, 31481
EACH = 15
"""Connections of each protocol by one client, to pods of both nodes."""
_PORTS = [
    {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": TCP},
    {"name": "udp", "protocol": "UDP", "port": 81, "targetPort": 8081, "nodePort": UDP},
]
_CLIENT = """
import http.client, socket, sys, time
address, tcp, udp, count = sys.argv[1], *map(int, sys.argv[2:])
def by_tcp():
    connection = http.client.HTTPConnection(address, tcp, timeout=5)
    connection.connect()
    connection.auto_open = False
    def ask():
        connection.request("GET", "/hostname")
        return connection.getresponse().read().decode()
    return ask
def by_udp():
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.settimeout(2)
    asking.connect((address, udp))
    def ask():
        for _ in range(3):  # as resolvers do: a datagram may get lost on a busy machine
            asking.send(b"hostname")
            try:
                return asking.recv(200).decode()
            except TimeoutError:
                pass
        return "nobody"
    return ask
asks = [kind() for kind in (by_tcp, by_udp) for _ in range(count)]
first = [ask() for ask in asks]
print(len(set(first)), flush=True)
while True:
    began = time.monotonic()
    for number, ask in enumerate(asks):
        try:
            now = ask()
        except Exception as error:
            now = repr(error)
        if now != first[number]:
            sys.exit(f"connection {number} of {count} by TCP, then UDP: {first[number]}, now {now}")
    print(began, flush=True)
    time.sleep(0.02)
"""


class Load:
    """Connections that are asked all the time who answers, each the same pod for ever."""

    def __init__(self, cluster: Cluster, node: Node, name: str) -> None:
        words = (_CLIENT, node.address, str(TCP), str(UDP), str(EACH))
        self._name = name
        self._process = cluster.client.popen(*PYTHON, *words)
        self.pods = int(self._line())

    def again(self) -> None:
        """Wait until each was asked once more."""
        now = time.monotonic()
        while float(self._line()) < now:
            pass

    def _line(self) -> str:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = self._process.stdout.readline().decode().strip()
        assert line, f"{self._name}: {self._process.stderr.read().decode()}"
        return line

    def __enter__(self) -> Self:
        return self

    def end(self) -> None:
        """End all of them."""
        self._process.kill()
        self._process.communicate()

    def __exit__(self, *_: object) -> None:
        self.end()


def balancer() -> dict[str, Any]:
    return resource(
        "ServiceLB",
        "cluster",
        {
            "services": {"all": True},
            "healthzPort": 10256,
            "cutOver": {"from": "KubeProxy"},
        },
    )


@pytest.fixture
def web(cluster: Cluster, loaders: Installed) -> Iterator[Installed]:
    """Web servers on all nodes, a Service of theirs, and kubebee beside it; no kube-proxy afterwards."""
    cluster.apply(web_servers(NAMESPACE, _PORTS, "--udp-port=8081"))
    cluster.wait_available("daemonset/web", NAMESPACE)
    yield loaders
    loaders.delete("servicelb", "cluster")
    for node in cluster.nodes:
        node.kube_proxy_off()
    cluster.kubectl("delete", "namespace", NAMESPACE, timeout=120)


def happened(cluster: Cluster, installed: Installed, reason: str, text: str = "") -> None:
    """Wait until every node has told of something; a cluster that is kept has Events of earlier runs."""
    uid = cluster.get("servicelb", "cluster")["metadata"]["uid"]

    def told() -> bool:
        events = (one for one in installed.events("cluster") if one["involvedObject"]["uid"] == uid)
        said = [event["message"] for event in events if event["reason"] == reason]
        return all(any(f"{node.name}: {text}" in line for line in said) for node in cluster.nodes)

    cluster.wait_until(told, f"{reason} on every node")


def flows(installed: Installed, node: Node) -> int:
    """Connections that are translated by kubebee."""
    (pin,) = [pin for pin in installed.pins(node) if "/kb_lb_flow@" in pin]
    return len(json.loads(node.run("bpftool", "-j", "map", "dump", "pinned", pin).stdout))


def has_rules(node: Node) -> bool:
    """Whether there are rules of kube-proxy, of either mode."""
    rules = node.run("nft", "list", "ruleset").stdout
    return "table ip kube-proxy" in rules or "chain KUBE-SERVICES" in rules


@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_no_connection_breaks_on_the_way_from_kube_proxy(cluster: Cluster, web: Installed, mode: str) -> None:
    entry = cluster.nodes[0]
    with ExitStack() as stack:
        loads: list[Load] = []

        def all_go_on(name: str) -> None:
            loads.append(stack.enter_context(Load(cluster, entry, name)))
            assert loads[-1].pods == len(cluster.nodes)
            for load in loads:
                load.again()

        for node in cluster.nodes:
            node.kube_proxy_on(mode)
        asked = ("curl", "-sS", "--max-time", "2", f"http://{entry.address}:{TCP}/hostname")
        cluster.wait_until(lambda: cluster.client.run(*asked).stdout, "kube-proxy serves")
        all_go_on("kube-proxy's")

        web.apply(balancer())
        web.wait_ready("servicelb", "cluster", nodes=len(cluster.nodes))
        happened(cluster, web, "CutOver", "new connections are served")
        assert flows(web, entry) == 0, "those there are stay with kube-proxy"
        all_go_on("those since kubebee took over")
        assert flows(web, entry) == 2 * EACH
        for node in cluster.nodes:
            node.kube_proxy_off(cleanup=False)
        happened(cluster, web, "KubeProxyRulesRemoved")
        assert not any(has_rules(node) for node in cluster.nodes)
        all_go_on("those since kube-proxy is gone")

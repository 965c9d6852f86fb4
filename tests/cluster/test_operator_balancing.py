"""ServiceLB beyond the first TCP frontend: UDP, and processes and pods of the nodes at their sockets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from cluster import Cluster, Node
from cluster.host import Host
from cluster.images import AGNHOST_IMAGE
from support.calls import PYTHON
from support.cluster_manifests import balancer
from support.installed import Installed

VIP = "172.18.0.151"
PORT = 5353
_UDP_SERVER = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as served:
    served.bind((sys.argv[1], int(sys.argv[2])))
    while True:
        _, client = served.recvfrom(2048)
        served.sendto(sys.argv[3].encode(), client)
"""
_TCP_SERVER = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as served:
    while True:
        connection, _ = served.accept()
        with connection:
            connection.sendall(sys.argv[3].encode())
"""
_UDP_CLIENT = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
    asking.settimeout(2)
    asking.connect((sys.argv[1], int(sys.argv[2])))  # an answer from elsewhere is not taken
    asking.send(b"who")
    print(asking.recv(2048).decode(), *asking.getpeername())
"""
_TCP_CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 2) as asking:
    print(asking.recv(2048).decode(), *asking.getpeername())
"""
SERVERS = {"TCP": _TCP_SERVER, "UDP": _UDP_SERVER}
CLIENTS = {"TCP": _TCP_CLIENT, "UDP": _UDP_CLIENT}


@contextmanager
def serving(nodes: list[Node], protocol: str) -> Iterator[list[tuple[str, int]]]:
    """A server on each node that says the node's name; its addresses."""
    with ExitStack() as stack:
        for node in nodes:
            words = (SERVERS[protocol], node.address, str(PORT), node.name)
            server = node.popen(*PYTHON, *words)
            stack.callback(server.wait)
            stack.callback(server.kill)
        yield [(node.address, PORT) for node in nodes]


def ask(host: Host, protocol: str, address: str, port: int = PORT) -> str:
    """The name of who answers and the address that the client sees, empty without an answer."""
    words = (CLIENTS[protocol], address, str(port))
    return host.run(*PYTHON, *words, check=False).stdout.strip()


@pytest.fixture
def balancing(loaders: Installed) -> Iterator[Installed]:
    """kubebee with a loader on every node; the balancer goes after the test."""
    yield loaders
    loaders.delete("servicelb", "names")


def test_udp_is_balanced_for_a_client_outside(cluster: Cluster, balancing: Installed) -> None:
    entry, other = cluster.nodes[:2]
    with serving([other], "UDP") as backends:
        selector = {"kubernetes.io/hostname": entry.name}
        manifest = balancer("names", VIP, PORT, backends, protocol="UDP", nodeSelector=selector)
        balancing.apply({**manifest, "spec": {**manifest["spec"], "socketLB": {"enabled": False}}})
        balancing.wait_ready("servicelb", "names", nodes=1)
        cluster.client.run("ip", "route", "replace", VIP, "via", entry.address)
        try:
            cluster.wait_until(lambda: ask(cluster.client, "UDP", other.address), "the server itself")
            for _ in range(5):
                assert ask(cluster.client, "UDP", VIP) == f"{other.name} {VIP} {PORT}"
            balancing.delete("servicelb", "names")
            assert not ask(cluster.client, "UDP", VIP)
        finally:
            cluster.client.run("ip", "route", "del", VIP, check=False)


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_a_process_of_a_node_reaches_the_address_at_its_socket(
    cluster: Cluster, balancing: Installed, protocol: str
) -> None:
    nodes = cluster.nodes[:2]
    with serving(nodes, protocol) as backends:
        for node in nodes:
            cluster.wait_until(lambda n=node: ask(n, protocol, n.address), f"the server on {node.name}")
        assert not ask(nodes[0], protocol, VIP)
        balancing.apply(balancer("names", VIP, PORT, backends, protocol=protocol))
        balancing.wait_ready("servicelb", "names", nodes=balancing.size)
        for node in nodes:
            answers = {ask(node, protocol, VIP) for _ in range(30)}
            assert answers == {f"{each.name} {VIP} {PORT}" for each in nodes}
        balancing.delete("servicelb", "names")
        assert not ask(nodes[0], protocol, VIP)


def test_a_pod_reaches_the_address_at_its_socket(cluster: Cluster, balancing: Installed) -> None:
    node, other = cluster.nodes[:2]
    with serving([other], "TCP") as backends:
        balancing.apply(balancer("names", VIP, PORT, backends))
        balancing.wait_ready("servicelb", "names", nodes=balancing.size)
        cluster.apply(pod_on(node))
        try:
            cluster.kubectl("wait", "pod/asking", "--for=condition=Ready", "--timeout=60s", timeout=90)

            def answered() -> bool:
                words = ("sh", "-c", f"nc -w 2 {VIP} {PORT} </dev/null")
                return other.name in cluster.kubectl("exec", "asking", "--", *words, check=False).stdout

            cluster.wait_until(answered, "an answer in the pod")
        finally:
            cluster.kubectl("delete", "pod", "asking", "--grace-period=0", "--force")


def pod_on(node: Node) -> dict[str, object]:
    """A pod of a node, in a network namespace of its own."""
    container = {"name": "asking", "image": AGNHOST_IMAGE, "imagePullPolicy": "Never", "args": ["pause"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "asking"},
        "spec": {"nodeName": node.name, "containers": [container]},
    }

"""IPv6 frontends are served at the socket as IPv4 ones are, and IPv4 ones beside them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from kubebee.lb.model import Backend, Reserved, parse_address
from lab.netns import Namespace
from support.servicelb import VIP as VIP4
from support.servicelb import frontend
from support.socketlb import DATAGRAM, ONE, STREAM, TCP, UDP, Node, socket_node

pytestmark = pytest.mark.root

VIP, OTHER_VIP = "2001:db8::10", "2001:db8:0:1::10"
ONE6, TWO6 = "fd00::11", "fd00::12"
NODE_PORT = 30080
INET6 = socket.AF_INET6


@pytest.fixture
def node() -> Iterator[Node]:
    with socket_node() as made:
        for address in (ONE6, TWO6):
            made.network.ip("address", "add", f"{address}/128", "dev", "lo", "nodad")
        made.serve(
            frontend(f"[{ONE6}]:8080", f"[{TWO6}]:8080", vip=VIP, port=80),
            frontend(f"[{ONE6}]:5353", vip=VIP, port=53, protocol=UDP),
            frontend(f"[{TWO6}]:5353", vip=OTHER_VIP, port=53, protocol=UDP),
            frontend(vip=VIP, port=81),
            frontend(vip=VIP, port=81, protocol=UDP),
            frontend(f"{ONE}:8080", vip=VIP4, port=80),
            frontend(f"{ONE}:5353", vip=VIP4, port=53, protocol=UDP),
        )
        yield made


def listen(node: Node, address: str = ONE6) -> socket.socket:
    server = node.network.socket(family=INET6)
    server.bind((address, 8080))
    server.listen(64)
    return server


def udp(node: Node, address: str = "", port: int = 0) -> socket.socket:
    sock = node.network.socket(DATAGRAM, family=INET6)
    sock.settimeout(10)
    if address:
        sock.bind((address, port))
    return sock


def answer(server: socket.socket) -> None:
    server.sendto(b"me", server.recvfrom(64)[1])


def heard(client: socket.socket) -> tuple[bytes, tuple[str, int]]:
    data, peer = client.recvfrom(64)
    return data, peer[:2]


def test_connections_spread_over_backends_show_the_frontend_and_are_counted(node: Node) -> None:
    with listen(node, ONE6), listen(node, TWO6):
        for _ in range(20):
            with node.connect(VIP, 80) as client:
                assert client.getpeername()[:2] == (VIP, 80)
    counts = node.stats(80, vip=VIP)
    assert sum(backend.counts.connections for backend in counts.backends) == 20
    assert all(backend.counts.connections > 1 for backend in counts.backends)


def test_without_a_backend_tcp_is_refused_and_udp_finds_no_route(node: Node) -> None:
    with pytest.raises(ConnectionRefusedError):
        node.connect(VIP, 81)
    with udp(node) as client:
        for call in (lambda: client.sendto(b"who", (VIP, 81)), lambda: client.connect((VIP, 81))):
            with pytest.raises(OSError, match="No route to host"):
                call()
    assert node.drops() == {"lb_sock_no_backend": 3}


def test_one_udp_socket_talks_to_frontends_of_both_families(node: Node) -> None:
    with (
        udp(node, ONE6, 5353) as first,
        udp(node, TWO6, 5353) as second,
        node.udp(ONE, 5353) as fourth,
        udp(node) as client,
    ):
        for vip, server in ((VIP, first), (OTHER_VIP, second), (f"::ffff:{VIP4}", fourth), (VIP, first)):
            client.sendto(b"who", (vip, 53))
            answer(server)
            assert heard(client) == (b"me", (vip, 53))


def test_a_connected_udp_socket_sees_the_frontend(node: Node) -> None:
    with udp(node, ONE6, 5353) as server, node.connect(VIP, 53, DATAGRAM) as client:
        assert client.getpeername()[:2] == (VIP, 53)
        client.send(b"who")
        answer(server)
        assert heard(client) == (b"me", (VIP, 53))


def test_a_udp_socket_keeps_its_backend_until_that_leaves(node: Node) -> None:
    both = tuple(Backend(parse_address(each), 5353) for each in (ONE6, TWO6))
    dns = frontend(f"[{ONE6}]:5353", vip=VIP, port=53, protocol=UDP)
    with udp(node, ONE6, 5353) as one, udp(node, TWO6, 5353) as two, udp(node) as client:
        for backends, server in ((both[:1], one), (both, one), (both[1:], two)):
            node.serve(replace(dns, backends=backends))
            client.sendto(b"who", (VIP, 53))
            answer(server)
            assert heard(client) == (b"me", (VIP, 53))


def test_other_addresses_are_left_alone(node: Node) -> None:
    with listen(node), node.connect(ONE6, 8080) as client:
        assert client.getpeername()[:2] == (ONE6, 8080)
    with pytest.raises(ConnectionRefusedError):
        node.connect(TWO6, 8080)


def test_a_socket_that_turns_to_a_backend_itself_sees_the_backend(node: Node) -> None:
    with udp(node) as client:
        client.connect((VIP, 53))
        client.connect((ONE6, 5353))
        assert client.getpeername()[:2] == (ONE6, 5353)


def test_a_namespace_with_affinity_comes_back_to_its_backend_in_each_family(node: Node) -> None:
    web = replace(frontend(f"[{ONE6}]:8080", f"[{TWO6}]:8080", vip=VIP, port=80), affinity_seconds=60)
    web4 = replace(frontend(f"{ONE}:8080", "127.0.0.12:8080", vip=VIP4, port=80), affinity_seconds=60)
    node.serve(web, web4)
    with listen(node, ONE6), listen(node, TWO6), node.listen(ONE), node.listen("127.0.0.12"):
        for vip in (VIP, VIP4):
            for _ in range(12):
                node.connect(vip, 80).close()
    for counts in node.every_stats():
        assert sorted(backend.counts.connections for backend in counts.backends) == [0, 12]


@pytest.fixture
def node_port(node: Node) -> Node:
    """The node, with a node port of IPv6 alone."""
    tcp, udp = (
        replace(
            frontend(f"[{ONE6}]:8080", vip="::1", port=NODE_PORT, protocol=protocol),
            sockets_only=True,
            reserved=Reserved.PORT,
        )
        for protocol in (TCP, UDP)
    )
    node.serve(tcp, udp)
    return node


def test_a_host_port_of_one_address_is_taken_there_and_free_elsewhere(node: Node) -> None:
    entry = frontend(f"[{TWO6}]:8080", vip=ONE6, port=8000)
    node.serve(replace(entry, reserved=Reserved.PLACE))
    with node.network.socket(family=INET6) as sock, pytest.raises(OSError, match="Address already in use"):
        sock.bind((ONE6, 8000))
    for address in (TWO6, "::"):
        with node.network.socket(family=INET6) as sock:
            sock.bind((address, 8000))


@pytest.mark.parametrize("address", ["::1", "::"])
def test_a_process_of_the_host_reaches_a_node_port_on_loopback(node_port: Node, address: str) -> None:
    with listen(node_port), node_port.connect(address, NODE_PORT) as client:
        assert client.getpeername()[:2] == ("::1", NODE_PORT)


def test_the_loopback_address_of_a_pod_is_its_own(node_port: Node) -> None:
    with (
        Namespace("pod") as pod,
        pod.socket(family=INET6) as client,
        pytest.raises(ConnectionRefusedError),
    ):
        client.connect(("::1", NODE_PORT))
    assert node_port.drops() == {}


@pytest.mark.parametrize("kind", [STREAM, DATAGRAM])
@pytest.mark.parametrize("address", ["::", "::1", ONE6])
def test_no_process_of_the_host_binds_a_node_port(node_port: Node, kind: int, address: str) -> None:
    with node_port.network.socket(kind, family=INET6) as sock:
        with pytest.raises(OSError, match="Address already in use"):
            sock.bind((address, NODE_PORT))
        sock.bind((address, NODE_PORT + 1))
    assert node_port.drops() == {"lb_sock_bind": 1}


def test_a_pod_binds_what_it_likes(node_port: Node) -> None:
    with Namespace("pod") as pod, pod.socket(family=INET6) as sock:
        sock.bind(("::", NODE_PORT))

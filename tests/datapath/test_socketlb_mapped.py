"""IPv6 sockets that reach for IPv4, as ::ffff:a.b.c.d, are served alike: those of Java and Go often do."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from support.servicelb import VIP, frontend
from support.socketlb import DATAGRAM, ONE, UDP, Node, socket_node

pytestmark = pytest.mark.root

MAPPED_VIP, MAPPED_ONE = f"::ffff:{VIP}", f"::ffff:{ONE}"


@pytest.fixture
def node() -> Iterator[Node]:
    with socket_node() as made:
        made.serve(
            frontend(f"{ONE}:8080", port=80),
            frontend(f"{ONE}:5353", port=53, protocol=UDP),
            frontend(port=81),
            frontend(port=81, protocol=UDP),
        )
        yield made


def test_a_connection_reaches_a_backend_and_shows_the_frontend(node: Node) -> None:
    with node.listen(), node.connect(MAPPED_VIP, 80) as client:
        assert client.getpeername()[:2] == (MAPPED_VIP, 80)
    assert node.stats(80).counts.connections == 1


def test_a_connected_udp_socket_sees_the_frontend(node: Node) -> None:
    with node.udp(ONE, 5353) as server, node.connect(MAPPED_VIP, 53, DATAGRAM) as client:
        assert client.getpeername()[:2] == (MAPPED_VIP, 53)
        client.send(b"who")
        server.sendto(b"me", server.recvfrom(64)[1])
        answer, peer = client.recvfrom(64)
    assert (answer, peer[:2]) == (b"me", (MAPPED_VIP, 53))


def test_an_answer_to_a_datagram_comes_from_the_frontend(node: Node) -> None:
    with node.udp(ONE, 5353) as server, node.network.socket(DATAGRAM, family=socket.AF_INET6) as client:
        client.settimeout(10)
        client.sendto(b"who", (MAPPED_VIP, 53))
        server.sendto(b"me", server.recvfrom(64)[1])
        answer, peer = client.recvfrom(64)
    assert (answer, peer[:2]) == (b"me", (MAPPED_VIP, 53))


def test_without_a_backend_tcp_is_refused_and_udp_finds_no_route(node: Node) -> None:
    with pytest.raises(ConnectionRefusedError):
        node.connect(MAPPED_VIP, 81)
    with pytest.raises(OSError, match="No route to host"):
        node.connect(MAPPED_VIP, 81, DATAGRAM)
    with (
        node.network.socket(DATAGRAM, family=socket.AF_INET6) as client,
        pytest.raises(OSError, match="No route to host"),
    ):
        client.sendto(b"who", (MAPPED_VIP, 81))


def test_other_addresses_are_left_alone(node: Node) -> None:
    with node.listen(), node.connect(MAPPED_ONE, 8080) as client:
        assert client.getpeername()[:2] == (MAPPED_ONE, 8080)
    with pytest.raises(OSError, match=r"unreachable|refused"):
        node.connect("2001:db8::10", 80)

"""The node's own sockets reach frontends without a packet being translated, and don't notice."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from kubebee.lb.model import Backend, parse_address
from support.servicelb import VIP, frontend
from support.socketlb import DATAGRAM, ONE, TWO, UDP, Node, socket_node

pytestmark = pytest.mark.root

WEB = frontend(f"{ONE}:8080", f"{TWO}:8080", port=80)
DNS = frontend(f"{ONE}:5353", port=53, protocol=UDP)
OTHER_DNS = frontend(f"{TWO}:5353", port=54, protocol=UDP)
EMPTY = frontend(port=81)
EMPTY_UDP = frontend(port=81, protocol=UDP)


@pytest.fixture
def node() -> Iterator[Node]:
    with socket_node() as made:
        made.serve(WEB, DNS, OTHER_DNS, EMPTY, EMPTY_UDP)
        yield made


def answer(server: socket.socket, text: bytes = b"me") -> None:
    server.sendto(text, server.recvfrom(64)[1])


def backend_of(node: Node, client: socket.socket, vip: str = VIP, port: int = 53) -> str:
    """Who gets a datagram that `client` sends to a frontend of ONE and TWO."""
    with node.udp(ONE, 5353) as one, node.udp(TWO, 5353) as two:
        client.sendto(b"who", (vip, port))
        for server in (one, two):
            server.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                server.recvfrom(64)
                return str(server.getsockname()[0])
    raise AssertionError("no backend got it")


def test_a_connection_to_a_frontend_reaches_a_backend_and_shows_the_frontend(node: Node) -> None:
    with node.listen(ONE), node.listen(TWO), node.connect(VIP, 80) as client:
        assert client.getpeername() == (VIP, 80)


def test_connections_spread_over_backends_and_are_counted(node: Node) -> None:
    with node.listen(ONE), node.listen(TWO):
        for _ in range(40):
            node.connect(VIP, 80).close()
    counts = node.stats(80)
    assert counts.counts.connections == 40
    assert all(backend.counts.connections > 5 for backend in counts.backends)


def test_without_a_backend_tcp_is_refused_as_by_a_closed_port(node: Node) -> None:
    with pytest.raises(ConnectionRefusedError):
        node.connect(VIP, 81)
    assert node.drops() == {"lb_sock_no_backend": 1}


@pytest.mark.parametrize("call", ["connect", "send"])
def test_without_a_backend_udp_finds_no_route_to_host(node: Node, call: str) -> None:
    with node.udp() as client, pytest.raises(OSError, match="No route to host"):
        client.connect((VIP, 81)) if call == "connect" else client.sendto(b"who", (VIP, 81))
    assert node.drops() == {"lb_sock_no_backend": 1}


def test_sockets_have_a_table_of_their_own(node: Node) -> None:
    far = Backend(parse_address(TWO), 8080)
    node.serve(replace(WEB, backends=(Backend(parse_address(ONE), 8080),), inside=(far,)))
    with node.listen(TWO):
        for _ in range(10):
            node.connect(VIP, 80).close()
    assert node.stats(80).counts.connections == 10


def test_what_only_packets_may_reach_refuses_sockets(node: Node) -> None:
    node.serve(replace(WEB, inside=()))
    with node.listen(ONE), pytest.raises(ConnectionRefusedError):
        node.connect(VIP, 80)


def test_an_answer_over_udp_comes_from_the_frontend(node: Node) -> None:
    with node.udp(ONE, 5353) as server, node.udp() as client:
        client.sendto(b"who", (VIP, 53))
        question, peer = server.recvfrom(64)
        server.sendto(question.upper(), peer)
        assert client.recvfrom(64) == (b"WHO", (VIP, 53))


def test_one_udp_socket_talks_to_several_frontends(node: Node) -> None:
    with node.udp(ONE, 5353) as first, node.udp(TWO, 5353) as second, node.udp() as client:
        for port, server in ((53, first), (54, second), (53, first)):
            client.sendto(b"who", (VIP, port))
            answer(server)
            assert client.recvfrom(64) == (b"me", (VIP, port))


def test_a_udp_socket_keeps_its_backend_while_others_come(node: Node) -> None:
    both = tuple(Backend(parse_address(address), 5353) for address in (ONE, TWO))
    clients = [node.udp() for _ in range(8)]
    assert {backend_of(node, client) for client in clients} == {ONE}
    node.serve(replace(DNS, backends=both))
    assert {backend_of(node, client) for client in clients} == {ONE}
    for client in clients:
        client.close()


def test_a_udp_socket_whose_backend_left_gets_another(node: Node) -> None:
    with node.udp() as client:
        assert backend_of(node, client) == ONE
        node.serve(replace(DNS, backends=(Backend(parse_address(TWO), 5353),)))
        assert backend_of(node, client) == TWO


def test_a_connected_udp_socket_sees_the_frontend(node: Node) -> None:
    with node.udp(ONE, 5353) as server, node.udp() as client:
        client.connect((VIP, 53))
        assert client.getpeername() == (VIP, 53)
        client.send(b"who")
        answer(server)
        assert client.recvfrom(64) == (b"me", (VIP, 53))


def test_a_connected_udp_socket_that_names_the_frontend_once_more_stays_with_its_backend(node: Node) -> None:
    node.serve(replace(DNS, backends=tuple(Backend(parse_address(each), 5353) for each in (ONE, TWO))))
    with node.udp(ONE, 5353) as one, node.udp(TWO, 5353) as two:
        for _ in range(8):
            with node.connect(VIP, 53, DATAGRAM) as client:
                client.send(b"first")
                client.sendto(b"second", (VIP, 53))
            for server in (one, two):
                server.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    assert (server.recv(64), server.recv(64)) == (b"first", b"second")


def test_a_udp_association_is_counted_once(node: Node) -> None:
    with node.udp() as client:
        for _ in range(5):
            client.sendto(b"who", (VIP, 53))
    assert node.stats(53, UDP).counts.connections == 1


def test_other_addresses_are_left_alone(node: Node) -> None:
    with node.listen(ONE), node.connect(ONE, 8080) as client:
        assert client.getpeername() == (ONE, 8080)
    with pytest.raises(ConnectionRefusedError):
        node.connect(TWO, 8080)
    assert node.drops() == {}


def test_a_socket_that_turns_to_a_backend_itself_sees_the_backend(node: Node) -> None:
    with node.udp(ONE, 5353), node.udp() as client:
        client.connect((VIP, 53))
        client.connect((ONE, 5353))
        assert client.getpeername() == (ONE, 5353)


def test_what_a_socket_remembers_goes_with_it(node: Node) -> None:
    with node.udp() as client:
        client.sendto(b"who", (VIP, 53))
        remembered = node.maps["kb_lb_sk"].lookup(client.fileno().to_bytes(4, "little"))
        assert remembered is not None
        assert socket.inet_aton(VIP) in remembered
    with node.udp() as fresh:
        assert node.maps["kb_lb_sk"].lookup(fresh.fileno().to_bytes(4, "little")) is None

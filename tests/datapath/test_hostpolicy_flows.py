"""What belongs to a connection that the host has passes a Deny: real sockets on loopback, made-up packets."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from kubebee.policy.model import Action, Failsafe, Policy, PolicyRule
from support.hostpolicy import CONTINUE, DROP, Firewall, firewall

pytestmark = pytest.mark.root

HOST, ROUTER = "127.0.0.1", "203.0.113.1"
ETH = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


@pytest.fixture
def closed() -> Iterator[Firewall]:
    """A host that denies everything, by rule and by default."""
    with firewall(HOST) as loaded:
        everything = Policy("p", 1, (PolicyRule("all", Action.DENY),), Action.DENY)
        loaded.enforce(everything, failsafe=Failsafe(protocols=()))
        yield loaded


@pytest.fixture
def connection() -> Iterator[tuple[int, int]]:
    """Ports (server's, client's) of an established TCP connection on loopback."""
    with socket.create_server((HOST, 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            yield server.getsockname()[1], client.getsockname()[1]


@pytest.fixture
def udp() -> Iterator[tuple[int, int]]:
    """Ports (peer's, own) of a connected UDP socket."""
    with socket.socket(type=socket.SOCK_DGRAM) as peer, socket.socket(type=socket.SOCK_DGRAM) as own:
        peer.bind((HOST, 0))
        own.connect(peer.getsockname())
        yield peer.getsockname()[1], own.getsockname()[1]


def segment(sport: int, dport: int, flags: str = "A") -> Packet:
    return ETH / IP(src=HOST, dst=HOST) / TCP(sport=sport, dport=dport, flags=flags)


def datagram(sport: int, dport: int, src: str = HOST) -> Packet:
    return ETH / IP(src=src, dst=HOST) / UDP(sport=sport, dport=dport)


def test_a_connection_that_was_there_before_the_policy_is_not_cut(
    closed: Firewall, connection: tuple[int, int]
) -> None:
    server, client = connection
    for flags in ("A", "PA", "FA", "R", "SA"):
        assert closed.verdict(segment(server, client, flags)) == CONTINUE
        assert closed.verdict(segment(client, server, flags)) == CONTINUE
    assert closed.hits() == {"(builtin)/established": (10, 0)}


def test_a_listening_socket_is_no_connection(closed: Firewall, connection: tuple[int, int]) -> None:
    server, client = connection
    stranger = client - 1 if client > 1025 else client + 1
    assert closed.verdict(segment(stranger, server, "A")) == DROP
    assert closed.verdict(segment(stranger, server, "S")) == DROP


def test_a_bare_syn_is_always_something_new(closed: Firewall, connection: tuple[int, int]) -> None:
    server, client = connection
    assert closed.verdict(segment(client, server, "S")) == DROP


def test_answers_to_a_connected_udp_socket_pass_and_no_others(closed: Firewall, udp: tuple[int, int]) -> None:
    peer, own = udp
    assert closed.verdict(datagram(peer, own)) == CONTINUE
    assert closed.verdict(datagram(own, peer)) == DROP  # the peer is not connected
    assert closed.verdict(datagram(peer, own, src=ROUTER)) == DROP


@pytest.mark.parametrize("kind", [3, 11, 12])
def test_icmp_errors_about_a_connection_pass(
    closed: Firewall, connection: tuple[int, int], udp: tuple[int, int], kind: int
) -> None:
    outer = ETH / IP(src=ROUTER, dst=HOST) / ICMP(type=kind)
    server, client = connection
    assert closed.verdict(outer / segment(client, server)[IP]) == CONTINUE
    assert closed.verdict(outer / segment(client, 1)[IP]) == DROP
    peer, own = udp
    assert closed.verdict(outer / datagram(own, peer)[IP]) == CONTINUE
    assert closed.verdict(outer / datagram(peer, own)[IP]) == DROP


def test_an_icmp_error_that_quotes_another_host_does_not(
    closed: Firewall, connection: tuple[int, int]
) -> None:
    server, client = connection
    quoted = IP(src=ROUTER, dst=HOST) / TCP(sport=client, dport=server)
    assert closed.verdict(ETH / IP(src=ROUTER, dst=HOST) / ICMP(type=3) / quoted) == DROP


def test_other_icmp_does_not_pass_for_quoting_a_connection(
    closed: Firewall, connection: tuple[int, int]
) -> None:
    server, client = connection
    outer = ETH / IP(src=ROUTER, dst=HOST) / ICMP(type=5)
    assert closed.verdict(outer / segment(client, server)[IP]) == DROP


def test_audit_mode_does_not_count_replies_as_would_be_drops(connection: tuple[int, int]) -> None:
    server, client = connection
    with firewall(HOST) as watched:
        watched.enforce(Policy("p", 1, default=Action.DENY, audit=True), failsafe=Failsafe(protocols=()))
        assert watched.verdict(segment(server, client)) == CONTINUE
        assert watched.hits() == {"(builtin)/established": (1, 0)}


def test_a_backends_answer_to_the_snat_address_passes_where_the_load_balancer_knows_it() -> None:
    backend = "198.51.100.20"
    with firewall("192.0.2.1", lb_reverse=True) as node:
        node.enforce(Policy("p", 1, default=Action.DENY))
        answer = ETH / IP(src=backend, dst="192.0.2.1") / TCP(sport=80, dport=33000, flags="SA")
        assert node.verdict(answer) == DROP
        reverse = node.maps["kb_lb_rev"]
        key = socket.inet_aton(backend) + socket.inet_aton("192.0.2.1") + struct.pack("!HHB3x", 80, 33000, 6)
        reverse.update(key, bytes(reverse.info.value_size))
        assert node.verdict(answer) == CONTINUE


@pytest.mark.parametrize("table", ["kb_lb_rev", "kb_lb_flow"], ids=["a request", "an answer"])
def test_an_icmp_error_about_what_the_load_balancer_translated_passes(table: str) -> None:
    peer, own = "198.51.100.20", "192.0.2.1"
    with firewall(own, lb_reverse=True) as node:
        node.enforce(Policy("p", 1, default=Action.DENY), failsafe=Failsafe(protocols=()))
        quoted = IP(src=own, dst=peer) / TCP(sport=33000, dport=80)
        error = ETH / IP(src=ROUTER, dst=own) / ICMP(type=3, code=4) / quoted
        assert node.verdict(error) == DROP
        entries = node.maps[table]
        key = socket.inet_aton(peer) + socket.inet_aton(own) + struct.pack("!HHB3x", 80, 33000, 6)
        entries.update(key, bytes(entries.info.value_size))
        assert node.verdict(error) == CONTINUE

"""A frontend without a backend refuses its clients at once, and not more often than it should."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from kubebee.lb.model import Forwarding, Protocol
from support.servicelb import (
    CLIENT,
    CLIENT_MAC,
    ETHER,
    HOOKS,
    NODE_MAC,
    VIP,
    Balancer,
    Hook,
    balancer,
    frontend,
)

pytestmark = pytest.mark.root

BACK = Ether(src=NODE_MAC, dst=CLIENT_MAC)


@pytest.fixture(params=HOOKS, ids=lambda hook: hook.name)
def lb(request: pytest.FixtureRequest) -> Iterator[Balancer]:
    hook: Hook = request.param
    with balancer(hook) as loaded:
        loaded.serve(
            frontend(),
            frontend(port=53, protocol=Protocol.UDP),
            frontend(port=81, forwarding=Forwarding.DSR_IPIP),
            frontend("10.0.0.11:83*0", port=83),
            dataclasses.replace(frontend(port=82), drop_outside=True),
        )
        yield loaded


def segment(flags: str, port: int = 80, **tcp: int) -> Packet:
    return ETHER / IP(src=CLIENT, dst=VIP) / TCP(sport=40000, dport=port, flags=flags, **tcp)


def reset(flags: str, port: int = 80, **tcp: int) -> bytes:
    header = TCP(sport=port, dport=40000, flags=flags, window=0, **tcp)
    return bytes(BACK / IP(src=VIP, dst=CLIENT, id=0, flags="DF") / header)


@pytest.mark.parametrize("port", [80, 81, 83], ids=["SNAT", "DSR", "weight 0 only"])
def test_a_connection_is_reset_at_once(lb: Balancer, port: int) -> None:
    run = lb.send(segment("S", port, seq=1000))
    assert (run.retval, run.data) == (lb.hook.sent, reset("RA", port, seq=0, ack=1001))
    assert lb.drops() == {"lb_no_backend": 1}


def test_a_segment_of_a_connection_is_answered_where_the_client_expects_it(lb: Balancer) -> None:
    run = lb.send(segment("PA", seq=1000, ack=77) / Raw(b"hello"))
    assert (run.retval, run.data) == (lb.hook.sent, reset("R", seq=77, ack=0))


def test_what_a_segment_holds_is_acknowledged(lb: Balancer) -> None:
    run = lb.send(segment("SF", seq=1000) / Raw(b"hello"))
    assert run.data == reset("RA", seq=0, ack=1007)


def test_options_and_data_of_the_client_do_not_come_back(lb: Balancer) -> None:
    packet = ETHER / IP(src=CLIENT, dst=VIP, tos=0x10, ttl=3)
    packet /= TCP(sport=40000, dport=80, flags="S", seq=9, options=[("MSS", 1460), ("WScale", 7)])
    assert lb.send(packet / Raw(bytes(100))).data == reset("RA", seq=0, ack=110)


def test_a_reset_is_not_answered(lb: Balancer) -> None:
    run = lb.send(segment("R"))
    assert (run.retval, run.data) == (lb.hook.dropped, bytes(segment("R")))


@pytest.mark.parametrize("payload", [b"", b"x", b"query" * 20])
@pytest.mark.parametrize("checksum", [None, 0], ids=["checksum", "no checksum"])
def test_a_datagram_is_answered_by_port_unreachable(
    lb: Balancer, payload: bytes, checksum: int | None
) -> None:
    query = ETHER / IP(src=CLIENT, dst=VIP) / UDP(sport=40000, dport=53, chksum=checksum) / Raw(payload)
    quoted = Raw(bytes(query[IP])[:28])
    answer = BACK / IP(src=VIP, dst=CLIENT, id=0, flags="DF") / ICMP(type=3, code=3) / quoted
    run = lb.send(query)
    assert (run.retval, run.data) == (lb.hook.sent, bytes(answer))


def test_where_others_have_backends_the_packet_is_dropped_so_that_the_client_tries_again(
    lb: Balancer,
) -> None:
    assert lb.send(segment("S", 82)).retval == lb.hook.dropped
    assert lb.drops() == {"lb_not_here": 1}


@pytest.mark.parametrize(
    "packet",
    [
        Ether(src=CLIENT_MAC, dst="ff:ff:ff:ff:ff:ff") / IP(src=CLIENT, dst=VIP) / TCP(dport=80),
        ETHER / IP(src="224.0.0.1", dst=VIP) / TCP(dport=80),
        ETHER / IP(src="0.0.0.7", dst=VIP) / UDP(dport=53),
        ETHER / IP(src="255.255.255.255", dst=VIP) / UDP(dport=53),
    ],
    ids=["broadcast frame", "from a group", "from nobody", "from everybody"],
)
def test_what_no_single_host_sent_is_not_answered(lb: Balancer, packet: Packet) -> None:
    assert lb.send(packet).retval == lb.hook.dropped


def test_a_flood_is_answered_a_few_hundred_times_and_then_dropped(lb: Balancer) -> None:
    frame = bytes(segment("S"))
    answers = sum(lb.send(frame).retval == lb.hook.sent for _ in range(2000))
    assert 100 < answers < 1800
    assert lb.drops() == {"lb_no_backend": 2000}

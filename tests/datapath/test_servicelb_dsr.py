"""DSR by IP-in-IP: the exact packet that leaves, and what happens to those that cannot."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from kubebee.lb.model import Forwarding, LbConfig, Protocol, parse_address
from support.servicelb import (
    CLIENT,
    CONFIG,
    CONTINUE,
    ETHER,
    HOOKS,
    NODE,
    SENT,
    TC,
    VIP,
    Balancer,
    Hook,
    balancer,
    frontend,
)

pytestmark = pytest.mark.root

BACKEND = "10.0.0.11"
ACK = (
    ETHER / IP(src=CLIENT, dst=VIP, ttl=61, tos=0xB9) / TCP(sport=40000, dport=80, flags="A") / Raw(b"x" * 20)
)


@pytest.fixture(scope="module", params=HOOKS, ids=lambda hook: hook.name)
def lb(request: pytest.FixtureRequest) -> Iterator[Balancer]:
    hook: Hook = request.param
    with balancer(hook) as loaded:
        loaded.serve(
            frontend(f"{BACKEND}:80", forwarding=Forwarding.DSR_IPIP),
            frontend(f"{BACKEND}:53", port=53, protocol=Protocol.UDP, forwarding=Forwarding.DSR_IPIP),
        )
        yield loaded


def outer(inner: IP) -> bytes:
    return bytes(SENT / IP(src=NODE, dst=BACKEND, tos=inner.tos, id=0, flags="DF", ttl=64, proto=4) / inner)


def test_a_tcp_packet_travels_unchanged_inside_an_outer_header(lb: Balancer) -> None:
    run = lb.send(ACK)
    assert run.retval == lb.hook.sent
    assert run.data == outer(ACK[IP])


def test_a_udp_packet_too(lb: Balancer) -> None:
    query = ETHER / IP(src=CLIENT, dst=VIP) / UDP(sport=40000, dport=53) / Raw(b"query")
    run = lb.send(query)
    assert run.retval == lb.hook.sent
    assert run.data == outer(query[IP])


def test_ip_options_go_along(lb: Balancer) -> None:
    packet = ETHER / IP(src=CLIENT, dst=VIP, options=[IPOption_Router_Alert()]) / TCP(sport=40000, dport=80)
    run = lb.send(packet)
    assert run.retval == lb.hook.sent
    assert run.data == outer(IP(bytes(packet[IP])))


def test_bytes_that_pad_a_short_frame_do_not_count_as_packet(lb: Balancer) -> None:
    packet = ETHER / IP(src=CLIENT, dst=VIP) / TCP(sport=40000, dport=80)
    run = lb.send(bytes(packet) + bytes(6))
    assert run.retval == lb.hook.sent
    assert run.data == outer(packet[IP]) + bytes(6)


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.name)
def test_the_outer_source_is_spread_over_its_prefix_by_flow(hook: Hook) -> None:
    config = LbConfig(
        snat_address=CONFIG.snat_address, encap_source=parse_address("172.16.0.0"), encap_prefix=16
    )
    with balancer(hook) as lb:
        lb.serve(frontend(f"{BACKEND}:80", forwarding=Forwarding.DSR_IPIP), config=config)
        sources = set()
        for port in range(40000, 40032):
            run = lb.send(ETHER / IP(src=CLIENT, dst=VIP) / TCP(sport=port, dport=80))
            sources.add(Ether(run.data)[IP].src)
    assert len(sources) > 16
    assert all(source.startswith("172.16.") for source in sources)


@pytest.mark.parametrize(
    "packet",
    [
        ETHER / IP(src=CLIENT, dst=VIP) / TCP(dport=8080),
        ETHER / IP(src=CLIENT, dst="192.0.2.11") / TCP(dport=80),
        ETHER / IP(src=CLIENT, dst=VIP) / UDP(dport=80),
        ETHER / IP(src=CLIENT, dst=VIP, proto=47) / Raw(bytes(20)),
        ETHER / Dot1Q(vlan=7) / IP(src=CLIENT, dst=VIP) / TCP(dport=80),
        ETHER / IP(src=CLIENT, dst="192.0.2.11", frag=100) / UDP(dport=80),
        Ether(type=0x86DD) / Raw(bytes(60)),
        Ether(type=0x0806) / Raw(bytes(28)),
    ],
    ids=["other port", "other address", "other protocol", "GRE", "VLAN", "another's fragment", "IPv6", "ARP"],
)
def test_what_is_not_for_a_frontend_goes_on_untouched(lb: Balancer, packet: Ether) -> None:
    run = lb.send(packet)
    assert run.retval == CONTINUE
    assert run.data == bytes(packet)


def test_a_truncated_packet_goes_on_untouched(lb: Balancer) -> None:
    whole = bytes(ETHER / IP(src=CLIENT, dst=VIP) / TCP(dport=80))
    for cut in (34, 37, 53) if lb.hook is TC else (15, 33, 34, 37, 53):  # a test run of tc takes no less
        run = lb.send(whole[:cut])
        assert (run.retval, run.data) == (CONTINUE, whole[:cut])

"""DSR by IP-in-IP: the exact packet that leaves, and what happens to those that cannot."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from kubebee.lb.layout import NextHop
from kubebee.lb.model import Forwarding, LbConfig, Protocol, parse_address
from support.servicelb import (
    CLIENT,
    CONFIG,
    CONTINUE,
    DROP,
    ETHER,
    HOP,
    NODE,
    SENT,
    TX,
    VIP,
    Balancer,
    balancer,
    frontend,
)

pytestmark = pytest.mark.root

BACKEND = "10.0.0.11"
ACK = (
    ETHER / IP(src=CLIENT, dst=VIP, ttl=61, tos=0xB9) / TCP(sport=40000, dport=80, flags="A") / Raw(b"x" * 20)
)


@pytest.fixture(scope="module")
def lb() -> Iterator[Balancer]:
    with balancer() as loaded:
        loaded.serve(
            frontend(f"{BACKEND}:80", forwarding=Forwarding.DSR_IPIP),
            frontend(f"{BACKEND}:53", port=53, protocol=Protocol.UDP, forwarding=Forwarding.DSR_IPIP),
            frontend(port=81, forwarding=Forwarding.DSR_IPIP),
            frontend(f"{BACKEND}:82*0", port=82, forwarding=Forwarding.DSR_IPIP),
        )
        yield loaded


def outer(inner: IP) -> bytes:
    return bytes(SENT / IP(src=NODE, dst=BACKEND, tos=inner.tos, id=0, flags="DF", ttl=64, proto=4) / inner)


def test_a_tcp_packet_travels_unchanged_inside_an_outer_header(lb: Balancer) -> None:
    run = lb.send(ACK)
    assert run.retval == TX
    assert run.data == outer(ACK[IP])


def test_a_udp_packet_too(lb: Balancer) -> None:
    query = ETHER / IP(src=CLIENT, dst=VIP) / UDP(sport=40000, dport=53) / Raw(b"query")
    run = lb.send(query)
    assert run.retval == TX
    assert run.data == outer(query[IP])


def test_ip_options_go_along(lb: Balancer) -> None:
    packet = ETHER / IP(src=CLIENT, dst=VIP, options=[IPOption_Router_Alert()]) / TCP(sport=40000, dport=80)
    run = lb.send(packet)
    assert run.retval == TX
    assert run.data == outer(IP(bytes(packet[IP])))


def test_bytes_that_pad_a_short_frame_do_not_count_as_packet(lb: Balancer) -> None:
    packet = ETHER / IP(src=CLIENT, dst=VIP) / TCP(sport=40000, dport=80)
    run = lb.send(bytes(packet) + bytes(6))
    assert run.retval == TX
    assert run.data == outer(packet[IP]) + bytes(6)


def test_the_outer_source_is_spread_over_its_prefix_by_flow() -> None:
    config = LbConfig(
        snat_address=CONFIG.snat_address, encap_source=parse_address("172.16.0.0"), encap_prefix=16
    )
    with balancer() as lb:
        lb.serve(frontend(f"{BACKEND}:80", forwarding=Forwarding.DSR_IPIP), config=config)
        sources = set()
        for port in range(40000, 40032):
            run = lb.send(ETHER / IP(src=CLIENT, dst=VIP) / TCP(sport=port, dport=80))
            sources.add(Ether(run.data)[IP].src)
    assert len(sources) > 16
    assert all(source.startswith("172.16.") for source in sources)


def test_a_packet_that_the_tunnel_makes_too_long_is_dropped_and_counted() -> None:
    with balancer() as lb:
        lb.serve(
            frontend(f"{BACKEND}:80", forwarding=Forwarding.DSR_IPIP),
            hop=NextHop(HOP.ifindex, HOP.macs, 1400),
        )
        fits = ETHER / IP(src=CLIENT, dst=VIP) / TCP(sport=1, dport=80) / Raw(bytes(1400 - 60))
        assert lb.send(fits).retval == TX
        assert lb.send(fits / Raw(b"x")).retval == DROP
        assert lb.drops() == {"lb_mtu": 1}


@pytest.mark.parametrize("port", [81, 82])
def test_a_frontend_without_backends_drops_and_counts(lb: Balancer, port: int) -> None:
    before = lb.drops().get("lb_no_backend", 0)
    assert lb.send(ETHER / IP(src=CLIENT, dst=VIP) / TCP(dport=port)).retval == DROP
    assert lb.drops()["lb_no_backend"] == before + 1


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


@pytest.mark.parametrize("cut", [15, 33, 34, 37, 53])
def test_a_truncated_packet_goes_on_untouched(lb: Balancer, cut: int) -> None:
    frame = bytes(ETHER / IP(src=CLIENT, dst=VIP) / TCP(dport=80))[:cut]
    run = lb.send(frame)
    assert run.retval == CONTINUE
    assert run.data == frame


@pytest.mark.parametrize("fields", [{"flags": "MF", "frag": 0}, {"frag": 100}], ids=["first", "later"])
def test_fragments_for_a_frontend_are_dropped_and_counted(lb: Balancer, fields: dict[str, object]) -> None:
    before = lb.drops().get("lb_fragment", 0)
    packet = ETHER / IP(src=CLIENT, dst=VIP, **fields) / UDP(dport=53) / Raw(bytes(64))
    assert lb.send(packet).retval == DROP
    assert lb.drops()["lb_fragment"] == before + 1

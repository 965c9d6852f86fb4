"""Template syn-guard, packet by packet: what counts as a new connection, however it is wrapped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet

from kubebee.bpf.object import BpfObject
from support import builtin

pytestmark = pytest.mark.root

XDP_DROP, XDP_PASS = 1, 2
ETH = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
SYN = TCP(sport=1000, dport=80, flags="S")
V4 = IP(src="192.0.2.1", dst="192.0.2.2")
V6 = IPv6(src="2001:db8:1:2::a", dst="2001:db8::b")


def verdicts(guard: BpfObject, packet: Packet, times: int = 1) -> list[int]:
    """What becomes of the packet, sent several times."""
    data = bytes(packet)
    with guard.programs["guard_syn"].duplicate() as program:
        return [program.test_run(data).retval for _ in range(times)]


@pytest.fixture
def guard() -> Iterator[BpfObject]:
    """Lets one connection through per source, the next after a second."""
    with builtin.load("syn-guard", rate=1, burst=1) as loaded:
        yield loaded


@pytest.mark.parametrize(
    "packet",
    [
        ETH / V4 / SYN,
        ETH / Dot1Q(vlan=5) / V4 / SYN,
        ETH / Dot1AD(vlan=5) / Dot1Q(vlan=6) / V4 / SYN,
        ETH / IP(src="192.0.2.1", dst="192.0.2.2", options=[IPOption_NOP()] * 4) / SYN,
        ETH / IP(src="192.0.2.1", dst="192.0.2.2", flags="MF") / SYN,
        ETH / V4 / TCP(sport=1, dport=80, flags="SPU"),
        ETH / V6 / SYN,
        ETH / Dot1Q(vlan=5) / V6 / SYN,
        ETH / V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / SYN,
        ETH / V6 / IPv6ExtHdrRouting(addresses=["2001:db8::c"]) / SYN,
        ETH / V6 / IPv6ExtHdrFragment(m=1) / SYN,
    ],
    ids=lambda packet: packet.summary(),
)
def test_a_source_past_its_burst_loses_its_syns(guard: BpfObject, packet: Packet) -> None:
    assert verdicts(guard, packet, times=3) == [XDP_PASS, XDP_DROP, XDP_DROP]


@pytest.mark.parametrize(
    "packet",
    [
        ETH / V4 / TCP(sport=80, dport=1000, flags="SA"),
        ETH / V4 / TCP(sport=1000, dport=80, flags="A"),
        ETH / V4 / UDP(dport=80),
        ETH / IP(src="192.0.2.1", dst="192.0.2.2", proto=6, frag=100) / b"12345678",
        ETH / V6 / UDP(dport=80),
        ETH / V6 / IPv6ExtHdrFragment(offset=100, nh=6) / b"12345678",
        ETH / ARP(),
    ],
    ids=lambda packet: packet.summary(),
)
def test_what_opens_no_connection_passes_always(guard: BpfObject, packet: Packet) -> None:
    verdicts(guard, ETH / V4 / SYN)
    verdicts(guard, ETH / V6 / SYN)
    assert verdicts(guard, packet, times=3) == [XDP_PASS] * 3


@pytest.mark.parametrize("network", [IP(proto=6), IPv6(nh=6)], ids=["IPv4", "IPv6"])
def test_tcp_without_a_whole_header_is_dropped(guard: BpfObject, network: Packet) -> None:
    assert verdicts(guard, ETH / network / b"1234") == [XDP_DROP]


def test_sources_do_not_share_a_limit_but_addresses_of_one_ipv6_64_do(guard: BpfObject) -> None:
    def syn_from(address: str) -> Packet:
        return ETH / (IPv6(src=address) if ":" in address else IP(src=address)) / SYN

    assert verdicts(guard, syn_from("192.0.2.1")) == [XDP_PASS]
    assert verdicts(guard, syn_from("192.0.2.3")) == [XDP_PASS]
    assert verdicts(guard, syn_from("2001:db8:1:2::a")) == [XDP_PASS]
    assert verdicts(guard, syn_from("2001:db8:1:2::b")) == [XDP_DROP]
    assert verdicts(guard, syn_from("2001:db8:1:3::a")) == [XDP_PASS]

"""Tagged frames where they arrive, at XDP: balanced as others, and those that stay keep their tags."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from kubebee.lb.layout import NextHop
from kubebee.lb.model import Forwarding, LbConfig, Protocol, parse_address
from support.servicelb import CONTINUE, ETHER, HOP, NODE, PASS, SENT, TX, XDP, Balancer, balancer, frontend

pytestmark = pytest.mark.root

CONFIG = LbConfig(snat_address=parse_address(NODE), snat_address6=parse_address("2001:db8::1"))
TAGS = {
    "802.1Q": Dot1Q(vlan=7, prio=3),
    "802.1ad": Dot1AD(vlan=9),
    "both": Dot1AD(vlan=9) / Dot1Q(vlan=7),
}


@dataclass(frozen=True)
class Family:
    """Addresses of one family, and how its packets are made."""

    six: bool
    client: str
    vip: str
    backend: str
    pod: str

    def ip(self, target: str = "", source: str = "", **fields: object) -> Packet:
        ends = {"src": source or self.client, "dst": target or self.vip}
        return IPv6(**ends, **fields) if self.six else IP(**ends, id=7, **fields)


IPV4 = Family(False, "198.51.100.7", "192.0.2.10", "10.0.0.11", "10.244.1.5")
IPV6 = Family(True, "2001:db8:c::7", "2001:db8:f::10", "2001:db8::11", "2001:db8:244::5")


@pytest.fixture(scope="module", params=[IPV4, IPV6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> Family:
    chosen: Family = request.param
    return chosen


@pytest.fixture(params=TAGS)
def tags(request: pytest.FixtureRequest) -> Packet:
    chosen: Packet = TAGS[request.param]
    return chosen


@pytest.fixture(scope="module")
def lb(family: Family) -> Iterator[Balancer]:
    with balancer(XDP, six=family.six) as loaded:
        vip = family.vip
        loaded.serve(
            frontend(f"[{family.backend}]:8080", vip=vip),
            frontend(f"[{family.backend}]:81", vip=vip, port=81, forwarding=Forwarding.DSR_IPIP),
            frontend(f"[{family.backend}]:82", vip=vip, port=82, forwarding=Forwarding.DSR_L2),
            frontend(f"[{family.pod}]:8080", vip=vip, port=83),
            frontend(f"[{family.pod}]:53", vip=vip, port=53, protocol=Protocol.UDP),
            frontend(vip=vip, port=84),
            config=CONFIG,
            hop=HOP,
        )
        loaded.state.set_next_hops(loaded.maps, {parse_address(family.pod): NextHop.local(77)})
        yield loaded


def tagged(tags: Packet, packet: Packet) -> Packet:
    return ETHER / tags / packet


def wire(tags: Packet) -> bytes:
    """Tags as they lie behind the MAC addresses."""
    return bytes(ETHER / tags / IP())[12:-22]


def bare(lb: Balancer, packet: Packet) -> tuple[int, bytes]:
    """What becomes of the same packet without tags."""
    run = lb.send(ETHER / packet)
    return run.retval, run.data


@pytest.mark.parametrize("port", [80, 81, 82], ids=["SNAT", "DSR-IPIP", "DSR-L2"])
def test_what_is_sent_on_goes_as_without_tags(lb: Balancer, family: Family, tags: Packet, port: int) -> None:
    for flags in "SA":
        packet = family.ip() / TCP(sport=40000, dport=port, flags=flags) / Raw(b"ping")
        run = lb.send(tagged(tags, packet))
        assert run.retval == TX
        assert Ether(run.data).src == SENT.src
        assert (run.retval, run.data) == bare(lb, packet)


def test_for_a_backend_here_it_goes_up_with_its_tags(lb: Balancer, family: Family, tags: Packet) -> None:
    packet = family.ip() / TCP(sport=40000, dport=83, flags="S")
    run = lb.send(tagged(tags, packet))
    inside = family.ip(family.pod) / TCP(sport=40000, dport=8080, flags="S")
    assert (run.retval, run.data) == (PASS, bytes(tagged(tags, inside)))


def test_so_does_what_comes_out_of_a_tunnel(lb: Balancer, family: Family, tags: Packet) -> None:
    outer = family.ip(family.pod, family.backend)
    run = lb.send(tagged(tags, outer / family.ip() / TCP(sport=40000, dport=83, flags="S")))
    inside = family.ip(family.pod) / TCP(sport=40000, dport=8080, flags="S")
    assert (run.retval, run.data) == (PASS, bytes(tagged(tags, inside)))


def test_what_is_answered_here_goes_back_with_its_tags(lb: Balancer, family: Family, tags: Packet) -> None:
    packet = family.ip() / TCP(sport=40000, dport=84, flags="S", seq=7)
    verdict, reset = bare(lb, packet)
    run = lb.send(tagged(tags, packet))
    assert (run.retval, verdict) == (TX, TX)
    answer = Ether(run.data)
    assert (answer.dst, answer.src) == (ETHER.src, ETHER.dst)
    assert run.data == reset[:12] + wire(tags) + reset[12:]


@pytest.mark.parametrize(
    "make",
    [
        lambda family: family.ip() / TCP(dport=9999),
        lambda family: family.ip(family.backend) / TCP(dport=80),
        lambda family: family.ip(family.backend) / UDP(dport=80),
        lambda family: (IPV4 if family.six else IPV6).ip() / TCP(dport=80),
        lambda _: ARP(),
        lambda family: Dot1Q(vlan=1) / Dot1Q(vlan=2) / family.ip() / TCP(dport=80),
    ],
    ids=["other port", "other address", "other protocol", "other family", "ARP", "more tags"],
)
def test_all_else_goes_on_untouched(lb: Balancer, family: Family, tags: Packet, make: object) -> None:
    assert callable(make)
    packet = tagged(tags, make(family))
    run = lb.send(packet)
    assert (run.retval, run.data) == (CONTINUE, bytes(packet))


def test_cut_off_frames_go_on_untouched(lb: Balancer, family: Family, tags: Packet) -> None:
    whole = bytes(tagged(tags, family.ip() / TCP(dport=80)))
    for length in range(14, len(whole)):
        run = lb.send(whole[:length])
        assert (run.retval, run.data) == (CONTINUE, whole[:length])


def test_what_xdp_cannot_send_is_left_to_tc_with_its_tags(lb: Balancer, family: Family, tags: Packet) -> None:
    packet = tagged(tags, family.ip() / TCP(sport=40000, dport=82, flags="A") / Raw(bytes(1500)))
    run = lb.send(packet)
    assert (run.retval, run.data) == (CONTINUE, bytes(packet))


def test_pings_are_answered_with_tags(lb: Balancer, family: Family, tags: Packet) -> None:
    echo = ICMPv6EchoRequest(id=1, data=b"ping") if family.six else ICMP(id=1) / Raw(b"ping")
    verdict, answer = bare(lb, family.ip() / echo)
    run = lb.send(tagged(tags, family.ip() / echo))
    assert (run.retval, verdict) == (TX, TX)
    assert run.data == answer[:12] + wire(tags) + answer[12:]

"""DSR by L2: the client's frame with the backend's MAC address, and nothing else changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from kubebee.lb import stats
from kubebee.lb.layout import BackendFlag, NextHop
from kubebee.lb.model import Forwarding, LbConfig, Protocol, parse_address
from support.servicelb import (
    CLIENT_MAC,
    CONTINUE,
    ETHER,
    HOOKS,
    LOOPBACK,
    NODE,
    NODE_MAC,
    ROUTER_MAC,
    SENT,
    XDP,
    Balancer,
    Hook,
    balancer,
    frontend,
)

pytestmark = pytest.mark.root

CONFIG = LbConfig(snat_address=parse_address(NODE), snat_address6=parse_address("2001:db8::1"))
MTU = 1500


def hop(mac: str = ROUTER_MAC, flags: BackendFlag = BackendFlag.NEXT_HOP) -> NextHop:
    return NextHop(LOOPBACK, bytes.fromhex((mac + NODE_MAC).replace(":", "")), MTU, int(flags))


@dataclass(frozen=True)
class Family:
    """Addresses of one family, and how its packets are made."""

    six: bool
    client: str
    vip: str
    backend: str

    def ip(self, ttl: int = 61) -> Packet:
        if self.six:
            return IPv6(src=self.client, dst=self.vip, hlim=ttl)
        return IP(src=self.client, dst=self.vip, ttl=ttl, id=7)


IPV4 = Family(False, "198.51.100.7", "192.0.2.10", "10.0.0.11")
IPV6 = Family(True, "2001:db8:c::7", "2001:db8:f::10", "2001:db8::11")


@pytest.fixture(params=[IPV4, IPV6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> Family:
    chosen: Family = request.param
    return chosen


@pytest.fixture(params=HOOKS, ids=lambda hook: hook.name)
def lb(request: pytest.FixtureRequest, family: Family) -> Iterator[Balancer]:
    hook: Hook = request.param
    with balancer(hook, six=family.six) as loaded:
        serve(loaded, family, hop())
        yield loaded


def serve(lb: Balancer, family: Family, way: NextHop) -> None:
    frontends = [
        frontend(
            f"[{family.backend}]:{port}",
            vip=family.vip,
            port=port,
            protocol=protocol,
            forwarding=Forwarding.DSR_L2,
        )
        for port, protocol in ((80, Protocol.TCP), (53, Protocol.UDP))
    ]
    lb.serve(*frontends, config=CONFIG, hop=way)


@pytest.mark.parametrize("ttl", [64, 1])
def test_only_mac_addresses_change(lb: Balancer, family: Family, ttl: int) -> None:
    packets = (
        family.ip(ttl) / TCP(sport=40000, dport=80, flags="S"),
        family.ip(ttl) / TCP(sport=40000, dport=80, flags="A") / Raw(b"x" * 20),
        family.ip(ttl) / UDP(sport=40000, dport=53) / Raw(b"query"),
    )
    for packet in packets:
        run = lb.send(ETHER / packet)
        assert (run.retval, run.data) == (lb.hook.sent, bytes(SENT / packet))
    tcp = next(each.counts for each in stats.read(lb.maps, lb.state) if each.key.port == 80)
    assert (tcp.packets, tcp.connections, lb.flows()) == (2, 1, (0, 0))


def test_fragments_follow_their_first_one(lb: Balancer, family: Family) -> None:
    datagram = UDP(sport=5000, dport=53) / Raw(bytes(200))
    if family.six:
        whole = IPv6(src=family.client, dst=family.vip) / IPv6ExtHdrFragment(id=77) / datagram
        parts = fragment6(whole, 160)
    else:
        parts = fragment(family.ip() / datagram, 104)
    assert len(parts) > 1
    for part in parts:
        run = lb.send(ETHER / part)
        assert (run.retval, run.data) == (lb.hook.sent, bytes(SENT / part))


def test_a_backend_behind_a_gateway_gets_nothing(lb: Balancer, family: Family) -> None:
    """The gateway would get packets for an address that it knows another way to."""
    serve(lb, family, hop(flags=BackendFlag.NEXT_HOP | BackendFlag.GATEWAY))
    assert lb.send(ETHER / family.ip() / TCP(dport=80, flags="S")).retval == lb.hook.dropped
    assert lb.drops() == {"lb_gateway": 1}


def test_what_the_backend_itself_sent_here_does_not_go_back(lb: Balancer, family: Family) -> None:
    """Two balancers that disagree would pass it to and fro for ever, as no TTL ends that."""
    serve(lb, family, hop(CLIENT_MAC))
    assert lb.send(ETHER / family.ip() / TCP(dport=80, flags="S")).retval == lb.hook.dropped
    assert lb.drops() == {"lb_bounce": 1}


def test_what_is_too_long_is_told(lb: Balancer, family: Family) -> None:
    header = 40 if family.six else 20
    fits = family.ip() / TCP(sport=40000, dport=80, flags="A") / Raw(bytes(MTU - header - 20))
    assert lb.send(ETHER / fits).retval == lb.hook.sent
    packet = ETHER / family.ip() / TCP(sport=40000, dport=80, flags="A") / Raw(bytes(MTU - header - 19))
    run = lb.send(packet)
    if lb.hook is XDP:  # leaves it to tc
        assert (run.retval, run.data) == (CONTINUE, bytes(packet))
        return
    assert run.retval == lb.hook.sent
    assert Ether(run.data).dst == CLIENT_MAC
    assert lb.drops() == {"lb_mtu": 1}


def test_a_backend_of_this_node_is_translated_to(lb: Balancer, family: Family) -> None:
    serve(lb, family, NextHop.local(77))
    run = lb.send(ETHER / family.ip() / TCP(sport=40000, dport=80, flags="S"))
    got = Ether(run.data)[IPv6 if family.six else IP]
    assert (run.retval, got.src, got.dst) == (lb.hook.up, family.client, family.backend)


def test_the_maps_say_how_it_is_forwarded(lb: Balancer, family: Family) -> None:
    state = type(lb.state).adopt(lb.maps)
    served = [each.desired for each in state.served.values()]
    assert {each.forwarding for each in served if each} == {Forwarding.DSR_L2}

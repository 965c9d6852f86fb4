"""Fragments: later ones follow their first one, every way that packets of a frontend go."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from kubebee.lb.layout import NextHop
from kubebee.lb.model import Forwarding, Frontend, LbConfig, Protocol, parse_address
from lab.netns import Namespace
from support.servicelb import (
    CLIENT_MAC,
    CONTINUE,
    ETHER,
    HOOKS,
    NODE_MAC,
    SENT,
    Balancer,
    Hook,
    balancer,
    frontend,
)

pytestmark = pytest.mark.root


class Family(NamedTuple):
    """Addresses of one family."""

    name: str
    client: str
    vip: str
    node: str
    backend: str
    pod: str

    def endpoint(self, address: str, port: int) -> str:
        """As tests' frontends have backends."""
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


FOUR = Family("IPv4", "198.51.100.7", "192.0.2.10", "10.0.0.1", "10.0.0.11", "10.244.1.5")
SIX = Family("IPv6", "2001:db8:c::7", "2001:db8:f::10", "2001:db8:1::1", "2001:db8:1::11", "2001:db8:2::5")
CONFIG = LbConfig(snat_address=parse_address(FOUR.node), snat_address6=parse_address(SIX.node))
WHOLE = bytes(range(200)) * 2


@pytest.fixture(params=[FOUR, SIX], ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    chosen: Family = request.param
    return chosen


@pytest.fixture(params=HOOKS, ids=lambda hook: hook.name)
def hook(request: pytest.FixtureRequest) -> Hook:
    chosen: Hook = request.param
    return chosen


@pytest.fixture
def lb(hook: Hook, family: Family) -> Iterator[Balancer]:
    with balancer(hook, six=family is SIX) as loaded:
        yield loaded


def dns(family: Family, *backends: str, port: int = 53, **fields: object) -> Frontend:
    plain = frontend(*backends, vip=family.vip, port=port, protocol=Protocol.UDP)
    return dataclasses.replace(plain, **fields)  # type: ignore[arg-type]


def fragments(
    ether: Ether, source: str, target: str, udp: UDP, hops: int = 64, number: int = 9
) -> list[Packet]:
    """A datagram of 400 bytes in three parts, its checksum that of the whole."""
    six = ":" in source
    head = IPv6(src=source, dst=target, hlim=hops) if six else IP(src=source, dst=target, ttl=hops)
    datagram = bytes(type(head)(bytes(head / udp / Raw(WHOLE))).payload)
    parts = [datagram[:160], datagram[160:320], datagram[320:]]
    found = []
    for index, part in enumerate(parts):
        offset, more = index * 20, index < 2
        if six:
            extension = IPv6ExtHdrFragment(nh=17, offset=offset, m=int(more), id=number)
            found.append(ether / head.copy() / extension / Raw(part))
        else:
            ip = IP(
                src=source, dst=target, ttl=hops, id=number, frag=offset, flags="MF" if more else 0, proto=17
            )
            found.append(ether / ip / Raw(part))
    return found


def question(family: Family, number: int = 9) -> list[Packet]:
    return fragments(ETHER, family.client, family.vip, UDP(sport=40000, dport=53), number=number)


def test_all_go_to_the_backend_of_the_first(lb: Balancer, family: Family) -> None:
    lb.serve(dns(family, family.endpoint(family.backend, 5353)), config=CONFIG)
    runs = [lb.send(each) for each in question(family)]
    port = int.from_bytes(runs[0].data[42 if family is SIX else 34 :][20 if family is SIX else 0 :][:2])
    expected = fragments(SENT, family.node, family.backend, UDP(sport=port, dport=5353), 63)
    assert [run.retval for run in runs] == [lb.hook.sent] * 3
    assert [run.data for run in runs] == [bytes(each) for each in expected]


def test_those_to_a_pod_of_the_node_and_its_answers(lb: Balancer, family: Family) -> None:
    lb.serve(dns(family, family.endpoint(family.pod, 5353)), config=CONFIG, hop=NextHop.local(77))
    runs = [lb.send(each) for each in question(family)]
    expected = fragments(ETHER, family.client, family.pod, UDP(sport=40000, dport=5353))
    assert [run.retval for run in runs] == [lb.hook.up] * 3
    assert [run.data for run in runs] == [bytes(each) for each in expected]

    answer = fragments(SENT, family.pod, family.client, UDP(sport=5353, dport=40000), number=5)
    left = [lb.leave(each) for each in answer]
    expected = fragments(SENT, family.vip, family.client, UDP(sport=53, dport=40000), number=5)
    assert [(run.retval, run.data) for run in left] == [(CONTINUE, bytes(each)) for each in expected]


def test_answers_of_another_host(hook: Hook, family: Family) -> None:
    with Namespace("node") as node, balancer(hook, six=family is SIX) as lb:
        node.sysctl("net.ipv4.ip_forward", 1)
        node.sysctl("net.ipv6.conf.all.forwarding", 1)
        node.ip("link", "add", "up0", "address", NODE_MAC, "type", "veth", "peer", "name", "up1")
        node.ip("link", "set", "up0", "up")
        node.ip("link", "set", "up1", "up")
        length = "64" if family is SIX else "24"
        nodad = ["nodad"] if family is SIX else []
        own = family.client.replace("::7", "::1") if family is SIX else "198.51.100.1"
        node.ip("addr", "add", f"{own}/{length}", "dev", "up0", *nodad)
        node.ip("neigh", "replace", family.client, "lladdr", CLIENT_MAC, "dev", "up0", "nud", "permanent")
        lb.takes_frames(node.ifindex("up0"))
        lb.serve(dns(family, family.endpoint(family.backend, 5353)), config=CONFIG)
        first = lb.send(question(family)[0]).data
        port = int.from_bytes(first[62 if family is SIX else 34 :][:2])
        answer = fragments(ETHER, family.backend, family.node, UDP(sport=5353, dport=port), number=4)
        runs = [node.call(lambda each=each: lb.send(each)) for each in answer]
        to_client = Ether(src=NODE_MAC, dst=CLIENT_MAC)
        ports = UDP(sport=53, dport=40000)
        expected = fragments(to_client, family.vip, family.client, ports, 63, number=4)
        assert [run.retval for run in runs] == [lb.hook.redirected] * 3
        assert [run.data for run in runs] == [bytes(each) for each in expected]


def test_dsr_sends_each_in_an_outer_header(lb: Balancer, family: Family) -> None:
    backend = family.endpoint(family.backend, 53)
    lb.serve(dns(family, backend, forwarding=Forwarding.DSR_IPIP), config=CONFIG)
    parts = question(family)
    runs = [lb.send(each) for each in parts]
    assert [run.retval for run in runs] == [lb.hook.sent] * 3
    outer = 54 if family is SIX else 34
    assert [run.data[outer:] for run in runs] == [bytes(each)[14:] for each in parts]
    assert {run.data[outer - len(parse_address(family.backend)) : outer] for run in runs} == {
        parse_address(family.backend)
    }


def test_one_that_comes_before_its_first_is_dropped_and_counted(lb: Balancer, family: Family) -> None:
    lb.serve(dns(family, family.endpoint(family.backend, 5353)), config=CONFIG)
    first, second, _ = question(family)
    assert lb.send(second).retval == lb.hook.dropped
    assert lb.drops() == {"lb_fragment": 1}
    assert lb.send(first).retval == lb.hook.sent
    assert lb.send(second).retval == lb.hook.sent


def test_those_of_another_datagram_or_address_are_none_of_ours(lb: Balancer, family: Family) -> None:
    lb.serve(dns(family, family.endpoint(family.backend, 5353)), config=CONFIG)
    lb.send(question(family)[0])
    assert lb.send(question(family, number=10)[1]).retval == lb.hook.dropped
    elsewhere = fragments(ETHER, family.client, family.backend, UDP(sport=1, dport=53))[1]
    run = lb.send(elsewhere)
    assert (run.retval, run.data) == (CONTINUE, bytes(elsewhere))
    run = lb.leave(elsewhere)
    assert (run.retval, run.data) == (CONTINUE, bytes(elsewhere))

"""Taking over from kube-proxy: which packets are left to the kernel, whose conntrack translates its flows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

from kubebee.bpf.conntrack import Ends, Translated
from kubebee.lb import cut_over
from kubebee.lb.cut_over import Phase
from kubebee.lb.family import IPV4
from kubebee.lb.model import Forwarding, LbConfig, Protocol, parse_address
from support.servicelb import (
    ALL,
    CLIENT,
    CONTINUE,
    ETHER,
    HOOKS,
    NODE,
    VIP,
    Balancer,
    Hook,
    balancer,
    frontend,
)

pytestmark = pytest.mark.root

FEATURES = replace(ALL, cut_over=True)
BACKEND, OTHER = "10.0.0.11", "10.0.0.12"
THEIRS = cut_over.theirs_map(IPV4)
SERVED = (
    frontend(f"{BACKEND}:8080"),
    frontend(f"{BACKEND}:5353", port=53, protocol=Protocol.UDP),
    frontend(f"{BACKEND}:81", port=81, forwarding=Forwarding.DSR_IPIP),
)


@pytest.fixture(params=HOOKS, ids=lambda hook: hook.name)
def lb(request: pytest.FixtureRequest) -> Iterator[Balancer]:
    hook: Hook = request.param
    with balancer(hook, features=FEATURES) as loaded:
        loaded.serve(*SERVED)
        yield loaded


def tcp(flags: str, sport: int = 40000, port: int = 80) -> Packet:
    return ETHER / IP(src=CLIENT, dst=VIP) / TCP(sport=sport, dport=port, flags=flags)


def udp(sport: int = 40000) -> Packet:
    return ETHER / IP(src=CLIENT, dst=VIP) / UDP(sport=sport, dport=53) / Raw(b"query")


def is_left(lb: Balancer, packet: Packet) -> bool:
    """Whether a packet goes on to the kernel as it is."""
    run = lb.send(packet)
    return run.retval == CONTINUE and run.data == bytes(packet)


def tracked(sport: int, *, opening: bool = False, answers_to: int = 61000) -> Translated:
    """A connection that kube-proxy translated, with the node as its source."""
    client, vip, backend, node = map(parse_address, (CLIENT, VIP, BACKEND, NODE))
    back = Ends(backend, node, 8080, answers_to)
    return Translated(Protocol.TCP, Ends(client, vip, sport, 80), back, opening)


def note(lb: Balancer, *flows: Translated) -> None:
    served = lb.state.served
    cut_over.note(lb.maps[THEIRS], cut_over.their_flows(flows, served)[0])


@pytest.mark.parametrize(
    "packet", [tcp("S"), tcp("A"), udp(), tcp("S", port=81)], ids=["SYN", "ACK", "UDP", "DSR"]
)
def test_until_it_serves_all_that_is_new_is_left_to_kube_proxy_and_stays_with_it(
    lb: Balancer, packet: Packet
) -> None:
    assert is_left(lb, packet)
    cut_over.enter(lb.maps, Phase.SERVES)
    assert is_left(lb, packet)
    assert lb.flows() == (0, 0)


def test_once_it_serves_new_flows_are_ours(lb: Balancer) -> None:
    cut_over.enter(lb.maps, Phase.SERVES)
    assert not any(is_left(lb, packet) for packet in (tcp("S"), tcp("A"), udp()))
    assert lb.flows() == (2, 2)


def test_a_syn_on_an_open_connection_of_kube_proxys_begins_one_of_ours(lb: Balancer) -> None:
    note(lb, tracked(40000))
    cut_over.enter(lb.maps, Phase.SERVES)
    assert is_left(lb, tcp("A"))
    assert not is_left(lb, tcp("S"))
    assert not is_left(lb, tcp("A"))


def test_a_syn_that_is_sent_again_stays_with_kube_proxy_until_the_connection_is_open(lb: Balancer) -> None:
    assert is_left(lb, tcp("S"))
    cut_over.enter(lb.maps, Phase.SERVES)
    assert is_left(lb, tcp("S"))
    assert is_left(lb, tcp("A"))
    assert not is_left(lb, tcp("S"))


def test_tcp_that_nobody_knows_is_left_but_for_dsr_which_knows_none(lb: Balancer) -> None:
    cut_over.enter(lb.maps, Phase.SERVES)
    assert is_left(lb, tcp("A", sport=40001))
    assert not is_left(lb, tcp("A", sport=40001, port=81))


def test_a_source_port_that_kube_proxys_answers_come_to_is_not_taken(lb: Balancer) -> None:
    lb.serve(*SERVED, config=LbConfig(snat_address=parse_address(NODE), snat_port_last=61001))
    note(lb, tracked(50000, answers_to=61000))
    cut_over.enter(lb.maps, Phase.SERVES)
    for sport in range(40000, 40010):
        lb.send(tcp("S", sport))
    assert lb.flows() == (1, 1)
    assert lb.drops() == {"lb_ports": 9}


def test_a_later_fragment_of_a_datagram_that_nobody_knows_is_left(lb: Balancer) -> None:
    cut_over.enter(lb.maps, Phase.SERVES)
    assert is_left(lb, ETHER / IP(src=CLIENT, dst=VIP, id=7, frag=185, proto=17) / Raw(b"rest"))
    cut_over.enter(lb.maps, Phase.OVER)
    lb.send(ETHER / IP(src=CLIENT, dst=VIP, id=8, frag=185, proto=17) / Raw(b"rest"))
    assert lb.drops() == {"lb_fragment": 1}


def test_when_it_is_over_nothing_is_left_any_more(lb: Balancer) -> None:
    note(lb, tracked(40000))
    cut_over.enter(lb.maps, Phase.OVER)
    assert not is_left(lb, tcp("A"))


def test_flows_that_conntrack_has_no_more_are_forgotten_and_new_notes_are_not(lb: Balancer) -> None:
    note(lb, tracked(40000), tracked(40001))
    before = dict(lb.maps[THEIRS].items())
    assert is_left(lb, tcp("S", 40002))
    wanted, count = cut_over.their_flows([tracked(40001)], lb.state.served)
    cut_over.forget_others(lb.maps[THEIRS], before, wanted)
    cut_over.enter(lb.maps, Phase.SERVES)
    assert count == 1
    assert [is_left(lb, tcp("S", sport)) for sport in (40000, 40002)] == [False, True]
    assert is_left(lb, tcp("A", 40001))


def hand_back(lb: Balancer) -> None:
    cut_over.enter(lb.maps, Phase.SERVES)
    lb.send(tcp("S"))
    lb.send(udp())
    cut_over.enter(lb.maps, Phase.HANDS_BACK)


@pytest.mark.parametrize(
    "packet",
    [tcp("S", 40001), tcp("A", 40001), udp(40001), tcp("S", 40001, port=81)],
    ids=["SYN", "ACK", "UDP", "DSR"],
)
def test_what_is_handed_back_to_kube_proxy_is_all_but_flows_of_ours(lb: Balancer, packet: Packet) -> None:
    hand_back(lb)
    assert is_left(lb, packet)
    assert not any(is_left(lb, ours) for ours in (tcp("A"), udp()))
    assert lb.flows() == (2, 2)


def test_under_dsr_kube_proxys_connections_are_told_from_ours_by_their_syn(lb: Balancer) -> None:
    hand_back(lb)
    assert not is_left(lb, tcp("A", 40002, port=81))
    assert is_left(lb, tcp("S", 40003, port=81))
    assert is_left(lb, tcp("A", 40003, port=81))


def test_a_connection_that_the_client_begins_anew_is_handed_back(lb: Balancer) -> None:
    hand_back(lb)
    lb.send(tcp("FA"))
    assert is_left(lb, tcp("S"))
    assert is_left(lb, tcp("A"))


def test_ipv6_has_flows_of_its_own() -> None:
    vip, client = "2001:db8::10", "2001:db8:1::7"
    packet = ETHER / IPv6(src=client, dst=vip) / UDP(sport=40000, dport=53) / Raw(b"query")
    with balancer(six=True, features=FEATURES) as lb:
        config = LbConfig(snat_address=parse_address(NODE), snat_address6=parse_address("2001:db8::1"))
        lb.serve(frontend("[2001:db8:2::1]:53", vip=vip, port=53, protocol=Protocol.UDP), config=config)
        assert is_left(lb, packet)
        cut_over.enter(lb.maps, Phase.SERVES)
        assert is_left(lb, packet)
        packet[UDP].sport = 40001
        assert not is_left(lb, packet)

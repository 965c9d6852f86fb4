"""Backends on the node itself and in its pods: the client's address stays, and tc translates answers back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from kubebee.lb import stats
from kubebee.lb.layout import FlowKey, NextHop, Reverse
from kubebee.lb.model import Forwarding, Protocol, parse_address
from support.servicelb import (
    CLIENT,
    CONTINUE,
    ETHER,
    HOOKS,
    LOOPBACK,
    NODE,
    SENT,
    VIP,
    Balancer,
    Hook,
    balancer,
    frontend,
)

pytestmark = pytest.mark.root

POD, OTHER_POD, POD_LINK = "10.244.1.5", "10.244.1.6", 77
IN_POD = NextHop.local(POD_LINK)


@pytest.fixture(params=HOOKS, ids=lambda hook: hook.name)
def hook(request: pytest.FixtureRequest) -> Hook:
    chosen: Hook = request.param
    return chosen


@pytest.fixture
def lb(hook: Hook) -> Iterator[Balancer]:
    with balancer(hook) as loaded:
        loaded.serve(
            frontend(f"{POD}:8080"),
            frontend(f"{POD}:8080", vip="192.0.2.11"),
            frontend(f"{POD}:5353", port=53, protocol=Protocol.UDP),
            hop=IN_POD,
        )
        yield loaded


def request(
    flags: str = "S", *, vip: str = VIP, sport: int = 40000, client: str = CLIENT, **ip: object
) -> Packet:
    tcp = TCP(sport=sport, dport=80, flags=flags, seq=7)
    return ETHER / IP(src=client, dst=vip, **ip) / tcp / Raw(b"ping")


def answer(dport: int = 40000, flags: str = "SA", **ip: object) -> Packet:
    return SENT / IP(src=POD, dst=CLIENT, **ip) / TCP(sport=8080, dport=dport, flags=flags) / Raw(b"pong")


def test_a_request_goes_to_the_stack_with_the_clients_address_and_port(lb: Balancer) -> None:
    run = lb.send(request(ttl=61))
    tcp = TCP(sport=40000, dport=8080, flags="S", seq=7)
    assert run.retval == lb.hook.up
    assert run.data == bytes(ETHER / IP(src=CLIENT, dst=POD, ttl=61) / tcp / Raw(b"ping"))


def test_an_answer_leaves_as_the_frontends(lb: Balancer) -> None:
    lb.send(request())
    run = lb.leave(answer(ttl=63))
    expected = SENT / IP(src=VIP, dst=CLIENT, ttl=63) / TCP(sport=80, dport=40000, flags="SA") / Raw(b"pong")
    assert (run.retval, run.data) == (CONTINUE, bytes(expected))


def test_udp_both_ways(lb: Balancer) -> None:
    for checksum in (None, 0):
        query = ETHER / IP(src=CLIENT, dst=VIP) / UDP(sport=5000, dport=53, chksum=checksum) / Raw(b"query")
        run = lb.send(query)
        expected = (
            ETHER / IP(src=CLIENT, dst=POD) / UDP(sport=5000, dport=5353, chksum=checksum) / Raw(b"query")
        )
        assert (run.retval, run.data) == (lb.hook.up, bytes(expected))
        reply = SENT / IP(src=POD, dst=CLIENT) / UDP(sport=5353, dport=5000, chksum=checksum) / Raw(b"reply")
        expected = SENT / IP(src=VIP, dst=CLIENT) / UDP(sport=53, dport=5000, chksum=checksum) / Raw(b"reply")
        assert lb.leave(reply).data == bytes(expected)


def test_a_flow_has_two_entries_and_they_are_kept_like_those_of_snat(lb: Balancer) -> None:
    lb.send(request())
    ((key, value),) = lb.maps["kb_lb_rev"].items()
    assert FlowKey.unpack(key) == FlowKey(
        parse_address(POD), parse_address(CLIENT), 8080, 40000, Protocol.TCP
    )
    assert Reverse.unpack(value)[2:6] == (parse_address(CLIENT), parse_address(VIP), 40000, 80)
    assert lb.flows() == (1, 1)
    lb.leave(answer())
    assert lb.collect(after_seconds=7000).expired == 0
    lb.send(request("FA"))
    lb.leave(answer(flags="FA"))
    assert lb.collect(after_seconds=20).expired == 1
    assert lb.flows() == (0, 0)


def test_one_client_port_by_two_vips_to_one_backend_stays_two_flows(lb: Balancer) -> None:
    lb.send(request())
    run = lb.send(request(vip="192.0.2.11"))
    port = Ether(run.data)[TCP].sport
    assert port != 40000
    back = lb.leave(answer(port))
    expected = SENT / IP(src="192.0.2.11", dst=CLIENT) / TCP(sport=80, dport=40000, flags="SA") / Raw(b"pong")
    assert back.data == bytes(expected)
    assert Ether(lb.leave(answer()).data)[IP].src == VIP


def test_the_last_hop_counts_for_the_stack_not_for_us(lb: Balancer) -> None:
    assert lb.send(request(ttl=1)).retval == lb.hook.up


@pytest.mark.parametrize(
    "packet",
    [
        SENT / IP(src=POD, dst=CLIENT) / TCP(sport=8080, dport=40001),
        SENT / IP(src=OTHER_POD, dst=CLIENT) / TCP(sport=8080, dport=40000),
        SENT / IP(src=POD, dst=CLIENT) / UDP(sport=8080, dport=40000),
        SENT / IP(src=POD, dst=CLIENT) / ICMP(),
        SENT / IP(src=POD, dst=CLIENT, proto=47) / Raw(bytes(20)),
    ],
    ids=["other client port", "other backend", "other protocol", "ping", "GRE"],
)
def test_what_else_leaves_the_node_leaves_untouched(lb: Balancer, packet: Packet) -> None:
    lb.send(request())
    run = lb.leave(packet)
    assert (run.retval, run.data) == (CONTINUE, bytes(packet))


def test_an_answer_is_left_to_the_way_out_where_it_comes_in_first(lb: Balancer) -> None:
    """As on a pod's own link, if ServiceLB runs there too."""
    lb.send(request(sport=61000))
    packet = ETHER / IP(src=POD, dst=CLIENT) / TCP(sport=8080, dport=61000)
    run = lb.send(packet)
    assert (run.retval, run.data) == (CONTINUE, bytes(packet))


@pytest.mark.parametrize(
    ("client", "link"),
    [(POD, POD_LINK), (OTHER_POD, LOOPBACK)],
    ids=["of a pod to itself", "over one bridge"],
)
def test_a_request_whose_answer_would_miss_the_node_comes_from_the_node(
    lb: Balancer, client: str, link: int
) -> None:
    lb.serve(frontend(f"{POD}:8080"), hop=NextHop.local(link))
    lb.send(request(client=client))
    ((_, value),) = lb.maps["kb_lb_flow"].items()
    assert value[12:16] == parse_address(NODE)


def test_a_backend_of_dsr_on_the_node_is_reached_like_any_other(lb: Balancer) -> None:
    lb.serve(frontend(f"{POD}:80", forwarding=Forwarding.DSR_IPIP), hop=IN_POD)
    run = lb.send(request())
    expected = ETHER / IP(src=CLIENT, dst=POD) / TCP(sport=40000, dport=80, flags="S", seq=7) / Raw(b"ping")
    assert (run.retval, run.data) == (lb.hook.up, bytes(expected))


def test_connections_and_packets_are_counted(lb: Balancer) -> None:
    lb.send(request())
    lb.send(request("A"))
    counted = next(entry.counts for entry in stats.read(lb.maps, lb.state) if entry.key.port == 80)
    assert (counted.packets, counted.connections) == (2, 1)

"""Frontends, shares and flows as `kubebee lb` reads them from real maps."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP

from kubebee.lb import flows, layout
from kubebee.lb.family import IPV4
from kubebee.lb.flows import Wanted
from kubebee.lb.layout import FlowKey
from kubebee.lb.model import Prefix, Protocol, parse_address
from kubebee.lb.reading import Shown, Tables, counts, read_tables, shares
from support.servicelb import CLIENT, ETHER, HOP, NODE, VIP, Balancer, balancer, frontend

pytestmark = pytest.mark.root
WEB = ("10.0.0.2:8080", "10.0.0.3:8080*3", "10.0.0.4:8080*0")


@pytest.fixture
def lb() -> Iterator[Balancer]:
    with balancer() as loaded:
        loaded.serve(
            frontend(*WEB, owner="Service/shop/web:http"),
            frontend("10.0.0.5:53", port=53, protocol=Protocol.UDP, owner="Service/shop/web:dns"),
        )
        yield loaded


def tables(lb: Balancer) -> Tables:
    return next(each for each in read_tables(lb.maps) if each.family is IPV4)


def web(lb: Balancer) -> Shown:
    return next(shown for shown in tables(lb).every() if shown.key.port == 80)


def connect(lb: Balancer, *ports: int, client: str = CLIENT) -> None:
    for port in ports:
        lb.send(ETHER / IP(src=client, dst=VIP) / TCP(sport=port, dport=80, flags="S"))


def found(lb: Balancer, wanted: Wanted | None = None) -> list[flows.FoundFlow]:
    now = time.monotonic_ns()
    every = flows.find(lb.maps, IPV4, tables(lb).backends, wanted or Wanted(), now)
    return sorted(every, key=lambda each: each.key)


def test_frontends_are_read_with_names_and_backends(lb: Balancer) -> None:
    assert [(str(shown.key), shown.name) for shown in tables(lb).every()] == [
        (f"{VIP}:53/UDP", "Service/shop/web:dns"),
        (f"{VIP}:80/TCP", "Service/shop/web:http"),
    ]
    members = web(lb).members
    assert [str(member.backend) for member in members] == [text.partition("*")[0] for text in WEB]
    assert [member.state for member in members] == ["Active", "Active", "NoNewConnections"]
    assert {member.hop for member in members} == {HOP}


def test_a_backend_that_was_removed_is_draining(lb: Balancer) -> None:
    lb.serve(frontend(WEB[0]))
    states = {str(member.backend): (member.state, member.outside) for member in web(lb).members}
    assert states["10.0.0.2:8080"] == ("Active", True)
    assert states["10.0.0.3:8080"] == ("Draining", False)


def test_shares_follow_weights(lb: Balancer) -> None:
    outside, inside = shares(lb.maps, tables(lb), web(lb))
    assert outside == inside
    one, three, none = (outside[member.number] for member in web(lb).members)
    assert none == 0
    assert one + three == web(lb).value.size
    assert 0.7 < three / (one + three) < 0.8


def test_counters_are_those_of_the_packets_sent(lb: Balancer) -> None:
    connect(lb, *range(1, 21))
    (shown,) = [web(lb)]
    counted = counts(lb.maps, tables(lb), [shown])
    assert counted.frontends[shown.key] == (20, 20 * 40, 20)
    assert sum(stat.connections for stat in counted.backends.values()) == 20


def test_flows_are_found_with_both_ends_and_state(lb: Balancer) -> None:
    connect(lb, 40000)
    (flow,) = found(lb)
    assert flow.key == FlowKey(parse_address(CLIENT), parse_address(VIP), 40000, 80, 6)
    assert (flow.flow.nat_address, str(flow.frontend)) == (parse_address(NODE), f"{VIP}:80/TCP")
    assert (flow.state, flow.timeout, flow.idle < 2) == ("Opening", 60, True)
    served = tables(lb).backends[flow.backend]
    answer = IP(src="10.0.0.2", dst=NODE) / TCP(sport=8080, dport=flow.flow.nat_port, flags="SA")
    answer.src = ".".join(map(str, served.address))
    lb.send(ETHER / answer)
    assert found(lb)[0].state == "Established"


def test_flows_are_told_apart_by_frontend_client_and_backend(lb: Balancer) -> None:
    connect(lb, *range(1, 31))
    connect(lb, 7, client="198.51.100.200")
    connect(lb, 7, client="192.0.2.200")
    lb.send(ETHER / IP(src=CLIENT, dst=VIP) / UDP(sport=9, dport=53))
    keys = {shown.key.port: shown.key for shown in tables(lb).every()}
    assert len(found(lb)) == 33
    assert len(found(lb, Wanted(frontends={keys[80]}))) == 32
    assert len(found(lb, Wanted(client=Prefix(parse_address(CLIENT), 32)))) == 31
    assert len(found(lb, Wanted(client=Prefix(parse_address("198.51.100.0"), 24)))) == 32
    assert len(found(lb, Wanted(client_port=7))) == 3
    number = web(lb).members[0].number
    towards = found(lb, Wanted(backends={number}))
    assert towards
    assert {flow.backend for flow in towards} == {number}
    assert len(found(lb, Wanted(frontends={keys[53]}, backends={number}))) == 0
    assert flows.count(lb.maps, IPV4, Wanted(backends={number})) == len(towards)
    assert flows.count(lb.maps, IPV4, Wanted()) == 33


def test_of_many_flows_every_one_is_found_once() -> None:
    many = 100_000
    with balancer(kb_lb_flow=many) as lb:
        lb.serve(frontend(*WEB))
        key = FlowKey(parse_address(CLIENT), parse_address(VIP), 0, 80, 6)
        client = int.from_bytes(key.saddr)
        keys = [key._replace(saddr=(client + i).to_bytes(4), sport=i % 60000 + 1).pack() for i in range(many)]
        value = layout.u32(0) * 6
        lb.maps["kb_lb_flow"].update_batch(b"".join(keys), value * many, many)
        assert flows.count(lb.maps, IPV4, Wanted()) == many
        assert {each.key.pack() for each in found(lb, Wanted(client_port=1))} == {keys[0], keys[60000]}

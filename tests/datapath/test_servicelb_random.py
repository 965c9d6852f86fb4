"""algorithm Random: a new flow's backend is drawn by weight, and its entry keeps it there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from kubebee.bpf.program import Program
from kubebee.lb import stats
from kubebee.lb.family import FAMILIES
from kubebee.lb.layout import NextHop
from kubebee.lb.model import Frontend, LbConfig, Protocol, format_address, parse_address
from kubebee.lb.sync import LbState, SyncReport
from support.servicelb import (
    ETHER,
    HOOKS,
    HOP,
    NODE,
    SENT,
    Balancer,
    Hook,
    balancer,
    frontend,
)

pytestmark = pytest.mark.root

NODE6 = "2001:db8:1::1"
SETTINGS = LbConfig(snat_address=parse_address(NODE), snat_address6=parse_address(NODE6))
HERE = NextHop.local(77)
"""Of backends on this node: they see the client's own port, so no number of flows runs out of ports."""
FLOWS = 4000
AGAIN = 64
"""Draws between two backends that all fall alike once in 2^63 runs."""


class Family(NamedTuple):
    """Ends of packets."""

    six: bool
    vip: str
    node: str
    backends: tuple[str, ...]

    def ip(self, **fields: object) -> Packet:
        """A header; its source may be given as the last number of a client's address."""
        source = fields.pop("client", 7)
        src = f"2001:db8:c::{source}" if self.six else f"198.51.100.{source}"
        fields = {"src": src, "dst": self.vip, **fields}
        return IPv6(**fields) if self.six else IP(**fields)


IPV4 = Family(False, "192.0.2.10", NODE, tuple(f"10.0.0.{number}" for number in range(11, 21)))
IPV6 = Family(True, "2001:db8:f::10", NODE6, tuple(f"2001:db8:1::{number}" for number in range(11, 21)))


@pytest.fixture(scope="module", params=(IPV4, IPV6), ids=("ipv4", "ipv6"))
def family(request: pytest.FixtureRequest) -> Family:
    chosen: Family = request.param
    return chosen


@pytest.fixture(scope="module", params=HOOKS, ids=lambda hook: hook.name)
def loaded(request: pytest.FixtureRequest, family: Family) -> Iterator[Balancer]:
    hook: Hook = request.param
    with balancer(hook, six=family.six) as once:
        yield once


@pytest.fixture
def lb(loaded: Balancer, family: Family) -> Balancer:
    """Programs that know nothing: loading them anew for each test takes most of its time."""
    serve(loaded)
    forget(loaded, family)
    loaded.collect()
    return loaded


def drawing(family: Family, *weights: int, protocol: Protocol = Protocol.TCP, **fields: object) -> Frontend:
    """A frontend that draws from as many backends as there are weights."""
    backends = zip(family.backends, weights, strict=False)
    texts = [f"[{address}]:8080*{weight}" for address, weight in backends]
    made = frontend(*texts, vip=family.vip, protocol=protocol)
    return dataclasses.replace(made, **{"random": True, **fields})  # type: ignore[arg-type]


def serve(lb: Balancer, *frontends: Frontend, hop: NextHop = HOP) -> SyncReport:
    return lb.serve(*frontends, config=SETTINGS, hop=hop)


def request(family: Family, sport: int = 40000, flags: str = "S", **ip: object) -> Packet:
    return ETHER / family.ip(**ip) / TCP(sport=sport, dport=80, flags=flags, seq=7) / Raw(b"ping")


def backend_of(lb: Balancer, packet: Packet) -> str:
    sent = Ether(lb.send(packet).data)
    return str(sent[IPv6 if IPv6 in sent else IP].dst)


def forget(lb: Balancer, family: Family) -> None:
    """Take out all flows, and what clients had."""
    for name in ("kb_lb_flow", "kb_lb_rev", "kb_lb_affinity"):
        table = lb.maps[name + FAMILIES[family.six].suffix]
        keys = list(table.keys())
        table.delete_batch(b"".join(keys), len(keys))


def draws(lb: Balancer, family: Family) -> set[str]:
    """Backends that one and the same flow gets when it begins again and again."""
    found = set()
    for _ in range(AGAIN):
        found.add(backend_of(lb, request(family)))
        forget(lb, family)
    return found


def begin(program: Program, packet: Packet, flows: int) -> None:
    """Let as many flows begin: a packet from that many ports."""
    raw = bytearray(bytes(packet))
    at = len(packet) - len(packet[TCP])
    for port in range(1, flows + 1):
        raw[at : at + 2] = port.to_bytes(2)
        program.test_run(bytes(raw))


def connections(lb: Balancer) -> dict[str, int]:
    """Flows that each backend got, by its address."""
    (served,) = stats.read(lb.maps, lb.state)
    return {format_address(each.backend.address): each.counts.connections for each in served.backends}


def test_a_request_leaves_as_by_any_snat(lb: Balancer, family: Family) -> None:
    serve(lb, drawing(family, 1, 1))
    run = lb.send(request(family))
    sent = Ether(run.data)
    ttl = {"hlim": 63} if family.six else {"ttl": 63}
    drawn = sent[IPv6 if family.six else IP].dst
    assert drawn in family.backends[:2]
    tcp = TCP(sport=sent.sport, dport=8080, flags="S", seq=7)
    expected = SENT / family.ip(src=family.node, dst=drawn, **ttl) / tcp / Raw(b"ping")
    assert (run.retval, run.data) == (lb.hook.sent, bytes(expected))
    assert lb.flows() == (1, 1)


def test_on_this_node_the_backend_sees_the_client(lb: Balancer, family: Family) -> None:
    serve(lb, drawing(family, 1, 1), hop=HERE)
    run = lb.send(request(family))
    drawn = Ether(run.data)[IPv6 if family.six else IP].dst
    assert drawn in family.backends[:2]
    tcp = TCP(sport=40000, dport=8080, flags="S", seq=7)
    assert (run.retval, run.data) == (lb.hook.up, bytes(ETHER / family.ip(dst=drawn) / tcp / Raw(b"ping")))


def test_one_flow_that_begins_again_may_get_another_backend(lb: Balancer, family: Family) -> None:
    serve(lb, drawing(family, 1, 1))
    assert draws(lb, family) == set(family.backends[:2])


def test_beside_it_a_frontend_without_it_goes_by_the_hash(lb: Balancer, family: Family) -> None:
    serve(lb, drawing(family, 1, 1, random=False))
    assert len(draws(lb, family)) == 1


def test_of_new_flows_each_backend_gets_its_weights_part(lb: Balancer, family: Family) -> None:
    """Bounds are eight standard deviations of 4,000 draws away: exceeded once in 10^15 runs."""
    serve(lb, drawing(family, 3, 1, 0), hop=HERE)
    begin(lb.program, request(family), FLOWS)
    heavy, light, none = (connections(lb)[each] for each in family.backends[:3])
    assert (heavy + light, none) == (FLOWS, 0)
    # The table's parts are within 5% of the weights' (lb/_maglev.c).
    assert 3000 - 220 - 150 < heavy < 3000 + 220 + 150


def test_what_it_draws_does_not_depend_on_the_flow(lb: Balancer, family: Family) -> None:
    """4,000 flows twice: alike in half of them, not in all, as they would be by a hash."""
    serve(lb, drawing(family, 1, 1), hop=HERE)
    seen = []
    for _ in range(2):
        begin(lb.program, request(family), 200)
        flows = lb.maps["kb_lb_flow" + FAMILIES[family.six].suffix]
        seen.append({key: value[8:12] for key, value in flows.items()})
        forget(lb, family)
    assert len(seen[0]) == len(seen[1]) == 200
    alike = sum(seen[0][key] == seen[1][key] for key in seen[0])
    assert 40 < alike < 160  # 100 and 8.5 standard deviations


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_flows_stay_while_backends_come(lb: Balancer, family: Family, protocol: Protocol) -> None:
    def packet(port: int, first: bool) -> Packet:
        if protocol is Protocol.UDP:
            return ETHER / family.ip() / UDP(sport=port, dport=80) / Raw(b"ping")
        return request(family, port, "S" if first else "A")

    serve(lb, drawing(family, 1, 1, 1, protocol=protocol))
    before = {port: backend_of(lb, packet(port, True)) for port in range(1, 61)}
    assert len(set(before.values())) > 1
    serve(lb, drawing(family, *[1] * 10, protocol=protocol))
    assert {port: backend_of(lb, packet(port, False)) for port in before} == before


def test_connections_stay_with_a_backend_that_was_removed(lb: Balancer, family: Family) -> None:
    serve(lb, drawing(family, 1, 1))
    before = {port: backend_of(lb, request(family, port)) for port in range(1, 61)}
    serve(lb, drawing(family, 1))
    assert {port: backend_of(lb, request(family, port, "A")) for port in before} == before
    assert {backend_of(lb, request(family, port)) for port in range(101, 161)} == {family.backends[0]}


def test_a_client_with_affinity_is_drawn_a_backend_once(lb: Balancer, family: Family) -> None:
    serve(lb, drawing(family, *[1] * 10, affinity_seconds=600))
    had = [
        {backend_of(lb, request(family, port, client=client)) for port in range(1, 6)}
        for client in range(1, 31)
    ]
    assert {len(each) for each in had} == {1}
    assert len(set().union(*had)) > 1


def test_backends_for_sockets_alone_are_not_drawn(lb: Balancer, family: Family) -> None:
    every = drawing(family, 1, 1, 1)
    serve(lb, dataclasses.replace(every, backends=every.backends[:1], inside=every.backends))
    assert draws(lb, family) == {family.backends[0]}


def test_it_is_switched_on_and_off_and_connections_stay(lb: Balancer, family: Family) -> None:
    serve(lb, drawing(family, 1, 1, random=False))
    before = {port: backend_of(lb, request(family, port)) for port in range(1, 31)}
    report = serve(lb, drawing(family, 1, 1))
    assert (report.changed, report.rows_written) == (1, 0)
    assert {port: backend_of(lb, request(family, port, "A")) for port in before} == before
    assert draws(lb, family) == set(family.backends[:2])
    serve(lb, drawing(family, 1, 1, random=False))
    assert len(draws(lb, family)) == 1


def test_a_restart_finds_it_as_it_was(lb: Balancer, family: Family) -> None:
    wanted = drawing(family, 1, 1)
    serve(lb, wanted)
    lb.state = LbState.adopt(lb.maps)
    assert serve(lb, wanted) == SyncReport()


def test_without_backends_clients_are_refused(lb: Balancer, family: Family) -> None:
    serve(lb, drawing(family))
    assert lb.refuses(request(family))

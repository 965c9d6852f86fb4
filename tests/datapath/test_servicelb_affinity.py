"""ClientIP affinity: a client's connections go to the backend it had."""

from __future__ import annotations

import dataclasses
import struct
import time
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from kubebee.lb.model import Backend, Forwarding, Frontend, parse_address
from support.servicelb import CLIENT, ETHER, HOOKS, VIP, Balancer, Hook, balancer, frontend

pytestmark = pytest.mark.root

TEN = tuple(f"10.0.0.{number}:80" for number in range(1, 11))
SECONDS = 10800


@pytest.fixture(params=HOOKS, ids=lambda hook: hook.name)
def lb(request: pytest.FixtureRequest) -> Iterator[Balancer]:
    hook: Hook = request.param
    with balancer(hook) as loaded:
        yield loaded


def sticky(*backends: str, seconds: int = SECONDS, **fields: object) -> Frontend:
    return dataclasses.replace(frontend(*backends, **fields), affinity_seconds=seconds)  # type: ignore[arg-type]


def syn(sport: int, client: str = CLIENT, vip: str = VIP) -> Packet:
    return ETHER / IP(src=client, dst=vip) / TCP(sport=sport, dport=80, flags="S")


def backends_of(lb: Balancer, client: str = CLIENT, ports: range = range(1000, 1030)) -> set[str]:
    """Where connections of a client go."""
    return {Ether(lb.send(syn(port, client)).data)[IP].dst for port in ports}


@pytest.mark.parametrize("forwarding", [Forwarding.SNAT, Forwarding.DSR_IPIP])  # by L2 the address stays
def test_all_connections_of_a_client_go_to_one_backend(lb: Balancer, forwarding: Forwarding) -> None:
    lb.serve(sticky(*TEN, forwarding=forwarding))
    assert len(backends_of(lb)) == 1
    others = {next(iter(backends_of(lb, f"198.51.100.{number}"))) for number in range(1, 40)}
    assert len(others) > 5


def test_without_affinity_they_are_spread(lb: Balancer) -> None:
    lb.serve(sticky(*TEN, seconds=0))
    assert len(backends_of(lb)) > 5


def test_it_can_be_switched_off_and_on_again(lb: Balancer) -> None:
    for seconds, several in ((SECONDS, False), (0, True), (SECONDS, False)):
        lb.serve(sticky(*TEN, seconds=seconds))
        assert (len(backends_of(lb, ports=range(1000 + 50 * seconds % 7, 1030))) > 1) is several


def test_a_client_stays_when_backends_come_and_moves_when_its_own_goes(lb: Balancer) -> None:
    lb.serve(sticky(*TEN[:3]))
    (had,) = backends_of(lb)
    lb.serve(sticky(*TEN))
    assert backends_of(lb, ports=range(2000, 2030)) == {had}
    left = [each for each in TEN if not each.startswith(f"{had}:")]
    lb.serve(sticky(*left))
    (has,) = backends_of(lb, ports=range(3000, 3030))
    assert has != had
    lb.serve(sticky(*TEN))
    assert backends_of(lb, ports=range(4000, 4030)) == {has}


@pytest.mark.parametrize(("seconds_ago", "moves"), [(95, False), (105, True)])
def test_a_client_that_was_not_seen_for_long_may_move(lb: Balancer, seconds_ago: int, moves: bool) -> None:
    lb.serve(sticky(*TEN, seconds=100))
    found = backends_of(lb, ports=range(999, 1000))
    for port in range(1000, 1030):
        ((key, value),) = lb.maps["kb_lb_affinity"].items()
        _, backend, _ = struct.unpack("=QII", value)
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        aged = struct.pack("=QII", now - seconds_ago * 10**9, backend, 0)
        lb.maps["kb_lb_affinity"].update(key, aged)
        found |= backends_of(lb, ports=range(port, port + 1))
    assert (len(found) > 1) is moves


def test_two_frontends_keep_their_clients_apart(lb: Balancer) -> None:
    lb.serve(sticky(*TEN), sticky(*TEN, vip="192.0.2.11"))
    pairs = set()
    for number in range(1, 30):
        client = f"198.51.100.{number}"
        first = Ether(lb.send(syn(1000, client)).data)[IP].dst
        pairs.add((first, Ether(lb.send(syn(1000, client, "192.0.2.11")).data)[IP].dst))
    assert any(one != other for one, other in pairs)


def test_a_backend_for_sockets_only_is_none_for_packets(lb: Balancer) -> None:
    """As when externalTrafficPolicy becomes Local."""
    lb.serve(sticky(*TEN))
    (had,) = backends_of(lb)
    backends = tuple(Backend(parse_address(each.split(":")[0]), 80) for each in TEN)
    local = tuple(each for each in backends if each.address != parse_address(had))
    lb.serve(dataclasses.replace(sticky(*TEN), backends=local, inside=backends))
    assert backends_of(lb, ports=range(2000, 2030)).isdisjoint({had})

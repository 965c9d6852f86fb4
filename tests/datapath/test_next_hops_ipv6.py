"""IPv6 next hops from the kernel's own routes and neighbours, as they change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from kubebee.bpf.neighbours import (
    NeighbourKey,
    keep_resolved,
    lookup_neighbours,
    our_neighbours,
    stop_keeping,
)
from kubebee.bpf.net_events import NetEvents
from kubebee.bpf.netlink import dump_interfaces
from kubebee.bpf.routes import lookup_routes
from kubebee.lb.layout import NextHop
from kubebee.lb.model import parse_address
from kubebee.loader.neighbours import Neighbours
from kubebee.loader.ways import Ways
from lab.netns import Namespace, inside, veth

pytestmark = pytest.mark.root

NODE, NEAR, FAR = (parse_address(text) for text in ("2001:db8:1::1", "2001:db8:1::2", "2001:db8:9::2"))
GATEWAY = parse_address("fe80::2")
DEADLINE_S = 10


@dataclass
class Hops:
    """Keeps what Neighbours writes."""

    written: dict[bytes, NextHop] = field(default_factory=dict)

    def next_hop(self, address: bytes) -> NextHop | None:
        return self.written.get(address)

    def set_next_hops(self, hops: Mapping[bytes, NextHop | None]) -> None:
        for address, hop in hops.items():
            if hop is None:
                self.written.pop(address, None)
            else:
                self.written[address] = hop

    def forget_next_hops(self, addresses: Iterable[bytes]) -> None:
        for address in addresses:
            self.written.pop(address, None)


@pytest.fixture
def node() -> Iterator[Namespace]:
    """A namespace that reaches NEAR directly and FAR by a router at a link-local address."""
    with Namespace("node6") as here, Namespace("peer6") as there:
        for each in (here, there):
            each.sysctl("net.ipv6.conf.default.accept_dad", 0)
        veth(here, "eth0", there, "eth0")
        here.ip("addr", "add", "2001:db8:1::1/64", "dev", "eth0", "nodad")
        there.ip("addr", "add", "2001:db8:1::2/64", "dev", "eth0", "nodad")
        there.ip("addr", "add", "fe80::2/64", "dev", "eth0", "nodad")
        here.ip("route", "add", "2001:db8:9::/48", "via", "fe80::2", "dev", "eth0", "mtu", "1400")
        yield here


def mac_of(name: str) -> bytes:
    """Of an interface of this thread's namespace."""
    return next(link.address for link in dump_interfaces() if link.name == name)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_route_says_interface_neighbour_source_and_mtu(node: Namespace) -> None:
    with inside(node):
        near, far = lookup_routes([NEAR, FAR])
    assert near is not None
    assert far is not None
    assert (near.ifindex, near.neighbour, near.source) == (node.ifindex("eth0"), NEAR, NODE)
    assert (far.neighbour, far.source, far.mtu) == (GATEWAY, NODE, 1400)


def test_families_are_asked_for_together(node: Namespace) -> None:
    node.ip("addr", "add", "10.3.0.1/24", "dev", "eth0")
    four = parse_address("10.3.0.2")
    with inside(node):
        routes = lookup_routes([NEAR, four, FAR])
    assert [route and route.neighbour for route in routes] == [NEAR, four, GATEWAY]


def test_what_no_route_leads_to_has_none_and_the_node_itself_a_local_one(node: Namespace) -> None:
    node.ip("-6", "route", "add", "unreachable", "2001:db8:66::/48")
    addresses = [NODE, parse_address("2001:db8:66::1"), parse_address("2001:db8:77::1")]
    with inside(node):
        own, *nowhere = lookup_routes(addresses)
    assert own is not None
    assert own.local
    assert nowhere == [None, None]


def test_a_neighbour_is_kept_resolved_until_it_is_given_up(node: Namespace) -> None:
    with inside(node):
        key = NeighbourKey(node.ifindex("eth0"), NEAR)
        assert keep_resolved([key]) == {}
        wait_until(lambda: bool((found := lookup_neighbours([key])[0]) and found.mac))
        assert list(our_neighbours()) == [key]
        stop_keeping([key])
        assert list(our_neighbours()) == []


def test_events_name_the_prefixes_of_routes_that_change(node: Namespace) -> None:
    with inside(node):
        events, deaf = NetEvents(ipv6=True), NetEvents()
    try:
        node.ip("route", "add", "2001:db8:a::/48", "via", "fe80::2", "dev", "eth0")
        node.ip("route", "add", "default", "via", "fe80::2", "dev", "eth0")
        assert events.read().prefixes >= {(parse_address("2001:db8:a::"), 48), (bytes(16), 0)}
        assert not deaf.read().prefixes
        node.ip("-6", "rule", "add", "from", "2001:db8:1::1", "lookup", "main")
        assert events.read().everything
        assert not deaf.read().everything
    finally:
        events.close()
        deaf.close()


def test_next_hops_follow_a_route_that_moves_to_a_router(node: Namespace) -> None:
    hops = Hops()
    with inside(node):
        neighbours = Neighbours(hops, ipv6=True, ways=Ways(uplinks=frozenset({node.ifindex("eth0")})))
        try:
            neighbours.want({NEAR, FAR})
            neighbours.work()

            def follow() -> None:
                neighbours.take_news()
                if neighbours.stale or neighbours.unkept:
                    neighbours.work()

            def known(address: bytes, mtu: int) -> bool:
                follow()
                hop = hops.written.get(address)
                return hop is not None and hop.mtu == mtu

            wait_until(lambda: known(NEAR, 1500) and known(FAR, 1400))
            assert hops.written[FAR].macs[6:] == mac_of("eth0")
            assert hops.written[FAR].macs[:6] == hops.written[NEAR].macs[:6]
            node.ip(
                "route", "change", "2001:db8:9::/48", "via", "2001:db8:1::2", "dev", "eth0", "mtu", "1300"
            )
            wait_until(lambda: known(FAR, 1300))
            node.ip("route", "del", "2001:db8:9::/48")
            wait_until(lambda: not known(FAR, 1300))
            assert known(NEAR, 1500)
        finally:
            neighbours.close()

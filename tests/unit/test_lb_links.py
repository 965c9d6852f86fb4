"""DSR by L2: which backends get packets, by what is known of the way to them."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from typing import cast

from kubebee.lb.features import Features
from kubebee.lb.layout import BackendFlag, NextHop
from kubebee.lb.model import Backend, Forwarding, Frontend, FrontendKey, LbConfig, Protocol, parse_address
from kubebee.lb.sync import LbState
from kubebee.loader.lb_links import LbLinks
from kubebee.planner.plan import LbUnit

KEY = FrontendKey(parse_address("192.0.2.10"), 80, Protocol.TCP)
NEAR, FAR = (Backend(parse_address(f"10.0.{i}.2"), 80) for i in (1, 2))
L2 = Frontend(KEY, (NEAR, FAR), forwarding=Forwarding.DSR_L2)
UNIT = LbUnit(
    owners=(),
    packets=(),
    socket=None,
    cgroup="",
    interfaces=(),
    frontends={},
    config=LbConfig(),
    map_sizes={},
    features=Features(dsr=True),
)
MACS = bytes(12)
ON_LINK = NextHop(1, MACS, 1500)
BY_GATEWAY = NextHop(1, MACS, 1500, int(BackendFlag.NEXT_HOP | BackendFlag.GATEWAY))


class Known:
    """What is known of the ways; `asked` are the addresses that more was asked of."""

    def __init__(self) -> None:
        self.hops: dict[bytes, NextHop | None] = {NEAR.address: ON_LINK, FAR.address: BY_GATEWAY}
        self.asked: list[set[bytes]] = []

    def next_hop(self, address: bytes) -> NextHop | None:
        return self.hops.get(address)

    def ahead(self, addresses: Set[bytes]) -> None:
        self.asked.append(set(addresses))


def applied(links: LbLinks, known: Known, frontend: Frontend = L2) -> Frontend:
    unit = replace(UNIT, frontends={KEY: frontend})
    return links.applied_to(unit, cast("LbState", known), known.ahead).frontends[KEY]


def test_a_backend_behind_a_gateway_gets_no_packets_and_the_status_names_it() -> None:
    links, known = LbLinks(), Known()
    made = applied(links, known)
    assert (made.backends, made.inside) == ((NEAR,), (NEAR, FAR))
    (note,) = links.notes()
    assert note.startswith("1 of 2 backends of 192.0.2.10:80/TCP are behind a gateway")
    assert str(FAR) in note


def test_a_frontend_whose_backends_are_all_on_a_link_stays_as_it_is() -> None:
    links, known = LbLinks(), Known()
    known.hops[FAR.address] = ON_LINK
    assert applied(links, known) is L2
    assert list(links.notes()) == []


def test_other_ways_of_forwarding_reach_everybody() -> None:
    links, known = LbLinks(), Known()
    for way in (Forwarding.SNAT, Forwarding.DSR_IPIP):
        frontend = replace(L2, forwarding=way)
        assert applied(links, known, frontend) is frontend
    assert known.asked == []


def test_ways_that_are_not_known_are_asked_for_first() -> None:
    links, known = LbLinks(), Known()
    del known.hops[FAR.address]
    assert applied(links, known) is L2
    assert known.asked == [{FAR.address}]


def test_a_route_that_changes_has_frontends_applied_again() -> None:
    links, known = LbLinks(), Known()
    calls = []
    links.on_change = lambda: calls.append(1)
    applied(links, known)
    links.take({FAR.address: BY_GATEWAY, NEAR.address: ON_LINK, parse_address("10.9.9.9"): BY_GATEWAY})
    links.take({FAR.address: None})
    assert calls == [], "nothing is new, or not known"
    links.take({FAR.address: ON_LINK})
    assert calls == [1]
    known.hops[FAR.address] = ON_LINK
    assert applied(links, known) is L2


def test_the_same_is_made_once() -> None:
    links, known = LbLinks(), Known()
    assert applied(links, known) is applied(links, known)


def test_while_no_way_is_known_a_backend_stays_where_it_was() -> None:
    links, known = LbLinks(), Known()
    applied(links, known)
    known.hops[FAR.address] = None
    assert applied(links, known).backends == (NEAR,)

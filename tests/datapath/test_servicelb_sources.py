"""Source ranges: who may come from outside, and no moment at which that is untrue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from scapy.layers.inet import IP, TCP
from scapy.packet import Packet

from kubebee.lb.layout import FrontendFlag, FrontendValue, pack_key, pack_source
from kubebee.lb.model import Frontend, Prefix, merge, parse_address
from kubebee.lb.sync import LbState, SyncReport
from support.servicelb import CONFIG, CONTINUE, DROP, ETHER, TX, VIP, Balancer, balancer, frontend

pytestmark = pytest.mark.root

ALLOWED, ALSO, OTHER = "198.51.100.7", "203.0.113.9", "198.51.101.7"


@pytest.fixture
def lb() -> Iterator[Balancer]:
    with balancer() as loaded:
        yield loaded


def prefix(text: str) -> Prefix:
    address, _, length = text.partition("/")
    return Prefix(parse_address(address), int(length))


def web(*ranges: str, port: int = 80) -> Frontend:
    return replace(frontend("10.0.0.1:80", port=port), source_ranges=tuple(map(prefix, ranges)))


def syn(source: str, port: int = 80) -> Packet:
    return ETHER / IP(src=source, dst=VIP) / TCP(sport=40000, dport=port, flags="S")


def written(lb: Balancer) -> set[bytes]:
    return set(lb.maps["kb_lb_sources"].keys())


def test_only_clients_of_the_ranges_are_served_and_others_are_counted(lb: Balancer) -> None:
    lb.serve(web("198.51.100.0/24"))
    assert lb.send(syn(ALLOWED)).retval == TX
    assert lb.send(syn(OTHER)).retval == DROP
    assert lb.drops() == {"lb_source": 1}


def test_a_range_of_one_frontend_opens_no_other(lb: Balancer) -> None:
    lb.serve(web("198.51.100.0/24"), web("203.0.113.0/24", port=81), frontend("10.0.0.1:80", port=82))
    asked = [(source, port) for source in (ALLOWED, ALSO) for port in (80, 81, 82)]
    verdicts = {(source, port): lb.send(syn(source, port)).retval for source, port in asked}
    assert verdicts == {
        (ALLOWED, 80): TX,
        (ALLOWED, 81): DROP,
        (ALLOWED, 82): TX,
        (ALSO, 80): DROP,
        (ALSO, 81): TX,
        (ALSO, 82): TX,
    }


def test_ranges_change_by_their_differences_alone(lb: Balancer) -> None:
    lb.serve(web("198.51.100.0/24", "198.51.101.0/24"))
    report = lb.serve(web("198.51.100.0/24", "203.0.113.0/24"))
    assert (report.rows_written, report.backends_written, report.changed) == (0, 0, 0)
    assert [lb.send(syn(source)).retval for source in (ALLOWED, ALSO, OTHER)] == [TX, TX, DROP]
    assert len(written(lb)) == 2


def test_without_ranges_everybody_is_served_again(lb: Balancer) -> None:
    lb.serve(web("198.51.100.0/24"))
    lb.serve(web())
    assert lb.send(syn(OTHER)).retval == TX
    assert written(lb) == set()


def test_a_removed_frontend_takes_its_ranges_along(lb: Balancer) -> None:
    lb.serve(web("198.51.100.0/24"))
    lb.serve()
    assert written(lb) == set()
    assert lb.send(syn(ALLOWED)).retval == CONTINUE


def test_bits_behind_a_prefix_and_repetitions_do_not_matter(lb: Balancer) -> None:
    lb.serve(web("198.51.100.0/24"))
    before = written(lb)
    lb.serve(web("198.51.100.77/24", "198.51.100.0/24"))
    assert written(lb) == before


def test_a_restart_adopts_ranges_and_removes_what_a_crash_left(lb: Balancer) -> None:
    wanted = merge([web("198.51.100.0/24", "203.0.113.0/25")])
    lb.state.apply(lb.maps, wanted, CONFIG)
    before = written(lb)
    lb.maps["kb_lb_sources"].update(pack_source(77, prefix("198.51.0.0/16")), b"\1")
    adopted = LbState.adopt(lb.maps)
    assert written(lb) == before
    assert adopted.apply(lb.maps, wanted, CONFIG) == SyncReport()
    served = adopted.served[frontend().key]
    assert served.desired is not None
    assert set(served.desired.source_ranges) == set(wanted[frontend().key].source_ranges)


def test_a_frontend_whose_ranges_find_no_room_stays_as_it_was_and_is_reported() -> None:
    with balancer(kb_lb_sources=2) as small:
        small.serve(web())
        report = small.serve(web("198.51.100.0/24", "203.0.113.0/24", "192.0.2.0/24"))
        assert "kb_lb_sources" in report.unserved[0].why
        raw = small.maps["kb_lb_fe"].lookup(pack_key(frontend().key))
        assert raw is not None
        assert not FrontendValue.unpack(raw).flags & FrontendFlag.SOURCES
        assert small.serve(web("198.51.100.0/24", "203.0.113.0/24")).unserved == ()
        assert small.serve(web("198.51.100.0/24", "203.0.113.0/24")).unserved == ()

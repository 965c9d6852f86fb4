"""Packets from outside and the node's sockets may have tables of their own, one a side."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import replace

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Packet

from kubebee.lb import stats
from kubebee.lb.family import IPV4
from kubebee.lb.layout import ROW_SLOTS, BackendFlag, BackendValue, FrontendFlag, FrontendValue, pack_key, u32
from kubebee.lb.model import Backend, Frontend, Reserved, merge, parse_address
from kubebee.lb.sync import LbState, SyncReport
from support.servicelb import CLIENT, CONFIG, CONTINUE, DROP, ETHER, VIP, Balancer, balancer, frontend

pytestmark = pytest.mark.root

HERE, THERE, YONDER = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"


@pytest.fixture
def lb() -> Iterator[Balancer]:
    with balancer() as loaded:
        yield loaded


def backends(*texts: str) -> tuple[Backend, ...]:
    return frontend(*texts).backends


def two_tables(outside: tuple[str, ...], inside: tuple[str, ...], **fields: object) -> Frontend:
    return replace(frontend(*outside), inside=backends(*inside), **fields)  # type: ignore[arg-type]


def value_of(lb: Balancer, key_of: Frontend | None = None) -> FrontendValue:
    raw = lb.maps["kb_lb_fe"].lookup(pack_key((key_of or frontend()).key))
    assert raw is not None
    return FrontendValue.unpack(raw)


def in_table(lb: Balancer, base: int, size: int) -> set[str]:
    """The backends that a table leads to."""
    found = set()
    for slot in range(base, base + size):
        row = lb.maps["kb_lb_slots"].lookup(u32(slot // ROW_SLOTS))
        assert row is not None
        raw = lb.maps["kb_lb_be"].lookup(u32(array("I", row)[slot % ROW_SLOTS]))
        assert raw is not None
        value = BackendValue.unpack(raw)
        found.add(str(Backend(value.address, value.port)))
    return found


def outside(lb: Balancer) -> set[str]:
    value = value_of(lb)
    return in_table(lb, value.base, value.size)


def inside(lb: Balancer) -> set[str]:
    value = value_of(lb)
    return in_table(lb, value.inside_base, value.inside_size)


def to_vip(sport: int = 40000, dport: int = 80) -> Packet:
    return ETHER / IP(src=CLIENT, dst=VIP) / TCP(sport=sport, dport=dport, flags="S")


def test_without_a_difference_one_table_serves_both(lb: Balancer) -> None:
    assert lb.serve(frontend(HERE, THERE)).rows_written == 14
    value = value_of(lb)
    assert (value.base, value.size) == (value.inside_base, value.inside_size)


def test_packets_and_sockets_have_tables_of_their_own(lb: Balancer) -> None:
    lb.serve(two_tables((HERE,), (HERE, THERE)))
    assert (outside(lb), inside(lb)) == ({HERE}, {HERE, THERE})
    assert {lb.backend_of(to_vip(sport)) for sport in range(200)} == {"10.0.0.1"}


def test_a_backend_in_both_tables_has_one_number(lb: Balancer) -> None:
    report = lb.serve(two_tables((HERE, THERE), (THERE, YONDER)))
    assert report.backends_written == 3
    (web,) = stats.read(lb.maps, lb.state)
    assert [str(each.backend) for each in web.backends] == [HERE, THERE, YONDER]


def test_inside_that_names_the_same_backends_takes_no_table(lb: Balancer) -> None:
    lb.serve(frontend(HERE, THERE))
    assert lb.serve(two_tables((HERE, THERE), (THERE, HERE))) == SyncReport()


@pytest.mark.parametrize(
    ("out", "within"),
    [
        ((HERE,), (HERE, THERE)),
        ((), (THERE,)),
        ((THERE,), ()),
        ((HERE,), (THERE,)),
        ((HERE,), (HERE + "*0",)),
    ],
    ids=["less", "none", "only outside", "disjoint", "without weight"],
)
def test_a_restart_adopts_both_tables(lb: Balancer, out: tuple[str, ...], within: tuple[str, ...]) -> None:
    if within == (HERE + "*0",):
        out = within
    wanted = merge([two_tables(out, within, affinity_seconds=30, drop_outside=True, sockets_only=True)])
    lb.state.apply(lb.maps, wanted, CONFIG)
    adopted = LbState.adopt(lb.maps)
    assert adopted.apply(lb.maps, wanted, CONFIG) == SyncReport()
    assert adopted.served[frontend().key].value == value_of(lb)
    others = frontend(HERE, port=81), frontend(THERE, port=82)
    assert adopted.apply(lb.maps, wanted | merge(others), CONFIG).added == 2
    runs = adopted.served[frontend().key].runs
    assert {run for other in others for run in adopted.served[other.key].runs}.isdisjoint(runs)


@pytest.mark.parametrize("reserved", list(Reserved))
def test_a_restart_adopts_what_cannot_be_bound(lb: Balancer, reserved: Reserved) -> None:
    wanted = merge([replace(frontend(HERE), sockets_only=True, reserved=reserved)])
    lb.state.apply(lb.maps, wanted, CONFIG)
    assert LbState.adopt(lb.maps).apply(lb.maps, wanted, CONFIG) == SyncReport()


def test_a_backend_that_moves_between_the_tables_keeps_its_number_and_flows(lb: Balancer) -> None:
    lb.serve(two_tables((HERE, THERE), (HERE,)))
    first = dict(
        zip(lb.state.served[frontend().key].members, lb.state.served[frontend().key].ids, strict=True)
    )
    report = lb.serve(two_tables((HERE,), (HERE, THERE)))
    assert (report.changed, report.backends_written) == (1, 1)
    served = lb.state.served[frontend().key]
    assert dict(zip(served.members, served.ids, strict=True)) == first
    assert lb.state.families[IPV4].gone == {}
    raw = lb.maps["kb_lb_be"].lookup(u32(first[backends(THERE)[0]]))
    assert raw is not None
    assert BackendValue.unpack(raw).flags == BackendFlag.USED | BackendFlag.NOT_OUTSIDE


def test_a_backend_that_leaves_both_tables_is_gone(lb: Balancer) -> None:
    lb.serve(two_tables((HERE,), (HERE, THERE)))
    lb.serve(two_tables((HERE,), (HERE, YONDER)))
    assert {value.address for value in lb.state.families[IPV4].gone.values()} == {parse_address("10.0.0.2")}
    assert lb.collect().backends_freed == 1


def test_the_rows_of_both_tables_are_used_again() -> None:
    with balancer(kb_lb_slots=50) as small:
        for number in range(20):
            report = small.serve(two_tables((HERE,), (HERE, f"10.0.1.{number}:80")))
            assert report.unserved == ()
        small.serve()
        assert (
            small.state.apply(small.maps, merge([frontend(HERE), frontend(HERE, port=81)]), CONFIG).added == 2
        )


def test_settings_alone_write_no_table(lb: Balancer) -> None:
    lb.serve(frontend(HERE))
    report = lb.serve(replace(frontend(HERE), affinity_seconds=10800, drop_outside=True))
    assert (report.changed, report.rows_written, report.backends_written) == (1, 0, 0)
    value = value_of(lb)
    assert (value.affinity, value.flags) == (10800, FrontendFlag.DROP_OUTSIDE)


def test_no_packet_is_for_a_frontend_of_sockets_alone(lb: Balancer) -> None:
    lb.serve(replace(frontend(HERE), sockets_only=True))
    assert lb.send(to_vip()).retval == CONTINUE
    fragment = ETHER / IP(src=CLIENT, dst=VIP, frag=100) / UDP()
    assert lb.send(fragment).retval == CONTINUE
    lb.serve(frontend(HERE))
    assert lb.send(fragment).retval == DROP
    lb.serve(replace(frontend(HERE), sockets_only=True))
    assert lb.send(fragment).retval == CONTINUE


def test_without_a_backend_here_packets_are_dropped_and_counted(lb: Balancer) -> None:
    lb.serve(two_tables((), (THERE,), drop_outside=True))
    assert lb.send(to_vip()).retval == DROP
    assert lb.drops() == {"lb_not_here": 1}

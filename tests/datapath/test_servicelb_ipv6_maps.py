"""IPv6 frontends in their own maps, beside IPv4: written, changed, adopted, removed."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import replace

import pytest

from kubebee.bpf.map import Map
from kubebee.lb import stats
from kubebee.lb.family import IPV4, IPV6, Family
from kubebee.lb.layout import ROW_SLOTS, BackendValue, Flow, FlowFlag, FlowKey, FrontendValue, pack_key, u32
from kubebee.lb.model import Backend, LbConfig, LbModelError, Prefix, Protocol, merge, parse_address
from kubebee.lb.sync import LbState, SyncReport
from support.servicelb import CONFIG, HOP, Balancer, balancer, frontend

pytestmark = pytest.mark.root

VIP6 = "2001:db8::10"
ONE, TWO, THREE = (f"[2001:db8:1::{number}]:8080" for number in (1, 2, 3))
BOTH = replace(CONFIG, snat_address6=parse_address("2001:db8:2::1"))
WEB6 = frontend(ONE, TWO, vip=VIP6, owner="ServiceLB/six")
WEB4 = frontend("10.0.0.1:8080", "10.0.0.2:8080", owner="ServiceLB/four")


@pytest.fixture
def lb() -> Iterator[Balancer]:
    with balancer() as loaded:
        yield loaded


def contents(lb: Balancer, family: Family) -> dict[str, dict[bytes, bytes]]:
    names = (family.frontends, family.slots, family.backends, family.sources)
    return {name: dict(lb.maps[name].items()) for name in names}


def is_empty(table: Map) -> bool:
    return not any(any(value) for _, value in table.items())


def backends_of(lb: Balancer) -> set[str]:
    """The backends that the table of WEB6 leads to."""
    raw = lb.maps["kb_lb_fe6"].lookup(pack_key(WEB6.key))
    assert raw is not None
    value = FrontendValue.unpack(raw)
    found = set()
    for slot in range(value.base, value.base + value.size):
        row = lb.maps["kb_lb_slots6"].lookup(u32(slot // ROW_SLOTS))
        assert row is not None
        raw = lb.maps["kb_lb_be6"].lookup(u32(array("I", row)[slot % ROW_SLOTS]))
        assert raw is not None
        backend = BackendValue.unpack(raw)
        found.add(str(Backend(backend.address, backend.port)))
    return found


def test_a_frontend_is_written_to_the_maps_of_its_family_alone(lb: Balancer) -> None:
    before = contents(lb, IPV4)
    report = lb.serve(WEB6, config=BOTH)
    assert (report.added, report.backends_written) == (1, 2)
    assert backends_of(lb) == {ONE, TWO}
    assert contents(lb, IPV4) == before


def test_one_pass_serves_both_families(lb: Balancer) -> None:
    assert lb.serve(WEB4, WEB6, config=BOTH).added == 2
    assert lb.state.served.keys() == {WEB4.key, WEB6.key}
    assert lb.serve(WEB4, WEB6, config=BOTH) == SyncReport()
    assert lb.serve(WEB4, config=BOTH).removed == 1
    assert lb.state.served.keys() == {WEB4.key}


def test_a_change_of_one_family_leaves_the_other_alone(lb: Balancer) -> None:
    lb.serve(WEB4, WEB6, config=BOTH)
    before = contents(lb, IPV4)
    changed = replace(WEB6, backends=frontend(TWO, THREE).backends)
    assert lb.serve(WEB4, changed, config=BOTH).changed == 1
    assert backends_of(lb) == {TWO, THREE}
    assert contents(lb, IPV4) == before


def test_a_restart_adopts_both_families_and_writes_nothing(lb: Balancer) -> None:
    ranged = replace(
        WEB6, inside=frontend(ONE, THREE).backends, source_ranges=(Prefix(parse_address("2001:db8:3::"), 48),)
    )
    lb.serve(WEB4, ranged, config=BOTH)
    before = contents(lb, IPV4), contents(lb, IPV6)
    adopted = LbState.adopt(lb.maps)
    assert adopted.apply(lb.maps, merge([WEB4, ranged]), BOTH) == SyncReport()
    assert (contents(lb, IPV4), contents(lb, IPV6)) == before
    assert adopted.next_hop(parse_address("2001:db8:1::1")) == HOP


def test_a_removed_frontend_leaves_nothing(lb: Balancer) -> None:
    lb.serve(WEB4, WEB6, config=BOTH)
    lb.serve(config=BOTH)
    assert lb.collect().backends_freed == 4
    for family in (IPV4, IPV6):
        assert dict(lb.maps[family.frontends].items()) == {}
        assert is_empty(lb.maps[family.backends])


def test_addresses_and_next_hops_of_both_families_are_followed(lb: Balancer) -> None:
    lb.state.apply(lb.maps, merge([WEB4, WEB6]), BOTH)
    four, six = (each.backends[0].address for each in (WEB4, WEB6))
    assert lb.state.addresses() == {each.address for web in (WEB4, WEB6) for each in web.backends}
    assert lb.state.set_next_hops(lb.maps, {four: HOP, six: HOP}) == 2
    assert (lb.state.next_hop(four), lb.state.next_hop(six)) == (HOP, HOP)
    assert lb.state.set_next_hops(lb.maps, {six: None}) == 1
    assert (lb.state.next_hop(four), lb.state.next_hop(six)) == (HOP, None)
    lb.state.forget_next_hops([four, six])
    assert lb.state.next_hop(four) is None


def test_counters_of_both_families_are_told_apart(lb: Balancer) -> None:
    lb.serve(WEB4, WEB6, config=BOTH)
    assert [each.owner for each in stats.read(lb.maps, lb.state)] == ["ServiceLB/four", "ServiceLB/six"]


def test_flows_are_collected_and_keep_their_backend_until_then(lb: Balancer) -> None:
    lb.serve(WEB6, config=BOTH)
    served = lb.state.served[WEB6.key]
    client, vip, nat = (parse_address(text) for text in ("2001:db8:9::1", VIP6, "2001:db8:2::1"))
    backend, number = served.members[0], served.ids[0]
    key = FlowKey(client, vip, 40000, 80, Protocol.TCP)
    reverse_key = FlowKey(backend.address, nat, backend.port, 61000, Protocol.TCP)
    lb.maps["kb_lb_flow6"].update(key.pack(), bytes(8) + u32(number) + nat + (61000).to_bytes(2) + bytes(2))
    closed = int(FlowFlag.SEEN | FlowFlag.RST).to_bytes(2, "little")
    ends = client + vip + (40000).to_bytes(2) + (80).to_bytes(2)
    lb.maps["kb_lb_rev6"].update(reverse_key.pack(), bytes(8) + u32(number) + ends + closed + bytes(6))
    raw = lb.maps["kb_lb_flow6"].lookup(key.pack())
    assert raw is not None
    assert Flow.unpack(raw)[1:4] == (number, nat, 61000)

    report = lb.collect()
    assert (report.live, report.expired, report.orphans) == (0, 1, 0)
    assert is_empty(lb.maps["kb_lb_rev6"])


def test_without_an_ipv6_address_what_needs_one_is_reported_and_all_else_is_served(lb: Balancer) -> None:
    report = lb.serve(WEB4, WEB6, config=CONFIG)
    ((key, owner, why),) = ((each.key, each.owner, each.why) for each in report.unserved)
    assert (key, owner) == (WEB6.key, WEB6.owner)
    assert "this node has none of IPv6" in why
    assert dict(lb.maps["kb_lb_fe6"].items()) == {}
    assert WEB4.key in lb.state.served


def test_ipv6_without_maps_for_it_is_refused_and_writes_no_frontend(lb: Balancer) -> None:
    four = {name: bpf_map for name, bpf_map in lb.maps.items() if not name.endswith("6")}
    state = LbState.adopt(four)
    with pytest.raises(LbModelError, match="is no IPv4 frontend") as refused:
        state.apply(four, merge([WEB4, WEB6]), LbConfig(snat_address=CONFIG.snat_address))
    assert refused.value.where == "ServiceLB/six"
    assert dict(lb.maps["kb_lb_fe"].items()) == {}

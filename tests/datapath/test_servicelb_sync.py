"""The maps follow what is desired: only differences are written, restarts adopt, crashes heal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Packet

from kubebee import names
from kubebee.bpf.map import Map
from kubebee.bpf.syscall import BpfError
from kubebee.lb import stats
from kubebee.lb.features import Features
from kubebee.lb.layout import FrontendValue, pack_key, u32
from kubebee.lb.model import Forwarding, Frontend, FrontendKey, LbConfig, LbModelError, Protocol, merge
from kubebee.lb.sync import LbState, SyncReport
from kubebee.loader.data import LbData
from kubebee.planner.plan import Bundle, LbUnit, PacketCode, Toolchain
from support.cut_short import cut_short
from support.servicelb import CLIENT, CONFIG, CONTINUE, ETHER, HOP, TX, VIP, Balancer, balancer, frontend

pytestmark = pytest.mark.root

DSR = Forwarding.DSR_IPIP
TEN = [f"10.0.0.{i}:80" for i in range(1, 11)]


@pytest.fixture
def lb() -> Iterator[Balancer]:
    with balancer() as loaded:
        yield loaded


def to_vip(sport: int = 40000, flags: str = "A", vip: str = VIP) -> Packet:
    return ETHER / IP(src=CLIENT, dst=vip) / TCP(sport=sport, dport=80, flags=flags)


def contents(table: Map) -> dict[bytes, bytes]:
    return dict(table.items())


def snapshot(lb: Balancer) -> dict[str, dict[bytes, bytes]]:
    return {name: contents(lb.maps[name]) for name in ("kb_lb_fe", "kb_lb_slots", "kb_lb_be", "kb_lb_cfg")}


def chosen(lb: Balancer) -> list[str]:
    """Where new connections go."""
    return [lb.backend_of(to_vip(sport, "S")) for sport in range(1000, 1500)]


def test_what_is_already_served_is_not_written_again(lb: Balancer) -> None:
    first = lb.serve(frontend(*TEN, forwarding=DSR))
    assert (first.added, first.rows_written, first.backends_written) == (1, 64, 10)
    assert lb.serve(frontend(*TEN, forwarding=DSR)) == SyncReport()
    assert lb.serve(frontend(*reversed(TEN), forwarding=DSR)).rows_written == 0


def test_a_restart_adopts_the_maps_and_writes_nothing(lb: Balancer) -> None:
    both = (frontend(*TEN, forwarding=DSR), frontend("10.0.0.1:8080", port=81), frontend(port=82))
    lb.serve(*both)
    before = snapshot(lb)
    adopted = LbState.adopt(lb.maps)
    assert adopted.apply(lb.maps, merge(both), CONFIG) == SyncReport()
    assert snapshot(lb) == before


def test_a_write_that_a_crash_cut_short_is_found_and_redone(lb: Balancer) -> None:
    lb.serve(frontend(*TEN[:9], forwarding=DSR))
    key = pack_key(frontend().key)
    old = lb.maps["kb_lb_fe"].lookup(key)
    assert old is not None
    lb.serve(frontend(*TEN, forwarding=DSR))
    new = chosen(lb)
    lb.maps["kb_lb_fe"].update(key, old)  # as if only the backends had been written

    lb.state = LbState.adopt(lb.maps)
    assert lb.serve(frontend(*TEN, forwarding=DSR)).changed == 1
    assert chosen(lb) == new


def test_backends_keep_their_numbers_when_others_come_and_go(lb: Balancer) -> None:
    lb.serve(frontend(*TEN[:3], forwarding=DSR))
    key = frontend().key

    def numbers() -> dict[bytes, int]:
        served = lb.state.served[key]
        return {m.address: n for m, n in zip(served.members, served.ids, strict=True)}

    first = numbers()
    lb.serve(frontend(TEN[1], TEN[2], TEN[5], forwarding=DSR))
    assert {a: n for a, n in numbers().items() if a in first} == {
        a: first[a] for a in first if a in numbers()
    }
    lb.serve(frontend(*TEN[:3], forwarding=DSR))
    assert numbers() == first


def test_only_flows_of_the_backend_that_leaves_move_but_for_1_percent(lb: Balancer) -> None:
    lb.serve(frontend(*TEN, forwarding=DSR))
    before = chosen(lb)
    lb.serve(frontend(*TEN[1:], forwarding=DSR))
    strays = [old for old, new in zip(before, chosen(lb), strict=True) if old != new and old != "10.0.0.1"]
    assert len(strays) <= len(before) * 0.02


def test_a_weight_changes_shares_and_nothing_else(lb: Balancer) -> None:
    lb.serve(frontend("10.0.0.1:80", "10.0.0.2:80", forwarding=DSR))
    lb.serve(frontend("10.0.0.1:80*3", "10.0.0.2:80", forwarding=DSR))
    share = chosen(lb).count("10.0.0.1") / 500
    assert 0.65 < share < 0.85
    lb.serve(frontend("10.0.0.1:80*0", "10.0.0.2:80", forwarding=DSR))
    assert set(chosen(lb)) == {"10.0.0.2"}


def test_a_removed_frontend_is_no_longer_served_and_leaves_nothing(lb: Balancer) -> None:
    lb.serve(frontend(*TEN, forwarding=DSR))
    assert lb.serve().removed == 1
    assert lb.send(to_vip()).retval == CONTINUE
    assert lb.collect().backends_freed == 10
    assert contents(lb.maps["kb_lb_fe"]) == {}
    assert not any(any(value) for value in contents(lb.maps["kb_lb_be"]).values())


def test_a_frontend_switches_between_dsr_and_snat(lb: Balancer) -> None:
    lb.serve(frontend("10.0.0.1:80", forwarding=DSR))
    assert len(lb.send(to_vip()).data) == len(to_vip()) + 20
    assert lb.serve(frontend("10.0.0.1:80")).rows_written == 0
    assert len(lb.send(to_vip()).data) == len(to_vip())


def test_rows_are_not_given_away_before_their_frontend_has_left_them() -> None:
    """Where there is no room else: the rows of one frontend's old table become another's new one."""
    one, other = [f"10.0.1.{i}:53" for i in range(1, 12)], [f"10.0.2.{i}:53" for i in range(1, 12)]

    def both(start: int) -> dict[FrontendKey, Frontend]:
        udp = {"port": 53, "protocol": Protocol.UDP, "forwarding": DSR}
        return merge(
            [
                frontend(*one[start : start + 10], **udp),
                frontend(*other[start : start + 10], vip="192.0.2.11", **udp),
            ]
        )

    with balancer(kb_lb_slots=200) as small:
        queries = [ETHER / IP(src=CLIENT, dst=VIP) / UDP(sport=port, dport=53) for port in range(1, 40)]
        small.state.apply(small.maps, both(0), CONFIG)
        small.state.set_next_hops(small.maps, dict.fromkeys(small.state.addresses(), HOP))
        writes = 0
        while cut_short(writes, lambda: small.state.apply(small.maps, both(1), CONFIG)):
            assert "10.0.2" not in {small.backend_of(query).rpartition(".")[0] for query in queries}
            small.state = LbState.adopt(small.maps)
            small.state.apply(small.maps, both(0), CONFIG)
            writes += 1
        assert writes > 4


def test_the_slot_space_is_reused(lb: Balancer) -> None:
    with balancer(kb_lb_slots=130) as small:
        for i in range(20):
            report = small.serve(frontend(*TEN[:9], f"10.0.1.{i}:80", forwarding=DSR))
            assert report.unserved == ()
            assert small.send(to_vip()).retval == TX


@pytest.mark.parametrize(
    ("sizes", "says"),
    [({"kb_lb_slots": 70}, "kb_lb_slots"), ({"kb_lb_be": 12}, "kb_lb_be"), ({"kb_lb_fe": 2}, "kb_lb_fe")],
)
def test_a_full_map_says_who_is_not_served_and_leaves_the_others_alone(
    sizes: dict[str, int], says: str
) -> None:
    with balancer(**sizes) as small:
        fits, too_much = frontend(*TEN, forwarding=DSR), frontend(*TEN, vip="192.0.2.11", owner="ServiceLB/b")
        report = small.serve(fits, too_much)
        ((key, owner, why),) = ((u.key, u.owner, u.why) for u in report.unserved)
        assert (key, owner) == (too_much.key, "ServiceLB/b")
        assert says in why
        assert small.send(to_vip()).retval == TX
        assert small.send(to_vip(vip="192.0.2.11")).retval == CONTINUE
        small.serve(too_much)
        small.collect()
        assert small.serve(too_much).unserved == ()
        assert small.send(to_vip(vip="192.0.2.11", flags="S")).retval == TX


def test_snat_without_an_address_is_refused_before_anything_is_written(lb: Balancer) -> None:
    with pytest.raises(LbModelError, match="SNAT needs a source address") as refused:
        lb.serve(frontend("10.0.0.1:80", owner="ServiceLB/web"), config=LbConfig())
    assert "ServiceLB/web" in refused.value.where
    assert contents(lb.maps["kb_lb_fe"]) == {}


def test_a_changed_setting_is_map_data(lb: Balancer) -> None:
    lb.serve(frontend("10.0.0.1:80", forwarding=DSR))
    lb.serve(frontend("10.0.0.1:80", forwarding=DSR), config=LbConfig(snat_address=bytes((10, 0, 0, 254))))
    assert IP(lb.send(to_vip()).data[14:]).src == "10.0.0.254"


def test_counters_by_backend_add_up_and_never_fall(lb: Balancer) -> None:
    lb.serve(frontend("10.0.0.1:80", "10.0.0.2:80", forwarding=DSR, owner="ServiceLB/web"))
    for sport in range(100):
        lb.send(to_vip(sport, "S"))
        lb.send(to_vip(sport, "A"))
    (web,) = stats.read(lb.maps, lb.state)
    assert web.owner == "ServiceLB/web"
    assert web.counts == (200, 200 * 40, 100)
    assert sum(b.counts.packets for b in web.backends) == 200

    lb.serve(frontend("10.0.0.1:80", forwarding=DSR))
    (draining,) = (b for b in stats.read(lb.maps, lb.state)[0].backends if b.draining)
    assert draining.counts.packets > 0
    for _ in range(2):
        lb.collect(after_seconds=9000)
    (web,) = stats.read(lb.maps, lb.state)
    assert web.counts == (200, 200 * 40, 100)
    assert [b.draining for b in web.backends] == [False]


def test_a_frontend_without_backends_gets_its_first_and_loses_its_last(lb: Balancer) -> None:
    lb.serve(frontend(forwarding=DSR))
    assert lb.refuses(to_vip(flags="S"))
    lb.serve(frontend("10.0.0.1:80", forwarding=DSR))
    assert lb.send(to_vip(flags="S")).retval == TX
    lb.serve(frontend(forwarding=DSR))
    assert lb.refuses(to_vip(flags="S"))


def test_corrupt_tables_are_redone_and_harm_no_packet(lb: Balancer) -> None:
    lb.serve(frontend(*TEN, forwarding=DSR))
    key = pack_key(frontend().key)
    wild = FrontendValue(0x7F000000, 1009, 0x7F000000, 1009, fingerprint=1, flags=1)
    lb.maps["kb_lb_fe"].update(key, wild.pack())
    assert lb.refuses(to_vip())
    lb.state = LbState.adopt(lb.maps)
    assert lb.serve(frontend(*TEN, forwarding=DSR)).changed == 1
    assert lb.send(to_vip()).retval == TX


def test_a_slot_that_names_no_backend_refuses(lb: Balancer) -> None:
    lb.serve(frontend(*TEN, forwarding=DSR))
    for number in range(10):
        lb.maps["kb_lb_be"].update(u32(number), bytes(32))
    assert lb.refuses(to_vip())
    assert lb.drops() == {"lb_no_backend": 1}


def test_tables_are_swapped_whole_under_load(lb: Balancer) -> None:
    halves = [merge([frontend(*half, forwarding=DSR)]) for half in (TEN[:5], TEN[5:])]
    lb.serve(frontend(*TEN, forwarding=DSR))  # makes all next hops known
    packets = [bytes(to_vip(sport)) for sport in range(100)]
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(lambda: Counter(lb.send(packet).retval for _ in range(50) for packet in packets))
        swaps = 0
        while not load.done() or not swaps:
            lb.state.apply(lb.maps, halves[swaps % 2], CONFIG)
            lb.collect()
            swaps += 1
    assert load.result() == {TX: 5000}
    assert lb.drops() == {}


def unit_of(*frontends: Frontend) -> LbUnit:
    """What the planner makes of these, as far as data goes."""
    code = Bundle(Toolchain.CLANG, "", "")
    return LbUnit((), (PacketCode(code, code),), None, "", (), merge(frontends), CONFIG, {}, Features())


def test_after_a_map_refused_a_write_the_next_pass_writes_what_is_missing() -> None:
    with balancer(kb_lb_fe=16) as lb:
        data, table = LbData(), lb.maps["kb_lb_fe"]
        data.apply(lb.maps, unit_of(frontend(*TEN, port=80)))
        room = table.info.max_entries - len(contents(table))
        foreign = [pack_key(FrontendKey(b"\0\0\0\1", number, Protocol.UDP)) for number in range(1, room + 1)]
        for key in foreign:  # by somebody else, so that kubebee counts on room that is not there
            table.update(key, FrontendValue().pack())
        wanted = unit_of(frontend(*TEN, port=80), frontend(*TEN, port=81))
        with pytest.raises(BpfError):
            data.apply(lb.maps, wanted)
        for key in foreign:
            table.delete(key)
        assert data.apply(lb.maps, wanted) == ()
        assert {pack_key(each) for each in wanted.frontends} <= contents(table).keys()


def test_only_addresses_that_came_are_handed_on(lb: Balancer) -> None:
    first, second = frontend("10.0.0.1:80", "10.0.0.2:80"), frontend("10.0.0.2:80", "10.0.0.3:80")
    lb.serve(first)
    one, two, three = (backend.address for backend in (*first.backends, second.backends[1]))
    assert lb.state.addresses() == {one, two}
    assert lb.state.take_arrived() == set()
    lb.serve(second)
    assert lb.state.take_arrived() == {three}
    assert lb.state.addresses() == {one, two, three}  # flows may still lead to the first
    lb.collect()
    assert lb.state.addresses() == {two, three}


def names_in(lb: Balancer) -> list[str]:
    return sorted(names.read(lb.maps["kb_lb_names"]).values())


def test_the_maps_say_what_their_frontends_are_called(lb: Balancer) -> None:
    web, dns = frontend("10.0.0.1:80", owner="ServiceLB/a:web"), frontend(port=53, owner="ServiceLB/a:dns")
    lb.serve(web, dns)
    assert names_in(lb) == ["ServiceLB/a:dns", "ServiceLB/a:web"]
    lb.state = LbState.adopt(lb.maps)
    assert {each.owner for each in stats.read(lb.maps, lb.state)} == {"ServiceLB/a:dns", "ServiceLB/a:web"}


def test_another_name_alone_is_written_and_changes_nothing_else(lb: Balancer) -> None:
    lb.serve(frontend("10.0.0.1:80", owner="ServiceLB/a:web"))
    assert lb.serve(frontend("10.0.0.1:80", owner="ServiceLB/b:web")) == SyncReport()
    assert names_in(lb) == ["ServiceLB/b:web"]
    assert [each.owner for each in stats.read(lb.maps, lb.state)] == ["ServiceLB/b:web"]


def test_a_name_goes_with_the_last_that_is_kept_of_its_frontend(lb: Balancer) -> None:
    lb.serve(frontend("10.0.0.1:80", owner="ServiceLB/a:web"))
    lb.serve()
    assert names_in(lb) == ["ServiceLB/a:web"], "its backend may still have flows"
    lb.collect()
    assert names_in(lb) == []


def test_a_name_that_is_too_long_is_cut(lb: Balancer) -> None:
    lb.serve(frontend("10.0.0.1:80", owner="Service/" + 300 * "x"))
    (name,) = names_in(lb)
    assert (len(name), name.endswith("x...")) == (names.BYTES - 1, True)
    assert lb.serve(frontend("10.0.0.1:80", owner="Service/" + 300 * "x")) == SyncReport()

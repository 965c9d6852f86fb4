"""Under DSR connections stay with their backend through every change of a table, and only those need an entry
that are in slots which changed."""

from __future__ import annotations

import dataclasses
import random
import time
from array import array
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from kubebee.lb import gc
from kubebee.lb.family import IPV4
from kubebee.lb.layout import DsrFlow, FrontendFlag, NextHop, u32
from kubebee.lb.model import Backend, Forwarding, Frontend, Protocol, format_address, parse_address
from kubebee.lb.reading import read_tables, shares, slot_words
from kubebee.lb.sync import LbState
from kubebee.lb.tables import rows_of
from support.cut_short import cut_short
from support.packet_loop import PacketLoop
from support.servicelb import (
    CLIENT,
    CONFIG,
    ETHER,
    HOOKS,
    HOP,
    LOOPBACK,
    VIP,
    Balancer,
    Hook,
    balancer,
    frontend,
)

pytestmark = pytest.mark.root

DSR = Forwarding.DSR_IPIP
LONG = 9000
"""Seconds after which slots that moved settle."""
IDLE = 7900
"""Seconds that a connection may be silent."""
VIP6 = "2001:db8:1::10"
Client = tuple[int, int]


@pytest.fixture
def lb() -> Iterator[Balancer]:
    with balancer() as loaded:
        yield loaded


def addresses(numbers: set[int], six: bool = False, weights: dict[int, int] | None = None) -> list[str]:
    text = "[2001:db8::{}]:80*{}" if six else "10.0.0.{}:80*{}"
    return [text.format(number, (weights or {}).get(number, 1)) for number in sorted(numbers)]


def ten(*without: int, more: tuple[int, ...] = ()) -> Frontend:
    return frontend(*addresses({*range(1, 11), *more} - {*without}), forwarding=DSR)


def packet(flags: str, six: bool = False) -> Packet:
    ip = IPv6(src="2001:db8:2::1", dst=VIP6) if six else IP(src=CLIENT, dst=VIP)
    return ETHER / ip / TCP(sport=1, dport=80, flags=flags)


class Traffic:
    """Connections of many clients, by their packets.

    Attributes:
        live: where each was opened to.
    """

    def __init__(self, lb: Balancer, six: bool = False) -> None:
        self.lb = lb
        self._loops = {
            flags: PacketLoop(lb.program, packet(flags, six), lb.hook.sent) for flags in ("S", "A", "FA", "R")
        }
        self.live: dict[Client, str] = {}

    def send(self, flags: str, clients: list[Client]) -> list[str]:
        return [format_address(to) if to else "" for to in self._loops[flags].backends(clients)]

    def open(self, clients: list[Client]) -> None:
        self.live.update(zip(clients, self.send("S", clients), strict=True))
        assert self.moved(clients) == []

    def close(self, clients: list[Client]) -> None:
        self.send("FA", clients)
        for client in clients:
            del self.live[client]

    def moved(self, clients: list[Client] | None = None) -> list[Client]:
        """Connections whose next packet goes elsewhere."""
        clients = list(self.live) if clients is None else clients
        return [c for c, to in zip(clients, self.send("A", clients), strict=True) if to != self.live[c]]

    def to(self, backend: str) -> list[Client]:
        return [client for client, address in self.live.items() if address == backend]


def clients(count: int, seed: int = 0) -> list[Client]:
    chance = random.Random(seed)
    return [(chance.getrandbits(32), chance.randrange(1024, 65536)) for _ in range(count)]


def entries(lb: Balancer) -> list[DsrFlow]:
    return [
        DsrFlow.unpack(value)
        for name in ("kb_lb_dsr_flow", "kb_lb_dsr_flow6")
        for _, value in lb.maps[name].items()
    ]


def serve(lb: Balancer, wanted: Frontend) -> None:
    assert lb.serve(wanted).unserved == ()


@pytest.mark.parametrize(("six", "count"), [(False, 100_000), (True, 10_000)], ids=["IPv4", "IPv6"])
def test_no_connection_moves_while_its_backend_lives(six: bool, count: int) -> None:
    """Backends come and go at random, also beyond where a table gets another size."""
    chance = random.Random(7)
    vip = VIP6 if six else VIP
    with balancer(six=six) as lb:
        traffic = Traffic(lb, six)
        members = set(range(1, 9))

        def change() -> None:
            for _ in range(chance.randrange(1, 4)):
                number = chance.randrange(1, 25)
                members.symmetric_difference_update({number} if members != {number} else ())
            serve(lb, frontend(*addresses(members, six), vip=vip, forwarding=DSR))

        change()
        traffic.open(clients(count))
        assert entries(lb) == []
        for turn in range(6):
            change()
            traffic.open(clients(count // 100, seed=turn + 1))
            few = chance.sample(list(traffic.live), count // 10)
            assert traffic.moved(few) == []
            lb.collect(after_seconds=chance.choice((0, 100)))
            traffic.close(chance.sample(list(traffic.live), count // 100))
        assert traffic.moved() == []


def test_new_hashes_move_only_as_far_as_they_must(lb: Balancer) -> None:
    """One in N, and at most 1% more: where the table keeps its size, whatever lies behind it."""
    traffic, members = Traffic(lb), set(range(1, 9))
    serve(lb, frontend(*addresses(members), forwarding=DSR))
    everybody, moved, may_move = clients(5000), 0, 0.0
    for number in (9, 3, 10, 5, 11):
        before = traffic.send("S", everybody)
        traffic.send("R", everybody)
        may_move += (1 / len(members | {number}) + 0.01) * len(everybody)
        members ^= {number}
        serve(lb, frontend(*addresses(members), forwarding=DSR))
        moved += sum(old != new for old, new in zip(before, traffic.send("S", everybody), strict=True))
        traffic.send("R", everybody)
    assert 0 < moved <= may_move


def test_steady_connections_need_no_entry(lb: Balancer) -> None:
    serve(lb, ten())
    traffic = Traffic(lb)
    traffic.open(clients(5000))
    assert traffic.moved() == []
    assert entries(lb) == []


def test_only_connections_in_slots_that_changed_get_one(lb: Balancer) -> None:
    serve(lb, ten())
    traffic = Traffic(lb)
    traffic.open(clients(5000))
    serve(lb, ten(3))
    assert traffic.moved() == []
    assert len(traffic.to("10.0.0.3")) <= len(entries(lb)) <= len(traffic.to("10.0.0.3")) + 150


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.name)
def test_a_removed_backend_keeps_its_connections_and_gets_no_new_ones(hook: Hook) -> None:
    with balancer(hook) as lb:
        serve(lb, ten())
        traffic = Traffic(lb)
        traffic.open(clients(2000))
        serve(lb, ten(3))
        assert traffic.moved(traffic.to("10.0.0.3")) == []
        assert "10.0.0.3" not in traffic.send("S", clients(2000, seed=1))
        lb.collect()
        assert traffic.moved() == []


@pytest.mark.parametrize("left", [(), (3,)], ids=["without any", "with one that takes none"])
def test_connections_stay_when_the_last_backend_goes(lb: Balancer, left: tuple[int, ...]) -> None:
    serve(lb, ten())
    traffic = Traffic(lb)
    traffic.open(clients(1000))
    serve(lb, frontend(*addresses(set(left), weights={3: 0}), forwarding=DSR))
    assert traffic.moved() == []
    assert all(lb.refuses(packet("S")) for _ in range(10))
    serve(lb, frontend(*addresses(set(left), weights={3: 0}), forwarding=DSR))
    serve(lb, ten(1, 2, 3))
    assert traffic.moved() == []
    assert "" not in traffic.send("S", clients(100, seed=2))


def test_a_backend_with_weight_0_keeps_its_connections_for_good(lb: Balancer) -> None:
    serve(lb, ten())
    traffic = Traffic(lb)
    traffic.open(clients(1000))
    serve(lb, frontend(*addresses(set(range(1, 11)), weights={3: 0}), forwarding=DSR))
    assert "10.0.0.3" not in traffic.send("S", clients(1000, seed=1))
    assert traffic.moved() == []
    for _ in range(3):
        lb.collect(after_seconds=7000)
    assert traffic.moved() == []


def test_connections_that_were_opened_in_between_stay_too(lb: Balancer) -> None:
    """The table goes back to what it was, and on to a third one."""
    traffic = Traffic(lb)
    for turn, wanted in enumerate((ten(), ten(more=(11,)), ten(), ten(1), ten(1, 2), ten())):
        serve(lb, wanted)
        traffic.open(clients(500, seed=turn))
        assert traffic.moved() == []
    lb.collect()
    assert traffic.moved() == []


def adopt(lb: Balancer) -> None:
    """As a loader that starts."""
    lb.state = LbState.adopt(lb.maps)


def moved_long_ago(lb: Balancer) -> None:
    """Make slots that moved as old as can be; connections stay as they are."""
    for served in lb.state.served.values():
        if served.moving is not None:
            row = u32(served.value.base // 16 + rows_of(served.value.size))
            size, *since = array("I", lb.maps["kb_lb_slots"].lookup(row) or b"")
            aged = array("I", [size, *(min(at, 1) for at in since)])
            lb.maps["kb_lb_slots"].update(row, aged.tobytes())
    adopt(lb)


def rows_in_use(lb: Balancer) -> int:
    space = LbState.adopt(lb.maps).families[IPV4]._space
    return space.used


def test_slots_settle_and_leave_nothing(lb: Balancer) -> None:
    serve(lb, ten())
    traffic, rows = Traffic(lb), rows_in_use(lb)
    traffic.open(clients(1000))
    serve(lb, ten(3))
    assert traffic.moved() == []
    assert entries(lb)
    assert rows_in_use(lb) == 2 * rows + 1
    traffic.close(list(traffic.live))
    freed = sum(lb.collect(after_seconds=LONG).backends_freed for _ in range(4))
    assert (freed, entries(lb), rows_in_use(lb)) == (1, [], rows)
    served = lb.state.served[ten().key]
    assert (served.moving, served.value.flags) == (None, FrontendFlag.DSR_IPIP)


def test_a_connection_with_an_entry_outlives_the_table_before(lb: Balancer) -> None:
    serve(lb, ten())
    traffic = Traffic(lb)
    traffic.open(clients(1000))
    serve(lb, ten(3))
    assert traffic.moved() == []
    made = len(entries(lb))
    for _ in range(3):
        moved_long_ago(lb)
        lb.collect(after_seconds=IDLE)
    moving = lb.state.served[ten().key].moving
    assert moving is not None
    assert (moving.named, moving.has_settled, len(entries(lb))) == (set(), True, made)
    assert traffic.moved() == []


def test_a_slot_in_which_nobody_needs_it_settles_though_others_do_not(lb: Balancer) -> None:
    serve(lb, ten())
    traffic = Traffic(lb)
    traffic.open(clients(1000))
    serve(lb, ten(3))
    (stays, *silent) = traffic.to("10.0.0.3")
    assert traffic.moved([stays]) == []
    for _ in range(3):
        moved_long_ago(lb)
        lb.collect(after_seconds=IDLE)
    assert traffic.moved([stays]) == []
    assert traffic.moved(silent) == silent
    assert len(entries(lb)) == 1, "who is in a slot that has settled gets no entry"


@pytest.mark.parametrize(("flags", "seconds"), [("FA", 125), ("R", 15)])
def test_what_a_client_ends_is_forgotten_soon(lb: Balancer, flags: str, seconds: int) -> None:
    serve(lb, ten())
    traffic = Traffic(lb)
    traffic.open(clients(300))
    serve(lb, ten(3))
    traffic.moved()
    traffic.send(flags, list(traffic.live))
    assert entries(lb)
    lb.collect(after_seconds=seconds)
    assert entries(lb) == []


def test_connections_that_nobody_completes_are_forgotten_in_a_minute(lb: Balancer) -> None:
    serve(lb, ten())
    serve(lb, ten(3))
    Traffic(lb).send("S", clients(300))
    assert entries(lb)
    lb.collect(after_seconds=65)
    assert entries(lb) == []


def test_ports_that_are_used_again_find_a_backend_that_takes_new_connections(lb: Balancer) -> None:
    serve(lb, ten())
    traffic = Traffic(lb)
    traffic.open(clients(500))
    serve(lb, ten(3))
    assert traffic.moved() == []
    again = traffic.to("10.0.0.3")
    assert "10.0.0.3" not in traffic.send("S", again)
    traffic.open(again)
    assert traffic.moved() == []


def test_a_full_flow_table_moves_nobody_and_refuses_who_could_not_stay() -> None:
    with balancer(kb_lb_dsr_flow=16) as lb:
        serve(lb, ten())
        traffic = Traffic(lb)
        traffic.open(clients(2000))
        serve(lb, ten(3, more=(11,)))
        assert traffic.moved() == []
        new = clients(500, seed=1)
        found = dict(zip(new, traffic.send("S", new), strict=True))
        refused = [client for client, to in found.items() if not to]
        assert lb.drops() == {"lb_flows": len(refused)}
        assert refused, "the backend of before is gone"
        traffic.live.update((client, to) for client, to in found.items() if to)
        assert "10.0.0.3" not in found.values()
        assert traffic.moved() == []


def test_a_flood_of_packets_that_open_nothing_leaves_a_short_table_soon() -> None:
    with balancer(kb_lb_dsr_flow=64) as lb:
        serve(lb, ten())
        traffic = Traffic(lb)
        traffic.open(clients(100))
        serve(lb, ten(3))
        its = traffic.to("10.0.0.3")
        assert traffic.moved(its) == []
        assert traffic.moved(its) == []
        traffic.send("A", clients(500, seed=1))
        assert len(entries(lb)) > 32
        lb.collect(after_seconds=65)
        assert len(entries(lb)) == len(its)
        assert traffic.moved(its) == []


def test_when_room_gets_short_slots_settle_sooner() -> None:
    with balancer(kb_lb_dsr_flow=64) as lb:
        serve(lb, ten())
        traffic = Traffic(lb)
        traffic.open(clients(2000))
        serve(lb, ten(3, more=(11,)))
        traffic.moved(list(traffic.live)[:1000])
        lb.collect(after_seconds=1300)
        lb.collect(after_seconds=1300)
        assert lb.state.served[ten().key].moving is None
        assert "" not in traffic.send("S", clients(500, seed=1))


def test_a_full_slot_array_moves_connections_rather_than_keep_a_backend_out() -> None:
    with balancer(kb_lb_slots=130) as lb:
        serve(lb, ten())
        traffic = Traffic(lb)
        traffic.open(clients(1000))
        report = lb.serve(ten(3))
        assert (report.unserved, report.crowded) == ((), 1)
        assert "10.0.0.3" not in traffic.send("S", clients(1000, seed=1))
        assert traffic.moved()


def test_a_drained_backends_connections_end() -> None:
    with balancer() as lb:
        serve(lb, ten())
        traffic = Traffic(lb)
        traffic.open(clients(1000))
        number = next(
            n for m, n in zip(*members_of(lb), strict=True) if format_address(m.address) == "10.0.0.3"
        )
        serve(lb, ten(3))
        its = traffic.to("10.0.0.3")
        assert traffic.moved(its[:20]) == []
        report = gc.collect(lb.maps, lb.state, time.monotonic_ns(), drained={IPV4: {number}})
        assert report.drained == 20
        assert traffic.moved() == its
        assert lb.collect().backends_freed == 1


def members_of(lb: Balancer) -> tuple[tuple[Backend, ...], array[int]]:
    served = lb.state.served[ten().key]
    return served.members, served.ids


def test_datagrams_follow_the_table_at_once_and_make_no_entry(lb: Balancer) -> None:
    """Nothing tells the first of them from later ones."""
    udp = dataclasses.replace(ten(), key=ten().key._replace(protocol=Protocol.UDP))
    serve(lb, udp)
    query = [ETHER / IP(src=CLIENT, dst=VIP) / UDP(sport=port, dport=80) for port in range(1000, 1300)]
    before = [lb.backend_of(each) for each in query]
    serve(lb, dataclasses.replace(udp, backends=ten(3).backends))
    after = [lb.backend_of(each) for each in query]
    assert "10.0.0.3" in before
    assert "10.0.0.3" not in after
    assert (entries(lb), lb.state.served[udp.key].moving) == ([], None)


def test_with_affinity_connections_stay_where_their_client_goes_elsewhere_now(lb: Balancer) -> None:
    """Not each connection of a client was opened when it had the backend that it has now."""
    affine = dataclasses.replace(ten(), affinity_seconds=10_800)
    traffic = Traffic(lb)
    some = [(client, port) for client, _ in clients(50) for port in range(2000, 2004)]
    serve(lb, ten())
    traffic.open(some[::2])
    serve(lb, affine)
    traffic.open(some[1::2])
    assert traffic.moved() == []
    for turn in range(3):
        serve(lb, dataclasses.replace(affine, backends=ten(turn + 1).backends))
        traffic.open([(client, 3000 + turn) for client, _ in clients(50)])
        assert traffic.moved() == []
        for key in list(lb.maps["kb_lb_affinity"].keys()):  # as if others had taken their place
            lb.maps["kb_lb_affinity"].delete(key)
        assert traffic.moved() == []
    serve(lb, ten(3))
    assert traffic.moved() == []
    lb.collect()
    serve(lb, ten(2, 3))
    assert traffic.moved() == []


def test_affinity_sends_a_client_that_is_known_to_its_backend_whatever_slots_say(lb: Balancer) -> None:
    affine = dataclasses.replace(ten(), affinity_seconds=10_800)
    serve(lb, affine)
    (one,) = set(Traffic(lb).send("S", [(1, port) for port in range(1000, 1100)]))
    serve(lb, dataclasses.replace(affine, backends=ten(more=(11, 12)).backends))
    assert set(Traffic(lb).send("S", [(1, port) for port in range(1000, 1200)])) == {one}


def test_connections_with_backends_here_and_elsewhere_stay_alike() -> None:
    """One on the node has translated flows, one elsewhere has not; a slot may go from one to the other."""
    local, far = parse_address("10.0.0.3"), parse_address("10.0.0.4")
    with balancer() as lb:
        serve(lb, ten())
        lb.state.set_next_hops(lb.maps, {local: NextHop.local(LOOPBACK + 1)})
        first = clients(500)
        gone = Traffic(lb)
        gone.open([c for c, to in zip(first, gone.send("S", first), strict=True) if to])
        here = [c for c in first if c not in gone.live]
        assert here
        assert lb.flows()[0] == len(here)
        serve(lb, ten(3, 4))
        lb.state.set_next_hops(lb.maps, {local: NextHop.local(LOOPBACK + 1), far: HOP})
        assert gone.moved() == []
        assert gone.send("A", here) == [""] * len(here), "they are still for the stack"
        assert lb.flows()[0] == len(here)


def test_what_is_kept_for_dsr_goes_when_a_frontend_is_translated(lb: Balancer) -> None:
    serve(lb, ten())
    serve(lb, ten(3))
    serve(lb, dataclasses.replace(ten(3), forwarding=Forwarding.SNAT))
    assert lb.state.served[ten().key].moving is None
    Traffic(lb).send("S", clients(200))
    assert entries(lb) == []


def test_code_that_has_no_flow_table_meets_no_flags(lb: Balancer) -> None:
    """As while a version without it goes on, because the newest fails."""
    maps = {name: each for name, each in lb.maps.items() if not name.startswith("kb_lb_dsr_flow")}
    lb.state = LbState.adopt(maps)
    for wanted in (ten(), ten(3)):
        lb.state.apply(maps, {wanted.key: wanted}, CONFIG)
    assert lb.state.served[ten().key].moving is None
    gc.collect(maps, lb.state, time.monotonic_ns())
    assert {word >> 28 for word in slot_words(maps, IPV4, *lb.state.served[ten().key].value[:2])} == {0}


def test_what_sockets_find_has_no_flags(lb: Balancer) -> None:
    serve(lb, ten())
    serve(lb, ten(3))
    (tables, *_) = read_tables(lb.maps)
    outside, inside = shares(lb.maps, tables, tables.shown(ten().key))
    assert outside == inside
    assert set(outside) == set(lb.state.served[ten().key].ids)


def test_a_restart_goes_on_where_it_was(lb: Balancer) -> None:
    traffic = Traffic(lb)
    for turn, wanted in enumerate((ten(), ten(more=(11,)), ten(1), ten(1, 2))):
        serve(lb, wanted)
        traffic.open(clients(500, seed=turn))
        adopt(lb)
        assert lb.serve(wanted).rows_written == 0
        assert traffic.moved() == []
    lb.collect()
    assert traffic.moved() == []
    serve(lb, frontend(*addresses(set(range(1, 22))), forwarding=DSR))
    adopt(lb)
    serve(lb, ten(5))
    assert traffic.moved() == []


def test_the_time_for_which_slots_keep_connections_goes_on_over_a_restart(lb: Balancer) -> None:
    serve(lb, ten())
    serve(lb, ten(3))
    lb.collect(after_seconds=5000)
    adopt(lb)
    lb.collect(after_seconds=LONG)
    lb.collect(after_seconds=LONG)
    assert lb.state.served[ten().key].moving is None


def test_killed_at_any_write_of_a_change_no_connection_moves() -> None:
    with balancer() as lb:
        traffic, writes = Traffic(lb), 0
        serve(lb, ten())
        traffic.open(clients(1000))
        wanted = [ten(3, more=(11,)), ten(more=(12,)), frontend(forwarding=DSR), ten(4)]
        for each in wanted:
            while cut_short(writes, lambda each=each: lb.state.apply(lb.maps, {each.key: each}, CONFIG)):
                assert traffic.moved() == []
                adopt(lb)
                writes += 1
            writes = 0
            assert traffic.moved() == []


def test_killed_at_any_write_of_a_collection_no_connection_moves() -> None:
    with balancer() as lb:
        traffic, writes = Traffic(lb), 0
        serve(lb, ten())
        traffic.open(clients(1000))
        serve(lb, ten(3, more=(11,)))
        assert traffic.moved() == []
        for _ in range(4):
            moved_long_ago(lb)
            while cut_short(writes, lambda: lb.collect(after_seconds=IDLE)):
                assert traffic.moved() == []
                adopt(lb)
                writes += 1
            writes = 0
        assert traffic.moved() == []
        assert lb.state.served[ten().key].moving is not None

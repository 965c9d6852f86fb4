"""A chain's code run once more over private maps: the same answers, and nothing live changes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP
from scapy.packet import Packet

from kubebee.lb.layout import FlowKey
from kubebee.lb.model import parse_address
from kubebee.loader import chain_object
from kubebee.loader.chain_object import ObjectUnreadableError
from kubebee.trace.live import LiveChain
from kubebee.trace.private import (
    READ_ONLY,
    WRITTEN,
    MapName,
    NotTheSameError,
    PrivateChain,
    ipv4_twin,
)
from support.live_chain import LB, POLICY, Live, live_chain
from support.servicelb import CLIENT, DROP, ETHER, LOOPBACK, PASS, TX, VIP, frontend

pytestmark = pytest.mark.root


@pytest.fixture
def live() -> Iterator[Live]:
    with live_chain() as made:
        yield made


def to(port: int, sport: int = 40000) -> Packet:
    return ETHER / IP(src=CLIENT, dst=VIP) / TCP(sport=sport, dport=port)


@pytest.mark.parametrize(("port", "verdict"), [(80, TX), (25, DROP), (81, PASS)])
def test_a_private_run_gives_the_live_programs_answer_and_changes_nothing(
    live: Live, port: int, verdict: int
) -> None:
    before = live.contents()
    with PrivateChain(live.chain) as private:
        ran = private.run(bytes(to(port)))
    assert live.contents() == before
    same = live.program.test_run(bytes(to(port)))
    assert (ran.retval, ran.data) == (same.retval, same.data)
    assert ran.retval == verdict
    assert live.contents() != before, "the live one counts"


def test_a_live_flow_is_found_once_it_is_copied_in(live: Live) -> None:
    live.program.test_run(bytes(to(80)))
    live.balancer.serve(frontend("10.0.0.9:8080"))
    acknowledging = bytes(ETHER / IP(src=CLIENT, dst=VIP) / TCP(sport=40000, dport=80, flags="A"))
    before = live.contents()
    key = FlowKey(parse_address(CLIENT), parse_address(VIP), 40000, 80, 6).pack()
    with PrivateChain(live.chain) as private:
        without = private.run(acknowledging).data
        private.clear()
        assert private.entries("kb_lb_flow") == {}
        assert private.seed("kb_lb_flow", key) == live.maps[MapName(LB, "kb_lb_flow")].lookup(key)
        copied = private.run(acknowledging).data
    assert live.contents() == before
    assert copied == live.program.test_run(acknowledging).data != without


def test_a_users_map_starts_out_as_the_live_one(live: Live) -> None:
    live.program.test_run(bytes(to(81)))
    live.program.test_run(bytes(to(81)))
    before = live.contents()
    with PrivateChain(live.chain) as private:
        assert private.run(bytes(to(81))).retval == DROP
        assert private.notes == []
    assert live.contents() == before


def test_counters_of_a_private_run_are_its_own(live: Live) -> None:
    live.program.test_run(bytes(to(25)))
    with PrivateChain(live.chain) as private:
        private.run(bytes(to(25)))
        dropped = private.maps(POLICY)["kb_drops"]
        assert sum(sum(value) for _, value in dropped.items()) == 1


def test_code_that_is_not_what_runs_is_not_run(live: Live) -> None:
    other = LiveChain("lo", LOOPBACK, live.chain.program_id, "0123456789abcdef", live.made_from)
    with pytest.raises(NotTheSameError, match="0123456789abcdef"), PrivateChain(other):
        pass


def test_every_map_of_the_built_in_stages_is_known_to_be_written_to_or_not(live: Live) -> None:
    builtin = {ipv4_twin(name.name) for name in live.maps if name.stage in (POLICY, LB)}
    assert builtin - READ_ONLY - WRITTEN - {".rodata"} == set()
    assert not READ_ONLY & WRITTEN


def test_an_object_comes_back_from_the_kernel_as_it_was(live: Live) -> None:
    with chain_object.keep(live.made_from) as kept:
        assert chain_object.read(kept) == live.made_from


def test_a_map_that_holds_something_else_is_no_object(live: Live) -> None:
    with pytest.raises(ObjectUnreadableError):
        chain_object.read(live.maps[MapName(LB, "kb_lb_cfg")])

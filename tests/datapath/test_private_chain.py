"""A chain's code run once more over private maps: the same answers, and nothing live changes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from scapy.layers.inet import IP, TCP
from scapy.packet import Packet

from kubebee.bpf.map import Map
from kubebee.bpf.object import BpfObject
from kubebee.bpf.program import Program
from kubebee.bpf.stage import stage_maps
from kubebee.lb.layout import FlowKey
from kubebee.lb.model import parse_address
from kubebee.loader import chain_object
from kubebee.loader.chain import Chain, Stage, dispatcher_bundle, link_chain, load_linked, new_run_map
from kubebee.loader.chain_object import ChainObject, ObjectUnreadableError
from kubebee.loader.unit import Rank
from kubebee.planner.plan import ResourceKey
from kubebee.policy.local import apply_local
from kubebee.policy.model import Action, L4Match, Policy, PolicyRule, PortRange
from kubebee.trace.private import READ_ONLY, WRITTEN, LiveChain, MapName, NotTheSameError, PrivateChain
from support import hostpolicy, servicelb
from support.clang import HEADERS, LICENSE, compile_c
from support.hostpolicy import Firewall
from support.servicelb import CLIENT, DROP, ETHER, LOOPBACK, PASS, TX, VIP, Balancer, frontend

pytestmark = pytest.mark.root

COUNTER = """
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

SEC("xdp")
int count(struct xdp_md *ctx)
{
	__u32 key = 7;
	__u64 one = 1, *seen = bpf_map_lookup_elem(&counts, &key);

	(void)ctx;
	if (seen)
		return ++*seen > 2 ? XDP_DROP : XDP_PASS;
	bpf_map_update_elem(&counts, &key, &one, BPF_ANY);
	return XDP_PASS;
}
"""
POLICY, LB, USER = range(3)


@dataclass
class Live:
    """A loaded chain of a firewall, a load balancer and a program of a user."""

    chain: LiveChain
    program: Program
    made_from: ChainObject
    firewall: Firewall
    balancer: Balancer
    counts: Map
    maps: dict[MapName, Map]

    def contents(self) -> dict[MapName, object]:
        """Every byte of every map."""
        return {name: sorted(each.items()) for name, each in self.maps.items() if each.info.key_size}


@contextlib.contextmanager
def loaded(elf: bytes, **sizes: int) -> Iterator[dict[str, Map]]:
    """The maps of an object; its XDP program is part of a chain and not loaded alone."""
    with BpfObject.open(elf, "live") as opened:
        for name, count in sizes.items():
            opened.maps[name].set_max_entries(count)
        for program in opened.programs.values():
            program.set_autoload(False)
        opened.load()
        yield {name: each.duplicate() for name, each in opened.maps.items() if name in stage_maps(elf, "x")}


@pytest.fixture
def live() -> Iterator[Live]:
    user = compile_c(HEADERS + COUNTER + LICENSE)
    elves = (hostpolicy.elf(), servicelb.elf(), user)
    sizes: tuple[dict[str, int], ...] = ({}, servicelb.SMALL, {})
    with contextlib.ExitStack() as stack:
        maps = [stack.enter_context(loaded(elf, **of)) for elf, of in zip(elves, sizes, strict=True)]
        runs = [new_run_map() for _ in elves]
        what = (
            (ResourceKey("HostPolicy", "edge"), "kb_hostpolicy", Rank.POLICY, None),
            (ResourceKey("ServiceLB", "_all"), "kb_servicelb", Rank.LB, None),
            (ResourceKey("BpfProgram", "counter"), "count", Rank.USER, 1 << PASS),
        )
        chain = Chain.of(
            [
                Stage(key, function, rank, 0, mask, elf, "hash", of, run, 1)
                for (key, function, rank, mask), elf, of, run in zip(what, elves, maps, runs, strict=True)
            ]
        )
        made_from = link_chain(chain, compile_c(dispatcher_bundle(chain.shape).source))
        program = stack.enter_context(load_linked(chain, made_from))
        named = {MapName(i, name): each for i, of in enumerate(maps) for name, each in of.items()}
        named |= {MapName(i, "kb_run"): each for i, each in enumerate(runs)}
        firewall, balancer = Firewall(program, maps[POLICY]), Balancer(program, maps[LB])
        balancer.serve(frontend("10.0.0.2:8080", "10.0.0.3:8080"))
        apply_local(maps[POLICY], [parse_address(VIP)])
        rule = PolicyRule("no-admin", Action.DENY, protocols=(L4Match(6, (PortRange(25, 25),)),))
        firewall.enforce(Policy("edge", 1, (rule,)))
        info = program.info
        at = LiveChain("lo", LOOPBACK, info.id, info.tag, made_from)
        yield Live(at, program, made_from, firewall, balancer, maps[USER]["counts"], named)


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
        assert private.entries(LB, "kb_lb_flow") == {}
        assert private.seed(LB, "kb_lb_flow", key) == live.maps[MapName(LB, "kb_lb_flow")].lookup(key)
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
        drops = private.map(POLICY, "kb_drops")
        assert drops is not None
        assert sum(sum(each[1]) for each in drops.items()) == 1
        assert private.map(POLICY, "kb_p_names") is not live.maps[MapName(POLICY, "kb_p_names")]


def test_code_that_is_not_what_runs_is_not_run(live: Live) -> None:
    other = LiveChain("lo", LOOPBACK, live.chain.program_id, "0123456789abcdef", live.made_from)
    with pytest.raises(NotTheSameError, match="0123456789abcdef"), PrivateChain(other):
        pass


def test_every_map_of_the_built_in_stages_is_known_to_be_written_to_or_not(live: Live) -> None:
    builtin = {name.name for name in live.maps if name.stage in (POLICY, LB)}
    assert builtin - READ_ONLY - WRITTEN - {".rodata"} == set()
    assert not READ_ONLY & WRITTEN


def test_an_object_comes_back_from_the_kernel_as_it_was(live: Live) -> None:
    with chain_object.keep(live.made_from) as kept:
        assert chain_object.read(kept) == live.made_from


def test_a_map_that_holds_something_else_is_no_object(live: Live) -> None:
    with pytest.raises(ObjectUnreadableError):
        chain_object.read(live.maps[MapName(LB, "kb_lb_cfg")])

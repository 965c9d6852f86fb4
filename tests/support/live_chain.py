"""A chain of a firewall, a load balancer and a program of a user, loaded as the loader does, on loopback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from kubebee.bpf.map import Map
from kubebee.bpf.object import BpfObject
from kubebee.bpf.program import Program
from kubebee.bpf.stage import stage_maps
from kubebee.lb.model import parse_address
from kubebee.loader.chain import Chain, Stage, dispatcher_bundle, link_chain, load_linked, new_run_map
from kubebee.loader.chain_object import ChainObject
from kubebee.loader.unit import Rank
from kubebee.planner.plan import ResourceKey
from kubebee.policy.local import apply_local
from kubebee.policy.model import Action, L4Match, Policy, PolicyRule, PortRange
from kubebee.trace.live import LiveChain
from kubebee.trace.private import MapName
from support import hostpolicy, servicelb
from support.clang import HEADERS, LICENSE, compile_c
from support.hostpolicy import Firewall
from support.servicelb import LOOPBACK, PASS, VIP, Balancer, frontend

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


@contextlib.contextmanager
def live_chain(**max_entries: int) -> Iterator[Live]:
    """All of it, with a frontend of two backends at VIP:80 and a rule that denies VIP:25.

    Args:
        max_entries: of the load balancer's maps, by name.
    """
    user = compile_c(HEADERS + COUNTER + LICENSE)
    elves = (hostpolicy.elf(), servicelb.elf(), user)
    sizes: tuple[dict[str, int], ...] = ({}, servicelb.SMALL | max_entries, {})
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
        rule = PolicyRule("no-mail", Action.DENY, protocols=(L4Match(6, (PortRange(25, 25),)),))
        firewall.enforce(Policy("edge", 1, (rule,)))
        info = program.info
        at = LiveChain("lo", LOOPBACK, info.id, info.tag, made_from)
        yield Live(at, program, made_from, firewall, balancer, maps[USER]["counts"], named)

"""ServiceLB as a stage of a chain does what it does alone."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP

from kubebee.bpf.linker import link
from kubebee.bpf.object import BpfObject
from kubebee.bpf.stage import as_stage, stage_maps, stage_symbol
from kubebee.lb.model import Forwarding
from support.clang import HEADERS, LICENSE, compile_c
from support.servicelb import CLIENT, ETHER, PASS, TX, VIP, Balancer, elf, frontend

pytestmark = pytest.mark.root

PREFIX = "lb"
SYMBOL = stage_symbol("kb_servicelb", PREFIX)
DISPATCHER = f"""
extern int {SYMBOL}(struct xdp_md *ctx);

SEC("xdp")
int chain(struct xdp_md *ctx)
{{
	int verdict = {SYMBOL}(ctx);

	return verdict == -1 ? XDP_PASS : verdict;
}}
"""


@pytest.mark.parametrize("forwarding", list(Forwarding))
def test_a_linked_stage_balances(forwarding: Forwarding) -> None:
    dispatcher = compile_c(HEADERS + DISPATCHER + LICENSE)
    linked = link([dispatcher, as_stage(elf(), "kb_servicelb", PREFIX)])
    names = stage_maps(elf(), PREFIX)
    with BpfObject.open(linked, "chain") as loaded:
        loaded.load()
        maps = {name: loaded.maps[names.get(name, name)].duplicate() for name in names}
        with loaded.programs["chain"].duplicate() as program:
            chain = Balancer(program, maps)
            chain.serve(frontend("10.0.0.1:80", forwarding=forwarding), frontend(port=81))
            verdicts = [
                chain.send(ETHER / IP(src=CLIENT, dst=VIP) / TCP(dport=port)).retval for port in (80, 81, 82)
            ]
            assert verdicts == [TX, TX, PASS]
        for opened in maps.values():
            opened.close()

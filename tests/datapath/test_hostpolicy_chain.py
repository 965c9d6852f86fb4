"""The HostPolicy stage linked behind a dispatcher decides as it does alone."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from kubebee.bpf.linker import link
from kubebee.bpf.object import BpfObject
from kubebee.bpf.stage import as_stage, stage_maps, stage_symbol
from kubebee.policy.local import apply_local
from kubebee.policy.model import Action, L4Match, Policy, PolicyRule, PortRange
from support.clang import HEADERS, LICENSE, compile_c
from support.hostpolicy import CONTINUE, DROP, Firewall, elf

pytestmark = pytest.mark.root

ETH = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
ENTRY, PREFIX = "kb_hostpolicy", "first"
SYMBOL = stage_symbol(ENTRY, PREFIX)
DISPATCHER = f"""
extern int {SYMBOL}(struct xdp_md *ctx);
SEC("xdp") int dispatcher(struct xdp_md *ctx) {{ return {SYMBOL}(ctx); }}
"""


@pytest.mark.parametrize("lb_reverse", [False, True], ids=["alone", "with the load balancer"])
def test_the_stage_decides_in_a_chain_as_alone(lb_reverse: bool) -> None:
    stage = elf(lb_reverse)
    chain = link([compile_c(HEADERS + DISPATCHER + LICENSE), as_stage(stage, ENTRY, PREFIX)])
    with BpfObject.open(chain, "chain") as loaded:
        loaded.load()
        names = stage_maps(stage, PREFIX).items()
        maps = {name: loaded.maps[linked].duplicate() for name, linked in names if name != ".rodata"}
        with loaded.programs["dispatcher"].duplicate() as program:
            host = Firewall(program, maps)
            apply_local(maps, [bytes((192, 0, 2, 1))])
            match = L4Match(6, (PortRange(80, 80),))
            host.enforce(Policy("p", 1, (PolicyRule("web", Action.DENY, protocols=(match,)),)))
            packets = [ETH / IP(src="198.51.100.9", dst="192.0.2.1") / TCP(dport=port) for port in (80, 81)]
            assert [host.verdict(packet) for packet in packets] == [DROP, CONTINUE]
            assert host.hits()["p/web"] == (1, 0)
        for opened in maps.values():
            opened.close()

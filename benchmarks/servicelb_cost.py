"""Nanoseconds that ServiceLB takes for a packet, by BPF_PROG_TEST_RUN. Prints JSON. Needs root and clang.

The stage is a subprogram of a wrapper that undoes its rewrite after each run, so that every run sees the
same packet. Calibration: an empty program, and the wrapper around a stage that does nothing. Figures include
the wrapper, as those of peers do. How it is measured, and what `quiet` means: bench/packets.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Packet, Raw

from bench.packets import TURNS, Case, measure
from bench.report import Report
from kubebee.bpf.object import BpfObject
from kubebee.lb.features import Features
from kubebee.lb.model import Forwarding, Protocol
from kubebee.render.environment import render_builtin
from support.clang import compile_c
from support.servicelb import CLIENT, CONTINUE, ETHER, TX, VIP, Balancer, frontend

HEADERS = 54  # Ethernet, IPv4, TCP

WRAPPER = """
const volatile int undo_head = 0; /* bytes to take off in front */
const volatile unsigned char headers[%(bytes)d] = {};

SEC("xdp")
int wrapper(struct xdp_md *ctx)
{
	int verdict = stage(ctx);
	unsigned char *data;
	int i;

	if (verdict == XDP_DROP || bpf_xdp_adjust_head(ctx, undo_head))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	if ((void *)(data + %(bytes)d) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	for (i = 0; i < %(bytes)d / 2; i++)
		((__u16 *)data)[i] = ((const volatile __u16 *)headers)[i];
	return verdict;
}
"""
STUB = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
static __noinline int stage(struct xdp_md *ctx) { return ctx->ingress_ifindex ? %(verdict)d : XDP_DROP; }
char LICENSE[] SEC("license") = "GPL";
"""


@dataclass(frozen=True)
class Traffic:
    """A packet, what must become of it, and how the wrapper undoes that.

    Attributes:
        grown: bytes that the stage put in front.
        restore: bytes at the start of the frame that it wrote to.
    """

    name: str
    packet: Packet
    verdict: int
    grown: int = 0
    restore: int = 14


def tcp(flags: str, port: int = 80) -> Packet:
    return ETHER / IP(src=CLIENT, dst=VIP) / TCP(sport=40000, dport=port, flags=flags) / Raw(bytes(10))


def udp(port: int) -> Packet:
    return ETHER / IP(src=CLIENT, dst=VIP) / UDP(sport=40000, dport=port) / Raw(bytes(22))


SERVED = (
    Traffic("dsr_ipip_tcp_established", tcp("A"), TX, grown=20),
    Traffic("dsr_ipip_tcp_syn", tcp("S"), TX, grown=20),
    Traffic("dsr_ipip_udp", udp(53), TX, grown=20),
    Traffic("snat_tcp_established", tcp("A", 81), TX, restore=HEADERS),
    Traffic("miss", tcp("A", 8080), CONTINUE),
)
CALIBRATION = (
    Traffic("wrapper", tcp("A"), TX),
    Traffic("wrapper_all_headers", tcp("A"), TX, restore=HEADERS),
)
AIMS = {"dsr_ipip_tcp_established": 45}


@contextmanager
def wrapped(stage: str, traffic: Traffic) -> Iterator[BpfObject]:
    """The stage in the wrapper, loaded."""
    with BpfObject.open(compile_c(stage + WRAPPER % {"bytes": traffic.restore}), "bench") as loaded:
        rodata = loaded.maps[".rodata"]
        value = (
            traffic.grown.to_bytes(4, sys.byteorder, signed=True) + bytes(traffic.packet)[: traffic.restore]
        )
        rodata.initial_value = value.ljust(len(rodata.initial_value), b"\0")
        loaded.load()
        yield loaded


def serve(loaded: BpfObject) -> None:
    """Give the stage three frontends of ten backends each."""
    dsr, snat = Forwarding.DSR_IPIP, Forwarding.SNAT
    backends = [f"10.0.0.{i}" for i in range(1, 11)]
    frontends = (
        frontend(*(f"{b}:80" for b in backends), forwarding=dsr),
        frontend(*(f"{b}:53" for b in backends), port=53, protocol=Protocol.UDP, forwarding=dsr),
        frontend(*(f"{b}:8080" for b in backends), port=81, forwarding=snat),
    )
    with ExitStack() as stack:
        maps = {name: stack.enter_context(item.duplicate()) for name, item in loaded.maps.items()}
        program = stack.enter_context(loaded.programs["wrapper"].duplicate())
        Balancer(program, maps).serve(*frontends)


def main() -> None:
    source = render_builtin("servicelb", Features(dsr=True).context() | {"tc": False, "six": False})
    stage = source.replace('SEC("xdp")\nint LB_V(kb_servicelb)(', "__noinline int stage(")
    assert stage != source

    report = Report("servicelb_cost", "DSR-IPIP of an established connection at most 45 ns a packet", TURNS)
    cases: dict[str, Case] = {}
    with ExitStack() as stack:
        for traffic in (*CALIBRATION, *SERVED):
            served = traffic in SERVED
            text = stage if served else STUB % {"verdict": traffic.verdict}
            loaded = stack.enter_context(wrapped(text, traffic))
            if served:
                serve(loaded)
            program = stack.enter_context(loaded.programs["wrapper"].duplicate())
            cases[traffic.name] = Case(program, bytes(traffic.packet), traffic.verdict)
        samples = measure(cases)
    samples.describe_machine(report)
    for name in cases:
        report.figures |= samples.figures(name, AIMS.get(name))
    report.print()


if __name__ == "__main__":
    main()

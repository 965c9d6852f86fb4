"""Nanoseconds that ServiceLB takes for a packet, by BPF_PROG_TEST_RUN. Prints JSON. Needs root and clang.

The stage is a subprogram of a wrapper that undoes its rewrite after each run, so that every run sees the
same packet. Calibration: an empty program, and the wrapper around a stage that does nothing. Each
figure is the median of 9 runs of a million packets, wrapper included, as figures of peers are quoted.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Packet, Raw

from bench.report import Figure, Report
from kubebee.bpf.object import BpfObject
from kubebee.lb.model import Forwarding, Protocol
from kubebee.render.environment import render_builtin
from support.clang import compile_c
from support.servicelb import CLIENT, CONTINUE, ETHER, TX, VIP, Balancer, frontend

RUNS = 9
REPEAT = 1_000_000
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
EMPTY = STUB.replace("static __noinline int stage", 'SEC("xdp") int wrapper')


@dataclass(frozen=True)
class Case:
    """A packet, what must become of it, and how to undo that."""

    name: str
    packet: Packet
    verdict: int
    grown: int = 0
    restore: int = 14


def tcp(flags: str, port: int = 80) -> Packet:
    return ETHER / IP(src=CLIENT, dst=VIP) / TCP(sport=40000, dport=port, flags=flags) / Raw(bytes(10))


def udp(port: int) -> Packet:
    return ETHER / IP(src=CLIENT, dst=VIP) / UDP(sport=40000, dport=port) / Raw(bytes(22))


CASES = (
    Case("dsr_ipip_tcp_established", tcp("A"), TX, grown=20),
    Case("dsr_ipip_tcp_syn", tcp("S"), TX, grown=20),
    Case("dsr_ipip_udp", udp(53), TX, grown=20),
    Case("snat_tcp_established", tcp("A", 81), TX, restore=HEADERS),
    Case("miss", tcp("A", 8080), CONTINUE),
)


AIMS = {"dsr_ipip_tcp_established": 45}


def measure(loaded: BpfObject, case: Case) -> Figure:
    with loaded.programs["wrapper"].duplicate() as program:
        frame = bytes(case.packet)
        runs = [program.test_run(frame, repeat=REPEAT) for _ in range(RUNS)]
    assert all(run.retval == case.verdict for run in runs), (case.name, runs[0].retval)
    return Figure("ns", [run.duration_ns for run in runs], AIMS.get(case.name))


def open_wrapped(stage: str, case: Case) -> BpfObject:
    loaded = BpfObject.open(compile_c(stage + WRAPPER % {"bytes": case.restore}), "bench")
    rodata = loaded.maps[".rodata"]
    value = case.grown.to_bytes(4, sys.byteorder, signed=True) + bytes(case.packet)[: case.restore]
    rodata.initial_value = value.ljust(len(rodata.initial_value), b"\0")
    loaded.load()
    return loaded


def main() -> None:
    source = render_builtin("servicelb", {"dsr": True, "snat": True})
    stage = source.replace('SEC("xdp")\nint kb_servicelb(', "__noinline int stage(")
    assert stage != source

    dsr, snat = Forwarding.DSR_IPIP, Forwarding.SNAT
    backends = [f"10.0.0.{i}" for i in range(1, 11)]
    frontends = (
        frontend(*(f"{b}:80" for b in backends), forwarding=dsr),
        frontend(*(f"{b}:53" for b in backends), port=53, protocol=Protocol.UDP, forwarding=dsr),
        frontend(*(f"{b}:8080" for b in backends), port=81, forwarding=snat),
    )
    report = Report("servicelb_cost", "DSR-IPIP of an established connection at most 45 ns a packet", RUNS)
    empty = Case("empty", tcp("A"), TX)
    with BpfObject.open(compile_c(EMPTY % {"verdict": TX}), "bench") as loaded:
        loaded.load()
        report.figures["empty"] = measure(loaded, empty)
    for name, restore in (("wrapper", 14), ("wrapper_all_headers", HEADERS)):
        case = Case(name, tcp("A"), TX, restore=restore)
        with open_wrapped(STUB % {"verdict": TX}, case) as loaded:
            report.figures[name] = measure(loaded, case)
    for case in CASES:
        with open_wrapped(stage, case) as loaded:
            maps = {name: item.duplicate() for name, item in loaded.maps.items()}
            with loaded.programs["wrapper"].duplicate() as program:
                Balancer(program, maps).serve(*frontends)
            report.figures[case.name] = measure(loaded, case)
            for opened in maps.values():
                opened.close()
    report.print()


if __name__ == "__main__":
    main()

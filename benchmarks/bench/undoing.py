"""A wrapper around a stage at XDP that undoes its rewrite after each run: one packet serves for many."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from scapy.packet import Packet

from kubebee.bpf.object import BpfObject
from support.clang import compile_c

_WRAPPER = """
#define BYTES %(bytes)d
#define FLOW_BITS %(flow_bits)d
#define SADDR_END 30 /* of an untagged IPv4 frame */
#define SPORT 34

const volatile int undo_head = 0; /* bytes to take off in front, or to put there */
const volatile unsigned char headers[BYTES] = {};

#if FLOW_BITS
static __u32 turn;

/* The next of 1 << FLOW_BITS clients: neighbours by number are far from each other in time. */
static __always_inline void next_flow(unsigned char *data)
{
	__u32 flow = ++turn * 0x9e3779b1 >> (32 - FLOW_BITS);

	*(__u16 *)(data + SADDR_END - 2) ^= flow >> 16;
	*(__u16 *)(data + SPORT) ^= flow;
}
#endif

SEC("xdp")
int wrapper(struct xdp_md *ctx)
{
	int verdict = stage(ctx);
	unsigned char *data;
	int i;

	if (verdict != XDP_DROP && bpf_xdp_adjust_head(ctx, undo_head))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	if ((void *)(data + BYTES) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
#pragma unroll /* else clang leaves a loop of some lengths, which takes three times as long */
	for (i = 0; i < BYTES / 2; i++)
		((__u16 *)data)[i] = ((const volatile __u16 *)headers)[i];
#if FLOW_BITS
	next_flow(data);
#endif
	return verdict;
}

SEC("xdp")
int once(struct xdp_md *ctx)
{
	return stage(ctx);
}
"""
_EMPTY = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
static __noinline int stage(struct xdp_md *ctx) { return ctx->ingress_ifindex ? %d : XDP_DROP; }
char LICENSE[] SEC("license") = "GPL";
"""


@dataclass(frozen=True)
class Traffic:
    """A packet, what must become of it, and how the wrapper undoes that.

    Attributes:
        name: of the case.
        packet: Ethernet without tags.
        verdict: of the stage.
        grown: bytes that the stage put in front, or, below 0, took off.
        restore: bytes at the start of the frame that it wrote to.
        flow_bits: the runs go through 2 ** so many connections over IPv4, which differ in the port and,
            beyond 16, in the client's address; 0: all have one.
    """

    name: str
    packet: Packet
    verdict: int
    grown: int = 0
    restore: int = 14
    flow_bits: int = 0


def empty_stage(verdict: int) -> str:
    """The C source of a stage that does nothing."""
    return _EMPTY % verdict


@contextmanager
def wrapped(stage: str, traffic: Traffic) -> Iterator[BpfObject]:
    """Load the stage in the wrapper, and as the program `once` by itself.

    Args:
        stage: C source with `static __noinline int stage(struct xdp_md *)`.
        traffic: what the wrapper is for.
    """
    source = stage + _WRAPPER % {"bytes": traffic.restore, "flow_bits": traffic.flow_bits}
    with BpfObject.open(compile_c(source), "bench") as loaded:
        rodata = loaded.maps[".rodata"]
        undo_head = traffic.grown.to_bytes(4, sys.byteorder, signed=True)
        value = undo_head + bytes(traffic.packet)[: traffic.restore]
        rodata.initial_value = value.ljust(len(rodata.initial_value), b"\0")
        loaded.load()
        yield loaded

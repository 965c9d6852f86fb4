// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Pings of frontends' addresses. Those of the node itself are the kernel's to answer. */
#ifndef KB_LB_ECHO_H
#define KB_LB_ECHO_H

#include "lb_hop.h"
#include "lb_reply.h"

static __always_inline bool lb_is_ours(struct kb_ctx *ctx, __be32 source, __be32 address)
{
	struct bpf_fib_lookup fib = { .family = LB_AF_INET };

	fib.ifindex = kb_ctx_ifindex(ctx);
	fib.ipv4_src = source;
	fib.ipv4_dst = address;
	return bpf_fib_lookup(ctx, &fib, sizeof(fib), 0) == BPF_FIB_LKUP_RET_NOT_FWDED;
}

static __noinline int lb_echo(struct kb_ctx *ctx)
{
	struct kb_icmp icmp;
	struct iphdr ip;
	__be32 client;
	__u32 at;

	if (!lb_reply_to(ctx, &ip) || lb_is_ours(ctx, ip.saddr, ip.daddr))
		return KB_CONTINUE;
	at = LB_L3_AT + ip.ihl * 4;
	if (!lb_may_reply() || !kb_ctx_load(ctx, at, &icmp, sizeof(icmp)))
		return KB_DROPPED;
	icmp.type = LB_ICMP_ECHO_REPLY;
	icmp.checksum = lb_csum_apply(icmp.checksum, lb_sum_replace16(0, bpf_htons(LB_ICMP_ECHO << 8), 0));
	client = ip.saddr; /* exchanged addresses sum up to the same */
	ip.saddr = ip.daddr;
	ip.daddr = client;
	if (!kb_ctx_store(ctx, LB_L3_AT, &ip, sizeof(ip)) || !kb_ctx_store(ctx, at, &icmp, sizeof(icmp)))
		return KB_DROPPED;
	return lb_turn_round(ctx);
}

#endif

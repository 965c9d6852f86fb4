// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Pings of frontends' addresses. Those of the node itself are the kernel's to answer. */
#ifndef KB_LB_ECHO_H
#define KB_LB_ECHO_H

#include "lb_hop.h"
#include "lb_reply.h"

/*
 * Not inline: few packets ask, and the stack is small. No source is asked with: of a link-local one, or a group's, the
 * kernel forwards nothing, and would say so of any address.
 */
static __noinline bool lb_is_own(struct kb_ctx *ctx, const lb_addr *address)
{
	struct bpf_fib_lookup fib = { .family = LB_AF };

	fib.ifindex = kb_ctx_ifindex(ctx);
	__builtin_memcpy(fib.ipv6_dst, address, sizeof(*address)); /* a union with ipv4_dst */
	return bpf_fib_lookup(ctx, &fib, sizeof(fib), 0) == BPF_FIB_LKUP_RET_NOT_FWDED;
}

/* Whether a packet is for an address of this node itself. */
static __always_inline bool lb_is_ours(struct kb_ctx *ctx, const lb_ip *ip)
{
	return lb_is_own(ctx, lb_to(ip));
}

static __noinline int lb_echo(struct kb_ctx *ctx)
{
	struct kb_icmp icmp;
	lb_addr client;
	__u32 at;
	lb_ip ip;

	if (!lb_reply_to(ctx, &ip) || lb_is_ours(ctx, &ip))
		return KB_CONTINUE;
#ifdef KB_LB_V6
	at = LB_L3_AT + sizeof(ip);
	if (ip.nexthdr != IPPROTO_ICMPV6)
		return KB_CONTINUE;
#else
	at = LB_L3_AT + ip.ihl * 4;
#endif
	if (!lb_may_reply() || !kb_ctx_load(ctx, at, &icmp, sizeof(icmp)))
		return KB_DROPPED;
	icmp.checksum = lb_csum_apply(icmp.checksum, lb_sum_replace16(0, bpf_htons(LB_ICMP_ECHO << 8),
								      bpf_htons(LB_ICMP_ECHO_REPLY << 8)));
	icmp.type = LB_ICMP_ECHO_REPLY;
	client = *lb_from(&ip); /* exchanged addresses sum up to the same */
	__builtin_memcpy(&ip.saddr, lb_to(&ip), sizeof(client));
	__builtin_memcpy(&ip.daddr, &client, sizeof(client));
	if (!kb_ctx_store(ctx, LB_L3_AT, &ip, sizeof(ip)) || !kb_ctx_store(ctx, at, &icmp, sizeof(icmp)))
		return KB_DROPPED;
	return lb_turn_round(ctx);
}

#endif

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * ICMP errors about translated flows (RFC 792, RFC 4443, RFC 5508): the packet that they quote is translated back,
 * and they go on to the host that sent it. All of this is rare, so it works by offsets, alike at both hooks.
 */
#ifndef KB_LB_ICMP_H
#define KB_LB_ICMP_H

#include "lb_key.h"
#include "lb_nat.h"
#include "lb_reply.h"
#include "lb_scratch.h"

static __always_inline __u32 lb_check_at(const struct lb_quote *quote)
{
	return quote->l4_at + (quote->protocol == IPPROTO_TCP ? LB_TCP_CHECK_AT : LB_UDP_CHECK_AT);
}

#ifdef KB_LB_V6

static __always_inline __u32 lb_ip_len(const lb_ip *ip)
{
	return bpf_ntohs(ip->payload_len) + sizeof(*ip);
}

/* Neither the error nor what it quotes has extension headers; those go on untouched. */
static __always_inline bool lb_quote_find(struct kb_ctx *ctx, struct lb_quote *quote)
{
	quote->icmp_at = LB_L3_AT + sizeof(quote->outer);
	quote->inner_at = quote->icmp_at + sizeof(quote->icmp);
	quote->l4_at = quote->inner_at + sizeof(quote->inner);
	if (quote->outer.nexthdr != IPPROTO_ICMPV6 ||
	    !kb_ctx_load(ctx, quote->inner_at, &quote->inner, sizeof(quote->inner)))
		return false;
	quote->protocol = quote->inner.nexthdr;
	return quote->inner.version == 6;
}

#else

static __always_inline __u32 lb_ip_len(const lb_ip *ip)
{
	return bpf_ntohs(ip->tot_len);
}

static __always_inline bool lb_quote_find(struct kb_ctx *ctx, struct lb_quote *quote)
{
	quote->icmp_at = LB_L3_AT + quote->outer.ihl * 4;
	quote->inner_at = quote->icmp_at + sizeof(quote->icmp);
	if (!kb_ctx_load(ctx, quote->inner_at, &quote->inner, sizeof(quote->inner)))
		return false;
	quote->l4_at = quote->inner_at + quote->inner.ihl * 4;
	quote->protocol = quote->inner.protocol;
	return quote->inner.version == 4 && quote->inner.ihl >= 5 &&
	       !(quote->inner.frag_off & bpf_htons(KB_IP_OFFSET));
}

#endif

/* What lies behind the end of the error, in the padding of a short frame, is not quoted. */
static __always_inline bool lb_quote_read(struct kb_ctx *ctx, struct lb_quote *quote)
{
	__u32 end;

	if (!kb_ctx_load(ctx, LB_L3_AT, &quote->outer, sizeof(quote->outer)) || !lb_quote_find(ctx, quote))
		return false;
	if (quote->protocol != IPPROTO_TCP && quote->protocol != IPPROTO_UDP)
		return false;
	end = LB_L3_AT + lb_ip_len(&quote->outer);
	if (quote->l4_at + sizeof(quote->ports) > end ||
	    !kb_ctx_load(ctx, quote->icmp_at, &quote->icmp, sizeof(quote->icmp)) ||
	    !kb_ctx_load(ctx, quote->l4_at, quote->ports, sizeof(quote->ports)))
		return false;
	/* Only 8 bytes need be quoted: TCP's checksum may be missing; UDP's 0 is none. */
	quote->has_check = lb_check_at(quote) + sizeof(quote->check) <= end &&
			   kb_ctx_load(ctx, lb_check_at(quote), &quote->check, sizeof(quote->check)) &&
			   (quote->check || quote->protocol == IPPROTO_TCP);
	return true;
}

/* The quoted packet was `quoted`; the error goes between the ends of `to`, with `hops` off its TTL. */
static __always_inline bool lb_quote_rewrite(struct kb_ctx *ctx, struct lb_quote *quote, const struct lb_tuple *quoted,
					     const struct lb_tuple *to, __u8 hops)
{
	__be16 ports[2] = { quoted->sport, quoted->dport };
	lb_sum diff = 0, addresses, all;
	__u16 check;

	diff = lb_sum_replace16(diff, quote->ports[0], ports[0]);
	diff = lb_sum_replace16(diff, quote->ports[1], ports[1]);
	addresses = lb_readdress(&quote->inner, quoted, 0);
	all = diff;
	if (LB_AF != 2) /* IPv4's header has a checksum of its own: what changes in it sums up to nothing */
		all += addresses;
	if (quote->has_check) {
		check = lb_csum_apply(quote->check, addresses + diff);
		if (!check && quote->protocol == IPPROTO_UDP) /* as the packet was sent: 0 would be none (RFC 768) */
			check = 0xffff;
		all = lb_sum_replace16(all, quote->check, check);
		if (!kb_ctx_store(ctx, lb_check_at(quote), &check, sizeof(check)))
			return false;
	}
	addresses = lb_readdress(&quote->outer, to, hops);
	if (LB_AF != 2) /* ICMPv6 has a pseudo header */
		all += addresses;
	quote->icmp.checksum = lb_csum_apply(quote->icmp.checksum, all);
	return kb_ctx_store(ctx, LB_L3_AT, &quote->outer, sizeof(quote->outer)) &&
	       kb_ctx_store(ctx, quote->icmp_at, &quote->icmp, sizeof(quote->icmp)) &&
	       kb_ctx_store(ctx, quote->inner_at, &quote->inner, sizeof(quote->inner)) &&
	       kb_ctx_store(ctx, quote->l4_at, ports, sizeof(ports));
}

/* The key of the other direction's entry: what is quoted, turned round. */
static __always_inline void lb_quote_key(struct LB_V(kb_lb_flow_key) *key, const struct lb_quote *quote)
{
	lb_flow_key(key, lb_to(&quote->inner), lb_from(&quote->inner), quote->ports[1], quote->ports[0],
		    quote->protocol);
}

/* About a request that was translated: what it was, and the ends of the error about it. */
static __always_inline void lb_quote_request(const struct LB_V(kb_lb_rev) *reverse, struct lb_tuple *quoted,
					     struct lb_tuple *to)
{
	quoted->saddr = reverse->client;
	quoted->daddr = reverse->vip;
	quoted->sport = reverse->client_port;
	quoted->dport = reverse->vip_port;
	to->saddr = reverse->vip;
	to->daddr = reverse->client;
}

/* Sends an error on by the kernel's routes. */
static __always_inline int lb_icmp_send(struct kb_ctx *ctx, struct lb_quote *quote, const struct lb_tuple *quoted,
					const struct lb_tuple *to)
{
	struct lb_route route = {
		.saddr = to->saddr,
		.daddr = to->daddr,
		.protocol = LB_ICMP,
	};
	struct lb_hop hop;
	int error;

	if (LB_TTL(&quote->outer) <= 1)
		return kb_drop(KB_DROP_LB_TTL);
	error = lb_route(ctx, &route, &hop);
	if (error > 0)
		return kb_drop(error);
	if (lb_left_to_tc(error))
		return KB_CONTINUE;
	if (!lb_quote_rewrite(ctx, quote, quoted, to, 1))
		return kb_drop(KB_DROP_TRUNCATED);
	return lb_leave_by(ctx, &hop, error);
}

/* About an answer: to the backend that gave it. */
static __always_inline int lb_icmp_to_backend(struct kb_ctx *ctx, struct lb_quote *quote,
					      const struct LB_V(kb_lb_flow) *flow, const lb_addr *client)
{
	const struct LB_V(kb_lb_backend) *backend = LB_V(lb_backend)(flow->backend);
	struct lb_tuple quoted = {}, to = {};

	if (!backend)
		return KB_CONTINUE;
	quoted.saddr = backend->address;
	quoted.daddr = flow->nat_address;
	quoted.sport = backend->port;
	quoted.dport = flow->nat_port;
	to.daddr = backend->address;
	if (LB_V(lb_same)(&flow->nat_address, client)) {
		to.saddr = *lb_from(&quote->outer);
		return lb_quote_rewrite(ctx, quote, &quoted, &to, 0) ? KB_UP : kb_drop(KB_DROP_TRUNCATED);
	}
	to.saddr = flow->nat_address;
	return lb_icmp_send(ctx, quote, &quoted, &to);
}

/* An error that comes in, or KB_CONTINUE. */
static __noinline int lb_icmp_in(struct kb_ctx *ctx)
{
	struct lb_tuple quoted = {}, to = {};
	struct LB_V(kb_lb_flow_key) key;
	struct LB_V(kb_lb_flow) *flow;
	struct LB_V(kb_lb_rev) *reverse;
	struct LB_V(lb_scratch) *scratch;
	struct lb_quote *quote;

	if (!lb_scratch(&scratch))
		return KB_CONTINUE;
	quote = &scratch->quote;
	if (!lb_quote_read(ctx, quote) || !LB_V(lb_same)(lb_to(&quote->outer), lb_from(&quote->inner)))
		return KB_CONTINUE;
	lb_quote_key(&key, quote);
	reverse = bpf_map_lookup_elem(&LB_V(kb_lb_rev), &key);
	if (reverse && !LB_V(lb_same)(&reverse->client, &key.daddr)) {
		lb_quote_request(reverse, &quoted, &to);
		return lb_icmp_send(ctx, quote, &quoted, &to);
	}
	flow = bpf_map_lookup_elem(&LB_V(kb_lb_flow), &key);
	return flow ? lb_icmp_to_backend(ctx, quote, flow, &key.saddr) : KB_CONTINUE;
}

#ifdef KB_TC

/* An error that this node or a pod of it sends to a client. */
static __noinline int lb_icmp_out(struct kb_ctx *ctx)
{
	struct lb_tuple quoted = {}, to = {};
	struct LB_V(kb_lb_flow_key) key;
	struct LB_V(kb_lb_rev) *reverse;
	struct LB_V(lb_scratch) *scratch;
	struct lb_quote *quote;

	if (!lb_scratch(&scratch))
		return KB_CONTINUE;
	quote = &scratch->quote;
	if (!lb_quote_read(ctx, quote))
		return KB_CONTINUE;
	lb_quote_key(&key, quote);
	reverse = bpf_map_lookup_elem(&LB_V(kb_lb_rev), &key);
	if (!reverse)
		return KB_CONTINUE;
	lb_quote_request(reverse, &quoted, &to);
	to.daddr = *lb_to(&quote->outer);
	return lb_quote_rewrite(ctx, quote, &quoted, &to, 0) ? KB_CONTINUE : kb_drop(KB_DROP_TRUNCATED);
}

#endif

#endif

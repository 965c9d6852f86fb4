// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * ICMP errors about translated flows (RFC 792, RFC 5508): the packet that they quote is translated back, and
 * they go on to the host that sent it. All of this is rare, so it works by offsets, alike at both hooks.
 */
#ifndef KB_LB_ICMP_H
#define KB_LB_ICMP_H

#include "lb_nat.h"
#include "lb_reply.h"

/* An error and the start of what it quotes. Where the parts begin depends on IP options. */
struct lb_quote {
	struct iphdr outer;
	struct kb_icmp icmp;
	struct iphdr inner;
	__be16 ports[2];
	__u16 check; /* of the quoted transport header */
	bool has_check;
	__u32 icmp_at;
	__u32 inner_at;
	__u32 l4_at;
};

static __always_inline __u32 lb_check_at(const struct lb_quote *quote)
{
	return quote->l4_at + (quote->inner.protocol == IPPROTO_TCP ? LB_TCP_CHECK_AT : LB_UDP_CHECK_AT);
}

static __always_inline bool lb_quote_read(struct kb_ctx *ctx, struct lb_quote *quote)
{
	if (!kb_ctx_load(ctx, LB_L3_AT, &quote->outer, sizeof(quote->outer)))
		return false;
	quote->icmp_at = LB_L3_AT + quote->outer.ihl * 4;
	quote->inner_at = quote->icmp_at + sizeof(quote->icmp);
	if (!kb_ctx_load(ctx, quote->icmp_at, &quote->icmp, sizeof(quote->icmp)) ||
	    !kb_ctx_load(ctx, quote->inner_at, &quote->inner, sizeof(quote->inner)))
		return false;
	if (quote->inner.version != 4 || quote->inner.ihl < 5 ||
	    (quote->inner.protocol != IPPROTO_TCP && quote->inner.protocol != IPPROTO_UDP) ||
	    quote->inner.frag_off & bpf_htons(KB_IP_OFFSET))
		return false;
	quote->l4_at = quote->inner_at + quote->inner.ihl * 4;
	if (!kb_ctx_load(ctx, quote->l4_at, quote->ports, sizeof(quote->ports)))
		return false;
	/* Only 8 bytes need be quoted: TCP's checksum may be missing; UDP's 0 is none. */
	quote->has_check = kb_ctx_load(ctx, lb_check_at(quote), &quote->check, sizeof(quote->check)) &&
			   (quote->check || quote->inner.protocol == IPPROTO_TCP);
	return true;
}

/* The quoted packet was one of these; it gets other ends, the error new ones of its own and `hops` off its TTL. */
static __always_inline bool lb_quote_rewrite(struct kb_ctx *ctx, struct lb_quote *quote, const struct lb_tuple *quoted,
					     __be32 saddr, __be32 daddr, __u8 hops)
{
	__be16 ports[2] = { quoted->sport, quoted->dport };
	struct lb_tuple ends = { .saddr = saddr, .daddr = daddr };
	lb_sum addresses = 0, diff = 0, all;
	__u16 check;

	addresses = lb_sum_replace32(addresses, quote->inner.saddr, quoted->saddr);
	addresses = lb_sum_replace32(addresses, quote->inner.daddr, quoted->daddr);
	diff = lb_sum_replace16(diff, quote->ports[0], ports[0]);
	diff = lb_sum_replace16(diff, quote->ports[1], ports[1]);

	check = lb_csum_apply(quote->inner.check, addresses);
	all = lb_sum_replace16(addresses + diff, quote->inner.check, check);
	quote->inner.check = check;
	quote->inner.saddr = quoted->saddr;
	quote->inner.daddr = quoted->daddr;
	if (quote->has_check) {
		check = lb_csum_apply(quote->check, addresses + diff);
		all = lb_sum_replace16(all, quote->check, check);
		if (!kb_ctx_store(ctx, lb_check_at(quote), &check, sizeof(check)))
			return false;
	}
	quote->icmp.checksum = lb_csum_apply(quote->icmp.checksum, all);
	lb_rewrite_ip((void *)&quote->outer + LB_IP_TAIL_AT, &ends, hops);
	return kb_ctx_store(ctx, LB_L3_AT, &quote->outer, sizeof(quote->outer)) &&
	       kb_ctx_store(ctx, quote->icmp_at, &quote->icmp, sizeof(quote->icmp)) &&
	       kb_ctx_store(ctx, quote->inner_at, &quote->inner, sizeof(quote->inner)) &&
	       kb_ctx_store(ctx, quote->l4_at, ports, sizeof(ports));
}

/* The key of the other direction's entry: what is quoted, turned round. */
static __always_inline void lb_quote_key(struct kb_lb_flow_key *key, const struct lb_quote *quote)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->saddr = quote->inner.daddr;
	key->daddr = quote->inner.saddr;
	key->sport = quote->ports[1];
	key->dport = quote->ports[0];
	key->protocol = quote->inner.protocol;
}

/* About a request that was translated: to the client, from the frontend. */
static __always_inline void lb_quote_request(const struct lb_quote *quote, const struct kb_lb_rev *reverse,
					     struct lb_tuple *quoted)
{
	(void)quote;
	quoted->saddr = reverse->client;
	quoted->daddr = reverse->vip;
	quoted->sport = reverse->client_port;
	quoted->dport = reverse->vip_port;
}

/* Sends an error on by the kernel's routes. */
static __always_inline int lb_icmp_send(struct kb_ctx *ctx, struct lb_quote *quote, const struct lb_tuple *quoted,
					__be32 saddr, __be32 daddr)
{
	struct lb_route route = {
		.saddr = saddr,
		.daddr = daddr,
		.tot_len = bpf_ntohs(quote->outer.tot_len),
		.protocol = IPPROTO_ICMP,
	};
	struct lb_hop hop;
	int error;

	if (quote->outer.ttl <= 1)
		return kb_drop(KB_DROP_LB_TTL);
	error = lb_route(ctx, &route, &hop);
	if (error > 0)
		return kb_drop(error);
	if (lb_left_to_tc(error))
		return KB_CONTINUE;
	if (!lb_quote_rewrite(ctx, quote, quoted, saddr, daddr, 1))
		return kb_drop(KB_DROP_TRUNCATED);
	return lb_leave_by(ctx, &hop, error);
}

/* About an answer: to the backend that gave it. */
static __always_inline int lb_icmp_to_backend(struct kb_ctx *ctx, struct lb_quote *quote,
					      const struct kb_lb_flow *flow, __be32 client)
{
	const struct kb_lb_backend *backend = lb_backend(flow->backend);
	struct lb_tuple quoted;

	if (!backend)
		return KB_CONTINUE;
	quoted.saddr = backend->address;
	quoted.daddr = flow->nat_address;
	quoted.sport = backend->port;
	quoted.dport = flow->nat_port;
	if (flow->nat_address == client)
		return lb_quote_rewrite(ctx, quote, &quoted, quote->outer.saddr, backend->address, 0) ?
			       KB_UP :
			       kb_drop(KB_DROP_TRUNCATED);
	return lb_icmp_send(ctx, quote, &quoted, flow->nat_address, backend->address);
}

static __always_inline bool lb_icmp_is_error(__u8 type)
{
	return type == LB_ICMP_UNREACHABLE || type == LB_ICMP_TIME_EXCEEDED || type == LB_ICMP_PARAMETER;
}

/* An error that comes in, or KB_CONTINUE. */
static __noinline int lb_icmp_in(struct kb_ctx *ctx)
{
	struct kb_lb_flow_key key;
	struct kb_lb_flow *flow;
	struct kb_lb_rev *reverse;
	struct lb_quote quote;
	struct lb_tuple quoted;

	if (!lb_quote_read(ctx, &quote) || quote.outer.daddr != quote.inner.saddr)
		return KB_CONTINUE;
	lb_quote_key(&key, &quote);
	reverse = bpf_map_lookup_elem(&kb_lb_rev, &key);
	if (reverse && reverse->client != key.daddr) {
		lb_quote_request(&quote, reverse, &quoted);
		return lb_icmp_send(ctx, &quote, &quoted, reverse->vip, reverse->client);
	}
	flow = bpf_map_lookup_elem(&kb_lb_flow, &key);
	return flow ? lb_icmp_to_backend(ctx, &quote, flow, key.saddr) : KB_CONTINUE;
}

#ifdef KB_TC

/* An error that this node or a pod of it sends to a client. */
static __noinline int lb_icmp_out(struct kb_ctx *ctx)
{
	struct kb_lb_flow_key key;
	struct kb_lb_rev *reverse;
	struct lb_quote quote;
	struct lb_tuple quoted;

	if (!lb_quote_read(ctx, &quote))
		return KB_CONTINUE;
	lb_quote_key(&key, &quote);
	reverse = bpf_map_lookup_elem(&kb_lb_rev, &key);
	if (!reverse)
		return KB_CONTINUE;
	lb_quote_request(&quote, reverse, &quoted);
	return lb_quote_rewrite(ctx, &quote, &quoted, reverse->vip, quote.outer.daddr, 0) ?
		       KB_CONTINUE :
		       kb_drop(KB_DROP_TRUNCATED);
}

#endif

#endif

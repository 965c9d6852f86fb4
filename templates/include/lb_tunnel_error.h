// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * ICMP errors about the outer packets of DSR: a router between this balancer and a backend, or the backend's host,
 * could not pass one on. It tells the outer source, which is us; the client is told here (RFC 2003, section 4;
 * RFC 2473, section 8). Nothing is kept: what is needed is in the quote, if that is long enough.
 *
 *   router's IP | ICMP | our outer header | client's packet ...      becomes
 *   our IP      | ICMP | client's packet ...
 *
 * Who forges one must name a client, its port, the frontend and the very backend that this connection has: whoever
 * knows that can as well write to the client himself. All of this is rare, so it works by offsets, at both hooks.
 */
#ifndef KB_LB_TUNNEL_ERROR_H
#define KB_LB_TUNNEL_ERROR_H

#include "lb_dsr.h"
#include "lb_flow_hash.h"
#include "lb_frontend.h"
#include "lb_icmp.h"
#include "lb_key.h"
#include "lb_stay.h"
#include "lb_tunnel.h"

/* In front of what the client's host gets quoted. */
struct lb_told {
	lb_ip ip;
	__be16 what; /* type << 8 | code */
	__u16 check;
	__be32 rest;
};

#ifdef KB_LB_V6

#define LB_ICMP_NO_HOST (1 << 8 | 3)
#define LB_MTU_LEAST 1280 /* what every link of IPv6 must carry, so hosts heed nothing below */

static __always_inline __u32 lb_ip_header(const lb_ip *ip)
{
	return sizeof(*ip);
}

static __always_inline __u8 lb_ip_protocol(const lb_ip *ip)
{
	return ip->nexthdr;
}

/* Whether this is an outer header as lb_outer_header() makes them, and a packet of one piece's start. */
static __always_inline bool lb_is_outer(const lb_ip *ip)
{
	return ip->version == 6;
}

static __always_inline bool lb_is_start(const lb_ip *ip)
{
	return ip->version == 6;
}

/* What the client is told: 0 = nothing. `rest` is then the MTU, or 0. */
static __always_inline __u16 lb_tunnel_what(const struct lb_quote *quote, __u32 *rest)
{
	__u32 mtu = bpf_ntohl(quote->icmp.rest);

	*rest = 0;
	switch (quote->icmp.type) {
	case 1:
		return LB_ICMP_NO_HOST;
	case 2:
		if (mtu < LB_MTU_LEAST || mtu >= lb_ip_len(&quote->inner))
			return 0;
		mtu -= sizeof(lb_ip);
		*rest = mtu < LB_MTU_LEAST ? LB_MTU_LEAST : mtu;
		return LB_ICMP_TOO_LONG;
	case 3: /* the hop limit, which the client did not choose */
		return quote->icmp.code ? 0 : LB_ICMP_NO_HOST;
	default: /* of parameter problems: the host takes no tunnels */
		return quote->icmp.code == 1 ? LB_ICMP_NO_HOST : 0;
	}
}

#else

#define LB_ICMP_NO_HOST (3 << 8 | 1)
#define LB_MTU_LEAST 68 /* RFC 791 */

static __always_inline __u32 lb_ip_header(const lb_ip *ip)
{
	return ip->ihl * 4;
}

static __always_inline __u8 lb_ip_protocol(const lb_ip *ip)
{
	return ip->protocol;
}

/* Whether this is an outer header as lb_outer_header() makes them, and a packet of one piece's start. */
static __always_inline bool lb_is_outer(const lb_ip *ip)
{
	return ip->ihl == sizeof(*ip) / 4 && !ip->id && ip->frag_off == bpf_htons(LB_IP_DF);
}

static __always_inline bool lb_is_start(const lb_ip *ip)
{
	return ip->version == 4 && ip->ihl >= sizeof(*ip) / 4 && !(ip->frag_off & bpf_htons(KB_IP_OFFSET));
}

/* What the client is told: 0 = nothing. `rest` is then the MTU, or 0. */
static __always_inline __u16 lb_tunnel_what(const struct lb_quote *quote, __u32 *rest)
{
	__u32 mtu = (__u16)bpf_ntohl(quote->icmp.rest);

	*rest = 0;
	if (quote->icmp.type == 11) /* the TTL, which the client did not choose */
		return quote->icmp.code ? 0 : LB_ICMP_NO_HOST;
	if (quote->icmp.type != 3)
		return 0;
	switch (quote->icmp.code) {
	case 0:
		return 3 << 8;
	case 3: /* of a port, and of a source route: we use neither */
	case 5:
		return 0;
	case 4:
		if (!mtu) /* from before RFC 1191 */
			return LB_ICMP_TOO_LONG;
		if (mtu < LB_MTU_LEAST + sizeof(lb_ip) || mtu >= lb_ip_len(&quote->inner))
			return 0;
		*rest = mtu - sizeof(lb_ip);
		return LB_ICMP_TOO_LONG;
	default: /* "no such protocol" among them: it is not what the client asked for */
		return LB_ICMP_NO_HOST;
	}
}

#endif

static __always_inline bool lb_is_at(const struct kb_lb_frontend *frontend, const struct LB_V(kb_lb_backend) *backend,
				     const lb_addr *address)
{
	return backend && backend->frontend == frontend->id && LB_V(lb_same)(&backend->address, address);
}

/*
 * Whether packets of this flow go to the backend at `address`, or did before its table changed: what lb_choose() may
 * come to, without its traces. Not inline: it has three kinds of tables to ask.
 */
static __noinline bool lb_tunnel_leads_to(const struct kb_lb_frontend *frontend, __u32 hash, const lb_addr *address)
{
	struct LB_V(lb_scratch) *scratch;
	struct LB_V(lb_choice) choice;
	const struct kb_lb_dsr_flow *flow;
	__u64 table;

	if (!frontend || !lb_scratch(&scratch))
		return false;
	table = *(const volatile __u64 *)&frontend->base;
	LB_V(lb_select_in)(table, hash, &choice);
	if (lb_is_at(frontend, choice.backend, address))
		return true;
	if (choice.flags & LB_SLOT_BEFORE) {
		lb_select_before(table, hash, &choice);
		if (lb_is_at(frontend, choice.backend, address))
			return true;
	}
	flow = bpf_map_lookup_elem(&LB_V(kb_lb_dsr_flow), &scratch->dsr_key);
	if (flow && lb_is_at(frontend, LB_V(lb_backend)(flow->backend), address))
		return true;
#ifdef KB_LB_AFFINITY
	if (frontend->affinity) {
		struct LB_V(kb_lb_client) client = { .address = scratch->dsr_key.saddr, .frontend = frontend->id };
		const struct kb_lb_affinity *had = bpf_map_lookup_elem(&LB_V(kb_lb_affinity), &client);

		return had && lb_is_at(frontend, LB_V(lb_backend)(had->backend), address);
	}
#endif
	return false;
}

/* Reads the error into scratch->quote, the client's packet into `ip` and scratch->dsr_key. */
static __always_inline bool lb_tunnel_error_read(struct kb_ctx *ctx, struct LB_V(lb_scratch) *scratch, lb_ip *ip)
{
	struct lb_quote *quote = &scratch->quote;
	__be16 l4[4]; /* both ports, and what else of 8 bytes a host must find (RFC 792) */
	__u32 l4_at;

	if (!kb_ctx_load(ctx, LB_L3_AT, &quote->outer, sizeof(quote->outer)) || !lb_quote_find(ctx, quote) ||
	    quote->protocol != LB_TUNNEL || !lb_is_outer(&quote->inner) ||
	    !kb_ctx_load(ctx, quote->icmp_at, &quote->icmp, sizeof(quote->icmp)) ||
	    !kb_ctx_load(ctx, quote->l4_at, ip, sizeof(*ip)))
		return false;
	if (!lb_is_start(ip) || lb_ip_len(ip) + sizeof(quote->inner) != lb_ip_len(&quote->inner) ||
	    (lb_ip_protocol(ip) != IPPROTO_TCP && lb_ip_protocol(ip) != IPPROTO_UDP))
		return false;
	l4_at = quote->l4_at + lb_ip_header(ip);
	if (l4_at + sizeof(l4) > LB_L3_AT + lb_ip_len(&quote->outer) || !kb_ctx_load(ctx, l4_at, l4, sizeof(l4)))
		return false;
	lb_flow_key(&scratch->dsr_key, lb_from(ip), lb_to(ip), l4[0], l4[1], lb_ip_protocol(ip));
	return true;
}

/* Whether the packet was sent by this balancer: from where it sends, and to where. */
static __always_inline bool lb_tunnel_is_ours(const struct LB_V(lb_scratch) *scratch)
{
	const struct lb_quote *quote = &scratch->quote;
	const struct LB_V(kb_lb_flow_key) *key = &scratch->dsr_key;
	const struct kb_lb_config *config = lb_config();
	const struct kb_lb_frontend *frontend;
	lb_addr source, backend;
	__u32 hash;

	if (!config)
		return false;
	hash = lb_flow_hash(&key->saddr, &key->daddr, key->sport, key->dport, config->hash_seed);
	lb_outer_source(&source, config, hash);
	if (!LB_V(lb_same)(&source, lb_to(&quote->outer)) || !LB_V(lb_same)(&source, lb_from(&quote->inner)))
		return false;
	frontend = find_frontend(&key->daddr, key->dport, key->protocol);
	if (!frontend || !(frontend->flags & LB_FE_DSR_IPIP) || frontend->flags & LB_FE_L2)
		return false;
	backend = *lb_to(&quote->inner);
	return lb_tunnel_leads_to(frontend, hash, &backend);
}

/* The headers that the client gets, with a checksum that is as right, or as wrong, as that of the error. */
static __always_inline void lb_tunnel_tell(struct lb_told *told, const struct lb_quote *quote, const lb_ip *client,
					   __u16 what, __u32 rest)
{
	__u32 len = lb_ip_len(&quote->outer) - (quote->inner_at - LB_L3_AT) + sizeof(quote->icmp) -
		    sizeof(quote->inner);
	const __be32 *gone = (const __be32 *)&quote->inner;
	lb_sum diff = 0;
	int i;

	lb_reply_header(&told->ip, client, len, LB_ICMP);
	told->what = bpf_htons(what);
	told->rest = bpf_htonl(rest);
	diff = lb_sum_replace16(diff, bpf_htons(quote->icmp.type << 8 | quote->icmp.code), told->what);
	diff = lb_sum_replace32(diff, quote->icmp.rest, told->rest);
	for (i = 0; i < (int)(sizeof(quote->inner) / sizeof(*gone)); i++)
		diff += (__u32)~gone[i];
	if (LB_AF != 2) { /* ICMPv6 has a pseudo header */
		diff = lb_sum_readdress(diff, lb_from(&quote->outer), lb_from(&told->ip));
		diff = lb_sum_readdress(diff, lb_to(&quote->outer), lb_to(&told->ip));
		diff = lb_sum_replace16(diff, bpf_htons(len + sizeof(quote->inner)), bpf_htons(len));
	}
	told->check = lb_csum_apply(quote->icmp.checksum, diff);
}

/* An error that is about no translated flow: for the client of a packet in a tunnel of ours, or KB_CONTINUE. */
static __noinline int lb_tunnel_error(struct kb_ctx *ctx)
{
	struct lb_route route = { .protocol = LB_ICMP };
	struct LB_V(lb_scratch) *scratch;
	struct lb_told told;
	struct lb_hop hop;
	__u32 rest, len;
	__u16 what;
	lb_ip ip;
	int error;

	if (!lb_scratch(&scratch) || !lb_tunnel_error_read(ctx, scratch, &ip))
		return KB_CONTINUE;
	what = lb_tunnel_what(&scratch->quote, &rest);
	if (!what || !lb_is_one_host(lb_from(&ip)) || !lb_tunnel_is_ours(scratch))
		return KB_CONTINUE;
	route.saddr = *lb_to(&ip);
	route.daddr = *lb_from(&ip);
	error = lb_route(ctx, &route, &hop);
	if (error > 0)
		return kb_drop(error);
	if (lb_left_to_tc(error))
		return KB_CONTINUE;
	if (!lb_may_reply())
		return KB_DROPPED;
	lb_tunnel_tell(&told, &scratch->quote, &ip, what, rest);
	len = scratch->quote.l4_at - LB_L3_AT - sizeof(told);
	kb_ctx_pull(ctx, LB_L3_AT + len + sizeof(told), LB_L3_AT + len + sizeof(told));
	if (!lb_tunnel_open(ctx, len) || !kb_ctx_store(ctx, LB_L3_AT, &told, sizeof(told)))
		return kb_drop(KB_DROP_TRUNCATED);
	return lb_leave_by(ctx, &hop, error);
}

#endif

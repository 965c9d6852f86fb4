// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Later fragments have no ports: they go where their first fragment went. One that comes before it is dropped.
 *
 * Entries do not expire: the next datagram of the same id replaces them, and what is not asked for is evicted.
 */
#ifndef KB_LB_FRAGMENT_H
#define KB_LB_FRAGMENT_H

#include "lb_hop.h"
#include "lb_rewrite.h"
#include "lb_scratch.h"
#include "lb_select.h"

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct LB_V(kb_lb_frag_key));
	__type(value, struct LB_V(kb_lb_frag));
} LB_V(kb_lb_frags) SEC(".maps");

/* Which datagram a fragment is of; false if its headers say nothing of it. */
static __always_inline bool lb_fragment_key(struct kb_ctx *ctx, const struct kb_packet *packet,
					    struct LB_V(kb_lb_frag_key) *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->saddr = *lb_from(LB_IP(packet));
	key->daddr = *lb_to(LB_IP(packet));
	key->protocol = packet->protocol;
#ifdef KB_LB_V6
	/* The id is the second half of the fragment header. */
	return packet->fragment_at &&
	       kb_ctx_load(ctx, (long)packet->ip6 - (long)packet->data + packet->fragment_at + 4, &key->id,
			   sizeof(key->id));
#else
	(void)ctx;
	key->id = packet->ip->id;
	return true;
#endif
}

/* The first fragment goes between the ends of `to`, by `way`; before it is changed. */
static __always_inline void lb_fragment_remember(struct kb_ctx *ctx, const struct kb_packet *packet,
						 const struct lb_tuple *to, __u32 backend, __u8 way)
{
	struct LB_V(lb_scratch) *scratch;

	if (!kb_ctx_has_offsets() || !lb_scratch(&scratch) || !lb_fragment_key(ctx, packet, &scratch->fragment_key))
		return;
	__builtin_memset(&scratch->fragment, 0, sizeof(scratch->fragment));
	scratch->fragment.saddr = to->saddr;
	scratch->fragment.daddr = to->daddr;
	scratch->fragment.backend = backend;
	scratch->fragment.way = way;
	bpf_map_update_elem(&LB_V(kb_lb_frags), &scratch->fragment_key, &scratch->fragment, BPF_ANY);
}

static __always_inline const struct LB_V(kb_lb_frag) *lb_fragment_recall(struct kb_ctx *ctx,
									  const struct kb_packet *packet)
{
	struct LB_V(lb_scratch) *scratch;

	if (!lb_scratch(&scratch) || !lb_fragment_key(ctx, packet, &scratch->fragment_key))
		return NULL;
	return bpf_map_lookup_elem(&LB_V(kb_lb_frags), &scratch->fragment_key);
}

/* Gives a fragment without ports other ends. */
static __always_inline bool lb_fragment_readdress(struct kb_ctx *ctx, const struct LB_V(kb_lb_frag) *fragment,
						  __u8 hops)
{
	struct lb_tuple to = { .saddr = fragment->saddr, .daddr = fragment->daddr };
	lb_ip ip;

	if (!kb_ctx_load(ctx, LB_L3_AT, &ip, sizeof(ip)))
		return false;
	lb_readdress(&ip, &to, hops);
	return kb_ctx_store(ctx, LB_L3_AT, &ip, sizeof(ip));
}

/* Sends a later fragment on as its first one. */
static __always_inline int lb_fragment_send(struct kb_ctx *ctx, const struct kb_packet *packet,
					    const struct LB_V(kb_lb_frag) *fragment)
{
	const struct LB_V(kb_lb_backend) *backend = LB_V(lb_backend)(fragment->backend);
	struct lb_route route = {
		.saddr = fragment->saddr,
		.daddr = fragment->daddr,
		.tot_len = packet->len,
		.protocol = packet->protocol,
	};
	struct lb_hop hop;
	int error;

	if (fragment->way == LB_FRAGMENT_UP)
		return lb_fragment_readdress(ctx, fragment, 0) ? KB_UP : kb_drop(KB_DROP_TRUNCATED);
	if (LB_TTL(LB_IP(packet)) <= 1)
		return kb_drop(KB_DROP_LB_TTL);
	if (fragment->way == LB_FRAGMENT_ANSWER)
		error = lb_route(ctx, &route, &hop);
	else if (backend)
		error = lb_backend_hop(ctx, backend, &route, &hop);
	else
		error = KB_DROP_LB_NO_BACKEND;
	if (error > 0)
		return kb_drop(error);
	if (lb_left_to_tc(error))
		return KB_CONTINUE;
	if (fragment->way == LB_FRAGMENT_FORWARD)
		LB_V(lb_count)(fragment->backend, 1, packet->len, 0);
	if (!lb_fragment_readdress(ctx, fragment, 1))
		return kb_drop(KB_DROP_TRUNCATED);
	return lb_leave_by(ctx, &hop, error);
}

#endif

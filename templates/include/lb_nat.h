// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Translation of a client's packets: to another host from an address and port of ours (SNAT), so that its answer
 * returns through us; to a backend on this node with the client's own address, by the stack.
 */
#ifndef KB_LB_NAT_H
#define KB_LB_NAT_H

#include "drop.h"
#include "lb_choose.h"
#include "lb_flow_new.h"
#include "lb_flow_touch.h"
#include "lb_fragment.h"
#ifdef KB_LB_DSR
#include "lb_here.h"
#endif
#include "lb_hop.h"
#include "lb_key.h"
#include "lb_reply.h"
#include "lb_rewrite.h"
#ifdef KB_LB_CUT_OVER
#include "lb_theirs.h"
#endif

/*
 * A SYN on a flow that is over, or whose backend left, starts a new flow. A datagram starts one when its
 * backend left: UDP has no end to wait for, and a client with one port would ask a dead backend for ever. A flow
 * that began with an option stays with its backend: who forged its end could move it else, and no later packet of
 * its client would move it back.
 */
static __always_inline bool lb_starts_anew(const struct LB_V(kb_lb_flow) *flow, __u8 protocol, __u8 tcp_flags)
{
	__u16 over = flow->flags & LB_FLOW_OPTION ? 0 : LB_FLOW_FIN | LB_FLOW_RST;
	const struct LB_V(kb_lb_backend) *backend;

	if (protocol == IPPROTO_TCP && !lb_is_syn(tcp_flags))
		return false;
	backend = LB_V(lb_backend)(flow->backend);
	return flow->flags & over || !backend || backend->flags & LB_BE_GONE;
}

/*
 * Whether the backend sees the client's own address. Not if the answer would then miss us: one that a pod gives
 * to itself, or to a neighbour on the bridge that the request came by.
 */
static __always_inline bool lb_keeps_client(const struct kb_ctx *ctx, const struct LB_V(kb_lb_backend) *backend,
					    const lb_addr *client)
{
	return backend->flags & LB_BE_LOCAL && !LB_V(lb_same)(&backend->address, client) &&
	       backend->ifindex != kb_ctx_ifindex(ctx);
}

/* Rewrites to `to` and sends by `hop`; `error` is what the search for the hop returned. */
static __always_inline int lb_forward(struct kb_ctx *ctx, const struct kb_packet *packet,
				      const struct lb_tuple *to, const struct lb_hop *hop, int error)
{
	if (error == KB_DROP_LB_MTU)
		return lb_drop_too_long(hop->mtu);
	if (error > 0)
		return kb_drop(error);
	if (lb_left_to_tc(error))
		return KB_CONTINUE;
	if (!lb_rewrite(ctx, packet, to, 1))
		return kb_drop(KB_DROP_TRUNCATED);
	return lb_leave(ctx, packet->data, hop, error);
}

/* No backend for packets: refused, unless there is one elsewhere, where the client may find it by trying again. */
static __always_inline int lb_nobody(const struct kb_lb_frontend *frontend, __u8 protocol)
{
	if (frontend->flags & LB_FE_DROP_OUTSIDE)
		return kb_drop(KB_DROP_LB_NOT_HERE);
	if (!kb_ctx_has_offsets())
		return KB_CONTINUE;
	return lb_refuse(protocol);
}

/* Whether the backend is this very host, which holds the frontend's address, too: nothing is to be translated. */
static __always_inline bool lb_is_as_it_is(const struct LB_V(kb_lb_flow_key) *key,
					   const struct LB_V(lb_choice) *choice)
{
#ifdef KB_LB_DSR
	return choice->backend->flags & LB_BE_LOCAL && !choice->backend->ifindex &&
	       lb_own(&choice->backend->address, &key->daddr, key->dport, key->protocol);
#else
	(void)key;
	(void)choice;
	return false;
#endif
}

/* Makes a flow to `choice`; NULL: `error` is a drop reason. */
static __always_inline struct LB_V(kb_lb_flow) *lb_nat_begin(struct kb_ctx *ctx, const struct kb_packet *packet,
							      const struct LB_V(kb_lb_flow_key) *key,
							      const struct LB_V(lb_choice) *choice, __u32 hash,
							      bool *is_new, int *error)
{
	bool keep_client = lb_keeps_client(ctx, choice->backend, &key->saddr);
	struct LB_V(kb_lb_flow) *flow;

	*error = KB_DROP_LB_TTL;
	if (!keep_client && LB_TTL(LB_IP(packet)) <= 1)
		return NULL;
	*error = lb_flow_create(key, choice, keep_client, hash);
	if (*error > 0)
		return NULL;
	*is_new = !*error;
	flow = *error ? bpf_map_lookup_elem(&LB_V(kb_lb_flow), key) : lb_flow_made();
	*error = KB_DROP_LB_FLOWS;
	return flow;
}

/* A packet of `flow` to its backend, which `choice` is. */
static __always_inline int lb_nat_send(struct kb_ctx *ctx, const struct kb_packet *packet,
				       const struct LB_V(kb_lb_flow_key) *key, const struct LB_V(kb_lb_flow) *flow,
				       const struct LB_V(lb_choice) *choice, bool is_new)
{
	struct lb_route route;
	struct lb_tuple to;
	struct lb_hop hop;
	int error;

	to.saddr = flow->nat_address;
	to.daddr = choice->backend->address;
	to.sport = flow->nat_port;
	to.dport = choice->backend->port;
	if (LB_V(lb_same)(&to.saddr, &key->saddr)) {
		LB_V(lb_count)(choice->id, 1, packet->len, is_new);
		if (kb_is_fragment(packet))
			lb_fragment_remember(ctx, packet, &to, choice->id, LB_FRAGMENT_UP);
		return lb_rewrite(ctx, packet, &to, 0) ? KB_UP : kb_drop(KB_DROP_TRUNCATED);
	}
	if (LB_TTL(LB_IP(packet)) <= 1)
		return kb_drop(KB_DROP_LB_TTL);
	route.saddr = to.saddr;
	route.daddr = to.daddr;
	route.tot_len = lb_wire_len(ctx, packet);
	route.protocol = key->protocol;
	error = lb_backend_hop(ctx, choice->backend, &route, &hop);
	if (error <= 0)
		LB_V(lb_count)(choice->id, !lb_left_to_tc(error), lb_left_to_tc(error) ? 0 : packet->len, is_new);
	if (kb_is_fragment(packet))
		lb_fragment_remember(ctx, packet, &to, choice->id, LB_FRAGMENT_FORWARD);
	return lb_forward(ctx, packet, &to, &hop, error);
}

static __always_inline int lb_nat(struct kb_ctx *ctx, const struct kb_packet *packet, const struct kb_l4 *l4,
				  const struct kb_lb_frontend *frontend, __u32 hash)
{
	struct LB_V(kb_lb_flow_key) key;
	struct LB_V(kb_lb_flow) *flow;
	struct LB_V(lb_choice) choice;
	bool is_new = false;
	int error;

	lb_flow_key(&key, lb_from(LB_IP(packet)), lb_to(LB_IP(packet)), l4->sport, l4->dport, packet->protocol);
	flow = bpf_map_lookup_elem(&LB_V(kb_lb_flow), &key);
	if (flow && lb_starts_anew(flow, key.protocol, l4->tcp_flags)) {
		lb_flow_remove(&key, flow);
		flow = NULL;
	}
	if (!flow) {
#ifdef KB_LB_CUT_OVER
		if (lb_is_theirs(&key, l4->tcp_flags, false))
			return KB_CONTINUE;
#endif
		error = lb_choose(frontend, packet, l4, lb_draw(frontend, hash), &choice);
		if (error)
			return kb_drop(error);
		if (!choice.backend)
			return lb_nobody(frontend, key.protocol);
		if (lb_is_as_it_is(&key, &choice)) {
			LB_V(lb_count)(choice.id, 1, packet->len, lb_is_syn(l4->tcp_flags));
			return KB_UP;
		}
		flow = lb_nat_begin(ctx, packet, &key, &choice, hash, &is_new, &error);
		if (!flow)
			return kb_drop(error);
	} else {
		lb_flow_touch(&flow->seen, &flow->flags, l4->tcp_flags, 0);
	}
	choice.id = flow->backend;
	choice.backend = LB_V(lb_backend)(choice.id);
	if (!choice.backend)
		return lb_nobody(frontend, key.protocol);
	return lb_nat_send(ctx, packet, &key, flow, &choice, is_new);
}

#endif

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* SNAT: to the backend from an address and port of ours, so that its answer returns through us. */
#ifndef KB_LB_SNAT_H
#define KB_LB_SNAT_H

#include "clock.h"
#include "drop.h"
#include "lb_flow_new.h"
#include "lb_hop.h"
#include "lb_rewrite.h"

/* A stamp each second is fine enough for the collector and keeps the entry's cache line clean. */
#define LB_SEEN_NS 1000000000ULL

static __always_inline __u16 lb_flow_sees(__u8 tcp_flags)
{
	return (tcp_flags & KB_TCP_FIN ? LB_FLOW_FIN : 0) | (tcp_flags & KB_TCP_RST ? LB_FLOW_RST : 0);
}

/*
 * A side that goes on was not reset (no sequence numbers are checked, so anyone could have sent that RST),
 * and a SYN starts it anew: else the collector would take the connection for a closed one.
 */
static __always_inline void lb_flow_touch(__u64 *seen, __u16 *flags, __u8 tcp_flags, __u16 saw)
{
	__u16 stale = tcp_flags & KB_TCP_SYN ? LB_FLOW_FIN | LB_FLOW_RST : LB_FLOW_RST;
	__u16 current = (*flags & ~stale) | saw | lb_flow_sees(tcp_flags);
	__u64 now = kb_now();

	if (now - *seen > LB_SEEN_NS)
		*seen = now;
	if (current != *flags)
		*flags = current;
}

static __always_inline bool lb_is_syn(__u8 tcp_flags)
{
	return (tcp_flags & (KB_TCP_SYN | KB_TCP_ACK)) == KB_TCP_SYN;
}

/*
 * A SYN on a flow that is over, or whose backend left, starts a new flow. A datagram starts one when its
 * backend left: UDP has no end to wait for, and a client with one port would ask a dead backend for ever.
 */
static __always_inline bool lb_starts_anew(const struct kb_lb_flow *flow, __u8 protocol, __u8 tcp_flags)
{
	const struct kb_lb_backend *backend;

	if (protocol == IPPROTO_TCP && !lb_is_syn(tcp_flags))
		return false;
	backend = lb_backend(flow->backend);
	return flow->flags & (LB_FLOW_FIN | LB_FLOW_RST) || !backend || backend->flags & LB_BE_GONE;
}

/*
 * Rewrites to `to`, sends by `hop`; `error` is what the search for the hop returned. What the kernel shall
 * forward has a source of this node's own, so it takes it only with accept_local: user space therefore
 * keeps next hops resolved (kubebee/loader/neighbours.py), and this is the way out for the moments between.
 */
static __always_inline int lb_forward(struct xdp_md *ctx, const struct kb_packet *packet,
				      const struct lb_tuple *to, const struct lb_hop *hop, int error)
{
	if (error > 0)
		return kb_drop(error);
	if (error == LB_HOP_UNRESOLVED) /* the kernel forwards it, and counts the hop itself */
		return lb_rewrite(packet, to, 0) ? XDP_PASS : kb_drop(KB_DROP_TRUNCATED);
	if (!lb_rewrite(packet, to, 1))
		return kb_drop(KB_DROP_TRUNCATED);
	lb_write_macs(packet->data, hop);
	return lb_leave(ctx, hop);
}

static __always_inline int lb_snat(struct xdp_md *ctx, const struct kb_packet *packet, const struct kb_l4 *l4,
				   const struct kb_lb_frontend *frontend, __u32 hash)
{
	struct kb_lb_flow_key key = {
		.saddr = packet->ip->saddr,
		.daddr = packet->ip->daddr,
		.sport = l4->sport,
		.dport = l4->dport,
		.protocol = packet->ip->protocol,
	};
	__u32 len = bpf_ntohs(packet->ip->tot_len);
	struct kb_lb_flow *flow = bpf_map_lookup_elem(&kb_lb_flow, &key);
	struct kb_lb_flow made;
	struct lb_choice choice;
	struct lb_route route;
	struct lb_tuple to;
	struct lb_hop hop;
	bool is_new = false;
	int error;

	if (packet->ip->ttl <= 1)
		return kb_drop(KB_DROP_LB_TTL);
	if (flow && lb_starts_anew(flow, key.protocol, l4->tcp_flags)) {
		lb_flow_remove(&key, flow);
		flow = NULL;
	}
	if (!flow) {
		lb_select(frontend, hash, &choice);
		if (!choice.backend)
			return kb_drop(KB_DROP_LB_NO_BACKEND);
		error = lb_flow_create(&key, &choice, hash, &made);
		if (error > 0)
			return kb_drop(error);
		is_new = !error;
		flow = error ? bpf_map_lookup_elem(&kb_lb_flow, &key) : &made;
		if (!flow)
			return kb_drop(KB_DROP_LB_FLOWS);
	}
	choice.id = flow->backend;
	choice.backend = lb_backend(choice.id);
	if (!choice.backend)
		return kb_drop(KB_DROP_LB_NO_BACKEND);
	if (!is_new)
		lb_flow_touch(&flow->seen, &flow->flags, l4->tcp_flags, 0);

	to.saddr = flow->nat_address;
	to.daddr = choice.backend->address;
	to.sport = flow->nat_port;
	to.dport = choice.backend->port;
	route.saddr = to.saddr;
	route.daddr = to.daddr;
	route.tot_len = len;
	route.protocol = key.protocol;
	error = lb_backend_hop(ctx, choice.backend, &route, &hop);
	if (error <= 0)
		lb_count(choice.id, 1, len, is_new);
	return lb_forward(ctx, packet, &to, &hop, error);
}

/* An answer of a backend, or KB_CONTINUE. Only ports of the SNAT range cost a lookup. */
static __always_inline int lb_snat_answer(struct xdp_md *ctx, const struct kb_packet *packet,
					  const struct kb_l4 *l4, const struct kb_lb_config *config)
{
	__u16 offset = bpf_ntohs(l4->dport) - config->snat_first;
	struct kb_lb_flow_key key = {};
	struct kb_lb_rev *reverse;
	struct lb_route route;
	struct lb_tuple to;
	struct lb_hop hop;
	int error;

	if (offset >= config->snat_ports)
		return KB_CONTINUE;
	key.saddr = packet->ip->saddr;
	key.daddr = packet->ip->daddr;
	key.sport = l4->sport;
	key.dport = l4->dport;
	key.protocol = packet->ip->protocol;
	reverse = bpf_map_lookup_elem(&kb_lb_rev, &key);
	if (!reverse)
		return KB_CONTINUE;
	if (kb_is_fragment(packet))
		return kb_drop(KB_DROP_LB_FRAGMENT);
	if (packet->ip->ttl <= 1)
		return kb_drop(KB_DROP_LB_TTL);
	lb_flow_touch(&reverse->seen, &reverse->flags, l4->tcp_flags, LB_FLOW_SEEN);

	to.saddr = reverse->vip;
	to.daddr = reverse->client;
	to.sport = reverse->vip_port;
	to.dport = reverse->client_port;
	route.saddr = to.saddr;
	route.daddr = to.daddr;
	route.tot_len = bpf_ntohs(packet->ip->tot_len);
	route.protocol = key.protocol;
	error = lb_route(ctx, &route, &hop);
	return lb_forward(ctx, packet, &to, &hop, error);
}

#endif

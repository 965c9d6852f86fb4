// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Answers of backends, back to their clients as the frontend's. */
#ifndef KB_LB_ANSWER_H
#define KB_LB_ANSWER_H

#include "lb_nat.h"

static __always_inline void lb_answer_key(struct LB_V(kb_lb_flow_key) *key, const struct kb_packet *packet,
					  const struct kb_l4 *l4)
{
	lb_flow_key(key, lb_from(LB_IP(packet)), lb_to(LB_IP(packet)), l4->sport, l4->dport, packet->protocol);
}

static __always_inline void lb_answer_as(const struct LB_V(kb_lb_rev) *reverse, struct lb_tuple *to)
{
	to->saddr = reverse->vip;
	to->daddr = reverse->client;
	to->sport = reverse->vip_port;
	to->dport = reverse->client_port;
}

/* Of another host, to a port of ours, or KB_CONTINUE. Only ports of the SNAT range cost a lookup. */
static __always_inline int lb_answer(struct kb_ctx *ctx, const struct kb_packet *packet, const struct kb_l4 *l4,
				     const struct kb_lb_config *config)
{
	__u16 offset = bpf_ntohs(l4->dport) - config->snat_first;
	struct LB_V(kb_lb_flow_key) key;
	struct LB_V(kb_lb_rev) *reverse;
	struct lb_route route;
	struct lb_tuple to;
	struct lb_hop hop;
	int error;

	if (offset >= config->snat_ports)
		return KB_CONTINUE;
	lb_answer_key(&key, packet, l4);
	reverse = bpf_map_lookup_elem(&LB_V(kb_lb_rev), &key);
	if (!reverse || LB_V(lb_same)(&reverse->client, &key.daddr)) /* one from this node, still on its way: see lb_answer_out() */
		return KB_CONTINUE;
	if (LB_TTL(LB_IP(packet)) <= 1)
		return kb_drop(KB_DROP_LB_TTL);
	lb_flow_touch(&reverse->seen, &reverse->flags, l4->tcp_flags, LB_FLOW_SEEN);

	lb_answer_as(reverse, &to);
	route.saddr = to.saddr;
	route.daddr = to.daddr;
	route.tot_len = lb_wire_len(ctx, packet);
	route.protocol = key.protocol;
	if (kb_is_fragment(packet))
		lb_fragment_remember(ctx, packet, &to, 0, LB_FRAGMENT_ANSWER);
	error = lb_route(ctx, &route, &hop);
	return lb_forward(ctx, packet, &to, &hop, error);
}

#ifdef KB_TC

/* What the backend expects next of its client. */
static __always_inline void lb_answer_acks(const struct kb_packet *packet, struct LB_V(kb_lb_rev) *reverse)
{
#ifdef KB_LB_IP_OPTION
	const struct tcphdr *tcp = packet->l4;

	if (packet->protocol == IPPROTO_TCP && (const void *)(tcp + 1) <= packet->data_end && tcp->ack)
		reverse->acked = tcp->ack_seq;
#else
	(void)packet;
	(void)reverse;
#endif
}

/* Of this node or a pod of it, on its way out: it has its route, and only needs the frontend's name. */
static __always_inline int lb_answer_out(struct kb_ctx *ctx, const struct kb_packet *packet,
					 const struct kb_l4 *l4)
{
	struct LB_V(kb_lb_flow_key) key;
	struct LB_V(kb_lb_rev) *reverse;
	struct lb_tuple to;

	lb_answer_key(&key, packet, l4);
	reverse = bpf_map_lookup_elem(&LB_V(kb_lb_rev), &key);
	if (!reverse)
		return KB_CONTINUE;
	lb_flow_touch(&reverse->seen, &reverse->flags, l4->tcp_flags, LB_FLOW_SEEN);
	lb_answer_acks(packet, reverse);
	lb_answer_as(reverse, &to);
	if (kb_is_fragment(packet))
		lb_fragment_remember(ctx, packet, &to, 0, LB_FRAGMENT_OUT);
	return lb_rewrite(ctx, packet, &to, 0) ? KB_CONTINUE : kb_drop(KB_DROP_TRUNCATED);
}

#endif

#endif

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The other end of direct server return: packets that another balancer has sent to a backend on this node inside
 * IP-in-IP (RFC 2003, RFC 2473). The outer header is taken off and the backend gets what is inside.
 *
 * Tunnels of others are none of our business. Ours are packets to an address of a frontend's backend on this node,
 * with a packet for that frontend inside, and packets to this node with one inside for an address of both a
 * frontend and the node. All else goes on untouched: the kernel may have a device for it.
 */
#ifndef KB_LB_TUNNEL_H
#define KB_LB_TUNNEL_H

#include "drop.h"
#include "lb_answer.h"
#include "lb_echo.h"
#include "lb_fragment.h"
#include "lb_frontend.h"
#include "lb_here.h"
#include "lb_nat.h"
#include "lb_read.h"

/* Explicit congestion notification: the lower two bits of the traffic class (RFC 3168). */
#define LB_ECN 3
#define LB_ECN_1 1
#define LB_ECN_0 2
#define LB_ECN_CE 3

#define LB_TUNNEL_HEADERS_LEAST (LB_HEADERS_LEAST + sizeof(lb_ip))
#define LB_TUNNEL_HEADERS (LB_HEADERS + sizeof(lb_ip) + 40)

struct lb_tunnel {
	lb_addr to; /* outer destination: the backend that the balancer chose */
	__u32 len; /* bytes of the outer header, its options included */
	__u8 tos;
};

/*
 * Reads a tunnel's packet; `packet` is then the one inside. False if there is none that could be ours: fragments of
 * the outer packet are put together by the kernel, and what is inside another tunnel inside is not looked for.
 */
static __always_inline bool lb_tunnel_read(struct kb_ctx *ctx, struct lb_tunnel *tunnel, struct kb_packet *packet,
					   struct kb_l4 *l4)
{
	__u32 outer_l4_len;

	kb_ctx_pull(ctx, LB_TUNNEL_HEADERS_LEAST, LB_TUNNEL_HEADERS);
	if (lb_parse(ctx, packet) || packet->protocol != LB_TUNNEL || kb_is_fragment(packet))
		return false;
	tunnel->to = *lb_to(LB_IP(packet));
	tunnel->tos = lb_tos(LB_IP(packet));
	tunnel->len = packet->len - packet->l4_len;
	outer_l4_len = packet->l4_len;
	__builtin_memset(l4, 0, sizeof(*l4));
	if (lb_parse_at(ctx, LB_L3_AT + tunnel->len, packet) || packet->len > outer_l4_len)
		return false;
	if (packet->protocol != IPPROTO_TCP && packet->protocol != IPPROTO_UDP && packet->protocol != LB_ICMP)
		return false;
	return kb_is_later_fragment(packet) || !lb_parse_l4(packet, l4);
}

/* Makes the packet inside the frame's. */
static __always_inline bool lb_tunnel_open(struct kb_ctx *ctx, __u32 len)
{
#ifdef KB_TC
	/* Segments of a large packet keep their size. */
	return !bpf_skb_adjust_room(ctx, -(__s32)len, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
#else
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct lb_hop macs;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return false;
	lb_keep_macs(&macs, eth);
	if (bpf_xdp_adjust_head(ctx, len))
		return false;
	eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return false;
	lb_write_macs(ctx, eth, &macs);
	eth->h_proto = bpf_htons(LB_ETH_P);
	return true;
#endif
}

/* What the packet inside carries on, by what both headers say of congestion (RFC 6040, figure 4); or LB_ECN + 1. */
static __always_inline __u8 lb_tunnel_ecn(__u8 outer, __u8 inner)
{
	if (outer == LB_ECN_CE)
		return inner ? LB_ECN_CE : LB_ECN + 1;
	return inner == LB_ECN_0 && outer == LB_ECN_1 ? LB_ECN_1 : inner;
}

/* Not inline: rare. The two bits are in the header's first word. */
static __noinline bool lb_tunnel_mark(struct kb_ctx *ctx, __u8 ecn)
{
	__u16 word;

	if (!kb_ctx_has_offsets()) /* the caller has asked; verifiers of Linux 5.10 have forgotten by now */
		return false;
#ifdef KB_LB_V6
	if (!kb_ctx_load(ctx, LB_L3_AT, &word, sizeof(word)))
		return false;
	word = (word & ~bpf_htons(LB_ECN << 4)) | bpf_htons(ecn << 4);
#ifdef KB_TC
	return !bpf_skb_store_bytes(ctx, LB_L3_AT, &word, sizeof(word), BPF_F_RECOMPUTE_CSUM);
#else
	return kb_ctx_store(ctx, LB_L3_AT, &word, sizeof(word));
#endif
#else
	__u16 was, check;

	if (!kb_ctx_load(ctx, LB_L3_AT, &was, sizeof(was)) || !kb_ctx_load(ctx, LB_L3_AT + 10, &check, sizeof(check)))
		return false;
	word = (was & ~bpf_htons(LB_ECN)) | bpf_htons(ecn);
	check = lb_csum_apply(check, lb_sum_replace16(0, was, word));
	return kb_ctx_store(ctx, LB_L3_AT, &word, sizeof(word)) &&
	       kb_ctx_store(ctx, LB_L3_AT + 10, &check, sizeof(check));
#endif
}

/* Takes the outer header off a packet that is ours; `inner` is the traffic class inside. Returns 0 or a verdict. */
static __always_inline int lb_tunnel_end(struct kb_ctx *ctx, const struct lb_tunnel *tunnel, __u8 inner)
{
	__u8 ecn = lb_tunnel_ecn(tunnel->tos & LB_ECN, inner & LB_ECN);
	bool marked = ecn != (inner & LB_ECN);

	if (ecn > LB_ECN)
		return kb_drop(KB_DROP_LB_CONGESTION);
	if (marked && !kb_ctx_has_offsets())
		return KB_CONTINUE;
	if (!lb_tunnel_open(ctx, tunnel->len))
		return kb_drop(KB_DROP_TRUNCATED);
	if (!kb_ctx_has_offsets()) /* said once more: verifiers don't see that there is no mark then */
		return 0;
	return marked && !lb_tunnel_mark(ctx, ecn) ? kb_drop(KB_DROP_TRUNCATED) : 0;
}

/* Whether both ends are this node itself and a server has the frontend's own address, as on its loopback interface. */
static __always_inline bool lb_tunnel_is_for_host(struct kb_ctx *ctx, const struct kb_packet *packet,
						  const struct lb_tunnel *tunnel)
{
	return find_frontend(lb_to(LB_IP(packet)), 0, 0) && lb_is_own(ctx, &tunnel->to) &&
	       lb_is_ours(ctx, LB_IP(packet));
}

/*
 * A packet that balance() found to be a tunnel's. What backends answer is translated on its way out, as that of
 * other flows to backends on this node: there is a flow. Not so where the server has the frontend's own address
 * and port: nothing is to be translated.
 */
static __noinline int lb_decapsulate(struct kb_ctx *ctx)
{
	const struct LB_V(kb_lb_frag) *fragment = NULL;
	const struct kb_lb_frontend *frontend;
	struct LB_V(lb_choice) choice = {};
	struct LB_V(kb_lb_flow_key) key;
	struct LB_V(kb_lb_flow) *flow = NULL;
	bool as_it_is = false, is_new = false;
	struct lb_tunnel tunnel;
	struct kb_packet packet;
	struct kb_l4 l4;
	__u8 own = 0;
	int verdict;

	if (!lb_tunnel_read(ctx, &tunnel, &packet, &l4))
		return KB_CONTINUE;
	if (kb_is_later_fragment(&packet)) {
		if (!kb_ctx_has_offsets())
			return KB_CONTINUE;
		fragment = lb_fragment_recall(ctx, &packet);
		if (fragment && (fragment->way != LB_FRAGMENT_UP || !LB_V(lb_same)(&fragment->daddr, &tunnel.to)))
			fragment = NULL;
	} else if (packet.protocol != LB_ICMP) {
		own = lb_own(&tunnel.to, lb_to(LB_IP(&packet)), l4.dport, packet.protocol);
	}
	if (own & LB_OWN_ALONE) {
		as_it_is = true;
	} else if (!kb_is_later_fragment(&packet) && packet.protocol != LB_ICMP) {
		lb_answer_key(&key, &packet, &l4);
		flow = bpf_map_lookup_elem(&LB_V(kb_lb_flow), &key);
		if (flow) {
			choice.id = flow->backend;
			choice.backend = LB_V(lb_backend)(choice.id);
		}
		if (!choice.backend || !LB_V(lb_same)(&choice.backend->address, &tunnel.to) ||
		    lb_starts_anew(flow, key.protocol, l4.tcp_flags)) {
			choice.backend = NULL;
			frontend = find_frontend(&key.daddr, key.dport, key.protocol);
			if (frontend)
				lb_choose_here(frontend, &tunnel.to, &choice);
			if (choice.backend && frontend->flags & LB_FE_SOURCES && !may_come(frontend, &packet))
				return kb_drop(KB_DROP_LB_SOURCE);
			as_it_is = choice.backend && !choice.backend->ifindex && choice.backend->port == key.dport &&
				   (own || lb_is_ours(ctx, LB_IP(&packet)));
			if (flow && choice.backend)
				lb_flow_remove(&key, flow);
			flow = NULL;
		}
	}
	if (!as_it_is && !fragment && !choice.backend) {
		if (!lb_tunnel_is_for_host(ctx, &packet, &tunnel))
			return KB_CONTINUE;
		as_it_is = true;
	}

	verdict = lb_tunnel_end(ctx, &tunnel, lb_tos(LB_IP(&packet)));
	if (verdict)
		return verdict;
	if (as_it_is)
		return KB_UP;
	if (fragment && kb_ctx_has_offsets())
		return lb_fragment_readdress(ctx, fragment, 0) ? KB_UP : kb_drop(KB_DROP_TRUNCATED);
	if (!lb_read(ctx, &packet, &l4))
		return kb_drop(KB_DROP_TRUNCATED);
	if (flow) {
		lb_flow_touch(&flow->seen, &flow->flags, l4.tcp_flags, 0);
	} else {
		flow = lb_nat_begin(ctx, &packet, &key, &choice, 0, &is_new, &verdict);
		if (!flow)
			return kb_drop(verdict);
	}
	return lb_nat_send(ctx, &packet, &key, flow, &choice, is_new);
}

#endif

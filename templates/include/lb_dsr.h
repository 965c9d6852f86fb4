// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Direct server return: the client's packet, unchanged, to the backend: inside IP-in-IP (RFC 2003, RFC 2473), or by
 * the backend's MAC address alone, to hosts on a link of this node.
 */
#ifndef KB_LB_DSR_H
#define KB_LB_DSR_H

#include "drop.h"
#include "lb_csum.h"
#include "lb_hop.h"
#include "lb_reply.h"
#include "lb_select.h"
#include "parse.h"

#define LB_OUTER_TTL 64
#define LB_IP_DF 0x4000
#define LB_OUTER_WORDS (sizeof(lb_ip) / 4)

#ifdef KB_LB_V6

#define LB_ENCAP_FLAGS BPF_F_ADJ_ROOM_ENCAP_L3_IPV6

static __always_inline void lb_outer_header(__be32 *words, const struct lb_route *route, __u8 tos)
{
	words[0] = bpf_htonl(0x60000000 | tos << 20);
	words[1] = bpf_htonl((route->tot_len - sizeof(lb_ip)) << 16 | LB_TUNNEL << 8 | LB_OUTER_TTL);
	__builtin_memcpy(words + 2, &route->saddr, sizeof(route->saddr));
	__builtin_memcpy(words + 6, &route->daddr, sizeof(route->daddr));
}

/* No bits of it are filled from the hash: routers and cards spread by the flow label and the inner header. */
static __always_inline void lb_outer_source(lb_addr *source, const struct kb_lb_config *config, __u32 hash)
{
	(void)hash;
	*source = config->encap_source6;
}

#else

#define LB_ENCAP_FLAGS BPF_F_ADJ_ROOM_ENCAP_L3_IPV4

/* A header without options, as words: five stores instead of ten. */
static __always_inline void lb_outer_header(__be32 *words, const struct lb_route *route, __u8 tos)
{
	__be32 first = bpf_htonl(0x45000000 | tos << 16 | route->tot_len); /* tos: RFC 6040 */
	__be32 second = bpf_htonl(LB_IP_DF); /* unfragmentable, so its id, 0, need not be unique (RFC 6864) */
	__be32 third = bpf_htonl(LB_OUTER_TTL << 24 | LB_TUNNEL << 16);

	__u16 check = ~lb_sum_fold((lb_sum)first + second + third + route->saddr + route->daddr);

	words[0] = first;
	words[1] = second;
	words[2] = third | bpf_htonl(bpf_ntohs(check)); /* its last two bytes */
	words[3] = route->saddr;
	words[4] = route->daddr;
}

static __always_inline void lb_outer_source(lb_addr *source, const struct kb_lb_config *config, __u32 hash)
{
	*source = config->encap_source | (hash & config->encap_host_mask);
}

#endif

/* Puts an outer header in front; `frame` is where lb_leave() writes MAC addresses. Returns 0 or a drop reason. */
static __always_inline int lb_encapsulate(struct kb_ctx *ctx, const struct lb_route *route, __u8 tos, void **frame)
{
#ifdef KB_TC
	__be32 outer[LB_OUTER_WORDS];

	*frame = NULL;
	/* Segments of a large packet keep their size; that they fit has been checked. */
	if (bpf_skb_adjust_room(ctx, sizeof(lb_ip), BPF_ADJ_ROOM_MAC,
				LB_ENCAP_FLAGS | BPF_F_ADJ_ROOM_FIXED_GSO))
		return KB_DROP_LB_HEADROOM;
	lb_outer_header(outer, route, tos);
	return bpf_skb_store_bytes(ctx, sizeof(struct ethhdr), outer, sizeof(outer), 0) ? KB_DROP_TRUNCATED : 0;
#else
	struct ethhdr *eth;

	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(lb_ip)))
		return KB_DROP_LB_HEADROOM;
	eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) + sizeof(lb_ip) > (void *)(long)ctx->data_end)
		return KB_DROP_TRUNCATED;
	eth->h_proto = bpf_htons(LB_ETH_P);
	lb_outer_header((void *)(eth + 1), route, tos);
	*frame = eth;
	return 0;
#endif
}

/* The hop by the kernel's routes, for backends whose next hop user space does not know. */
static __always_inline int lb_dsr_route(struct kb_ctx *ctx, const struct lb_route *route, struct lb_hop *hop)
{
	const struct lb_route route_copy = *route; /* the caller's is never pointed to, and stays in registers */
	struct lb_hop found;
	int error = lb_route(ctx, &route_copy, &found);

	*hop = found;
	return error;
}

/*
 * The inner TTL stays: the balancer stands in for the VIP's host and is no hop; a loop would pass a
 * router each round, and ends there.
 */
static __always_inline int lb_dsr(struct kb_ctx *ctx, const struct kb_packet *packet,
				  const struct kb_lb_config *config, const struct LB_V(lb_choice) *choice,
				  __u32 hash, bool new_connection)
{
	const struct LB_V(kb_lb_backend) *backend = choice->backend;
	__u32 inner_len = packet->len;
	__u32 outer_len = inner_len + sizeof(lb_ip);
	__u32 wire_len = lb_wire_len(ctx, packet) + sizeof(lb_ip);
	__u8 tos = lb_tos(LB_IP(packet));
	struct lb_route route = {
		.daddr = backend->address,
		.protocol = LB_TUNNEL,
	};
	struct lb_hop hop;
	int error, failed;
	void *frame;

	if (outer_len > 0xffff)
		return kb_drop(KB_DROP_LB_MTU);
	lb_outer_source(&route.saddr, config, hash);
	route.tot_len = wire_len;
	if (backend->flags & LB_BE_NEXT_HOP)
		error = lb_backend_hop(ctx, backend, &route, &hop);
	else
		error = lb_dsr_route(ctx, &route, &hop);
	if (error == KB_DROP_LB_MTU)
		return lb_drop_too_long(hop.mtu ? hop.mtu - sizeof(lb_ip) : 0);
	if (error > 0)
		return kb_drop(error);
	route.tot_len = outer_len;
	if (lb_left_to_tc(error))
		return KB_CONTINUE;
	failed = lb_encapsulate(ctx, &route, tos, &frame);
	if (failed)
		return kb_drop(failed);
	LB_V(lb_count)(choice->id, 1, inner_len, new_connection);
	return lb_leave(ctx, frame, &hop, error);
}

static __always_inline bool lb_came_from(const struct kb_packet *packet, const struct lb_hop *hop)
{
	const void *sender = packet->data + ETH_ALEN;

	return *(const __u32 *)sender == *(const __u32 *)hop->macs &&
	       *(const __u16 *)(sender + 4) == *(const __u16 *)(hop->macs + 4);
}

/*
 * By the backend's MAC address. The TTL stays here, too, and no router is between two balancers that disagree and
 * send a packet to each other: the second one drops it.
 */
static __always_inline int lb_dsr_l2(struct kb_ctx *ctx, const struct kb_packet *packet,
				     const struct LB_V(lb_choice) *choice, bool new_connection)
{
	const struct LB_V(kb_lb_backend) *backend = choice->backend;
	struct lb_route route = {
		.saddr = *lb_from(LB_IP(packet)),
		.daddr = backend->address,
		.tot_len = lb_wire_len(ctx, packet),
		.protocol = packet->protocol,
	};
	struct lb_hop hop;
	int error;

	if (backend->flags & LB_BE_GATEWAY)
		return kb_drop(KB_DROP_LB_GATEWAY);
	if (backend->flags & LB_BE_NEXT_HOP) {
		error = lb_backend_hop(ctx, backend, &route, &hop);
	} else {
		error = lb_dsr_route(ctx, &route, &hop);
		if (error <= 0 && hop.gateway)
			return kb_drop(KB_DROP_LB_GATEWAY);
	}
	if (error == KB_DROP_LB_MTU)
		return lb_drop_too_long(hop.mtu);
	if (error > 0)
		return kb_drop(error);
	if (lb_left_to_tc(error))
		return KB_CONTINUE;
	if (!error && lb_came_from(packet, &hop))
		return kb_drop(KB_DROP_LB_BOUNCE);
	LB_V(lb_count)(choice->id, 1, packet->len, new_connection);
#ifdef KB_TC
	if (error) { /* not the packet's destination is to be resolved */
		struct bpf_redir_neigh neighbour = { .nh_family = LB_AF };

		if (ctx->vlan_present)
			bpf_skb_vlan_pop(ctx);
		__builtin_memcpy(neighbour.ipv6_nh, &backend->address, sizeof(backend->address));
		return bpf_redirect_neigh(hop.ifindex, &neighbour, sizeof(neighbour), 0);
	}
#endif
	return lb_leave(ctx, packet->data, &hop, 0);
}

#endif

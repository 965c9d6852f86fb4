// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Direct server return: the client's packet, unchanged, inside IP-in-IP (RFC 2003) to the backend. */
#ifndef KB_LB_DSR_H
#define KB_LB_DSR_H

#include "drop.h"
#include "lb_csum.h"
#include "lb_hop.h"
#include "lb_select.h"
#include "parse.h"

#define LB_OUTER_TTL 64
#define LB_IP_DF 0x4000

/* A header without options, as words: five stores instead of ten. */
static __always_inline void lb_outer_header(struct iphdr *ip, const struct lb_route *route, __u8 tos)
{
	__be32 *words = (__be32 *)ip;
	__be32 first = bpf_htonl(0x45000000 | tos << 16 | route->tot_len); /* tos: RFC 6040 */
	__be32 second = bpf_htonl(LB_IP_DF); /* unfragmentable, so its id, 0, need not be unique (RFC 6864) */
	__be32 third = bpf_htonl(LB_OUTER_TTL << 24 | IPPROTO_IPIP << 16);

	__u16 check = ~lb_sum_fold((lb_sum)first + second + third + route->saddr + route->daddr);

	words[0] = first;
	words[1] = second;
	words[2] = third | bpf_htonl(bpf_ntohs(check)); /* its last two bytes */
	words[3] = route->saddr;
	words[4] = route->daddr;
}

/* The hop by the kernel's routes, for backends whose next hop user space does not know. */
static __always_inline int lb_dsr_route(struct xdp_md *ctx, const struct kb_packet *packet,
					const struct lb_route *route, struct lb_hop *hop)
{
	const struct lb_route route_copy = *route; /* the caller's is never pointed to, and stays in registers */
	struct lb_hop found;
	int error = lb_route(ctx, &route_copy, &found);

	if (error == LB_HOP_UNRESOLVED) /* the kernel takes what is addressed to its own MAC */
		__builtin_memcpy(found.macs, packet->data, LB_MAC_BYTES);
	*hop = found;
	return error;
}

/*
 * The inner TTL stays: the balancer stands in for the VIP's host and is no hop; a loop would pass a
 * router each round, and ends there.
 */
static __always_inline int lb_dsr(struct xdp_md *ctx, const struct kb_packet *packet,
				  const struct kb_lb_config *config, const struct lb_choice *choice,
				  __u32 hash, bool new_connection)
{
	const struct kb_lb_backend *backend = choice->backend;
	__u32 inner_len = bpf_ntohs(packet->ip->tot_len);
	__u32 outer_len = inner_len + sizeof(struct iphdr);
	__u8 tos = packet->ip->tos;
	struct lb_route route = {
		.saddr = config->encap_source | (hash & config->encap_host_mask),
		.daddr = backend->address,
		.tot_len = outer_len,
		.protocol = IPPROTO_IPIP,
	};
	struct ethhdr *eth;
	struct iphdr *ip;
	struct lb_hop hop;
	int error = 0;

	if (outer_len > 0xffff)
		return kb_drop(KB_DROP_LB_MTU);
	if (backend->flags & LB_BE_NEXT_HOP) {
		if (outer_len > backend->mtu)
			return kb_drop(KB_DROP_LB_MTU);
		lb_hop_of(backend, &hop);
	} else {
		error = lb_dsr_route(ctx, packet, &route, &hop);
		if (error > 0)
			return kb_drop(error);
	}
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(struct iphdr)))
		return kb_drop(KB_DROP_LB_HEADROOM);

	eth = (void *)(long)ctx->data;
	ip = (void *)(eth + 1);
	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return kb_drop(KB_DROP_TRUNCATED);
	lb_write_macs(eth, &hop);
	eth->h_proto = bpf_htons(ETH_P_IP);
	lb_outer_header(ip, &route, tos);

	lb_count(choice->id, 1, inner_len, new_connection);
	return error == LB_HOP_UNRESOLVED ? XDP_PASS : lb_leave(ctx, &hop);
}

#endif

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

static __always_inline void lb_outer_header(struct iphdr *ip, const struct lb_route *route, __u8 tos)
{
	lb_sum sum;

	ip->version = 4;
	ip->ihl = sizeof(*ip) / 4;
	ip->tos = tos; /* carries DSCP and ECN through the tunnel (RFC 6040) */
	ip->tot_len = bpf_htons(route->tot_len);
	ip->id = 0; /* unfragmentable, so it need not be unique (RFC 6864) */
	ip->frag_off = bpf_htons(LB_IP_DF);
	ip->ttl = LB_OUTER_TTL;
	ip->protocol = IPPROTO_IPIP;
	ip->saddr = route->saddr;
	ip->daddr = route->daddr;

	sum = bpf_htons(0x4500 | tos) + ip->tot_len + bpf_htons(LB_IP_DF);
	sum += bpf_htons(LB_OUTER_TTL << 8 | IPPROTO_IPIP);
	sum += (__u64)route->saddr + route->daddr;
	ip->check = ~lb_sum_fold(sum);
}

/*
 * The inner TTL stays: the balancer stands in for the VIP's host and is no hop; a loop would pass a
 * router each round, and ends there.
 */
static __always_inline int lb_dsr(struct xdp_md *ctx, const struct kb_packet *packet,
				  const struct kb_lb_config *config, const struct lb_choice *choice,
				  __u32 hash, bool new_connection)
{
	__u32 inner_len = bpf_ntohs(packet->ip->tot_len);
	__u32 outer_len = inner_len + sizeof(struct iphdr);
	__u8 tos = packet->ip->tos;
	struct lb_route route = {
		.saddr = config->encap_source | (hash & config->encap_host_mask),
		.daddr = choice->backend->address,
		.tot_len = outer_len,
		.protocol = IPPROTO_IPIP,
	};
	struct ethhdr *eth;
	struct iphdr *ip;
	struct lb_hop hop;
	int error;

	if (outer_len > 0xffff)
		return kb_drop(KB_DROP_LB_MTU);
	error = lb_backend_hop(ctx, choice->backend, &route, &hop);
	if (error > 0)
		return kb_drop(error);
	if (error == LB_HOP_UNRESOLVED) /* the kernel takes what is addressed to its own MAC */
		__builtin_memcpy(hop.macs, packet->data, LB_MAC_BYTES);
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(struct iphdr)))
		return kb_drop(KB_DROP_LB_HEADROOM);

	eth = (void *)(long)ctx->data;
	ip = (void *)(eth + 1);
	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return kb_drop(KB_DROP_TRUNCATED);
	__builtin_memcpy(eth, hop.macs, LB_MAC_BYTES);
	eth->h_proto = bpf_htons(ETH_P_IP);
	lb_outer_header(ip, &route, tos);

	lb_count(choice->id, 1, inner_len, new_connection);
	return error == LB_HOP_UNRESOLVED ? XDP_PASS : lb_leave(ctx, &hop);
}

#endif

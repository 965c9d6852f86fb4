// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The way out: which interface and which MAC addresses, and the verdict that takes it. */
#ifndef KB_LB_HOP_H
#define KB_LB_HOP_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "drop_reason.h"
#include "lb_types.h"

#define LB_AF_INET 2 /* <sys/socket.h> has no BPF variant */
#define LB_MAC_BYTES (2 * ETH_ALEN)

/* The route is known, the neighbour's address is not: the kernel shall forward and resolve. */
#define LB_HOP_UNRESOLVED (-1)

struct lb_hop {
	__u8 macs[LB_MAC_BYTES]; /* destination, then source: as a frame starts */
	__u32 ifindex;
} __attribute__((aligned(8)));

struct lb_route {
	__be32 saddr;
	__be32 daddr;
	__u16 tot_len; /* of the IP packet that leaves, host order */
	__u8 protocol;
};

/* Returns 0, LB_HOP_UNRESOLVED or a drop reason. */
static __noinline int lb_route(struct xdp_md *ctx, const struct lb_route *route, struct lb_hop *hop)
{
	struct bpf_fib_lookup fib = { .family = LB_AF_INET };
	int i;

	fib.l4_protocol = route->protocol;
	fib.tot_len = route->tot_len;
	fib.ifindex = ctx->ingress_ifindex;
	fib.ipv4_src = route->saddr;
	fib.ipv4_dst = route->daddr;

	switch (bpf_fib_lookup(ctx, &fib, sizeof(fib), 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		break;
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		return LB_HOP_UNRESOLVED;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return KB_DROP_LB_MTU;
	case BPF_FIB_LKUP_RET_FWD_DISABLED:
		return KB_DROP_LB_FORWARDING_OFF;
	default:
		return KB_DROP_LB_NO_ROUTE;
	}
	hop->ifindex = fib.ifindex;
	for (i = 0; i < ETH_ALEN; i++) {
		hop->macs[i] = fib.dmac[i];
		hop->macs[ETH_ALEN + i] = fib.smac[i];
	}
	return 0;
}

/* Both as two words: member by member, 12 bytes would be 12 loads and 12 stores. */
static __always_inline void lb_hop_of(const struct kb_lb_backend *backend, struct lb_hop *hop)
{
	*(__u64 *)hop->macs = *(const __u64 *)backend->macs;
	*(__u32 *)(hop->macs + 8) = *(const __u32 *)(backend->macs + 8);
	hop->ifindex = backend->ifindex;
}

static __always_inline void lb_write_macs(void *frame, const struct lb_hop *hop)
{
	*(__u64 *)frame = *(const __u64 *)hop->macs;
	*(__u32 *)(frame + 8) = *(const __u32 *)(hop->macs + 8);
}

/* The hop that user space keeps in the backend, else a route lookup. Returns as lb_route(). */
static __always_inline int lb_backend_hop(struct xdp_md *ctx, const struct kb_lb_backend *backend,
					  const struct lb_route *route, struct lb_hop *hop)
{
	if (!(backend->flags & LB_BE_NEXT_HOP))
		return lb_route(ctx, route, hop);
	if (route->tot_len > backend->mtu)
		return KB_DROP_LB_MTU;
	lb_hop_of(backend, hop);
	return 0;
}

static __always_inline int lb_leave(const struct xdp_md *ctx, const struct lb_hop *hop)
{
	return hop->ifindex == ctx->ingress_ifindex ? XDP_TX : bpf_redirect(hop->ifindex, 0);
}

#endif

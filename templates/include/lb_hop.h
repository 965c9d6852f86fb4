// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The way out: which interface and which MAC addresses, and the verdict that takes it. */
#ifndef KB_LB_HOP_H
#define KB_LB_HOP_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "ctx.h"
#include "drop_reason.h"
#include "lb_dev.h"
#include "lb_family.h"
#include "lb_types.h"

#define LB_MAC_BYTES (2 * ETH_ALEN)

/*
 * XDP can't send it: the neighbour's address is not known, the driver takes no frames, or the packet is too long
 * (which it may only seem: what comes to generic XDP may be several in one). XDP leaves it as it is and tc, behind
 * it, sends it: there the kernel resolves the neighbour. At tc it means that the neighbour is to be resolved.
 */
#define LB_HOP_BY_TC (-1)

static __always_inline bool lb_left_to_tc(int error)
{
#ifdef KB_TC
	(void)error;
	return false;
#else
	return error == LB_HOP_BY_TC;
#endif
}

struct lb_hop {
	__u8 macs[LB_MAC_BYTES]; /* destination, then source: as a frame starts */
	__u32 ifindex;
	__u32 mtu; /* where it was too small: the largest IP packet that would fit */
	bool gateway; /* of a route lookup: another host than the destination */
} __attribute__((aligned(8)));

struct lb_route {
	lb_addr saddr;
	lb_addr daddr;
	lb_len tot_len; /* of the IP packet that leaves, host order */
	__u8 protocol;
};

/* What becomes of a packet that is longer than `mtu`. */
static __always_inline int lb_too_long(struct lb_hop *hop, __u32 mtu)
{
#ifdef KB_TC
	hop->mtu = mtu;
	return KB_DROP_LB_MTU;
#else
	(void)hop;
	(void)mtu;
	return LB_HOP_BY_TC;
#endif
}

/* Returns 0, LB_HOP_BY_TC or a drop reason. */
static __noinline int lb_route(struct kb_ctx *ctx, const struct lb_route *route, struct lb_hop *hop)
{
	struct bpf_fib_lookup fib = { .family = LB_AF };
	int i;

	fib.l4_protocol = route->protocol;
	fib.tot_len = route->tot_len > 0xffff ? 0xffff : route->tot_len;
	fib.ifindex = kb_ctx_ifindex(ctx);
	__builtin_memcpy(fib.ipv6_src, &route->saddr, sizeof(route->saddr)); /* a union with ipv4_src */
	__builtin_memcpy(fib.ipv6_dst, &route->daddr, sizeof(route->daddr));
	__builtin_memset(hop, 0, sizeof(*hop));

	i = bpf_fib_lookup(ctx, &fib, sizeof(fib), 0);
	hop->gateway = !LB_V(lb_same)((const lb_addr *)fib.ipv6_dst, &route->daddr);
	switch (i) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		break;
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		hop->ifindex = fib.ifindex;
		return LB_HOP_BY_TC;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		/* In the place of the length asked for; Linux before 5.12 leaves that there. */
		return lb_too_long(hop, fib.mtu_result < route->tot_len ? fib.mtu_result : 0);
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
#ifndef KB_TC
	if (fib.ifindex != ctx->ingress_ifindex && !lb_dev_takes_frames(fib.ifindex))
		return LB_HOP_BY_TC;
#endif
	return 0;
}

/* Both as two words: member by member, 12 bytes would be 12 loads and 12 stores. */
static __always_inline void lb_hop_of(const struct LB_V(kb_lb_backend) *backend, struct lb_hop *hop)
{
	*(__u64 *)hop->macs = *(const __u64 *)backend->macs;
	*(__u32 *)(hop->macs + 8) = *(const __u32 *)(backend->macs + 8);
	hop->ifindex = backend->ifindex;
}

/* What counts against the MTU: of several segments that travel in one packet, one. */
static __always_inline __u32 lb_wire_len(const struct kb_ctx *ctx, const struct kb_packet *packet)
{
#ifdef KB_TC
	const __u8 *l4 = packet->l4;

	if (!ctx->gso_size)
		return packet->len;
	if (packet->protocol != IPPROTO_TCP || (void *)(l4 + sizeof(struct tcphdr)) > packet->data_end)
		return packet->len - packet->l4_len + sizeof(struct kb_udp) + ctx->gso_size;
	return packet->len - packet->l4_len + (l4[12] >> 4) * 4 + ctx->gso_size;
#else
	(void)ctx;
	return packet->len;
#endif
}

/* What lb_write_macs() writes again once the frame begins elsewhere. */
static __always_inline void lb_keep_macs(struct lb_hop *hop, const void *frame)
{
	*(__u64 *)hop->macs = *(const __u64 *)frame;
	*(__u32 *)(hop->macs + 8) = *(const __u32 *)(frame + 8);
}

static __always_inline void lb_write_macs(struct kb_ctx *ctx, void *frame, const struct lb_hop *hop)
{
#ifdef KB_TC
	(void)frame;
	bpf_skb_store_bytes(ctx, 0, hop->macs, LB_MAC_BYTES, 0);
#else
	(void)ctx;
	*(__u64 *)frame = *(const __u64 *)hop->macs;
	*(__u32 *)(frame + 8) = *(const __u32 *)(hop->macs + 8);
#endif
}

/* The hop that user space keeps in the backend, else a route lookup. Returns as lb_route(). */
static __always_inline int lb_backend_hop(struct kb_ctx *ctx, const struct LB_V(kb_lb_backend) *backend,
					  const struct lb_route *route, struct lb_hop *hop)
{
	if (!(backend->flags & LB_BE_NEXT_HOP))
		return lb_route(ctx, route, hop);
	if (route->tot_len > backend->mtu)
		return lb_too_long(hop, backend->mtu);
	lb_hop_of(backend, hop);
#ifndef KB_TC
	if (backend->flags & LB_BE_NO_FRAMES)
		return LB_HOP_BY_TC;
#endif
	return 0;
}

/* The packet is ready to leave by `hop`; `error` is 0 or, at tc, LB_HOP_BY_TC. */
static __always_inline int lb_leave(struct kb_ctx *ctx, void *frame, const struct lb_hop *hop, int error)
{
#ifdef KB_TC
	if (ctx->vlan_present)
		bpf_skb_vlan_pop(ctx); /* of the way in; a VLAN device on the way out has its own */
	if (error)
		return bpf_redirect_neigh(hop->ifindex, NULL, 0, 0);
#else
	(void)error;
#endif
	lb_write_macs(ctx, frame, hop);
	return kb_ctx_send(ctx, hop->ifindex);
}

/* The same for what is rare: by offset. */
static __always_inline int lb_leave_by(struct kb_ctx *ctx, const struct lb_hop *hop, int error)
{
#ifdef KB_TC
	return lb_leave(ctx, NULL, hop, error);
#else
	if (error || !kb_ctx_store(ctx, 0, hop->macs, LB_MAC_BYTES))
		return KB_DROPPED;
	return kb_ctx_send(ctx, hop->ifindex);
#endif
}

#endif

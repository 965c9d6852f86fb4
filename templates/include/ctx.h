// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What differs between the two hooks that a built-in stage may be compiled for: XDP, or tc with KB_TC defined.
 *
 * `struct kb_ctx` is the context of either. At tc, packets are changed by helpers, not by pointers: a program
 * that writes through pointers unshares every packet that it sees, and what this host sends is always shared.
 * What is rare is read and written by offset at both hooks, so that it need be written but once.
 */
#ifndef KB_CTX_H
#define KB_CTX_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <stdbool.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "verdict.h"

/* By its name in the BTF of the kernel, as in clock.h. */
enum bpf_func_id___ctx {
	BPF_FUNC_xdp_load_bytes___ctx = 189,
};

#ifdef KB_TC

#include <linux/pkt_cls.h>

#define kb_ctx __sk_buff
#define KB_DROPPED TC_ACT_SHOT
#define KB_UP KB_CONTINUE /* to the stack, past what else is attached; KB_CONTINUE is TC_ACT_UNSPEC */

static __always_inline __u32 kb_ctx_ifindex(const struct kb_ctx *ctx)
{
	return ctx->ifindex;
}

static __always_inline int kb_ctx_send(const struct kb_ctx *ctx, __u32 ifindex)
{
	(void)ctx;
	return bpf_redirect(ifindex, 0);
}

/* Whether packets can be read and written by offset. */
static __always_inline bool kb_ctx_has_offsets(void)
{
	return true;
}

static __always_inline bool kb_ctx_load(struct kb_ctx *ctx, __u32 at, void *to, __u32 len)
{
	return !bpf_skb_load_bytes(ctx, at, to, len);
}

static __always_inline bool kb_ctx_store(struct kb_ctx *ctx, __u32 at, const void *from, __u32 len)
{
	return !bpf_skb_store_bytes(ctx, at, from, len, 0);
}

static __always_inline __u32 kb_ctx_len(const struct kb_ctx *ctx)
{
	return ctx->len;
}

/* Cuts the packet off, or lengthens it, at its end. */
static __always_inline bool kb_ctx_resize(struct kb_ctx *ctx, __u32 len)
{
	return !bpf_skb_change_tail(ctx, len, 0);
}

/* Makes room behind the Ethernet header, which moves. */
static __always_inline bool kb_ctx_grow(struct kb_ctx *ctx, __u32 len)
{
	return !bpf_skb_adjust_room(ctx, len, BPF_ADJ_ROOM_MAC, 0);
}

/* Has bytes that lie outside the linear part, if fewer than `least` lie in it, made to lie there. */
static __always_inline void kb_ctx_pull(struct kb_ctx *ctx, __u32 least, __u32 wanted)
{
	__u32 linear = (long)ctx->data_end - (long)ctx->data;

	if (linear < least && linear < ctx->len)
		bpf_skb_pull_data(ctx, wanted < ctx->len ? wanted : ctx->len);
}

#else

#define kb_ctx xdp_md
#define KB_DROPPED XDP_DROP
#define KB_UP XDP_PASS

static __always_inline __u32 kb_ctx_ifindex(const struct kb_ctx *ctx)
{
	return ctx->ingress_ifindex;
}

static __always_inline int kb_ctx_send(const struct kb_ctx *ctx, __u32 ifindex)
{
	return ifindex == ctx->ingress_ifindex ? XDP_TX : bpf_redirect(ifindex, 0);
}

/* Since Linux 5.18; on older ones XDP leaves to tc what is done so. The verifier takes out calls it never reaches. */
static __always_inline bool kb_ctx_has_offsets(void)
{
	return bpf_core_enum_value_exists(enum bpf_func_id___ctx, BPF_FUNC_xdp_load_bytes___ctx);
}

static __always_inline bool kb_ctx_load(struct kb_ctx *ctx, __u32 at, void *to, __u32 len)
{
	return !bpf_xdp_load_bytes(ctx, at, to, len);
}

static __always_inline bool kb_ctx_store(struct kb_ctx *ctx, __u32 at, const void *from, __u32 len)
{
	return !bpf_xdp_store_bytes(ctx, at, (void *)from, len);
}

static __always_inline __u32 kb_ctx_len(const struct kb_ctx *ctx)
{
	long len = (long)ctx->data_end - (long)ctx->data;

	asm volatile("" : "+r"(len)); /* else clang may take 32 bits of each pointer, which verifiers refuse */
	return len;
}

static __always_inline bool kb_ctx_resize(struct kb_ctx *ctx, __u32 len)
{
	return !bpf_xdp_adjust_tail(ctx, (int)(len - kb_ctx_len(ctx)));
}

static __always_inline bool kb_ctx_grow(struct kb_ctx *ctx, __u32 len)
{
	unsigned char macs[2 * ETH_ALEN + 2];

	return kb_ctx_load(ctx, 0, macs, sizeof(macs)) && !bpf_xdp_adjust_head(ctx, -(int)len) &&
	       kb_ctx_store(ctx, 0, macs, sizeof(macs));
}

/* A frame is in one piece. */
static __always_inline void kb_ctx_pull(struct kb_ctx *ctx, __u32 least, __u32 wanted)
{
	(void)ctx;
	(void)least;
	(void)wanted;
}

#endif

#endif

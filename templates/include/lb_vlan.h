// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Frames with VLAN tags (IEEE 802.1Q, 802.1ad) where they arrive. At XDP tags are taken off before a frame is looked
 * at and put back on one that stays, or goes back to its sender. At tc the kernel keeps the tag beside the packet.
 */
#ifndef KB_LB_VLAN_H
#define KB_LB_VLAN_H

#include "lb_family.h"
#include "lb_reply.h"

#ifndef KB_TC

/* As they lie behind the MAC addresses: a protocol and a tag each. */
struct lb_tags {
	__be32 words[KB_MAX_VLAN_TAGS];
	__u32 count;
};

/* Takes the tags off a frame that has a packet of our family behind them. */
static __noinline bool lb_untag(struct kb_ctx *ctx, struct lb_tags *tags)
{
	void *data_end = (void *)(long)ctx->data_end;
	__be32 *words = (void *)(long)ctx->data;
	__be32 macs[3];
	__u32 count;

	/* The addresses are three words, the first tag the fourth. */
	if ((void *)(words + 5) > data_end || !kb_is_vlan(words[3] & 0xffff))
		return false;
	count = 1;
	tags->words[0] = words[3];
	tags->words[1] = words[4];
	if (kb_is_vlan(words[4] & 0xffff)) {
		if ((void *)(words + 6) > data_end || (words[5] & 0xffff) != bpf_htons(LB_ETH_P))
			return false;
		count = 2;
	} else if ((words[4] & 0xffff) != bpf_htons(LB_ETH_P)) {
		return false;
	}
	tags->count = count;
	__builtin_memcpy(macs, words, sizeof(macs));
	if (bpf_xdp_adjust_head(ctx, count * sizeof(*words)))
		return false;
	words = (void *)(long)ctx->data;
	if ((void *)(words + 3) > (void *)(long)ctx->data_end)
		return false;
	__builtin_memcpy(words, macs, sizeof(macs));
	return true;
}

/* Puts them back. */
static __noinline bool lb_tag(struct kb_ctx *ctx, const struct lb_tags *tags)
{
	__be32 *words = (void *)(long)ctx->data;
	__be32 macs[3];

	if ((void *)(words + 3) > (void *)(long)ctx->data_end)
		return false;
	__builtin_memcpy(macs, words, sizeof(macs));
	if (bpf_xdp_adjust_head(ctx, tags->count == 2 ? -8 : -4))
		return false;
	words = (void *)(long)ctx->data;
	if ((void *)(words + 5) > (void *)(long)ctx->data_end)
		return false;
	__builtin_memcpy(words, macs, sizeof(macs));
	words[3] = tags->words[0];
	if (tags->count == 2)
		words[4] = tags->words[1];
	return true;
}

#endif

#endif

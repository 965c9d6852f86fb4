// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* From a packet's source and L4 key to the index of the first rule that matches. */
#ifndef KB_POLICY_MATCH_H
#define KB_POLICY_MATCH_H

#include "parse.h"
#include "policy_maps.h"

/*
 * An index that clang knows to be in bounds and so never checks, but whose bounds verifiers up to Linux 6.12
 * lose: they take what bswap and OR give for any number. The mask changes nothing and tells them again.
 */
#define KB_WITHIN(index, mask)                                                 \
	({                                                                     \
		__u64 within = (index);                                        \
		asm volatile("%0 &= %1" : "+r"(within) : "i"(mask));           \
		within;                                                        \
	})
#define KB_RULE_INDEX_MASK 0x7ff
#define KB_L4_KEY_MASK 0x3ffff

/* Position of the only bit set in `bit`: BPF has no count-zeros instruction, clang's takes 15. */
static __always_inline __u32 kb_bit_index(__u64 bit)
{
	static const __u8 index_of[64] = {
		0,  1,	2,  53, 3,  7,	54, 27, 4,  38, 41, 8,	34, 55, 48, 28, 62, 5,	39, 46, 44, 42,
		22, 9,	24, 35, 59, 56, 49, 18, 29, 11, 63, 52, 6,  26, 37, 40, 33, 47, 61, 45, 43, 21,
		23, 58, 17, 10, 51, 25, 36, 32, 60, 20, 57, 16, 50, 31, 19, 15, 30, 14, 13, 12,
	};

	return index_of[(bit * 0x022fdd63cc95386dULL) >> 58]; /* a de Bruijn sequence */
}

static __always_inline __u64 kb_lowest_bit(__u64 word)
{
	return word & -word;
}

static __always_inline __u32 kb_policy_l4_key(const struct kb_packet *packet, const struct kb_l4 *l4)
{
	if (kb_is_later_fragment(packet))
		return KB_L4_FRAGMENT + packet->ip->protocol;
	switch (packet->ip->protocol) {
	case IPPROTO_TCP:
		return KB_L4_TCP + bpf_ntohs(l4->dport);
	case IPPROTO_UDP:
		return KB_L4_UDP + bpf_ntohs(l4->dport);
	case IPPROTO_ICMP:
		return KB_L4_ICMP + (l4->icmp_type << 8 | l4->icmp_code);
	default:
		return KB_L4_OTHER + packet->ip->protocol;
	}
}

static __always_inline const struct kb_rule_bits *kb_policy_l4_bits(const struct kb_policy_half *half, __u32 l4_key)
{
	return &half->l4_bits[half->l4[KB_WITHIN(l4_key, KB_L4_KEY_MASK)] % KB_CLASSES];
}

static __always_inline const struct kb_chunk *kb_policy_chunk(__u32 active, __u32 node)
{
	__u32 key = active * KB_CHUNKS + (node & ~KB_NODE_CHUNK);

	return bpf_map_lookup_elem(&kb_p_chunks, &key);
}

static __always_inline const struct kb_rule_bits *kb_policy_src_bits(const struct kb_policy_half *half,
								     __u32 active, __be32 saddr)
{
	__u32 addr = bpf_ntohl(saddr);
	__u32 node = half->root[addr >> 16];
	const struct kb_chunk *chunk;

	if (node & KB_NODE_CHUNK) {
		chunk = kb_policy_chunk(active, node);
		if (!chunk)
			return NULL;
		node = chunk->node[addr >> 8 & 0xff];
		if (node & KB_NODE_CHUNK) {
			chunk = kb_policy_chunk(active, node);
			if (!chunk)
				return NULL;
			node = chunk->node[addr & 0xff];
		}
	}
	return &half->src_bits[node % KB_CLASSES];
}

/* The lowest bit set in all bitmaps, or `none`. Words that are 0 on one side cost nothing. */
static __always_inline __u32 kb_policy_first(const struct kb_rule_bits *src, const struct kb_rule_bits *l4,
					     const struct kb_rule_bits *mask, __u32 none)
{
	__u64 summary = src->summary & l4->summary;
	int i;

	if (mask)
		summary &= mask->summary;
#pragma clang loop unroll(disable)
	for (i = 0; summary && i < KB_RULE_WORDS; i++) {
		__u64 bit = kb_lowest_bit(summary);
		__u32 at = kb_bit_index(bit) % KB_RULE_WORDS;
		__u64 word = src->words[at] & l4->words[at];

		if (mask)
			word &= mask->words[at];
		if (word)
			return at * 64 + kb_bit_index(kb_lowest_bit(word));
		summary ^= bit;
	}
	return none;
}

#endif

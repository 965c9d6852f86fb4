// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* IPv6 header and its extension headers (RFC 8200), into the same `struct kb_packet` as IPv4. */
#ifndef KB_PARSE_IPV6_H
#define KB_PARSE_IPV6_H

#include <linux/ipv6.h>

#include "parse.h"

/* More than hosts send, each kind once: hop-by-hop, destination, routing, fragment, authentication, destination. */
#define KB_MAX_EXTENSIONS 6

#define KB_IP6_MF 0x1 /* frag_off, host order; the offset is above it, in bytes */
#define KB_IP6_OFFSET 0xfff8

struct kb_extension {
	__u8 next;
	__u8 len; /* in 8 bytes, without the first; of an authentication header in 4 bytes, less 2 */
	__be16 frag_off; /* fragment headers */
	__be32 id;
};

static __always_inline bool kb_is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_FRAGMENT || next == IPPROTO_AH ||
	       next == IPPROTO_DSTOPTS;
}

/* What is behind extension headers: lengths in bytes, from the start of the IPv6 header. */
struct kb_behind {
	__u16 at; /* 0: there is no telling */
	__u16 frag; /* as in struct kb_packet */
	__u16 fragment_at; /* of the fragment header; 0 without one */
	__u8 next;
	__u8 pad;
};

union kb_walked {
	struct kb_behind behind;
	__u64 value;
};

/*
 * Walks over the extension headers of the packet that begins `l3_at` bytes into the frame. An atomic fragment
 * (RFC 6946) is none. A global function: verifiers judge it once, not for each way there may be through it.
 */
__noinline __u64 kb_ipv6_walk(struct kb_ctx *ctx, __u32 l3_at)
{
	void *data = (void *)(long)ctx->data;
	void *data_end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip = data + (l3_at & 0x3fff);
	union kb_walked walked = {};
	__u32 at = sizeof(*ip);
	__u8 next;
	int i;

	if ((void *)(ip + 1) > data_end)
		return 0;
	next = ip->nexthdr;
	for (i = 0; i < KB_MAX_EXTENSIONS; i++) {
		struct kb_extension *extension = (void *)ip + (at & 0x3fff);
		__u32 frag;

		if (!kb_is_extension(next) || walked.behind.frag & KB_IP_OFFSET)
			break;
		if ((void *)(extension + 1) > data_end)
			return 0;
		if (next == IPPROTO_FRAGMENT) {
			if (walked.behind.fragment_at) /* of two, neither says what becomes of the packet */
				return 0;
			frag = bpf_ntohs(extension->frag_off);
			walked.behind.frag = (frag & KB_IP6_OFFSET) >> 3 | (frag & KB_IP6_MF ? KB_IP_MF : 0);
			walked.behind.fragment_at = at;
			at += sizeof(*extension);
		} else {
			at += next == IPPROTO_AH ? (extension->len + 2) * 4 : (extension->len + 1) * 8;
		}
		next = extension->next;
	}
	if (kb_is_extension(next) && !(walked.behind.frag & KB_IP_OFFSET))
		return 0;
	walked.behind.at = at;
	walked.behind.next = next;
	return walked.value;
}

/* Reads the IPv6 header `l3_at` bytes into the frame and finds what follows its extension headers. */
static __always_inline enum kb_parsed kb_parse_ipv6_at(struct kb_ctx *ctx, __u32 l3_at, struct kb_packet *packet)
{
	union kb_walked walked = { .behind = { .at = sizeof(struct ipv6hdr) } };
	void *data = (void *)(long)ctx->data;
	void *data_end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip = data + (l3_at & 0x3fff);
	__u32 len;

	if ((void *)(ip + 1) > data_end)
		return KB_PARSED_TRUNCATED;
	if (ip->version != 6)
		return KB_PARSED_MALFORMED;
	walked.behind.next = ip->nexthdr;
	len = bpf_ntohs(ip->payload_len) + sizeof(*ip);
	if (kb_is_extension(ip->nexthdr)) {
		walked.value = kb_ipv6_walk(ctx, l3_at);
		if (!walked.behind.at || len < walked.behind.at)
			return KB_PARSED_MALFORMED;
	}
	packet->data = data;
	packet->data_end = data_end;
	packet->ip6 = ip;
	packet->l4 = (void *)ip + (walked.behind.at & 0x3fff);
	packet->l4_len = len - walked.behind.at;
	packet->len = len;
	packet->frag = walked.behind.frag;
	packet->protocol = walked.behind.next;
	packet->fragment_at = walked.behind.fragment_at;
	return KB_PARSED;
}

/* Finds what follows the extension headers of an untagged packet. */
static __always_inline enum kb_parsed kb_parse_ipv6(struct kb_ctx *ctx, struct kb_packet *packet)
{
	void *data = (void *)(long)ctx->data;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return KB_PARSED_TRUNCATED;
	if (kb_eth_proto(eth) != bpf_htons(ETH_P_IPV6))
		return KB_PARSED_NOT_IPV6;
	return kb_parse_ipv6_at(ctx, sizeof(*eth), packet);
}

#endif

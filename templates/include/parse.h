// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Ethernet, VLAN, IPv4 and L4 headers of a frame, by bounds-checked pointers.
 *
 * Addresses and ports stay in network byte order, lengths and offsets are in host order.
 */
#ifndef KB_PARSE_H
#define KB_PARSE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "ctx.h"

#define KB_MAX_VLAN_TAGS 2

/* iphdr.frag_off, in host order */
#define KB_IP_MF 0x2000
#define KB_IP_OFFSET 0x1fff

/* The byte of a TCP header that holds CWR..FIN. */
#define KB_TCP_FLAGS_AT 13
#define KB_TCP_FIN 0x01
#define KB_TCP_SYN 0x02
#define KB_TCP_RST 0x04
#define KB_TCP_ACK 0x10

/* RFC 792; <linux/icmp.h> drags in libc's socket headers, which have no BPF variant. */
struct kb_icmp {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 rest;
};

struct kb_udp {
	__be16 sport;
	__be16 dport;
	__be16 len;
	__be16 checksum;
};

enum kb_parsed {
	KB_PARSED = 0,
	KB_PARSED_NOT_IPV4, /* ARP, IPv6, LLC, ...: not ours */
	KB_PARSED_NOT_IPV6,
	KB_PARSED_TRUNCATED,
	KB_PARSED_MALFORMED,
	KB_PARSED_VLAN_DEPTH,
};

struct kb_vlan_tag {
	__be16 tci;
	__be16 proto;
};

struct kb_packet {
	void *data;
	void *data_end;
	union {
		struct iphdr *ip;
		struct ipv6hdr *ip6; /* see parse_ipv6.h */
	};
	void *l4; /* behind the IP options */
	__u32 l4_len; /* bytes of L4 that the IP total length promises; not checked against the frame */
	__u32 len; /* of the IP packet, as its header says */
	__u16 frag; /* iphdr.frag_off in host order */
	__u8 protocol;
	__u16 fragment_at; /* IPv6: of the fragment header, from the start of the packet; 0 without one */
};

struct kb_l4 {
	__be16 sport; /* TCP and UDP */
	__be16 dport;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 icmp_code;
};

static __always_inline bool kb_is_vlan(__be16 proto)
{
	return proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD);
}

/* Reads the IPv4 header at `l3` and checks its lengths. */
static __always_inline enum kb_parsed kb_parse_ipv4_at(void *data, void *l3, void *data_end, struct kb_packet *packet)
{
	struct iphdr *ip = l3;
	__u32 header, total;

	if ((void *)(ip + 1) > data_end)
		return KB_PARSED_TRUNCATED;
	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (ip->version != 4 || header < sizeof(*ip) || total < header)
		return KB_PARSED_MALFORMED;

	packet->data = data;
	packet->data_end = data_end;
	packet->ip = ip;
	packet->l4 = l3 + header;
	packet->l4_len = total - header;
	packet->len = total;
	packet->protocol = ip->protocol;
	packet->frag = bpf_ntohs(ip->frag_off);
	packet->fragment_at = 0;
	return KB_PARSED;
}

/* By its place: members of a packed struct are loaded byte by byte. */
static __always_inline __be16 kb_eth_proto(const struct ethhdr *eth)
{
	return *(const __be16 *)((const void *)eth + offsetof(struct ethhdr, h_proto));
}

/* Finds the IPv4 header of a frame without VLAN tags; others are not ours. */
static __always_inline enum kb_parsed kb_parse_untagged_ipv4(const struct kb_ctx *ctx, struct kb_packet *packet)
{
	void *data = (void *)(long)ctx->data;
	void *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > data_end)
		return KB_PARSED_TRUNCATED;
	if (kb_eth_proto(eth) != bpf_htons(ETH_P_IP))
		return KB_PARSED_NOT_IPV4;
	return kb_parse_ipv4_at(data, eth + 1, data_end, packet);
}

/* Finds the IPv4 header behind up to KB_MAX_VLAN_TAGS tags and checks its lengths. */
static __always_inline enum kb_parsed kb_parse_ipv4(const struct kb_ctx *ctx, struct kb_packet *packet)
{
	void *data = (void *)(long)ctx->data;
	void *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	void *l3 = eth + 1;
	__be16 proto;
	int i;

	if (l3 > data_end)
		return KB_PARSED_TRUNCATED;
	proto = eth->h_proto;

#pragma unroll
	for (i = 0; i < KB_MAX_VLAN_TAGS; i++) {
		struct kb_vlan_tag *tag = l3;

		if (!kb_is_vlan(proto))
			break;
		l3 = tag + 1;
		if (l3 > data_end)
			return KB_PARSED_TRUNCATED;
		proto = tag->proto;
	}
	if (proto != bpf_htons(ETH_P_IP))
		return kb_is_vlan(proto) ? KB_PARSED_VLAN_DEPTH : KB_PARSED_NOT_IPV4;
	return kb_parse_ipv4_at(data, l3, data_end, packet);
}

/* Any fragment: the first one (which has ports) or a later one. */
static __always_inline bool kb_is_fragment(const struct kb_packet *packet)
{
	return packet->frag & (KB_IP_MF | KB_IP_OFFSET);
}

/* A fragment without an L4 header. */
static __always_inline bool kb_is_later_fragment(const struct kb_packet *packet)
{
	return packet->frag & KB_IP_OFFSET;
}

/* True when `len` bytes of L4 are in the frame and within the IP total length. */
static __always_inline bool kb_l4_has(const struct kb_packet *packet, __u32 len)
{
	return packet->l4 + len <= packet->data_end && packet->l4_len >= len;
}

/*
 * Reads ports, TCP flags, ICMP type and code; other protocols leave `l4` zero.
 * Not for later fragments. TCP must show its whole fixed header: a first fragment that
 * ends before the flags is an attack (RFC 1858), UDP and ICMP their 8 bytes.
 */
static __always_inline enum kb_parsed kb_parse_l4(const struct kb_packet *packet, struct kb_l4 *l4)
{
	const __u8 *bytes = packet->l4;
	const __be16 *ports = packet->l4;
	const struct kb_icmp *icmp = packet->l4;

	__builtin_memset(l4, 0, sizeof(*l4));
	switch (packet->protocol) {
	case IPPROTO_TCP:
		if (!kb_l4_has(packet, sizeof(struct tcphdr)))
			return KB_PARSED_TRUNCATED;
		l4->sport = ports[0];
		l4->dport = ports[1];
		l4->tcp_flags = bytes[KB_TCP_FLAGS_AT];
		return KB_PARSED;
	case IPPROTO_UDP:
		if (!kb_l4_has(packet, sizeof(struct kb_udp)))
			return KB_PARSED_TRUNCATED;
		l4->sport = ports[0];
		l4->dport = ports[1];
		return KB_PARSED;
	case IPPROTO_ICMP:
		if (!kb_l4_has(packet, sizeof(*icmp)))
			return KB_PARSED_TRUNCATED;
		l4->icmp_type = icmp->type;
		l4->icmp_code = icmp->code;
		return KB_PARSED;
	default:
		return KB_PARSED;
	}
}

#endif

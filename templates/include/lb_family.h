// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The family that an object of packet programs is for: IPv4, or IPv6 with KB_LB_V6 defined. Each has programs of
 * its own of one source, so that what IPv6 needs costs IPv4 nothing. LB_V() names maps and types of the family.
 */
#ifndef KB_LB_FAMILY_H
#define KB_LB_FAMILY_H

#ifdef KB_LB_V6
#define LB_V(name) name##6
#include "parse_ipv6.h"
#else
#define LB_V(name) name
#include "parse.h"
#endif

#include "lb_address.h"
#include "lb_csum.h"

typedef LB_V(lb_address) lb_addr;

#define LB_L3_AT ((__u32)sizeof(struct ethhdr))

#ifdef KB_LB_V6

typedef struct ipv6hdr lb_ip;
typedef __u32 lb_len; /* of a whole packet: the payload alone may have 16 bits */

#define LB_IP(packet) ((packet)->ip6)
#define LB_ETH_P ETH_P_IPV6
#define LB_AF 10 /* AF_INET6; <sys/socket.h> has no BPF variant */
#define LB_ICMP IPPROTO_ICMPV6
#define LB_TUNNEL IPPROTO_IPV6 /* RFC 2473 */
#define LB_TTL(ip) ((ip)->hop_limit)
#define LB_CSUM_FLAGS ((__u64)BPF_F_IPV6)

static __always_inline enum kb_parsed lb_parse(struct kb_ctx *ctx, struct kb_packet *packet)
{
	return kb_parse_ipv6(ctx, packet);
}

/* A packet of the family that begins `l3_at` bytes into the frame. */
static __always_inline enum kb_parsed lb_parse_at(struct kb_ctx *ctx, __u32 l3_at, struct kb_packet *packet)
{
	return kb_parse_ipv6_at(ctx, l3_at, packet);
}

static __always_inline lb_sum lb_sum_address(lb_sum sum, const lb_addr *address)
{
	return sum + address->words[0] + address->words[1] + address->words[2] + address->words[3];
}

static __always_inline __u8 lb_tos(const lb_ip *ip)
{
	return bpf_ntohs(*(const __be16 *)ip) >> 4;
}

#else

typedef struct iphdr lb_ip;
typedef __u16 lb_len; /* of a whole packet */

#define LB_IP(packet) ((packet)->ip)
#define LB_ETH_P ETH_P_IP
#define LB_AF 2 /* AF_INET */
#define LB_ICMP IPPROTO_ICMP
#define LB_TUNNEL IPPROTO_IPIP /* RFC 2003 */
#define LB_TTL(ip) ((ip)->ttl)
#define LB_CSUM_FLAGS 0ULL

static __always_inline enum kb_parsed lb_parse(struct kb_ctx *ctx, struct kb_packet *packet)
{
	return kb_parse_untagged_ipv4(ctx, packet);
}

/* A packet of the family that begins `l3_at` bytes into the frame. */
static __always_inline enum kb_parsed lb_parse_at(struct kb_ctx *ctx, __u32 l3_at, struct kb_packet *packet)
{
	void *data = (void *)(long)ctx->data;

	return kb_parse_ipv4_at(data, data + (l3_at & 0x3fff), (void *)(long)ctx->data_end, packet);
}

static __always_inline lb_sum lb_sum_address(lb_sum sum, const lb_addr *address)
{
	return sum + *address;
}

static __always_inline __u8 lb_tos(const lb_ip *ip)
{
	return ip->tos;
}

#endif

static __always_inline const lb_addr *lb_from(const lb_ip *ip)
{
	return (const void *)&ip->saddr;
}

static __always_inline const lb_addr *lb_to(const lb_ip *ip)
{
	return (const void *)&ip->daddr;
}

/* What exchanging an address means to a checksum over it. */
static __always_inline lb_sum lb_sum_readdress(lb_sum sum, const lb_addr *from, const lb_addr *to)
{
#ifdef KB_LB_V6
	int i;

	for (i = 0; i < 4; i++)
		sum = lb_sum_replace32(sum, from->words[i], to->words[i]);
	return sum;
#else
	return lb_sum_replace32(sum, *from, *to);
#endif
}

#endif

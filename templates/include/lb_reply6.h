// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What replies of IPv6 have of their own; see lb_reply.h. */
#ifndef KB_LB_REPLY6_H
#define KB_LB_REPLY6_H

#include "lb_family.h"

#define LB_REPLY_TTL 64

/* ICMPv6 types, and types << 8 | codes (RFC 4443) */
#define LB_ICMP_ECHO 128
#define LB_ICMP_ECHO_REPLY 129
#define LB_ICMP_NO_PORT (1 << 8 | 4)
#define LB_ICMP_TOO_LONG (2 << 8)

static __always_inline bool lb_icmp_is_error(__u8 type)
{
	return type >= 1 && type <= 4;
}

/* Not ::/8, with the unspecified and the loopback address, and no group. */
static __always_inline bool lb_is_one_host(const lb_addr *address)
{
	__u32 first = bpf_ntohl(address->words[0]) >> 24;

	return first && first != 0xff;
}

/* Whether this header is the only one before `protocol`'s. */
static __always_inline bool lb_is_plain(const lb_ip *ip, __u8 protocol)
{
	return ip->nexthdr == protocol;
}

static __always_inline __u32 lb_payload_len(const lb_ip *ip)
{
	return bpf_ntohs(ip->payload_len);
}

static __always_inline void lb_reply_header(lb_ip *ip, const lb_ip *to, __u16 len, __u8 protocol)
{
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 6;
	ip->payload_len = bpf_htons(len);
	ip->nexthdr = protocol;
	ip->hop_limit = LB_REPLY_TTL;
	ip->saddr = to->daddr;
	ip->daddr = to->saddr;
}

/* What is before the transport header of a packet to be quoted: its length, and the sum of its words. */
struct lb_quoted {
	__u32 header;
	__u8 protocol;
	lb_sum sum;
};

/* Only without extension headers: where the transport header is would have to be found out again. */
static __always_inline bool lb_quotable(const lb_ip *ip, struct lb_quoted *quote)
{
	const __be32 *words = (const __be32 *)ip;
	int i;

	quote->header = sizeof(*ip);
	quote->protocol = ip->nexthdr;
	quote->sum = 0;
	for (i = 0; i < (int)(sizeof(*ip) / 4); i++)
		quote->sum += words[i];
	return ip->nexthdr == IPPROTO_TCP || ip->nexthdr == IPPROTO_UDP;
}

static __always_inline lb_sum lb_icmp_pseudo_sum(const lb_ip *ip, __u16 len)
{
	lb_sum sum = lb_sum_address(0, lb_from(ip));

	return lb_sum_address(sum, lb_to(ip)) + bpf_htons(IPPROTO_ICMPV6) + bpf_htons(len);
}

#endif

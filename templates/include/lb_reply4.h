// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What replies of IPv4 have of their own; see lb_reply.h. */
#ifndef KB_LB_REPLY4_H
#define KB_LB_REPLY4_H

#include "lb_family.h"

#define LB_REPLY_TTL 64

/* ICMP types, and types << 8 | codes (RFC 792, RFC 1191) */
#define LB_ICMP_ECHO 8
#define LB_ICMP_ECHO_REPLY 0
#define LB_ICMP_NO_PORT (3 << 8 | 3)
#define LB_ICMP_TOO_LONG (3 << 8 | 4)

static __always_inline bool lb_icmp_is_error(__u8 type)
{
	return type == 3 || type == 11 || type == 12;
}

/* Not 0.0.0.0/8, a group, or everybody. */
static __always_inline bool lb_is_one_host(const lb_addr *address)
{
	__u32 host = bpf_ntohl(*address);

	return host >> 24 && host < 0xe0000000;
}

/* Whether this header is the only one before `protocol`'s. */
static __always_inline bool lb_is_plain(const lb_ip *ip, __u8 protocol)
{
	return ip->ihl == 5 && ip->protocol == protocol;
}

static __always_inline __u32 lb_payload_len(const lb_ip *ip)
{
	return bpf_ntohs(ip->tot_len) - sizeof(*ip);
}

static __always_inline void lb_reply_header(lb_ip *ip, const lb_ip *to, __u16 len, __u8 protocol)
{
	__be32 *words = (__be32 *)ip;
	lb_sum sum;

	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(sizeof(*ip) + len);
	ip->frag_off = bpf_htons(0x4000); /* so that its id need not be unique (RFC 6864) */
	ip->ttl = LB_REPLY_TTL;
	ip->protocol = protocol;
	ip->saddr = to->daddr;
	ip->daddr = to->saddr;
	sum = (lb_sum)words[0] + words[1] + words[2] + words[3] + words[4];
	ip->check = ~lb_sum_fold(sum);
}

/* What is before the transport header of a packet to be quoted: its length, and the sum of its words. */
struct lb_quoted {
	__u32 header;
	__u8 protocol;
	lb_sum sum;
};

static __always_inline bool lb_quotable(const lb_ip *ip, struct lb_quoted *quote)
{
	quote->header = ip->ihl * 4;
	quote->protocol = ip->protocol;
	quote->sum = 0; /* its checksum included it comes to nothing */
	return true;
}

static __always_inline lb_sum lb_icmp_pseudo_sum(const lb_ip *ip, __u16 len)
{
	(void)ip;
	(void)len;
	return 0; /* ICMP has no pseudo header */
}

#endif

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Rewrites addresses, ports and TTL of an IPv4 TCP or UDP packet and keeps its checksums right. */
#ifndef KB_LB_REWRITE_H
#define KB_LB_REWRITE_H

#include "lb_csum.h"
#include "parse.h"

struct lb_tuple {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
};

/* TTL and protocol share a checksum word. */
static __always_inline __u16 lb_ttl_word(const struct iphdr *ip)
{
	return bpf_htons(ip->ttl << 8 | ip->protocol);
}

/*
 * `hops` is taken from the TTL. The caller has parsed the L4 header (kb_parse_l4), so that the
 * checks here only tell the verifier again; false means it would not follow.
 */
static __always_inline bool lb_rewrite(const struct kb_packet *packet, const struct lb_tuple *to, __u8 hops)
{
	struct iphdr *ip = packet->ip;
	__be16 *ports = packet->l4;
	__u16 word = lb_ttl_word(ip);
	lb_sum diff = 0, ip_diff;

	diff = lb_sum_replace32(diff, ip->saddr, to->saddr);
	diff = lb_sum_replace32(diff, ip->daddr, to->daddr);
	ip->saddr = to->saddr;
	ip->daddr = to->daddr;
	ip->ttl -= hops;
	ip_diff = lb_sum_replace16(diff, word, lb_ttl_word(ip));
	ip->check = lb_csum_apply(ip->check, ip_diff);

	if (ip->protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = packet->l4;

		if ((void *)(tcp + 1) > packet->data_end)
			return false;
		diff = lb_sum_replace16(diff, ports[0], to->sport);
		diff = lb_sum_replace16(diff, ports[1], to->dport);
		tcp->check = lb_csum_apply(tcp->check, diff);
	} else {
		struct kb_udp *udp = packet->l4;

		if ((void *)(udp + 1) > packet->data_end)
			return false;
		diff = lb_sum_replace16(diff, ports[0], to->sport);
		diff = lb_sum_replace16(diff, ports[1], to->dport);
		if (udp->checksum) { /* 0 = the sender made none; a computed 0 is sent as all ones (RFC 768) */
			udp->checksum = lb_csum_apply(udp->checksum, diff);
			if (!udp->checksum)
				udp->checksum = 0xffff;
		}
	}
	ports[0] = to->sport;
	ports[1] = to->dport;
	return true;
}

#endif

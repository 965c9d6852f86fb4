// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Rewrites addresses, ports and TTL of a TCP or UDP packet and keeps its checksums right. */
#ifndef KB_LB_REWRITE_H
#define KB_LB_REWRITE_H

#include "ctx.h"
#include "lb_family.h"

struct lb_tuple {
	lb_addr saddr;
	lb_addr daddr;
	__be16 sport;
	__be16 dport;
};

#define LB_TCP_CHECK_AT 16
#define LB_UDP_CHECK_AT 6

#ifdef KB_LB_V6

/* Gives a header other ends and takes `hops` off. Returns what that means to checksums over addresses. */
static __always_inline lb_sum lb_readdress(lb_ip *ip, const struct lb_tuple *to, __u8 hops)
{
	lb_sum diff = lb_sum_readdress(0, lb_from(ip), &to->saddr);

	diff = lb_sum_readdress(diff, lb_to(ip), &to->daddr);
	__builtin_memcpy(&ip->saddr, &to->saddr, sizeof(to->saddr));
	__builtin_memcpy(&ip->daddr, &to->daddr, sizeof(to->daddr));
	ip->hop_limit -= hops;
	return diff;
}

#else

/* TTL and protocol share a checksum word. */
static __always_inline __u16 lb_ttl_word(const lb_ip *ip)
{
	return bpf_htons(ip->ttl << 8 | ip->protocol);
}

/* Gives a header other ends and takes `hops` off. Returns what that means to checksums over addresses. */
static __always_inline lb_sum lb_readdress(lb_ip *ip, const struct lb_tuple *to, __u8 hops)
{
	__u16 word = lb_ttl_word(ip);
	lb_sum diff = 0, ip_diff;

	diff = lb_sum_replace32(diff, ip->saddr, to->saddr);
	diff = lb_sum_replace32(diff, ip->daddr, to->daddr);
	ip->saddr = to->saddr;
	ip->daddr = to->daddr;
	ip->ttl -= hops;
	ip_diff = lb_sum_replace16(diff, word, lb_ttl_word(ip));
	ip->check = lb_csum_apply(ip->check, ip_diff);
	return diff;
}

#endif

#ifdef KB_TC

/* `diff`: of addresses, which are in the pseudo header. Linux before 6.16 may not know that IPv6 has no checksum. */
static __always_inline bool lb_csum_readdressed(struct kb_ctx *ctx, __u32 at, lb_sum diff, __u64 flags)
{
	__u16 folded = lb_sum_fold(diff);

	flags |= BPF_F_PSEUDO_HDR;
	if (LB_CSUM_FLAGS != 0 && !bpf_l4_csum_replace(ctx, at, 0, folded, flags | LB_CSUM_FLAGS))
		return true;
	return !bpf_l4_csum_replace(ctx, at, 0, folded, flags);
}

/*
 * By helpers, which know who is to make the checksum: where that is left to the device, it holds the sum of the
 * pseudo header alone (CHECKSUM_PARTIAL). The sum that a card has made over the whole packet (CHECKSUM_COMPLETE)
 * stays right as long as each part that changes carries its own checksum.
 */
static __always_inline bool lb_rewrite(struct kb_ctx *ctx, const struct kb_packet *packet,
				       const struct lb_tuple *to, __u8 hops)
{
	__u32 l4_at = (long)packet->l4 - (long)packet->data;
	lb_ip ip = *LB_IP(packet);
	const __be16 *from = packet->l4;
	__be16 ports[2] = { to->sport, to->dport };
	bool udp = packet->protocol == IPPROTO_UDP;
	__u32 check_at = l4_at + (udp ? LB_UDP_CHECK_AT : LB_TCP_CHECK_AT);
	__u64 flags = udp ? BPF_F_MARK_MANGLED_0 : 0;
	lb_sum diff, port_diff = 0;

	if ((void *)(from + 2) > packet->data_end)
		return false;
	port_diff = lb_sum_replace16(port_diff, from[0], to->sport);
	port_diff = lb_sum_replace16(port_diff, from[1], to->dport);
	diff = lb_readdress(&ip, to, hops);
	return !bpf_skb_store_bytes(ctx, LB_L3_AT, &ip, sizeof(ip), 0) &&
	       !bpf_skb_store_bytes(ctx, l4_at, ports, sizeof(ports), BPF_F_INVALIDATE_HASH) &&
	       lb_csum_readdressed(ctx, check_at, diff, flags) &&
	       !bpf_l4_csum_replace(ctx, check_at, 0, lb_sum_fold(port_diff), flags);
}

#else

/*
 * `hops` is taken from the TTL. The caller has parsed the L4 header (kb_parse_l4), so that the
 * checks here only tell the verifier again; false means it would not follow.
 */
static __always_inline bool lb_rewrite(struct kb_ctx *ctx, const struct kb_packet *packet,
				       const struct lb_tuple *to, __u8 hops)
{
	__be16 *ports = packet->l4;
	lb_sum diff = lb_readdress(LB_IP(packet), to, hops);

	(void)ctx;
	if (packet->protocol == IPPROTO_TCP) {
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

#endif

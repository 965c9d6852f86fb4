// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Packets that ServiceLB makes of a client's and sends back where it came from: the sender's frame, turned round.
 * Their source is the frontend's address. All of this is rare, so it works by offsets, alike at both hooks.
 */
#ifndef KB_LB_REPLY_H
#define KB_LB_REPLY_H

#include "ctx.h"
#include "drop.h"
#include "lb_csum.h"
#include "lb_limit.h"
#include "parse.h"

#define LB_REPLY_TTL 64
#define LB_ICMP_ECHO_REPLY 0
#define LB_ICMP_UNREACHABLE 3
#define LB_ICMP_ECHO 8
#define LB_ICMP_TIME_EXCEEDED 11
#define LB_ICMP_PARAMETER 12
#define LB_ICMP_PORT_UNREACHABLE 3
#define LB_ICMP_FRAG_NEEDED 4
#define LB_L3_AT ((__u32)sizeof(struct ethhdr))

struct lb_tcp {
	__be16 sport;
	__be16 dport;
	__be32 seq;
	__be32 ack;
	__u8 doff;
	__u8 flags;
	__be16 window;
	__u16 check;
	__be16 urgent;
};

/* A packet that may be answered: IPv4 from one host to another, no broadcast. */
static __always_inline bool lb_reply_to(struct kb_ctx *ctx, struct iphdr *ip)
{
	__u8 macs[2 * ETH_ALEN];

	if (!kb_ctx_load(ctx, 0, macs, sizeof(macs)) || macs[0] & 1)
		return false;
	if (!kb_ctx_load(ctx, LB_L3_AT, ip, sizeof(*ip)))
		return false;
	return bpf_ntohl(ip->saddr) >> 24 && bpf_ntohl(ip->saddr) < 0xe0000000;
}

/* Out again where it came in, to who sent it. */
static __always_inline int lb_turn_round(struct kb_ctx *ctx)
{
	__u8 macs[2 * ETH_ALEN], back[2 * ETH_ALEN];

	if (!kb_ctx_load(ctx, 0, macs, sizeof(macs)))
		return KB_DROPPED;
	__builtin_memcpy(back, macs + ETH_ALEN, ETH_ALEN);
	__builtin_memcpy(back + ETH_ALEN, macs, ETH_ALEN);
	if (!kb_ctx_store(ctx, 0, back, sizeof(back)))
		return KB_DROPPED;
	return kb_ctx_send(ctx, kb_ctx_ifindex(ctx));
}

static __always_inline void lb_reply_header(struct iphdr *ip, const struct iphdr *to, __u16 len, __u8 protocol)
{
	__be32 *words = (__be32 *)ip;
	lb_sum sum;

	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(len);
	ip->frag_off = bpf_htons(0x4000); /* so that its id need not be unique (RFC 6864) */
	ip->ttl = LB_REPLY_TTL;
	ip->protocol = protocol;
	ip->saddr = to->daddr;
	ip->daddr = to->saddr;
	sum = (lb_sum)words[0] + words[1] + words[2] + words[3] + words[4];
	ip->check = ~lb_sum_fold(sum);
}

/*
 * Whether the sender left the checksum at `at` to the device, which it then holds only the sum of the pseudo
 * header for (CHECKSUM_PARTIAL). Nothing tells; but the helper for checksums then has nothing to do. XDP sees none.
 */
static __always_inline bool lb_checksum_is_partial(struct kb_ctx *ctx, __u32 at)
{
#ifdef KB_TC
	__u16 before, after;

	if (!kb_ctx_load(ctx, at, &before, sizeof(before)) || bpf_l4_csum_replace(ctx, at, 0, 1, 0) ||
	    !kb_ctx_load(ctx, at, &after, sizeof(after)) || before == after)
		return true;
	kb_ctx_store(ctx, at, &before, sizeof(before));
#else
	(void)ctx;
	(void)at;
#endif
	return false;
}

/* Ends a connection: as RFC 9293, 3.10.7.1 answers a segment for no connection. */
static __noinline int lb_reset(struct kb_ctx *ctx)
{
	union {
		struct {
			struct iphdr ip;
			struct lb_tcp tcp;
		};
		__be32 words[10];
	} reply = {};
	struct lb_tcp tcp;
	struct iphdr ip;
	__u32 payload;
	lb_sum pseudo;
	bool partial;

	if (!lb_may_reply() || !lb_reply_to(ctx, &ip) || ip.ihl != 5 ||
	    !kb_ctx_load(ctx, LB_L3_AT + sizeof(ip), &tcp, sizeof(tcp)) || tcp.flags & KB_TCP_RST)
		return KB_DROPPED;
	partial = lb_checksum_is_partial(ctx, LB_L3_AT + sizeof(ip) + 16);

	reply.tcp.sport = tcp.dport;
	reply.tcp.dport = tcp.sport;
	reply.tcp.doff = sizeof(tcp) / 4 << 4;
	reply.tcp.flags = KB_TCP_RST;
	if (tcp.flags & KB_TCP_ACK) {
		reply.tcp.seq = tcp.ack;
	} else {
		payload = bpf_ntohs(ip.tot_len) - sizeof(ip) - (tcp.doff >> 4) * 4;
		payload += !!(tcp.flags & KB_TCP_SYN) + !!(tcp.flags & KB_TCP_FIN);
		reply.tcp.ack = bpf_htonl(bpf_ntohl(tcp.seq) + payload);
		reply.tcp.flags |= KB_TCP_ACK;
	}
	lb_reply_header(&reply.ip, &ip, sizeof(reply), IPPROTO_TCP);
	pseudo = (lb_sum)ip.saddr + ip.daddr + bpf_htons(IPPROTO_TCP) + bpf_htons(sizeof(tcp));
	if (!partial)
		pseudo += (lb_sum)reply.words[5] + reply.words[6] + reply.words[7] + reply.words[8];
	reply.tcp.check = partial ? lb_sum_fold(pseudo) : ~lb_sum_fold(pseudo);
	if (!kb_ctx_resize(ctx, LB_L3_AT + sizeof(reply)) || !kb_ctx_store(ctx, LB_L3_AT, &reply, sizeof(reply)))
		return KB_DROPPED;
	return lb_turn_round(ctx);
}

/*
 * An ICMP error (RFC 792) that quotes the packet's headers, which stay where they are: new ones are put in front.
 * `what` is type << 8 | code; `mtu` is 0 or that of the next hop.
 */
static __noinline int lb_icmp_error(struct kb_ctx *ctx, __u16 what, __u16 mtu)
{
	struct {
		struct iphdr ip;
		__be16 what;
		__u16 check;
		__be16 unused;
		__be16 mtu;
	} reply = {};
	union {
		__be32 words[5];
		__u16 halves[10];
	} l4 = {};
	struct iphdr ip;
	__u32 header, quoted, check;
	lb_sum sum;

	if (!lb_may_reply() || !lb_reply_to(ctx, &ip))
		return KB_DROPPED;
	/* The fields that senders look for, and the checksum field: a device must find it where it is to be. */
	header = ip.ihl * 4;
	quoted = ip.protocol == IPPROTO_TCP ? 20 : 8;
	check = ip.protocol == IPPROTO_TCP ? 8 : 3;
	if (!kb_ctx_resize(ctx, LB_L3_AT + header + quoted) ||
	    !kb_ctx_load(ctx, LB_L3_AT + header, &l4, quoted))
		return KB_DROPPED;
	sum = (lb_sum)l4.words[0] + l4.words[1] + l4.words[2] + l4.words[3] + l4.words[4];
	if (l4.halves[check] && lb_checksum_is_partial(ctx, LB_L3_AT + header + 2 * check))
		sum = (__u16)~l4.halves[check]; /* what is quoted will sum up to this when it leaves */

	reply.what = bpf_htons(what);
	reply.mtu = bpf_htons(mtu);
	sum += reply.what + reply.mtu; /* the quoted IP header, its checksum included, sums up to nothing */
	reply.check = ~lb_sum_fold(sum);
	lb_reply_header(&reply.ip, &ip, sizeof(reply) + header + quoted, IPPROTO_ICMP);
	if (!kb_ctx_grow(ctx, sizeof(reply)) || !kb_ctx_store(ctx, LB_L3_AT, &reply, sizeof(reply)))
		return KB_DROPPED;
	return lb_turn_round(ctx);
}

/* The packet, not changed yet, is too long for the way: tells its sender how long it may be. */
static __always_inline int lb_drop_too_long(struct kb_ctx *ctx, __u32 mtu)
{
	kb_drop(KB_DROP_LB_MTU);
	return lb_icmp_error(ctx, LB_ICMP_UNREACHABLE << 8 | LB_ICMP_FRAG_NEEDED, mtu);
}

/* Nobody serves the frontend: tells the client at once. */
static __always_inline int lb_refuse(struct kb_ctx *ctx, __u8 protocol)
{
	kb_drop(KB_DROP_LB_NO_BACKEND);
	if (protocol == IPPROTO_TCP)
		return lb_reset(ctx);
	return lb_icmp_error(ctx, LB_ICMP_UNREACHABLE << 8 | LB_ICMP_PORT_UNREACHABLE, 0);
}

#endif

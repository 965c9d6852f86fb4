// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Packets that ServiceLB makes of a client's and sends back where it came from: the sender's frame, turned round.
 * Their source is the frontend's address. All of this is rare, so it works by offsets, alike at both hooks.
 */
#ifndef KB_LB_REPLY_H
#define KB_LB_REPLY_H

#include "ctx.h"
#include "drop.h"
#include "lb_family.h"
#include "lb_limit.h"

#ifdef KB_LB_V6
#include "lb_reply6.h"
#else
#include "lb_reply4.h"
#endif

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

/* A packet that may be answered: to this host alone, from one host. */
static __always_inline bool lb_reply_to(struct kb_ctx *ctx, lb_ip *ip)
{
	__u8 macs[2 * ETH_ALEN];

	return kb_ctx_load(ctx, 0, macs, sizeof(macs)) && !(macs[0] & 1) &&
	       kb_ctx_load(ctx, LB_L3_AT, ip, sizeof(*ip)) && lb_is_one_host(lb_from(ip));
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

/* Of a packet between the ends of `ip`, in whichever direction. */
static __always_inline lb_sum lb_pseudo_sum(const lb_ip *ip, __u16 len, __u8 protocol)
{
	lb_sum sum = lb_sum_address(0, lb_from(ip));

	return lb_sum_address(sum, lb_to(ip)) + bpf_htons(protocol) + bpf_htons(len);
}

/* Ends a connection: as RFC 9293, 3.10.7.1 answers a segment for no connection. */
static __noinline int lb_reset(struct kb_ctx *ctx)
{
	struct {
		lb_ip ip;
		union {
			struct lb_tcp tcp;
			__be32 words[5];
		};
	} reply = {};
	struct lb_tcp tcp;
	__u32 payload;
	lb_sum pseudo;
	bool partial;
	lb_ip ip;

	if (!lb_may_reply() || !lb_reply_to(ctx, &ip) || !lb_is_plain(&ip, IPPROTO_TCP) ||
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
		payload = lb_payload_len(&ip) - (tcp.doff >> 4) * 4;
		payload += !!(tcp.flags & KB_TCP_SYN) + !!(tcp.flags & KB_TCP_FIN);
		reply.tcp.ack = bpf_htonl(bpf_ntohl(tcp.seq) + payload);
		reply.tcp.flags |= KB_TCP_ACK;
	}
	lb_reply_header(&reply.ip, &ip, sizeof(tcp), IPPROTO_TCP);
	pseudo = lb_pseudo_sum(&ip, sizeof(tcp), IPPROTO_TCP);
	if (!partial)
		pseudo += (lb_sum)reply.words[0] + reply.words[1] + reply.words[2] + reply.words[3];
	reply.tcp.check = partial ? lb_sum_fold(pseudo) : ~lb_sum_fold(pseudo);
	if (!kb_ctx_resize(ctx, LB_L3_AT + sizeof(reply)) || !kb_ctx_store(ctx, LB_L3_AT, &reply, sizeof(reply)))
		return KB_DROPPED;
	return lb_turn_round(ctx);
}

/*
 * An ICMP error (RFC 792, RFC 4443) that quotes the packet's headers, which stay where they are: new ones are put
 * in front. `what` is type << 8 | code; `mtu` is 0 or that of the next hop.
 */
static __noinline int lb_icmp_error(struct kb_ctx *ctx, __u16 what, __u16 mtu)
{
	struct {
		lb_ip ip;
		__be16 what;
		__u16 check;
		__be16 unused;
		__be16 mtu; /* IPv6 has 32 bits for it */
	} reply = {};
	union {
		__be32 words[5];
		__u16 halves[10];
	} l4 = {};
	__u32 header, quoted, check;
	struct lb_quoted quote;
	lb_sum sum;
	lb_ip ip;

	if (!lb_may_reply() || !lb_reply_to(ctx, &ip) || !lb_quotable(&ip, &quote))
		return KB_DROPPED;
	/* The fields that senders look for, and the checksum field: a device must find it where it is to be. */
	header = quote.header;
	quoted = quote.protocol == IPPROTO_TCP ? 20 : 8;
	check = quote.protocol == IPPROTO_TCP ? 8 : 3;
	if (!kb_ctx_resize(ctx, LB_L3_AT + header + quoted) ||
	    !kb_ctx_load(ctx, LB_L3_AT + header, &l4, quoted))
		return KB_DROPPED;
	sum = (lb_sum)l4.words[0] + l4.words[1] + l4.words[2] + l4.words[3] + l4.words[4];
	if (l4.halves[check] && lb_checksum_is_partial(ctx, LB_L3_AT + header + 2 * check))
		sum = (__u16)~l4.halves[check]; /* what is quoted will sum up to this when it leaves */

	reply.what = bpf_htons(what);
	reply.mtu = bpf_htons(mtu);
	sum += reply.what + reply.mtu + quote.sum;
	sum += lb_icmp_pseudo_sum(&ip, sizeof(reply) - sizeof(ip) + header + quoted);
	reply.check = ~lb_sum_fold(sum);
	lb_reply_header(&reply.ip, &ip, sizeof(reply) - sizeof(ip) + header + quoted, LB_ICMP);
	if (!kb_ctx_grow(ctx, sizeof(reply)) || !kb_ctx_store(ctx, LB_L3_AT, &reply, sizeof(reply)))
		return KB_DROPPED;
	return lb_turn_round(ctx);
}

/*
 * Verdicts that say what is to be sent back. Replies are made where nothing is on the stack any more, which is 512
 * bytes for all functions that are under way.
 */
#define LB_REPLY_RESET 0x10000
#define LB_REPLY_NO_PORT 0x20000
#define LB_REPLY_TOO_LONG 0x30000 /* and the length that fits, in the lower 16 bits */
#define LB_LATER_FRAGMENT 0x40000 /* nothing is sent back: as little room there is for it */
#define LB_TUNNELLED 0x50000 /* likewise */

/* The packet, not changed yet, is too long for the way: tells its sender how long it may be. */
static __always_inline int lb_drop_too_long(__u32 mtu)
{
	kb_drop(KB_DROP_LB_MTU);
	return LB_REPLY_TOO_LONG | (__u16)mtu;
}

/* Nobody serves the frontend: tells the client at once. */
static __always_inline int lb_refuse(__u8 protocol)
{
	kb_drop(KB_DROP_LB_NO_BACKEND);
	return protocol == IPPROTO_TCP ? LB_REPLY_RESET : LB_REPLY_NO_PORT;
}

/* The last step of each program. */
static __always_inline int lb_reply(struct kb_ctx *ctx, int verdict)
{
	if (verdict < LB_REPLY_RESET)
		return verdict;
	if (!kb_ctx_has_offsets()) /* replies are made by offset, which tc can: the packet was dropped, and counted */
		return KB_DROPPED;
	if (!kb_ctx_has_offsets()) /* cannot be: nobody asks for a reply then; verifiers of Linux 5.10 don't see that */
		return KB_CONTINUE;
	if (verdict == LB_REPLY_RESET)
		return lb_reset(ctx);
	return verdict == LB_REPLY_NO_PORT ? lb_icmp_error(ctx, LB_ICMP_NO_PORT, 0) :
					     lb_icmp_error(ctx, LB_ICMP_TOO_LONG, verdict);
}

#endif

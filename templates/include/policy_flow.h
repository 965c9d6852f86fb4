// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Packets of connections that the host already has: asked of the socket tables, so nothing is
 * tracked, nothing can overflow, and connections alive when a policy first lands are not cut.
 *
 * Known by a socket: TCP beyond SYN (not LISTEN), UDP that is connected to the sender, and ICMP
 * errors about one of these. UDP sent from an unconnected socket has no such trace: its answers
 * need a rule.
 */
#ifndef KB_POLICY_FLOW_H
#define KB_POLICY_FLOW_H

#include "parse.h"

#ifdef KB_POLICY_LB_REVERSE
#include "lb_flow.h"
#endif

#define KB_ICMP_UNREACHABLE 3
#define KB_ICMP_TIME_EXCEEDED 11
#define KB_ICMP_PARAMETER 12

typedef typeof(((struct bpf_sock_tuple *)0)->ipv4) kb_tuple4;

static __always_inline bool kb_flow_tcp(struct xdp_md *ctx, kb_tuple4 *tuple)
{
	struct bpf_sock *sk = bpf_skc_lookup_tcp(ctx, (void *)tuple, sizeof(*tuple), BPF_F_CURRENT_NETNS, 0);
	bool known;

	if (!sk)
		return false;
	known = sk->state != BPF_TCP_LISTEN;
	bpf_sk_release(sk);
	return known;
}

static __always_inline bool kb_flow_udp(struct xdp_md *ctx, kb_tuple4 *tuple)
{
	struct bpf_sock *sk = bpf_sk_lookup_udp(ctx, (void *)tuple, sizeof(*tuple), BPF_F_CURRENT_NETNS, 0);
	bool known;

	if (!sk)
		return false;
	known = sk->dst_ip4 == tuple->saddr && sk->dst_port == tuple->sport;
	bpf_sk_release(sk);
	return known;
}

/* An answer of a backend to this host's SNAT address: no socket knows it, ServiceLB does. */
static __always_inline bool kb_flow_snat(const kb_tuple4 *tuple, __u8 protocol)
{
#ifdef KB_POLICY_LB_REVERSE
	struct kb_lb_flow_key key = {
		.saddr = tuple->saddr,
		.daddr = tuple->daddr,
		.sport = tuple->sport,
		.dport = tuple->dport,
		.protocol = protocol,
	};

	return bpf_map_lookup_elem(&kb_lb_rev, &key);
#else
	(void)tuple;
	(void)protocol;
	return false;
#endif
}

/* What an ICMP error quotes: of a request that ServiceLB sent to a backend, or of an answer to a client. */
static __always_inline bool kb_flow_translated(const kb_tuple4 *tuple, __u8 protocol)
{
#ifdef KB_POLICY_LB_REVERSE
	struct kb_lb_flow_key key = {
		.saddr = tuple->saddr,
		.daddr = tuple->daddr,
		.sport = tuple->sport,
		.dport = tuple->dport,
		.protocol = protocol,
	};

	return bpf_map_lookup_elem(&kb_lb_rev, &key) || bpf_map_lookup_elem(&kb_lb_flow, &key);
#else
	(void)tuple;
	(void)protocol;
	return false;
#endif
}

/* An ICMP error quotes the packet that the host sent: IP header and 8 bytes (RFC 792). */
static __always_inline bool kb_flow_icmp_error(struct xdp_md *ctx, const struct kb_packet *packet)
{
	const struct kb_icmp *icmp = packet->l4;
	const struct iphdr *quoted = (void *)(icmp + 1);
	const __be16 *ports;
	kb_tuple4 tuple;

	if ((void *)(quoted + 1) > packet->data_end)
		return false;
	if (quoted->version != 4 || quoted->ihl < 5 || quoted->saddr != packet->ip->daddr ||
	    quoted->frag_off & bpf_htons(KB_IP_OFFSET))
		return false;
	ports = (void *)quoted + quoted->ihl * 4;
	if ((void *)(ports + 4) > packet->data_end)
		return false;

	/* as the answer would have come */
	tuple.saddr = quoted->daddr;
	tuple.daddr = quoted->saddr;
	tuple.sport = ports[1];
	tuple.dport = ports[0];
	switch (quoted->protocol) {
	case IPPROTO_TCP:
		return kb_flow_tcp(ctx, &tuple) || kb_flow_translated(&tuple, IPPROTO_TCP);
	case IPPROTO_UDP:
		return kb_flow_udp(ctx, &tuple) || kb_flow_translated(&tuple, IPPROTO_UDP);
	default:
		return false;
	}
}

static __noinline bool kb_flow_lookup(struct xdp_md *ctx, const struct kb_packet *packet,
				      const struct kb_l4 *l4)
{
	kb_tuple4 tuple = {
		.saddr = packet->ip->saddr,
		.daddr = packet->ip->daddr,
		.sport = l4->sport,
		.dport = l4->dport,
	};

	if (kb_is_later_fragment(packet))
		return false;
	switch (packet->ip->protocol) {
	case IPPROTO_TCP:
		/* A bare SYN asks for something new; not looked up, so a flood of them stays cheap. */
		if ((l4->tcp_flags & (KB_TCP_SYN | KB_TCP_ACK)) == KB_TCP_SYN)
			return false;
		return kb_flow_tcp(ctx, &tuple) || kb_flow_snat(&tuple, IPPROTO_TCP);
	case IPPROTO_UDP:
		return kb_flow_udp(ctx, &tuple) || kb_flow_snat(&tuple, IPPROTO_UDP);
	case IPPROTO_ICMP:
		if (l4->icmp_type == KB_ICMP_UNREACHABLE || l4->icmp_type == KB_ICMP_TIME_EXCEEDED ||
		    l4->icmp_type == KB_ICMP_PARAMETER)
			return kb_flow_icmp_error(ctx, packet);
		return false;
	default:
		return false;
	}
}

/*
 * Only packets about to be denied get here. The lookup is a function of its own and gets copies: the
 * caller's packet then never has its address taken, and lives in registers on the way of all others.
 */
static __always_inline bool kb_flow_known(struct xdp_md *ctx, const struct kb_packet *packet,
					  const struct kb_l4 *l4)
{
	const struct kb_packet packet_copy = *packet;
	const struct kb_l4 l4_copy = *l4;

	return kb_flow_lookup(ctx, &packet_copy, &l4_copy);
}

#endif

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Direct server return by an option of the IP header. The balancer translates the client's packet to its backend,
 * and packets that may open a flow name the frontend in an option: an IPv4 option, or an IPv6 destination option
 * (RFC 8200, 4.6) in an extension header of its own. The backend's node takes it off, and notes the flow, so that
 * answers leave with the frontend's address. Packets that carry none need nothing there.
 *
 * The layout, the place right behind the fixed header, and the packets that carry it are Cilium's (its `dsr_opt_v4`
 * and `dsr_opt_v6`).
 */
#ifndef KB_LB_IP_OPTION_H
#define KB_LB_IP_OPTION_H

#include "drop.h"
#include "lb_answer.h"
#include "lb_csum.h"
#include "lb_frontend.h"
#include "lb_here.h"
#include "lb_hop.h"
#include "lb_key.h"
#include "lb_nat.h"
#include "lb_read.h"
#include "lb_rewrite.h"

/* Verdicts of balance(), as those of lb_reply.h: what is to be done has no room beside it on the stack. */
#define LB_OPTION_IN 0x100000 /* has an option, or ends a flow that began with one */
#define LB_OPTION_OUT 0x40000000 /* and the backend's number in the lower bits */

/* What ends a connection is believed so far behind what its backend has acknowledged: in 4,096 guesses one is. */
#define LB_END_WINDOW (1 << 20)

#define LB_OPTION_AT (LB_L3_AT + (__u32)sizeof(lb_ip))

#ifdef KB_LB_V6

#define LB_OPTION_TYPE 0x1b /* who does not know it skips it; it stays as it is on the way */

struct lb_option {
	__u8 next;
	__u8 header_len; /* in 8 bytes, without the first */
	__u8 type;
	__u8 len;
	lb_addr address;
	__be16 port;
	__be16 pad;
};

#define LB_OPTION_LEN (sizeof(struct lb_option) - 4)
#define LB_OPTION_HEADER_LEN (sizeof(struct lb_option) / 8 - 1)

/* The option of a packet, or NULL. */
static __always_inline const struct lb_option *lb_option_of(const struct kb_packet *packet)
{
	const struct lb_option *option = (const void *)(packet->ip6 + 1);

	if (packet->ip6->nexthdr != IPPROTO_DSTOPTS || (const void *)(option + 1) > packet->data_end)
		return NULL;
	if (option->header_len != LB_OPTION_HEADER_LEN || option->type != LB_OPTION_TYPE ||
	    option->len != LB_OPTION_LEN)
		return NULL;
	return option;
}

static __always_inline bool lb_option_has_room(const struct kb_packet *packet)
{
	(void)packet;
	return true;
}

static __always_inline void lb_option_make(struct lb_option *option, const struct kb_packet *packet, __be16 port)
{
	option->next = packet->ip6->nexthdr;
	option->header_len = LB_OPTION_HEADER_LEN;
	option->type = LB_OPTION_TYPE;
	option->len = LB_OPTION_LEN;
	option->address = *lb_to(packet->ip6);
	option->port = port;
	option->pad = 0;
}

static __always_inline lb_addr lb_option_address(const struct lb_option *option)
{
	return option->address;
}

static __always_inline __be16 lb_option_port(const struct lb_option *option)
{
	return option->port;
}

/* What having the option, or having it no more, means to the header before it. */
static __always_inline void lb_option_join(lb_ip *ip, const struct lb_option *option)
{
	(void)option;
	ip->nexthdr = IPPROTO_DSTOPTS;
	ip->payload_len = bpf_htons(bpf_ntohs(ip->payload_len) + sizeof(*option));
}

static __always_inline void lb_option_leave(lb_ip *ip, const struct lb_option *option)
{
	ip->nexthdr = option->next;
	ip->payload_len = bpf_htons(bpf_ntohs(ip->payload_len) - sizeof(*option));
}

#else

#define LB_OPTION_TYPE 0x9a /* copied into fragments, of class 0, number 26, which is nobody's */
#define LB_OPTION_WORDS (sizeof(struct lb_option) / 4)
#define LB_MOST_WORDS 15 /* of a header: iphdr.ihl has 4 bits */

/* On little-endian machines Cilium writes port and address with their last byte first, and so do we. */
struct lb_option {
	__u8 type;
	__u8 len;
	__u16 port;
	__u32 address;
};

/* The option of a packet, or NULL. */
static __always_inline const struct lb_option *lb_option_of(const struct kb_packet *packet)
{
	const struct lb_option *option = (const void *)(packet->ip + 1);

	if (packet->ip->ihl * 4 < sizeof(*packet->ip) + sizeof(*option) ||
	    (const void *)(option + 1) > packet->data_end)
		return NULL;
	return option->type == LB_OPTION_TYPE && option->len == sizeof(*option) ? option : NULL;
}

static __always_inline bool lb_option_has_room(const struct kb_packet *packet)
{
	return packet->ip->ihl + LB_OPTION_WORDS <= LB_MOST_WORDS;
}

static __always_inline void lb_option_make(struct lb_option *option, const struct kb_packet *packet, __be16 port)
{
	option->type = LB_OPTION_TYPE;
	option->len = sizeof(*option);
	option->port = bpf_htons(port);
	option->address = bpf_htonl(packet->ip->daddr);
}

static __always_inline lb_addr lb_option_address(const struct lb_option *option)
{
	return bpf_ntohl(option->address);
}

static __always_inline __be16 lb_option_port(const struct lb_option *option)
{
	return bpf_ntohs(option->port);
}

/* Words that the header's checksum has to count with an option: its own, and what it adds to ihl and tot_len. */
static __always_inline lb_sum lb_option_sum(const struct lb_option *option)
{
	return (lb_sum)bpf_htons(option->type << 8 | option->len) + option->port + option->address +
	       bpf_htons((LB_OPTION_WORDS << 8) + sizeof(*option));
}

/* What having the option, or having it no more, means to the header before it. */
static __always_inline void lb_option_join(lb_ip *ip, const struct lb_option *option)
{
	ip->ihl += LB_OPTION_WORDS;
	ip->tot_len = bpf_htons(bpf_ntohs(ip->tot_len) + sizeof(*option));
	ip->check = lb_csum_apply(ip->check, lb_option_sum(option));
}

static __always_inline void lb_option_leave(lb_ip *ip, const struct lb_option *option)
{
	ip->ihl -= LB_OPTION_WORDS;
	ip->tot_len = bpf_htons(bpf_ntohs(ip->tot_len) - sizeof(*option));
	ip->check = lb_csum_apply(ip->check, (__u16)~lb_sum_fold(lb_option_sum(option)));
}

#endif

/* The fixed header, as it is now. */
static __always_inline bool lb_option_header(struct kb_ctx *ctx, const struct kb_packet *packet, lb_ip *ip)
{
#ifdef KB_TC
	(void)packet;
	return !bpf_skb_load_bytes(ctx, LB_L3_AT, ip, sizeof(*ip));
#else
	(void)ctx;
	*ip = *LB_IP(packet);
	return true;
#endif
}

/* Puts the option behind the fixed header, which becomes `ip`; `frame` is as in lb_encapsulate(). */
static __always_inline int lb_option_put(struct kb_ctx *ctx, const lb_ip *ip, const struct lb_option *option,
					 void **frame)
{
#ifdef KB_TC
	*frame = NULL;
	/* Segments of a large packet keep their size; that they fit has been checked. */
	if (bpf_skb_adjust_room(ctx, sizeof(*option), BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO))
		return KB_DROP_LB_HEADROOM;
	return bpf_skb_store_bytes(ctx, LB_OPTION_AT, option, sizeof(*option), BPF_F_RECOMPUTE_CSUM) ||
			       bpf_skb_store_bytes(ctx, LB_L3_AT, ip, sizeof(*ip), BPF_F_RECOMPUTE_CSUM)
		       ? KB_DROP_TRUNCATED
		       : 0;
#else
	struct ethhdr *eth;

	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*option)))
		return KB_DROP_LB_HEADROOM;
	eth = (void *)(long)ctx->data;
	if ((void *)eth + LB_OPTION_AT + sizeof(*option) > (void *)(long)ctx->data_end)
		return KB_DROP_TRUNCATED;
	eth->h_proto = bpf_htons(LB_ETH_P);
	*(lb_ip *)(eth + 1) = *ip;
	*(struct lb_option *)((void *)eth + LB_OPTION_AT) = *option;
	*frame = eth;
	return 0;
#endif
}

/* Takes the option off. */
static __always_inline bool lb_option_take(struct kb_ctx *ctx, const struct kb_packet *packet,
					   const struct lb_option *option)
{
	lb_ip ip = *LB_IP(packet);
#ifdef KB_TC
	lb_option_leave(&ip, option);
	return !bpf_skb_adjust_room(ctx, -(__s32)sizeof(*option), BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO) &&
	       !bpf_skb_store_bytes(ctx, LB_L3_AT, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
#else
	struct ethhdr *eth = packet->data;
	struct lb_hop macs;

	lb_option_leave(&ip, option);
	lb_keep_macs(&macs, eth);
	if (bpf_xdp_adjust_head(ctx, sizeof(*option)))
		return false;
	eth = (void *)(long)ctx->data;
	if ((void *)eth + LB_OPTION_AT > (void *)(long)ctx->data_end)
		return false;
	lb_write_macs(ctx, eth, &macs);
	eth->h_proto = bpf_htons(LB_ETH_P);
	*(lb_ip *)(eth + 1) = ip;
	return true;
#endif
}

/* A packet that balance() has chosen a backend for, on another host. */
static __noinline int lb_option_send(struct kb_ctx *ctx, __u32 number)
{
	const struct LB_V(kb_lb_backend) *backend = LB_V(lb_backend)(number);
	struct lb_option option;
	struct kb_packet packet;
	struct lb_route route;
	struct lb_tuple to;
	struct kb_l4 l4;
	struct lb_hop hop;
	__u32 more, len;
	int error, failed;
	bool opens;
	void *frame;
	lb_ip ip;

	if (!lb_read(ctx, &packet, &l4))
		return KB_CONTINUE;
	if (!backend)
		return kb_drop(KB_DROP_LB_NO_BACKEND);
	if (LB_TTL(LB_IP(&packet)) <= 1)
		return kb_drop(KB_DROP_LB_TTL);
	len = packet.len;
	opens = lb_is_syn(l4.tcp_flags);
	more = opens || packet.protocol == IPPROTO_UDP ? sizeof(option) : 0;
	if (more && !lb_option_has_room(&packet))
		return kb_drop(KB_DROP_LB_HEADROOM);
	if (len + more > 0xffff)
		return kb_drop(KB_DROP_LB_MTU);
	to.saddr = *lb_from(LB_IP(&packet));
	to.daddr = backend->address;
	to.sport = l4.sport;
	to.dport = backend->port;
	route.saddr = to.saddr;
	route.daddr = to.daddr;
	route.tot_len = lb_wire_len(ctx, &packet) + more;
	route.protocol = packet.protocol;
	error = lb_backend_hop(ctx, backend, &route, &hop);
	if (error == KB_DROP_LB_MTU)
		return lb_drop_too_long(hop.mtu ? hop.mtu - more : 0);
	if (error > 0)
		return kb_drop(error);
	if (lb_left_to_tc(error))
		return KB_CONTINUE;
	/* Later ones have neither ports nor an option, and are sent on as those of a translated flow. */
	if (kb_is_fragment(&packet))
		lb_fragment_remember(ctx, &packet, &to, number, LB_FRAGMENT_FORWARD);
	lb_option_make(&option, &packet, l4.dport);
	if (!lb_rewrite(ctx, &packet, &to, 1))
		return kb_drop(KB_DROP_TRUNCATED);
	frame = packet.data;
	if (more) {
		if (!lb_option_header(ctx, &packet, &ip))
			return kb_drop(KB_DROP_TRUNCATED);
		lb_option_join(&ip, &option);
		failed = lb_option_put(ctx, &ip, &option, &frame);
		if (failed)
			return kb_drop(failed);
	}
	LB_V(lb_count)(number, 1, len, opens);
	return lb_leave(ctx, frame, &hop, error);
}

/* The frontend's backend that the packet goes to; choice->backend is NULL if it is none on this node. */
static __always_inline void lb_option_choose(const struct kb_lb_frontend *frontend, const lb_addr *address,
					     __be16 port, struct LB_V(lb_choice) *choice)
{
	lb_choose_here(frontend, address, choice);
	if (choice->backend && choice->backend->port != port)
		choice->backend = NULL;
}

/*
 * Whether a TCP connection goes on. Nothing that the client's side alone has said counts against it: it may have been
 * said to this node as a balancer, by anybody.
 */
static __always_inline bool lb_option_is_live(const struct LB_V(kb_lb_flow_key) *key,
					      const struct LB_V(kb_lb_flow) *flow)
{
	const struct LB_V(kb_lb_backend) *backend = LB_V(lb_backend)(flow->backend);
	const struct LB_V(kb_lb_rev) *reverse;
	struct LB_V(lb_scratch) *scratch;

	if (key->protocol != IPPROTO_TCP || !backend || backend->flags & LB_BE_GONE || !lb_scratch(&scratch))
		return false;
	lb_reverse_key(&scratch->reverse_key, backend, flow, key->protocol);
	reverse = bpf_map_lookup_elem(&LB_V(kb_lb_rev), &scratch->reverse_key);
	if (!reverse || !(reverse->flags & LB_FLOW_SEEN) || reverse->flags & LB_FLOW_RST)
		return false;
	return !(flow->flags & reverse->flags & LB_FLOW_FIN);
}

/* Notes how a flow of TCP began, for what ends it. */
static __always_inline void lb_option_note(const struct LB_V(kb_lb_flow_key) *key)
{
	struct LB_V(kb_lb_flow) *flow = bpf_map_lookup_elem(&LB_V(kb_lb_flow), key);

	if (flow)
		flow->flags |= LB_FLOW_OPTION;
}

/*
 * A client ends its connection, in packets that carry no option: told by the answers' entry, as nothing else is known
 * of them. An RST is noted with the backend's side, for its next answer to take back if it was a forged one. No packet
 * of the client would make an entry anew, so who forges an end has to guess where in the connection it would be.
 */
static __always_inline void lb_option_ends(const struct kb_packet *packet, const struct kb_l4 *l4)
{
	const struct tcphdr *tcp = packet->l4;
	struct LB_V(kb_lb_flow_key) key;
	struct LB_V(kb_lb_flow) *flow;
	struct LB_V(kb_lb_rev) *reverse;

	lb_flow_key(&key, lb_to(LB_IP(packet)), lb_from(LB_IP(packet)), l4->dport, l4->sport, packet->protocol);
	reverse = bpf_map_lookup_elem(&LB_V(kb_lb_rev), &key);
	if (!reverse || (const void *)(tcp + 1) > packet->data_end ||
	    bpf_ntohl(tcp->seq) - bpf_ntohl(reverse->acked) > LB_END_WINDOW)
		return;
	if (l4->tcp_flags & KB_TCP_RST) {
		lb_flow_touch(&reverse->seen, &reverse->flags, KB_TCP_RST, 0);
		return;
	}
	lb_flow_key(&key, &reverse->client, &reverse->vip, reverse->client_port, reverse->vip_port, packet->protocol);
	flow = bpf_map_lookup_elem(&LB_V(kb_lb_flow), &key);
	if (flow)
		lb_flow_touch(&flow->seen, &flow->flags, KB_TCP_FIN, 0);
}

/* Whether a packet that is for no frontend is for lb_option_in(). */
static __always_inline bool lb_option_concerns(const struct kb_packet *packet, const struct kb_l4 *l4)
{
	return l4->tcp_flags & (KB_TCP_FIN | KB_TCP_RST) || lb_option_of(packet);
}

/*
 * A packet that may have come from another balancer. Who may send options may name any frontend: only those that this
 * node knows are believed, and only of packets to one of their backends here. Others go on as they are.
 */
static __noinline int lb_option_in(struct kb_ctx *ctx)
{
	const struct kb_lb_frontend *frontend;
	struct LB_V(lb_choice) choice = {};
	struct LB_V(kb_lb_flow_key) key;
	struct LB_V(kb_lb_flow) *flow;
	const struct lb_option *found;
	bool is_new = false, is_live = false;
	struct lb_option option;
	struct kb_packet packet;
	struct kb_l4 l4;
	lb_addr to;
	int error;

	if (!lb_read(ctx, &packet, &l4))
		return KB_CONTINUE;
	found = lb_option_of(&packet);
	if (!found) {
		lb_option_ends(&packet, &l4);
		return KB_CONTINUE;
	}
	option = *found;
	to = *lb_to(LB_IP(&packet));
	lb_answer_key(&key, &packet, &l4);
	key.daddr = lb_option_address(&option);
	key.dport = lb_option_port(&option);
	flow = bpf_map_lookup_elem(&LB_V(kb_lb_flow), &key);
	if (flow) {
		is_live = lb_option_is_live(&key, flow);
		choice.id = flow->backend;
		choice.backend = LB_V(lb_backend)(choice.id);
	}
	if (!choice.backend || choice.backend->port != l4.dport || !LB_V(lb_same)(&choice.backend->address, &to) ||
	    lb_starts_anew(flow, key.protocol, l4.tcp_flags)) {
		frontend = find_frontend(&key.daddr, key.dport, key.protocol);
		if (!frontend)
			return KB_CONTINUE;
		lb_option_choose(frontend, &to, l4.dport, &choice);
		if (!choice.backend)
			return KB_CONTINUE;
		if (frontend->flags & LB_FE_SOURCES && !may_come(frontend, &packet))
			return kb_drop(KB_DROP_LB_SOURCE);
		if (is_live) /* by another backend: no later packet of the client would lead back to this one */
			return kb_drop(KB_DROP_LB_PORTS);
		if (flow)
			lb_flow_remove(&key, flow);
		flow = NULL;
	}
	if (!lb_option_take(ctx, &packet, &option) || !lb_read(ctx, &packet, &l4))
		return kb_drop(KB_DROP_TRUNCATED);
	if (flow) {
		lb_flow_touch(&flow->seen, &flow->flags, l4.tcp_flags, 0);
	} else {
		flow = lb_nat_begin(ctx, &packet, &key, &choice, 0, &is_new, &error);
		if (!flow)
			return kb_drop(error);
	}
	/*
	 * Later packets of TCP come without an option, so that nothing can give the client another port or address: where
	 * it has a connection from this port by another frontend, and where it is the backend itself.
	 */
	if (key.protocol == IPPROTO_TCP &&
	    (flow->nat_port != key.sport || !LB_V(lb_same)(&flow->nat_address, &key.saddr))) {
		if (is_new)
			lb_flow_remove(&key, flow);
		return kb_drop(KB_DROP_LB_PORTS);
	}
	if (key.protocol == IPPROTO_TCP)
		lb_option_note(&key);
	return lb_nat_send(ctx, &packet, &key, flow, &choice, is_new);
}

#endif

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Reads what ServiceLB wants to know of a packet. */
#ifndef KB_LB_READ_H
#define KB_LB_READ_H

#include "ctx.h"
#include "lb_family.h"

/* Headers that are made linear where less is: Ethernet, IP without options, TCP without; IP with some options. */
#define LB_HEADERS_LEAST (sizeof(struct ethhdr) + sizeof(lb_ip) + sizeof(struct tcphdr))
#define LB_HEADERS (LB_HEADERS_LEAST + 40)

static __always_inline enum kb_parsed lb_parse_l4(const struct kb_packet *packet, struct kb_l4 *l4)
{
#ifdef KB_LB_V6
	if (packet->protocol == IPPROTO_ICMPV6) {
		const struct kb_icmp *icmp = packet->l4;

		if (!kb_l4_has(packet, sizeof(*icmp)))
			return KB_PARSED_TRUNCATED;
		l4->icmp_type = icmp->type;
		l4->icmp_code = icmp->code;
		return KB_PARSED;
	}
#endif
	return kb_parse_l4(packet, l4);
}

/* Whether it is an untagged packet of our family with whole headers; `l4` is zero for later fragments. */
static __always_inline bool lb_read(struct kb_ctx *ctx, struct kb_packet *packet, struct kb_l4 *l4)
{
	__builtin_memset(l4, 0, sizeof(*l4));
	kb_ctx_pull(ctx, LB_HEADERS_LEAST, LB_HEADERS);
	if (lb_parse(ctx, packet))
		return false;
	return kb_is_later_fragment(packet) || !lb_parse_l4(packet, l4);
}

#endif

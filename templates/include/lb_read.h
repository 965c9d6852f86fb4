// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Reads what ServiceLB wants to know of a packet. */
#ifndef KB_LB_READ_H
#define KB_LB_READ_H

#include "ctx.h"
#include "parse.h"

/* Headers that are made linear where they are not: Ethernet, IPv4 with options, TCP without. */
#define LB_HEADERS (14 + 60 + 20)

static __always_inline enum kb_parsed lb_read_once(const struct kb_ctx *ctx, struct kb_packet *packet,
						   struct kb_l4 *l4)
{
	enum kb_parsed parsed = kb_parse_ipv4(ctx, packet);

	__builtin_memset(l4, 0, sizeof(*l4));
	if (!parsed && !kb_is_later_fragment(packet))
		parsed = kb_parse_l4(packet, l4);
	return parsed;
}

/* Whether it is an untagged IPv4 packet with whole headers; `l4` is zero for later fragments. */
static __always_inline bool lb_read(struct kb_ctx *ctx, struct kb_packet *packet, struct kb_l4 *l4)
{
	enum kb_parsed parsed = lb_read_once(ctx, packet, l4);

	if (parsed == KB_PARSED_TRUNCATED && kb_ctx_pull(ctx, LB_HEADERS))
		parsed = lb_read_once(ctx, packet, l4);
	return !parsed && packet->ip == packet->data + sizeof(struct ethhdr);
}

#endif

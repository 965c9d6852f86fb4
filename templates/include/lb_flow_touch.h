// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What a packet says about the state of its flow. */
#ifndef KB_LB_FLOW_TOUCH_H
#define KB_LB_FLOW_TOUCH_H

#include "clock.h"
#include "lb_flow.h"
#include "parse.h"

/* A stamp each second is fine enough for the collector and keeps the entry's cache line clean. */
#define LB_SEEN_NS 1000000000ULL

static __always_inline __u16 lb_flow_sees(__u8 tcp_flags)
{
	return (tcp_flags & KB_TCP_FIN ? LB_FLOW_FIN : 0) | (tcp_flags & KB_TCP_RST ? LB_FLOW_RST : 0);
}

/*
 * A side that goes on was not reset (no sequence numbers are checked, so anyone could have sent that RST),
 * and a SYN starts it anew: else the collector would take the connection for a closed one.
 */
static __always_inline void lb_flow_touch(__u64 *seen, __u16 *flags, __u8 tcp_flags, __u16 saw)
{
	__u16 stale = tcp_flags & KB_TCP_SYN ? LB_FLOW_FIN | LB_FLOW_RST : LB_FLOW_RST;
	__u16 current = (*flags & ~stale) | saw | lb_flow_sees(tcp_flags);
	__u64 now = kb_now();

	if (now - *seen > LB_SEEN_NS)
		*seen = now;
	if (current != *flags)
		*flags = current;
}

static __always_inline bool lb_is_syn(__u8 tcp_flags)
{
	return (tcp_flags & (KB_TCP_SYN | KB_TCP_ACK)) == KB_TCP_SYN;
}

#endif

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The frontend that a packet is for. */
#ifndef KB_LB_FRONTEND_H
#define KB_LB_FRONTEND_H

#include "lb_family.h"
#include "lb_key.h"
#include "lb_maps.h"
#include "lb_sources.h"

static __always_inline const struct kb_lb_frontend *find_frontend(const lb_addr *address, __be16 port, __u8 protocol)
{
	struct LB_V(kb_lb_frontend_key) key;
	const struct kb_lb_frontend *frontend;

	lb_frontend_key(&key, address, port, protocol);
	frontend = bpf_map_lookup_elem(&LB_V(kb_lb_fe), &key);
	return frontend && !(frontend->flags & LB_FE_SOCKETS_ONLY) ? frontend : NULL;
}

static __always_inline bool may_come(const struct kb_lb_frontend *frontend, const struct kb_packet *packet)
{
	const lb_addr client = *lb_from(LB_IP(packet)); /* a function of its own can't be given the packet's */

	return lb_source_may(frontend, &client);
}

#endif

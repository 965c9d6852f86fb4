// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The hash of a flow of the program's family; its model is flow_hash() of kubebee/lb/layout.py. */
#ifndef KB_LB_FLOW_HASH_H
#define KB_LB_FLOW_HASH_H

#include "lb_family.h"
#include "lb_select.h"

/* Arguments as they lie in the packet. */
static __always_inline __u32 lb_flow_hash(const lb_addr *saddr, const lb_addr *daddr, __be16 sport, __be16 dport,
					  __u64 seed)
{
#ifdef KB_LB_V6
	return lb_hash6(saddr, daddr, sport, dport, seed);
#else
	return lb_hash(*saddr, *daddr, sport, dport, seed);
#endif
}

#endif

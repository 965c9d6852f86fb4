// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Whether a packet is for this host: a HostPolicy judges no others. */
#ifndef KB_POLICY_LOCAL_H
#define KB_POLICY_LOCAL_H

#include <stdbool.h>
#include <bpf/bpf_endian.h>

#include "policy_maps.h"

/*
 * 224.0.0.0/4 up to the limited broadcast: everything from there on is not unicast. The kernel
 * delivers 0.0.0.0 to 0.0.0.0 as a broadcast, and 127.0.0.0/8 where route_localnet is set.
 */
static __always_inline bool kb_policy_never_forwarded(__u32 addr)
{
	return addr >= 0xe0000000 || addr >> 24 == 127 || addr >> 24 == 0;
}

static __always_inline bool kb_policy_for_host(__be32 daddr)
{
	__u32 addr = bpf_ntohl(daddr);
	__u32 at = addr * KB_LOCAL_HASH >> (32 - KB_LOCAL_LINE_BITS);
	const __be32 *line = kb_policy.local[at];
	int i;

#pragma unroll
	for (i = 0; i < KB_LOCAL_SLOTS; i++) {
		if (line[i] == daddr)
			return true;
	}
	/* What a line has no room for is in the hash, so only a full line leads there. */
	if (line[KB_LOCAL_SLOTS - 1] && bpf_map_lookup_elem(&kb_p_crowded, &daddr))
		return true;
	return kb_policy_never_forwarded(addr);
}

#endif

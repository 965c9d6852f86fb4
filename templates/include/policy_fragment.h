// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Later fragments have no ports: they follow their first fragment.
 *
 * Only datagrams that were let through are remembered, in audit mode too, which so counts a datagram
 * once: at its first fragment. One that is not remembered (denied, evicted, or its
 * fragments came out of order) is judged by rules that need no port; see KB_L4_FRAGMENT. Entries
 * do not expire: a fragment without an allowed first fragment is never reassembled anyway.
 */
#ifndef KB_POLICY_FRAGMENT_H
#define KB_POLICY_FRAGMENT_H

#include "parse.h"
#include "policy_maps.h"

static __always_inline struct kb_fragment_key kb_fragment_key(const struct iphdr *ip)
{
	return (struct kb_fragment_key){
		.saddr = ip->saddr,
		.daddr = ip->daddr,
		.id = ip->id,
		.proto = ip->protocol,
	};
}

static __always_inline void kb_fragment_remember(const struct kb_packet *packet, __u32 slot)
{
	struct kb_fragment_key key = kb_fragment_key(packet->ip);

	bpf_map_update_elem(&kb_p_fragments, &key, &slot, BPF_ANY);
}

/* The slot of the rule that let the first fragment through, or NULL. */
static __always_inline const __u32 *kb_fragment_recall(const struct kb_packet *packet)
{
	struct kb_fragment_key key = kb_fragment_key(packet->ip);

	return bpf_map_lookup_elem(&kb_p_fragments, &key);
}

#endif

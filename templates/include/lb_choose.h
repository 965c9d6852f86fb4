// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Which backend a packet goes to that no translated flow knows: by its hash, or the one that its client had. */
#ifndef KB_LB_CHOOSE_H
#define KB_LB_CHOOSE_H

#include "lb_family.h"
#include "lb_select.h"
#ifdef KB_LB_DSR
#include "lb_stay.h"
#endif

#ifdef KB_LB_AFFINITY
#include "clock.h"
#include "lb_affinity.h"

#define LB_SECOND_NS 1000000000ULL

/* Not inline: few frontends have it. A stamp each second is fine enough, and keeps the cache line clean. */
static __noinline int lb_choose_affine(const struct kb_lb_frontend *frontend, const lb_addr *client, __u32 hash,
				       struct LB_V(lb_choice) *choice)
{
	struct LB_V(kb_lb_client) key = {};
	struct kb_lb_affinity *had, has = {};
	__u64 now = kb_now();

	choice->backend = NULL;
	choice->flags = 0;
	if (!frontend)
		return 0;
	key.address = *client;
	key.frontend = frontend->id;
	had = bpf_map_lookup_elem(&LB_V(kb_lb_affinity), &key);
	if (had && now - had->used < frontend->affinity * LB_SECOND_NS) {
		choice->id = had->backend;
		choice->backend = LB_V(lb_backend)(choice->id);
		if (choice->backend && choice->backend->frontend == key.frontend &&
		    !(choice->backend->flags & (LB_BE_GONE | LB_BE_NOT_OUTSIDE))) {
			if (now - had->used > LB_SECOND_NS)
				had->used = now;
			return 0;
		}
	}
	LB_V(lb_select)(frontend, hash, choice);
	if (!choice->backend)
		return 0;
	has.used = now;
	has.backend = choice->id;
	bpf_map_update_elem(&LB_V(kb_lb_affinity), &key, &has, BPF_ANY);
	return 0;
}

#endif

/*
 * What finds the slot of a flow that is to get entries: its hash, or what was drawn for it. Without entries (DSR) only
 * the hash finds the backend again.
 */
static __always_inline __u32 lb_draw(const struct kb_lb_frontend *frontend, __u32 hash)
{
#ifdef KB_LB_RANDOM
	if (frontend->flags & LB_FE_RANDOM)
		return bpf_get_prandom_u32();
#else
	(void)frontend;
#endif
	return hash;
}

/*
 * For a packet: a new connection's choice, or under DSR that of a connection which is older than the table.
 * choice->backend is NULL when there is none. Returns 0 or a drop reason.
 */
static __always_inline int lb_choose(const struct kb_lb_frontend *frontend, const struct kb_packet *packet,
				     const struct kb_l4 *l4, __u32 hash, struct LB_V(lb_choice) *choice)
{
	bool ask_flows = false;

#ifdef KB_LB_AFFINITY
	if (frontend->affinity) {
		const lb_addr client = *lb_from(LB_IP(packet)); /* a function of its own can't be given the packet's */
		struct LB_V(lb_choice) affine;

		lb_choose_affine(frontend, &client, hash, &affine);
		*choice = affine;
		ask_flows = frontend->flags & LB_FE_DSR_IPIP && packet->protocol == IPPROTO_TCP;
	} else
#endif
	{
		LB_V(lb_select)(frontend, hash, choice);
		ask_flows = choice->flags & LB_SLOT_FLOWS;
	}
#ifdef KB_LB_DSR
	if (ask_flows && lb_stay_key(packet, l4)) {
		struct LB_V(lb_choice) stays = { .backend = choice->backend, .id = choice->id };
		int error = lb_stay(frontend, hash, l4->tcp_flags, &stays);

		*choice = stays;
		return error;
	}
#else
	(void)packet;
	(void)l4;
	(void)ask_flows;
#endif
	return 0;
}

#endif

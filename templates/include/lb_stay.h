// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Connections that stay with their backend under DSR though their slot names another one now.
 *
 * As a rule a packet's slot says it all and nothing is kept. Where a table changed, slots have flags:
 *
 *   LB_SLOT_FLOWS   who has an entry in the flow table goes by it.
 *   LB_SLOT_BEFORE  who has none and opens nothing was there before: it goes where the table before leads it,
 *                   and gets an entry. Who opens a connection goes by the slot, and gets an entry.
 *
 * The table before lies behind the table, in rows of its own: first one with its size in its first word, then
 * those of the slots. Its upper bits are user space's (kubebee/lb/moving.py), which takes flags back when no
 * connection needs them any more.
 */
#ifndef KB_LB_STAY_H
#define KB_LB_STAY_H

#include "clock.h"
#include "drop_reason.h"
#include "lb_dsr_flow.h"
#include "lb_family.h"
#include "lb_flow_touch.h"
#include "lb_key.h"
#include "lb_scratch.h"
#include "lb_select.h"

/* A backend of the frontend that still is there; it may be one that drains. */
static __always_inline bool lb_stay_is_there(const struct kb_lb_frontend *frontend,
					     const struct LB_V(lb_choice) *choice)
{
	return choice->backend && choice->backend->frontend == frontend->id;
}

static __always_inline bool lb_takes_new(const struct LB_V(lb_choice) *choice)
{
	return !(choice->backend->flags & LB_BE_GONE) && choice->backend->weight;
}

/* What the table before names for `hash`, into choice->id and ->backend. */
static __always_inline void lb_select_before(__u64 table, __u32 hash, struct LB_V(lb_choice) *choice)
{
	__u32 base = table, rows = ((__u32)(table >> 32) + LB_ROW_SLOTS - 1) >> LB_ROW_SHIFT;
	__u32 row_index = (base >> LB_ROW_SHIFT) + rows;
	struct kb_lb_row *row = bpf_map_lookup_elem(&LB_V(kb_lb_slots), &row_index);
	__u32 slot;

	choice->backend = NULL;
	if (!row)
		return;
	slot = (__u64)hash * row->backend[0] >> 32;
	row_index += 1 + (slot >> LB_ROW_SHIFT);
	row = bpf_map_lookup_elem(&LB_V(kb_lb_slots), &row_index);
	if (!row)
		return;
	choice->id = row->backend[slot & (LB_ROW_SLOTS - 1)] & LB_SLOT_NUMBER;
	choice->backend = LB_V(lb_backend)(choice->id);
}

/* Whether a connection that has an entry goes by it; a SYN may begin a new one with the ports of one that is over. */
static __always_inline bool lb_stay_holds(const struct kb_lb_frontend *frontend, const struct kb_lb_dsr_flow *flow,
					  const struct LB_V(lb_choice) *choice, bool opens)
{
	if (!lb_stay_is_there(frontend, choice))
		return false;
	return !opens || (!(flow->flags & (LB_FLOW_FIN | LB_FLOW_RST)) && lb_takes_new(choice));
}

static __always_inline int lb_stay_note(struct LB_V(lb_scratch) *scratch, const struct kb_lb_frontend *frontend,
					__u32 backend, __u32 hash, __u16 flags)
{
	__builtin_memset(&scratch->dsr_flow, 0, sizeof(scratch->dsr_flow));
	scratch->dsr_flow.seen = kb_now();
	scratch->dsr_flow.backend = backend;
	scratch->dsr_flow.hash = hash;
	scratch->dsr_flow.frontend = frontend->id;
	scratch->dsr_flow.flags = flags;
	return bpf_map_update_elem(&LB_V(kb_lb_dsr_flow), &scratch->dsr_key, &scratch->dsr_flow, BPF_ANY);
}

/*
 * Decides for a packet of TCP whose slot has flags, or whose client has affinity. On entry `choice` is what a new
 * connection would get; scratch->dsr_key is the packet's. Returns 0 or a drop reason.
 *
 * A full flow table: who was there goes on as before without an entry. Who opens a connection can't have the new
 * backend, as the next packet would not know of it: it gets that of before, or is dropped if that takes no new ones.
 */
static __noinline int lb_stay(const struct kb_lb_frontend *frontend, __u32 hash, __u8 tcp_flags,
			      struct LB_V(lb_choice) *choice)
{
	bool opens = lb_is_syn(tcp_flags);
	struct LB_V(lb_scratch) *scratch;
	struct LB_V(lb_choice) without; /* who has no entry goes there */
	struct kb_lb_dsr_flow *flow;
	bool before;
	__u64 table;

	if (!frontend || !lb_scratch(&scratch))
		return 0;
	flow = bpf_map_lookup_elem(&LB_V(kb_lb_dsr_flow), &scratch->dsr_key);
	if (flow) {
		without.id = flow->backend;
		without.backend = LB_V(lb_backend)(without.id);
		if (lb_stay_holds(frontend, flow, &without, opens)) {
			lb_flow_touch(&flow->seen, &flow->flags, tcp_flags, opens ? 0 : LB_FLOW_SEEN);
			choice->id = without.id;
			choice->backend = without.backend;
			return 0;
		}
	}

	table = *(const volatile __u64 *)&frontend->base;
	LB_V(lb_select_in)(table, hash, &without);
	before = without.flags & LB_SLOT_BEFORE;
	if (!opens) {
		choice->id = without.id;
		choice->backend = without.backend;
	}
	if (before)
		lb_select_before(table, hash, &without);
	if (!opens) {
		if (!before || !lb_stay_is_there(frontend, &without))
			return 0;
		choice->id = without.id;
		choice->backend = without.backend;
		lb_stay_note(scratch, frontend, without.id, hash, lb_flow_sees(tcp_flags) | LB_FLOW_OLDER);
		return 0;
	}
	if (!choice->backend)
		return 0;
	if (!before && choice->id == without.id) {
		if (flow)
			bpf_map_delete_elem(&LB_V(kb_lb_dsr_flow), &scratch->dsr_key);
		return 0;
	}
	if (!lb_stay_note(scratch, frontend, choice->id, hash, 0))
		return 0;
	if (!lb_stay_is_there(frontend, &without) || !lb_takes_new(&without))
		return KB_DROP_LB_FLOWS;
	choice->id = without.id;
	choice->backend = without.backend;
	return 0;
}

/* The packet's flow, for lb_stay(); false cannot be. */
static __always_inline bool lb_stay_key(const struct kb_packet *packet, const struct kb_l4 *l4)
{
	struct LB_V(lb_scratch) *scratch;

	if (!lb_scratch(&scratch))
		return false;
	lb_flow_key(&scratch->dsr_key, lb_from(LB_IP(packet)), lb_to(LB_IP(packet)), l4->sport, l4->dport,
		    packet->protocol);
	return true;
}

#endif

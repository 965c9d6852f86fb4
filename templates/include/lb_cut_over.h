// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Taking over from a kube-proxy that runs: its flows stay with it. They live in the kernel's conntrack, which goes on
 * translating them, with kube-proxy's rules or without, as long as it gets to see their packets.
 *
 * Which flows these are is known exactly, whatever the kernel: while LB_CUT_RECORDS all new flows are left to
 * kube-proxy and noted here, and those that were there before user space reads from conntrack. Then new flows are
 * ours (kubebee/lb/cut_over.py has the user-space half).
 *
 * The way back needs less: ours are known, and all others are left to kube-proxy. Only of TCP under DSR, where ours
 * need not be known, its new ones are noted.
 */
#ifndef KB_LB_CUT_OVER_H
#define KB_LB_CUT_OVER_H

#include <linux/bpf.h>
#include <linux/in.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#include "lb_types.h"

enum lb_cut_phase {
	LB_CUT_RECORDS = 0, /* as a new map has it: kube-proxy serves until user space says otherwise */
	LB_CUT_SERVES = 1, /* new flows are ours, noted ones are not */
	LB_CUT_OVER = 2, /* none of its flows are left */
	LB_CUT_HANDS_BACK = 3, /* new flows are kube-proxy's again, ours go on */
};

/* Of both families. */
struct kb_lb_cut {
	__u32 phase;
};

/* A flow that kube-proxy began. */
struct kb_lb_theirs {
	__u32 opening; /* TCP: nothing but SYNs were seen of it, so one more is no new connection */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct kb_lb_cut);
} kb_lb_cut SEC(".maps");

/* Keys as packets of clients have them, and as those of backends do. Grows with what is in it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 524288);
	__type(key, struct kb_lb_flow_key);
	__type(value, struct kb_lb_theirs);
} kb_lb_theirs SEC(".maps");

#ifdef KB_LB_IPV6
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 524288);
	__type(key, struct kb_lb_flow_key6);
	__type(value, struct kb_lb_theirs);
} kb_lb_theirs6 SEC(".maps");
#endif

static __always_inline __u32 lb_cut_phase(void)
{
	__u32 zero = 0;
	const struct kb_lb_cut *cut = bpf_map_lookup_elem(&kb_lb_cut, &zero);

	return cut ? cut->phase : LB_CUT_OVER;
}

/*
 * Whether a flow that is none of ours is kube-proxy's. `key` is of a client's packet; `begins` and `goes_on` say of
 * TCP that it is a SYN, or anything but one; `known_alone`: ours need not be known either, as with DSR.
 *
 * Where the table is full, a flow is not noted: TCP goes on all the same, as its packets are no SYNs.
 */
static __always_inline bool lb_cut_leaves(void *theirs, const void *key, bool begins, bool goes_on, bool known_alone)
{
	__u32 phase = lb_cut_phase();
	struct kb_lb_theirs *known, noted = { .opening = begins };

	if (phase == LB_CUT_OVER)
		return false;
	known = bpf_map_lookup_elem(theirs, key);
	if (phase == LB_CUT_HANDS_BACK && !(goes_on && known_alone)) {
		if (begins && known_alone && !known)
			bpf_map_update_elem(theirs, key, &noted, BPF_NOEXIST);
		return true;
	}
	if (!known) {
		if (phase != LB_CUT_RECORDS)
			return goes_on && !known_alone;
		bpf_map_update_elem(theirs, key, &noted, BPF_NOEXIST);
		return true;
	}
	if (begins && !known->opening && phase == LB_CUT_SERVES) {
		bpf_map_delete_elem(theirs, key); /* the client uses its port for another connection */
		return false;
	}
	if (goes_on && known->opening)
		known->opening = 0;
	return true;
}

#endif

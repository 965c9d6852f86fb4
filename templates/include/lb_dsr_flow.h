// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Connections under DSR that their slot no longer leads to their backend, or will not for long: see lb_stay.h.
 * User space removes those that are over (kubebee/lb/settle.py).
 */
#ifndef KB_LB_DSR_FLOW_H
#define KB_LB_DSR_FLOW_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "lb_flow.h"

/* Of both families; the key is that of a translated flow. */
struct kb_lb_dsr_flow {
	__u64 seen; /* ns, coarse monotonic clock */
	__u32 backend;
	__u32 hash; /* finds its slot */
	__u32 frontend; /* id */
	__u16 flags; /* enum lb_flow_flags; SEEN: more than the packet that made it came */
	__u16 pad;
};

/*
 * No LRU: a live connection is never evicted. Not allocated ahead: as a rule there are few. Kernels before 6.1
 * take the memory of an entry from what is free at that moment, and have a full table when there is none.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct kb_lb_flow_key);
	__type(value, struct kb_lb_dsr_flow);
} kb_lb_dsr_flow SEC(".maps");

#ifdef KB_LB_IPV6
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct kb_lb_flow_key6);
	__type(value, struct kb_lb_dsr_flow);
} kb_lb_dsr_flow6 SEC(".maps");
#endif

#endif

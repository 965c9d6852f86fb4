// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* How many packets ServiceLB makes itself, so that a flood is not answered by a flood. */
#ifndef KB_LB_LIMIT_H
#define KB_LB_LIMIT_H

#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#include "clock.h"

/* Per CPU: 1,000 a second, as the kernel's icmp_msgs_per_sec, and up to 200 at once. */
#define LB_REPLY_NS 1000000ULL
#define LB_REPLY_BURST 200

/* When the next reply would be due if they were sent evenly; ns. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} kb_lb_replies SEC(".maps");

static __always_inline bool lb_may_reply(void)
{
	__u64 now = kb_now();
	__u32 zero = 0;
	__u64 *due = bpf_map_lookup_elem(&kb_lb_replies, &zero);

	if (!due || *due > now + LB_REPLY_BURST * LB_REPLY_NS)
		return false;
	*due = (*due > now ? *due : now) + LB_REPLY_NS;
	return true;
}

#endif

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What interfaces can do for ServiceLB. Written by the loader, which knows drivers, addresses and what is attached. */
#ifndef KB_LB_DEV_H
#define KB_LB_DEV_H

#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#include "lb_types.h"

/* By ifindex. An interface that is not in it takes none: a veth into a pod would lose them silently. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct kb_lb_dev);
} kb_lb_devs SEC(".maps");

static __always_inline bool lb_dev_takes_frames(__u32 ifindex)
{
	const struct kb_lb_dev *dev = bpf_map_lookup_elem(&kb_lb_devs, &ifindex);

	return dev && dev->flags & LB_DEV_FRAMES;
}

#endif

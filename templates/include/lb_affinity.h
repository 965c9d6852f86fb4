// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Which backend a client had: session affinity by its address, for packets. */
#ifndef KB_LB_AFFINITY_H
#define KB_LB_AFFINITY_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "lb_types.h"

struct kb_lb_client {
	__u32 frontend; /* id */
	__be32 address;
};

/* LRU, for a client decides how many entries there are; whose is evicted may find another backend. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct kb_lb_client);
	__type(value, struct kb_lb_affinity);
} kb_lb_affinity SEC(".maps");

#ifdef KB_LB_IPV6
struct kb_lb_client6 {
	__u32 frontend;
	struct kb_lb_address6 address;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct kb_lb_client6);
	__type(value, struct kb_lb_affinity);
} kb_lb_affinity6 SEC(".maps");
#endif

#endif

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Which backend a network namespace had: session affinity of the node's own sockets. */
#ifndef KB_LB_AFFINITY_SOCK_H
#define KB_LB_AFFINITY_SOCK_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "lb_types.h"

/* A socket that connects has no address yet; its namespace stands for the Pod, or for the host. */
struct kb_lb_netns {
	__u32 frontend; /* id */
	__u32 pad;
	__u64 cookie;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct kb_lb_netns);
	__type(value, struct kb_lb_affinity);
} kb_lb_aff_sock SEC(".maps");

#ifdef KB_LB_IPV6
/* Frontends of the two families have ids of their own. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct kb_lb_netns);
	__type(value, struct kb_lb_affinity);
} kb_lb_aff_sock6 SEC(".maps");
#endif

#endif

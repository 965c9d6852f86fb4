// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Backends on this node, by what packets know that another balancer has sent here inside IP-in-IP. */
#ifndef KB_LB_HERE_H
#define KB_LB_HERE_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "lb_family.h"

/* Of several backends that differ in the port, one. */
struct LB_V(kb_lb_here_key) {
	__u32 frontend; /* id */
	lb_addr address;
};

/* A backend's number. Only user space writes it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct LB_V(kb_lb_here_key));
	__type(value, __u32);
} LB_V(kb_lb_here) SEC(".maps");

#endif

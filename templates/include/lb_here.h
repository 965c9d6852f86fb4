// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Backends on this node, by what packets know that another balancer has sent here inside IP-in-IP. */
#ifndef KB_LB_HERE_H
#define KB_LB_HERE_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "lb_family.h"
#include "lb_flow_hash.h"
#include "lb_select.h"

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

/* The frontend's backend that has the address; choice->backend is NULL if none on this node has. */
static __always_inline void lb_choose_here(const struct kb_lb_frontend *frontend, const lb_addr *address,
					   struct LB_V(lb_choice) *choice)
{
	struct LB_V(kb_lb_here_key) key = { .frontend = frontend->id, .address = *address };
	const __u32 *number = bpf_map_lookup_elem(&LB_V(kb_lb_here), &key);

	choice->backend = NULL;
	if (!number)
		return;
	choice->id = *number;
	choice->backend = LB_V(lb_backend)(*number);
}

#define LB_OWN_SHIFT 22 /* 32 bits of the hash, less those of a place's number */

enum lb_own_flags {
	LB_OWN = 1 << 0, /* the stack's as it is; no new flow is made */
	LB_OWN_ALONE = 1 << 1, /* and there is no flow from before */
};

/* A frontend's place that this node holds itself, as hosts with the VIP on loopback do, and its own backend there. */
struct LB_V(kb_lb_own) {
	lb_addr backend; /* the node's address that balancers send to */
	lb_addr vip;
	__be16 port; /* both have it */
	__u8 protocol;
	__u8 flags; /* last: the kernel copies upwards, so that a reader who sees them sees what they are about */
};

/*
 * Each in the place that its hash names, which takes a fifth of a look-up in a hash table; of two that share a
 * place one is not in it, and asks the kernel's routes. Only user space writes it (kubebee/lb/own.py).
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1U << (32 - LB_OWN_SHIFT));
	__type(key, __u32);
	__type(value, struct LB_V(kb_lb_own));
} LB_V(kb_lb_own) SEC(".maps");

/* The flags of a place, 0 if it is not known to be the node's own. */
static __always_inline __u8 lb_own(const lb_addr *backend, const lb_addr *vip, __be16 port, __u8 protocol)
{
	__u32 index = lb_flow_hash(backend, vip, port, bpf_htons(protocol), 0) >> LB_OWN_SHIFT;
	const struct LB_V(kb_lb_own) *own = bpf_map_lookup_elem(&LB_V(kb_lb_own), &index);

	if (!own || !own->flags || own->port != port || own->protocol != protocol)
		return 0;
	return LB_V(lb_same)(&own->backend, backend) && LB_V(lb_same)(&own->vip, vip) ? own->flags : 0;
}

#endif

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Makes the two entries of a translated flow, together or not at all. */
#ifndef KB_LB_FLOW_NEW_H
#define KB_LB_FLOW_NEW_H

#include <linux/errno.h>
#include <bpf/bpf_endian.h>

#include "clock.h"
#include "drop_reason.h"
#include "lb_dev.h"
#include "lb_family.h"
#include "lb_flow.h"
#include "lb_key.h"
#include "lb_scratch.h"
#include "lb_select.h"
#ifdef KB_LB_CUT_OVER
#include "lb_theirs.h"
#endif

/*
 * A source port is free for a backend as long as no flow of ours uses it, with that source address, towards the
 * backend's address and port: a range of 4,536 ports holds 4,536 SNAT flows a backend. Few tries: when most
 * ports are taken, trying on would cost every other packet of this CPU its time.
 */
#define LB_PORT_TRIES 6
#define LB_PORT_STEP 0x9e3779b1 /* the golden ratio: each try is far from all before, wherever the first was */

/* Who keeps its address keeps its port too, unless it has a flow from that port to that backend by another VIP. */
#define LB_CLIENT_FIRST 1024
#define LB_CLIENT_PORTS (65536 - LB_CLIENT_FIRST)

/* The reverse entry's key: how the backend's answer will look. */
static __always_inline void lb_reverse_key(struct LB_V(kb_lb_flow_key) *key, const struct LB_V(kb_lb_backend) *backend,
					   const struct LB_V(kb_lb_flow) *flow, __u8 protocol)
{
	lb_flow_key(key, &backend->address, &flow->nat_address, backend->port, flow->nat_port, protocol);
}

static __always_inline void lb_flow_remove(const struct LB_V(kb_lb_flow_key) *key, const struct LB_V(kb_lb_flow) *flow)
{
	struct LB_V(kb_lb_backend) *backend = LB_V(lb_backend)(flow->backend);
	struct LB_V(kb_lb_flow_key) reverse;

	if (backend) {
		lb_reverse_key(&reverse, backend, flow, key->protocol);
		bpf_map_delete_elem(&LB_V(kb_lb_rev), &reverse);
	}
	bpf_map_delete_elem(&LB_V(kb_lb_flow), key);
}

/* Whether kube-proxy has a flow with such answers. */
static __always_inline bool lb_answer_is_theirs(const struct LB_V(kb_lb_flow_key) *reverse)
{
#ifdef KB_LB_CUT_OVER
	return lb_is_their_answer(reverse);
#else
	(void)reverse;
	return false;
#endif
}

/* An answer to such a port would be taken for a request: where a frontend has the SNAT address. */
static __always_inline bool lb_port_serves(const struct LB_V(kb_lb_flow) *flow, __u8 protocol)
{
	struct LB_V(kb_lb_frontend_key) key;

	lb_frontend_key(&key, &flow->nat_address, flow->nat_port, protocol);
	return bpf_map_lookup_elem(&LB_V(kb_lb_fe), &key);
}

/*
 * The address of the interface that leads to the backend: its answers find back by that one, whatever others there are.
 * Where users chose others, one of those: each has all ports of the range, and the choice between them comes before the
 * tries for a port, as the verifier has no room for one in each.
 */
static __always_inline void lb_snat_source(lb_addr *source, const struct kb_lb_config *config,
					   const struct LB_V(kb_lb_backend) *backend, __u32 hash)
{
	/* Flows of one client differ in few bits of the hash: all of them count. */
	__u32 place = ((hash ^ hash >> 16) * LB_PORT_STEP) >> 16;
	const lb_addr none = {};
	const struct kb_lb_dev *dev = NULL;

	if (backend->flags & LB_BE_NEXT_HOP)
		dev = bpf_map_lookup_elem(&kb_lb_devs, &backend->ifindex);
	*source = dev && !LB_V(lb_same)(&dev->LB_V(snat_source), &none)
			  ? dev->LB_V(snat_source)
			  : config->LB_V(snat_source)[place & (LB_SNAT_SOURCES - 1)];
}

/* The flow that lb_flow_create() made last. */
static __always_inline struct LB_V(kb_lb_flow) *lb_flow_made(void)
{
	struct LB_V(lb_scratch) *made;

	return lb_scratch(&made) ? &made->flow : NULL;
}

/*
 * Makes a flow to `choice` and leaves a copy in the scratch room. `keep_client`: the backend sees the client's own
 * address. Returns 0, a drop reason, or -EEXIST when another CPU made the same flow meanwhile.
 */
static __noinline int lb_flow_create(const struct LB_V(kb_lb_flow_key) *key, const struct LB_V(lb_choice) *choice,
				     bool keep_client, __u32 hash)
{
	const struct kb_lb_config *config = lb_config();
	struct LB_V(lb_scratch) *made;
	__u32 first, ports;
	int i, error = -EEXIST;

	if (!lb_scratch(&made) || !config || !choice->backend || !config->snat_ports)
		return KB_DROP_LB_PORTS;
	__builtin_memset(&made->flow, 0, sizeof(made->flow));
	made->flow.seen = kb_now();
	made->flow.backend = choice->id;
	if (keep_client)
		made->flow.nat_address = key->saddr;
	else
		lb_snat_source(&made->flow.nat_address, config, choice->backend, hash);

	__builtin_memset(&made->reverse, 0, sizeof(made->reverse));
	made->reverse.seen = made->flow.seen;
	made->reverse.backend = choice->id;
	made->reverse.client = key->saddr;
	made->reverse.vip = key->daddr;
	made->reverse.client_port = key->sport;
	made->reverse.vip_port = key->dport;

	first = keep_client ? LB_CLIENT_FIRST : config->snat_first;
	ports = keep_client ? LB_CLIENT_PORTS : config->snat_ports;
	hash *= LB_PORT_STEP; /* its upper bits are much the same for all flows of one backend: they chose it */
	lb_reverse_key(&made->reverse_key, choice->backend, &made->flow, key->protocol);
	for (i = 0; i < LB_PORT_TRIES && error == -EEXIST; i++) {
		made->flow.nat_port = keep_client && !i ? key->sport : bpf_htons(first + ((__u64)hash * ports >> 32));
		made->reverse_key.dport = made->flow.nat_port;
		/* Taken ports are found by a lookup, at a third of what an insertion that fails costs. */
		if (!bpf_map_lookup_elem(&LB_V(kb_lb_rev), &made->reverse_key) &&
		    (keep_client || !lb_port_serves(&made->flow, key->protocol)) &&
		    !lb_answer_is_theirs(&made->reverse_key))
			error = bpf_map_update_elem(&LB_V(kb_lb_rev), &made->reverse_key, &made->reverse,
						    BPF_NOEXIST);
		hash += LB_PORT_STEP;
	}
	if (error)
		return error == -EEXIST ? KB_DROP_LB_PORTS : KB_DROP_LB_FLOWS;

	error = bpf_map_update_elem(&LB_V(kb_lb_flow), key, &made->flow, BPF_NOEXIST);
	if (!error)
		return 0;
	bpf_map_delete_elem(&LB_V(kb_lb_rev), &made->reverse_key);
	return error == -EEXIST ? -EEXIST : KB_DROP_LB_FLOWS;
}

#endif

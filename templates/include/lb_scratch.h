// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Room beside the stack, which is 512 bytes for all functions that are under way, the chain's dispatcher among
 * them. Per CPU: XDP and tc run with softirqs off, so neither interrupts the other.
 */
#ifndef KB_LB_SCRATCH_H
#define KB_LB_SCRATCH_H

#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#include "lb_family.h"
#include "lb_flow.h"
#ifdef KB_LB_DSR
#include "lb_dsr_flow.h"
#endif

/* An ICMP error and the start of what it quotes. Where the parts begin depends on IP options. */
struct lb_quote {
	lb_ip outer;
	struct kb_icmp icmp;
	lb_ip inner;
	__be16 ports[2];
	__u16 check; /* of the quoted transport header */
	bool has_check;
	__u8 protocol;
	__u32 icmp_at;
	__u32 inner_at;
	__u32 l4_at;
};

enum lb_fragment_way {
	LB_FRAGMENT_UP = 1, /* to a backend on this node: the stack delivers */
	LB_FRAGMENT_FORWARD, /* to a backend on another host */
	LB_FRAGMENT_ANSWER, /* of such a backend, to its client */
	LB_FRAGMENT_OUT, /* of a backend on this node, on its way out */
	LB_FRAGMENT_DSR, /* in an outer header to its backend */
	LB_FRAGMENT_L2, /* as it is to its backend */
};

/* A datagram that comes in fragments. */
struct LB_V(kb_lb_frag_key) {
	lb_addr saddr;
	lb_addr daddr;
	__u32 id;
	__u8 protocol;
	__u8 pad[3];
};

/* Where its first fragment went. */
struct LB_V(kb_lb_frag) {
	lb_addr saddr;
	lb_addr daddr;
	__u32 backend;
	__u8 way;
	__u8 pad[3];
};

struct LB_V(lb_scratch) {
	struct LB_V(kb_lb_frag_key) fragment_key;
	struct LB_V(kb_lb_frag) fragment;
	struct LB_V(kb_lb_flow) flow; /* being made, and its other half */
	struct LB_V(kb_lb_rev) reverse;
	struct LB_V(kb_lb_flow_key) reverse_key;
#ifdef KB_LB_DSR
	struct LB_V(kb_lb_flow_key) dsr_key;
	struct kb_lb_dsr_flow dsr_flow; /* being made */
#endif
	struct lb_quote quote;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct LB_V(lb_scratch));
} LB_V(kb_lb_scratch) SEC(".maps");

/* False cannot be, but verifiers want to hear of it. */
static __always_inline bool lb_scratch(struct LB_V(lb_scratch) **scratch)
{
	__u32 zero = 0;

	*scratch = bpf_map_lookup_elem(&LB_V(kb_lb_scratch), &zero);
	if (!*scratch)
		return false;
	/* Else clang adds a member's offset before the check, which verifiers of Linux 6.1 refuse. */
	asm volatile("" : "+r"(*scratch));
	return true;
}

#endif

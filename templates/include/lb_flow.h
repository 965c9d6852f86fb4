// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * State of translated flows: two entries each, made together and removed together.
 *
 * A flow to another host has an address and port of ours as its source there (SNAT); one to a backend on this
 * node keeps its client's address. Both are kept alike: what the backend sees as its client is in the entry.
 *
 * Plain hashes, not LRU: a full table refuses new flows and never evicts a live one. Dead entries are
 * collected by user space (kubebee/lb/gc.py) by the newer `seen` of the two and both sides' flags.
 */
#ifndef KB_LB_FLOW_H
#define KB_LB_FLOW_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "lb_types.h"

enum lb_flow_flags {
	LB_FLOW_FIN = 1 << 0, /* this side has sent FIN */
	LB_FLOW_RST = 1 << 1,
	LB_FLOW_SEEN = 1 << 2, /* on the reverse entry: the backend has answered */
	LB_FLOW_OLDER = 1 << 3, /* under DSR: made by a packet that opened nothing */
	LB_FLOW_OPTION = 1 << 4, /* began with an IP option: no later packet of the client would make it anew */
};

/* Client to VIP. */
struct kb_lb_flow {
	__u64 seen; /* ns, coarse monotonic clock */
	__u32 backend;
	__be32 nat_address; /* the source that the backend sees: ours, or the client's own */
	__be16 nat_port;
	__u16 flags;
	__u32 pad;
};

/* Backend to the source that it sees. */
struct kb_lb_rev {
	__u64 seen;
	__u32 backend;
	__be32 client;
	__be32 vip;
	__be16 client_port;
	__be16 vip_port;
	__u16 flags;
	__u16 pad;
	__be32 acked; /* TCP: as the last answer has it, where clients' later packets are not seen (lb_ip_option.h) */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct kb_lb_flow_key);
	__type(value, struct kb_lb_flow);
} kb_lb_flow SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct kb_lb_flow_key);
	__type(value, struct kb_lb_rev);
} kb_lb_rev SEC(".maps");

#ifdef KB_LB_IPV6
struct kb_lb_flow6 {
	__u64 seen;
	__u32 backend;
	struct kb_lb_address6 nat_address;
	__be16 nat_port;
	__u16 flags;
};

struct kb_lb_rev6 {
	__u64 seen;
	__u32 backend;
	struct kb_lb_address6 client;
	struct kb_lb_address6 vip;
	__be16 client_port;
	__be16 vip_port;
	__u16 flags;
	__u16 pad;
	__be32 acked;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct kb_lb_flow_key6);
	__type(value, struct kb_lb_flow6);
} kb_lb_flow6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct kb_lb_flow_key6);
	__type(value, struct kb_lb_rev6);
} kb_lb_rev6 SEC(".maps");
#endif

#endif

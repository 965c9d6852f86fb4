// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What the socket programs of ServiceLB share, whatever the family: whose socket it is, how a call is
 * refused, which backend it gets.
 *
 * They run in processes, which packets' programs interrupt: what both count is added to atomically.
 */
#ifndef KB_LB_SOCK_H
#define KB_LB_SOCK_H

#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <stdbool.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "drop.h"
#include "lb_maps.h"

/* What a cgroup socket program returns. */
#define LB_SOCK_ALLOW 1
#define LB_SOCK_REFUSE 0

/* The user-space half is kubebee/lb/sockets.py. */
struct kb_lb_sock_config {
	__u64 host; /* cookie of the node's own network namespace; 0 = that of the machine's first one */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct kb_lb_sock_config);
} kb_lb_sock_cfg SEC(".maps");

static __always_inline bool lb_sock_is_hosts(void *ctx)
{
	__u32 zero = 0;
	const struct kb_lb_sock_config *config = bpf_map_lookup_elem(&kb_lb_sock_cfg, &zero);
	__u64 host = config ? config->host : 0;

	return bpf_get_netns_cookie(ctx) == (host ? host : bpf_get_netns_cookie(NULL));
}

/* Without bpf_set_retval (Linux 5.18) the caller gets EPERM. */
static __always_inline int lb_sock_refuse(enum kb_drop_reason reason, int error)
{
	__u32 key = reason;
	__u64 *count = bpf_map_lookup_elem(&kb_drops, &key);

	if (count)
		__sync_fetch_and_add(count, 1);
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_set_retval))
		bpf_set_retval(-error);
	return LB_SOCK_REFUSE;
}

/*
 * No backend. TCP clients get what a closed port would give them, and what kube-proxy does: Kubernetes'
 * own tests insist on it, and all retry on it. For UDP there is no such refusal in the sending call:
 * the host is unreachable. Never EPERM: clients such as NFS took that for final, or hung.
 */
static __always_inline int lb_sock_refuse_empty(const struct bpf_sock_addr *ctx)
{
	return lb_sock_refuse(KB_DROP_LB_SOCK_NO_BACKEND, ctx->protocol == IPPROTO_TCP ? ECONNREFUSED : EHOSTUNREACH);
}

static __always_inline void lb_sock_count(void *stats, __u32 backend)
{
	struct kb_lb_stat *stat = bpf_map_lookup_elem(stats, &backend);

	if (stat)
		__sync_fetch_and_add(&stat->connections, 1);
}

#endif

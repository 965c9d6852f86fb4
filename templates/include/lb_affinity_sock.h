// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Which backend a network namespace had: session affinity of the node's own sockets. */
#ifndef KB_LB_AFFINITY_SOCK_H
#define KB_LB_AFFINITY_SOCK_H

#include <linux/bpf.h>
#include <stdbool.h>
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

#define LB_SECOND_NS 1000000000ULL

static __always_inline void lb_affinity_client(void *ctx, const struct kb_lb_frontend *frontend,
					       struct kb_lb_netns *client)
{
	client->frontend = frontend->id;
	client->pad = 0;
	client->cookie = bpf_get_netns_cookie(ctx);
}

/* What is left of a time before affinity was switched off is as good as any: its age decides. */
static __always_inline bool lb_affinity_holds(const struct kb_lb_affinity *last, __u64 now, __u32 seconds)
{
	return last && now - last->used <= seconds * LB_SECOND_NS;
}

/* `last` is the client's entry, if it has one. */
static __always_inline void lb_affinity_use(void *map, const struct kb_lb_netns *client, struct kb_lb_affinity *last,
					    __u64 now, __u32 backend)
{
	struct kb_lb_affinity made = { .used = now, .backend = backend };

	if (last)
		*last = made;
	else
		bpf_map_update_elem(map, client, &made, BPF_ANY);
}

#endif

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Node ports are taken: a process of the host that bound one would get no connection from outside, and
 * would not know why.
 *
 * A node port has, beside the entries of the node's addresses, one of the loopback address that no packet
 * is for. Pods have their own ports.
 */
#ifndef KB_LB_SOCK_BIND_H
#define KB_LB_SOCK_BIND_H

#include "lb_sock.h"

static __always_inline bool lb_is_node_port(const struct bpf_sock *ctx)
{
	struct kb_lb_frontend_key key = {
		.address = bpf_htonl(0x7f000001),
		.port = bpf_htons(ctx->src_port),
		.protocol = ctx->protocol,
	};
	const struct kb_lb_frontend *frontend = bpf_map_lookup_elem(&kb_lb_fe, &key);

	return frontend && frontend->flags & LB_FE_SOCKETS_ONLY;
}

/* Of IPv6 alone: one of both families is found above. */
static __always_inline bool lb_is_node_port6(const struct bpf_sock *ctx)
{
#ifdef KB_LB_IPV6
	struct kb_lb_frontend_key6 key = {
		.address.words[3] = bpf_htonl(1),
		.port = bpf_htons(ctx->src_port),
		.protocol = ctx->protocol,
	};
	const struct kb_lb_frontend *frontend = bpf_map_lookup_elem(&kb_lb_fe6, &key);

	return frontend && frontend->flags & LB_FE_SOCKETS_ONLY;
#else
	(void)ctx;
	return false;
#endif
}

static __always_inline int lb_sock_bound(struct bpf_sock *ctx, bool is_node_port)
{
	if (is_node_port && lb_sock_is_hosts(ctx))
		return lb_sock_refuse(KB_DROP_LB_SOCK_BIND, EADDRINUSE);
	return LB_SOCK_ALLOW;
}

#endif

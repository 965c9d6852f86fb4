// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Node ports and host ports are taken: a process of the host that bound one would get no connection from
 * outside, and would not know why. Pods have their own ports.
 *
 * A port that is taken on all addresses has, beside the entries of the node's addresses, one of the loopback
 * address that says so; a host port of one address says it in its own entry.
 */
#ifndef KB_LB_SOCK_BIND_H
#define KB_LB_SOCK_BIND_H

#include "lb_sock.h"

static __always_inline bool lb_is_reserved(const struct bpf_sock *ctx, __be32 address)
{
	struct kb_lb_frontend_key key = {
		.address = bpf_htonl(0x7f000001),
		.port = bpf_htons(ctx->src_port),
		.protocol = ctx->protocol,
	};
	const struct kb_lb_frontend *frontend = bpf_map_lookup_elem(&kb_lb_fe, &key);

	if (frontend && frontend->flags & LB_FE_PORT_RESERVED)
		return true;
	if (!address)
		return false;
	key.address = address;
	frontend = bpf_map_lookup_elem(&kb_lb_fe, &key);
	return frontend && frontend->flags & LB_FE_RESERVED;
}

/* Of IPv6 alone: a port of both families is found above. */
static __always_inline bool lb_is_reserved6(const struct bpf_sock *ctx)
{
#ifdef KB_LB_IPV6
	struct kb_lb_frontend_key6 key = {
		.address.words[3] = bpf_htonl(1),
		.port = bpf_htons(ctx->src_port),
		.protocol = ctx->protocol,
	};
	const struct kb_lb_frontend *frontend = bpf_map_lookup_elem(&kb_lb_fe6, &key);

	if (frontend && frontend->flags & LB_FE_PORT_RESERVED)
		return true;
	key.address.words[0] = ctx->src_ip6[0];
	key.address.words[1] = ctx->src_ip6[1];
	key.address.words[2] = ctx->src_ip6[2];
	key.address.words[3] = ctx->src_ip6[3];
	frontend = bpf_map_lookup_elem(&kb_lb_fe6, &key);
	return frontend && frontend->flags & LB_FE_RESERVED;
#else
	(void)ctx;
	return false;
#endif
}

/* The IPv4 address that an IPv6 socket bound as ::ffff:a.b.c.d; 0 = none, or all. */
static __always_inline __be32 lb_bound_mapped(const struct bpf_sock *ctx)
{
	if (ctx->src_ip6[0] || ctx->src_ip6[1] || ctx->src_ip6[2] != bpf_htonl(0xffff))
		return 0;
	return ctx->src_ip6[3];
}

static __always_inline int lb_sock_bound(struct bpf_sock *ctx, bool is_reserved)
{
	if (is_reserved && lb_sock_is_hosts(ctx))
		return lb_sock_refuse(KB_DROP_LB_SOCK_BIND, EADDRINUSE);
	return LB_SOCK_ALLOW;
}

#endif

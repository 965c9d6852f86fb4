// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What a socket was told to reach and what it reaches instead.
 *
 * In socket storage: it dies with the socket, so nothing leaks and nothing of a live socket is evicted.
 */
#ifndef KB_LB_SOCK_H
#define KB_LB_SOCK_H

#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "lb_maps.h"
#include "lb_select.h"

/* Frontends that one unconnected UDP socket may talk to at a time; the oldest is forgotten first. */
#define LB_SOCK_PEERS 8

struct kb_lb_peer {
	__be32 vip;
	__be32 backend;
	__be16 vip_port;
	__be16 backend_port;
};

struct kb_lb_sock {
	struct kb_lb_peer peers[LB_SOCK_PEERS];
	__u32 next;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct kb_lb_sock);
} kb_lb_sk SEC(".maps");

/* Returns false when the socket's storage can't be made: then its answers would not be recognised. */
static __always_inline bool lb_sock_remember(struct bpf_sock_addr *ctx, const struct kb_lb_backend *backend)
{
	struct kb_lb_sock *sock = bpf_sk_storage_get(&kb_lb_sk, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	struct kb_lb_peer peer = {
		.vip = ctx->user_ip4,
		.backend = backend->address,
		.vip_port = ctx->user_port,
		.backend_port = backend->port,
	};
	int i;

	if (!sock)
		return false;
	for (i = 0; i < LB_SOCK_PEERS; i++) {
		struct kb_lb_peer *known = &sock->peers[i];

		if (known->backend == peer.backend && known->backend_port == peer.backend_port) {
			*known = peer;
			return true;
		}
	}
	sock->peers[sock->next++ & (LB_SOCK_PEERS - 1)] = peer;
	return true;
}

/* Shows a backend's address as the frontend's that led to it. */
static __always_inline void lb_sock_show_frontend(struct bpf_sock_addr *ctx)
{
	struct kb_lb_sock *sock = bpf_sk_storage_get(&kb_lb_sk, ctx->sk, NULL, 0);
	__be32 address = ctx->user_ip4;
	__be16 port = ctx->user_port;
	int i;

	if (!sock)
		return;
	for (i = 0; i < LB_SOCK_PEERS; i++) {
		const struct kb_lb_peer *peer = &sock->peers[i];

		if (peer->backend != address || peer->backend_port != port || !peer->vip_port)
			continue;
		ctx->user_ip4 = peer->vip;
		ctx->user_port = peer->vip_port;
		return;
	}
}

#endif

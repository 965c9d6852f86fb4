// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Calls by which sockets reach for a frontend. Included once for each family, with LB_V(). Places are passed
 * as values: IPv6 sockets reach for IPv4 too, as ::ffff:a.b.c.d, and have it in another field.
 */
#ifndef LB_V
#error "include lb_sock4.h or lb_sock6.h"
#endif

#include "clock.h"
#include "lb_address.h"
#include "lb_sock.h"

struct LB_V(lb_place) {
	LB_V(lb_address) address;
	__be16 port;
};

/* Each pod's loopback addresses are its own: only the host's are served. */
static __always_inline const struct kb_lb_frontend *LB_V(lb_sock_frontend)(struct bpf_sock_addr *ctx,
									   struct LB_V(lb_place) *place)
{
	struct LB_V(kb_lb_frontend_key) key = {
		.address = place->address,
		.port = place->port,
		.protocol = ctx->protocol,
	};
	const struct kb_lb_frontend *frontend;

	/* Port 0 and protocol 0 stand for a whole address, and no socket can reach that. */
	if (!key.port)
		return NULL;
	LB_V(lb_complete)(&key.address);
	frontend = bpf_map_lookup_elem(&LB_V(kb_lb_fe), &key);
	if (!frontend || (LB_V(lb_is_loopback)(&key.address) && !lb_sock_is_hosts(ctx)))
		return NULL;
	place->address = key.address;
	return frontend;
}

/* A backend that a client which had it may have again: one in the frontend's table for sockets. */
static __always_inline struct LB_V(kb_lb_backend) *LB_V(lb_sock_backend)(__u32 number,
									 const struct kb_lb_frontend *frontend)
{
	struct LB_V(kb_lb_backend) *backend = LB_V(lb_backend)(number);

	if (!backend || backend->frontend != frontend->id || backend->flags & (LB_BE_GONE | LB_BE_NOT_INSIDE))
		return NULL;
	return backend;
}

/* By hash; with affinity the backend that this network namespace had last, if it takes connections. */
static __always_inline void LB_V(lb_sock_choose)(struct bpf_sock_addr *ctx, const struct kb_lb_frontend *frontend,
						 __u32 hash, struct LB_V(lb_choice) *choice)
{
#ifdef KB_LB_AFFINITY
	struct kb_lb_affinity *last;
	struct kb_lb_netns client;
	__u64 now;

	if (frontend->affinity) {
		now = kb_now();
		lb_affinity_client(ctx, frontend, &client);
		last = bpf_map_lookup_elem(&LB_V(kb_lb_aff_sock), &client);
		choice->backend = NULL;
		if (lb_affinity_holds(last, now, frontend->affinity)) {
			choice->id = last->backend;
			choice->backend = LB_V(lb_sock_backend)(choice->id, frontend);
		}
		if (!choice->backend || !choice->backend->weight)
			LB_V(lb_select_inside)(frontend, hash, choice);
		if (choice->backend)
			lb_affinity_use(&LB_V(kb_lb_aff_sock), &client, last, now, choice->id);
		return;
	}
#else
	(void)ctx;
#endif
	LB_V(lb_select_inside)(frontend, hash, choice);
}

/* Leads the call to `choice`: `place` becomes its address. Returns what the program returns. */
static __always_inline int LB_V(lb_sock_go)(struct LB_V(kb_lb_sock) *sock, const struct LB_V(lb_choice) *choice,
					    struct LB_V(lb_place) *place, bool connects)
{
	struct LB_V(kb_lb_peer) peer = {
		.vip = place->address,
		.address = choice->backend->address,
		.vip_port = place->port,
		.port = choice->backend->port,
		.number = choice->id,
	};

	if (LB_V(lb_peers_add)(sock, &peer) || connects)
		lb_sock_count(&LB_V(kb_lb_be_stat), choice->id);
	place->address = peer.address;
	place->port = peer.port;
	return LB_SOCK_ALLOW;
}

/* Random: a client that tries again after a failure finds another backend. */
static __always_inline int LB_V(lb_sock_connect)(struct bpf_sock_addr *ctx, struct LB_V(lb_place) *place)
{
	const struct kb_lb_frontend *frontend = LB_V(lb_sock_frontend)(ctx, place);
	struct LB_V(lb_choice) choice = {};
	struct LB_V(kb_lb_sock) *sock;

#ifdef KB_LB_CUT_OVER
	if (lb_cut_phase() == LB_CUT_HANDS_BACK)
		frontend = NULL; /* the kernel translates what the socket sends, as for any process without us */
#endif
	if (!frontend) {
		bpf_sk_storage_delete(&LB_V(kb_lb_sk), ctx->sk); /* of what the socket was connected to before */
		return LB_SOCK_ALLOW;
	}
	LB_V(lb_sock_choose)(ctx, frontend, bpf_get_prandom_u32(), &choice);
	if (!choice.backend)
		return lb_sock_refuse_empty(ctx);
	sock = bpf_sk_storage_get(&LB_V(kb_lb_sk), ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!sock) /* answers would not be recognised */
		return lb_sock_refuse(KB_DROP_LB_SOCK_MEMORY, ENOBUFS);
	return LB_V(lb_sock_go)(sock, &choice, place, true);
}

/* The backend that a socket got by a frontend before; choice->backend stays NULL when that left. */
static __always_inline void LB_V(lb_sock_same)(const struct LB_V(kb_lb_sock) *sock,
					       const struct kb_lb_frontend *frontend,
					       const struct LB_V(lb_place) *place, struct LB_V(lb_choice) *choice)
{
	const struct LB_V(kb_lb_peer) *peer = LB_V(lb_peers_by_vip)(sock, &place->address, place->port);
	struct LB_V(kb_lb_backend) *backend;

	if (!peer)
		return;
	backend = LB_V(lb_sock_backend)(peer->number, frontend);
	if (!backend || backend->port != peer->port || !LB_V(lb_same)(&backend->address, &peer->address))
		return;
	choice->backend = backend;
	choice->id = peer->number;
}

#ifdef KB_LB_CUT_OVER
/*
 * Whether an unconnected socket has a flow to this place that kube-proxy translates. Its own address is not known
 * before there is a packet: the table has such flows with no address, too. One without a port has sent nothing yet.
 */
static __always_inline bool LB_V(lb_sock_is_theirs)(struct bpf_sock_addr *ctx, const struct LB_V(lb_place) *place)
{
	const struct LB_V(kb_lb_sock) *sock;
	struct LB_V(kb_lb_flow_key) key = {
		.daddr = place->address,
		.dport = place->port,
		.protocol = IPPROTO_UDP,
	};

	if (!ctx->sk)
		return false;
	sock = bpf_sk_storage_get(&LB_V(kb_lb_sk), ctx->sk, NULL, 0);
	if (sock && LB_V(lb_peers_by_vip)(sock, &place->address, place->port))
		return false;
	if (lb_cut_phase() == LB_CUT_HANDS_BACK)
		return true;
	if (!ctx->sk->src_port)
		return false;
	key.sport = bpf_htons(ctx->sk->src_port);
	return lb_cut_leaves(&LB_V(kb_lb_theirs), &key, false, false, false);
}

#endif
/*
 * A datagram to a place that the socket is not connected to, or that it names once more: it keeps the
 * backend that it has. A connected socket takes answers from nobody else.
 */
static __always_inline int LB_V(lb_sock_send)(struct bpf_sock_addr *ctx, struct LB_V(lb_place) *place)
{
	const struct kb_lb_frontend *frontend = LB_V(lb_sock_frontend)(ctx, place);
	struct LB_V(lb_choice) choice = {};
	struct LB_V(kb_lb_sock) *sock;
	__u64 cookie;

	if (!frontend)
		return LB_SOCK_ALLOW;
#ifdef KB_LB_CUT_OVER
	if (LB_V(lb_sock_is_theirs)(ctx, place))
		return LB_SOCK_ALLOW;
#endif
	sock = bpf_sk_storage_get(&LB_V(kb_lb_sk), ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!sock)
		return lb_sock_refuse(KB_DROP_LB_SOCK_MEMORY, ENOBUFS);
	if (!frontend->affinity) /* that has its own memory, and a time that runs out */
		LB_V(lb_sock_same)(sock, frontend, place, &choice);
	if (!choice.backend) {
		cookie = bpf_get_socket_cookie(ctx);
		LB_V(lb_sock_choose)(ctx, frontend, lb_hash(cookie, cookie >> 32, 0, 0, frontend->id), &choice);
	}
	if (!choice.backend)
		return lb_sock_refuse_empty(ctx);
	return LB_V(lb_sock_go)(sock, &choice, place, false);
}

/* Shows a backend's address as the frontend's that led to it; false: it is no backend's. */
static __always_inline bool LB_V(lb_sock_show)(struct bpf_sock_addr *ctx, struct LB_V(lb_place) *place)
{
	const struct LB_V(kb_lb_sock) *sock = bpf_sk_storage_get(&LB_V(kb_lb_sk), ctx->sk, NULL, 0);
	const struct LB_V(kb_lb_peer) *peer;

	if (!sock)
		return false;
	peer = LB_V(lb_peers_by_backend)(sock, &place->address, place->port);
	if (!peer)
		return false;
	place->address = peer->vip;
	place->port = peer->vip_port;
	return true;
}

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What a socket was told to reach and what it reaches instead. Included once for each family, with LB_V():
 * an IPv6 socket that also reaches for IPv4 has both.
 *
 * In socket storage: it dies with the socket, so nothing leaks and nothing of a live socket is evicted.
 */
#ifndef LB_V
#error "include lb_sock4.h or lb_sock6.h"
#endif

#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#include "lb_address.h"

/* Frontends that one unconnected UDP socket may talk to at a time; the oldest is forgotten first. */
#define LB_SOCK_PEERS 8

struct LB_V(kb_lb_peer) {
	LB_V(lb_address) vip;
	LB_V(lb_address) address; /* of the backend */
	__be16 vip_port;
	__be16 port; /* of the backend; 0: no entry */
	__u32 number; /* of the backend */
};

struct LB_V(kb_lb_sock) {
	struct LB_V(kb_lb_peer) peers[LB_SOCK_PEERS];
	__u32 next; /* where the next one goes, modulo the number of places */
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct LB_V(kb_lb_sock));
} LB_V(kb_lb_sk) SEC(".maps");

/* Returns whether it is new to the socket to have this backend by this frontend. */
static __always_inline bool LB_V(lb_peers_add)(struct LB_V(kb_lb_sock) *sock, const struct LB_V(kb_lb_peer) *peer)
{
	int i;

	for (i = 0; i < LB_SOCK_PEERS; i++) {
		struct LB_V(kb_lb_peer) *known = &sock->peers[i];
		bool same;

		if (known->port != peer->port || !LB_V(lb_same)(&known->address, &peer->address))
			continue;
		same = known->vip_port == peer->vip_port && LB_V(lb_same)(&known->vip, &peer->vip);
		*known = *peer;
		return !same;
	}
	sock->peers[sock->next++ & (LB_SOCK_PEERS - 1)] = *peer;
	return true;
}

/* The newest entry by this frontend: backends that it had before may still answer. */
static __always_inline const struct LB_V(kb_lb_peer) *
LB_V(lb_peers_by_vip)(const struct LB_V(kb_lb_sock) *sock, const LB_V(lb_address) *vip, __be16 vip_port)
{
	__u32 newest = sock->next - 1, i;

	for (i = 0; i < LB_SOCK_PEERS; i++) {
		const struct LB_V(kb_lb_peer) *peer = &sock->peers[(newest - i) & (LB_SOCK_PEERS - 1)];

		if (peer->port && peer->vip_port == vip_port && LB_V(lb_same)(&peer->vip, vip))
			return peer;
	}
	return NULL;
}

static __always_inline const struct LB_V(kb_lb_peer) *
LB_V(lb_peers_by_backend)(const struct LB_V(kb_lb_sock) *sock, const LB_V(lb_address) *address, __be16 port)
{
	int i;

	for (i = 0; i < LB_SOCK_PEERS; i++) {
		const struct LB_V(kb_lb_peer) *peer = &sock->peers[i];

		if (peer->port && peer->port == port && LB_V(lb_same)(&peer->address, address))
			return peer;
	}
	return NULL;
}

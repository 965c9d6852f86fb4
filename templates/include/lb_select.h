// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* From a flow to a backend: hash, slot, backend. The hash's model is kubebee/lb/layout.py. */
#ifndef KB_LB_SELECT_H
#define KB_LB_SELECT_H

#include "lb_maps.h"

/* Odd constants with well spread bits (the golden ratio; the finaliser of MurmurHash3). */
#define LB_HASH_K1 0x9e3779b97f4a7c15ULL
#define LB_HASH_K2 0xff51afd7ed558ccdULL

/*
 * Two multiplications instead of jhash's dozens of steps. Only the upper half is returned: the lower
 * bits of a product depend on few input bits. Arguments as they lie in the packet.
 */
static __always_inline __u32 lb_hash(__be32 saddr, __be32 daddr, __be16 sport, __be16 dport, __u64 seed)
{
	__u64 x = ((__u64)saddr << 32 | daddr) ^ seed;

	x *= LB_HASH_K1;
	x ^= x >> 32;
	x ^= (__u64)sport << 16 | dport;
	x *= LB_HASH_K2;
	return x >> 32;
}

/* A backend, its number, and the flags of the slot that named it. */
struct lb_choice {
	struct kb_lb_backend *backend;
	__u32 id;
	__u32 flags;
};

static __always_inline struct kb_lb_backend *lb_backend(__u32 id)
{
	struct kb_lb_backend *backend = bpf_map_lookup_elem(&kb_lb_be, &id);

	return backend && backend->flags & LB_BE_USED ? backend : NULL;
}

/* `table` is a base and its size as one word. choice->backend is NULL when there is none. */
static __always_inline void lb_select_in(__u64 table, __u32 hash, struct lb_choice *choice)
{
	__u32 base = table, size = table >> 32;
	__u32 slot = base + ((__u64)hash * size >> 32);
	__u32 row_index = slot >> LB_ROW_SHIFT;
	struct kb_lb_row *row;

	choice->backend = NULL;
	choice->flags = 0;
	if (!size)
		return;
	row = bpf_map_lookup_elem(&kb_lb_slots, &row_index);
	if (!row)
		return;
	choice->flags = row->backend[slot & (LB_ROW_SLOTS - 1)];
	choice->id = choice->flags & LB_SLOT_NUMBER;
	choice->backend = lb_backend(choice->id);
}

/* For a packet from outside. */
static __always_inline void lb_select(const struct kb_lb_frontend *frontend, __u32 hash, struct lb_choice *choice)
{
	lb_select_in(*(const volatile __u64 *)&frontend->base, hash, choice);
}

/* For a socket of this node. */
static __always_inline void lb_select_inside(const struct kb_lb_frontend *frontend, __u32 hash,
					     struct lb_choice *choice)
{
	lb_select_in(*(const volatile __u64 *)&frontend->inside_base, hash, choice);
}

static __always_inline void lb_count(__u32 backend, __u32 packets, __u32 bytes, __u32 connections)
{
	struct kb_lb_stat *stat = bpf_map_lookup_elem(&kb_lb_be_stat, &backend);

	if (!stat)
		return;
	stat->packets += packets; /* per CPU */
	stat->bytes += bytes;
	stat->connections += connections;
}

#ifdef KB_LB_IPV6
/* As lb_hash(): a multiplication for each 8 bytes of addresses, and one for the ports. */
static __always_inline __u32 lb_hash6(const struct kb_lb_address6 *saddr, const struct kb_lb_address6 *daddr,
				      __be16 sport, __be16 dport, __u64 seed)
{
	__u64 x = seed;
	int i;

	for (i = 0; i < 4; i += 2) {
		x ^= (__u64)saddr->words[i] << 32 | saddr->words[i + 1];
		x *= LB_HASH_K1;
		x ^= x >> 32;
	}
	for (i = 0; i < 4; i += 2) {
		x ^= (__u64)daddr->words[i] << 32 | daddr->words[i + 1];
		x *= LB_HASH_K1;
		x ^= x >> 32;
	}
	x ^= (__u64)sport << 16 | dport;
	x *= LB_HASH_K2;
	return x >> 32;
}

struct lb_choice6 {
	struct kb_lb_backend6 *backend;
	__u32 id;
	__u32 flags;
};

static __always_inline struct kb_lb_backend6 *lb_backend6(__u32 id)
{
	struct kb_lb_backend6 *backend = bpf_map_lookup_elem(&kb_lb_be6, &id);

	return backend && backend->flags & LB_BE_USED ? backend : NULL;
}

static __always_inline void lb_select_in6(__u64 table, __u32 hash, struct lb_choice6 *choice)
{
	__u32 base = table, size = table >> 32;
	__u32 slot = base + ((__u64)hash * size >> 32);
	__u32 row_index = slot >> LB_ROW_SHIFT;
	struct kb_lb_row *row;

	choice->backend = NULL;
	choice->flags = 0;
	if (!size)
		return;
	row = bpf_map_lookup_elem(&kb_lb_slots6, &row_index);
	if (!row)
		return;
	choice->flags = row->backend[slot & (LB_ROW_SLOTS - 1)];
	choice->id = choice->flags & LB_SLOT_NUMBER;
	choice->backend = lb_backend6(choice->id);
}

/* For a packet from outside. */
static __always_inline void lb_select6(const struct kb_lb_frontend *frontend, __u32 hash,
				       struct lb_choice6 *choice)
{
	lb_select_in6(*(const volatile __u64 *)&frontend->base, hash, choice);
}

static __always_inline void lb_count6(__u32 backend, __u32 packets, __u32 bytes, __u32 connections)
{
	struct kb_lb_stat *stat = bpf_map_lookup_elem(&kb_lb_be_stat6, &backend);

	if (!stat)
		return;
	stat->packets += packets; /* per CPU */
	stat->bytes += bytes;
	stat->connections += connections;
}

static __always_inline void lb_select_inside6(const struct kb_lb_frontend *frontend, __u32 hash,
					      struct lb_choice6 *choice)
{
	lb_select_in6(*(const volatile __u64 *)&frontend->inside_base, hash, choice);
}
#endif

#endif

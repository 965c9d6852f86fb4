// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The tables of ServiceLB. XDP and socket programs share them by file descriptor; the sizes here
 * are defaults, the loader sets its own before it creates them.
 */
#ifndef KB_LB_MAPS_H
#define KB_LB_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "lb_types.h"
#include "names.h"

/* One entry a frontend and one an address. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, struct kb_lb_frontend_key);
	__type(value, struct kb_lb_frontend);
} kb_lb_fe SEC(".maps");

/* All frontends' tables in one array: base + (hash * size >> 32) is a slot, a slot holds a backend's
 * number. One array instead of a map per frontend saves a lookup and makes the swap one store. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 131072);
	__type(key, __u32);
	__type(value, struct kb_lb_row);
} kb_lb_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE); /* begins at a page: no backend spans two cache lines */
	__uint(max_entries, 131072);
	__type(key, __u32);
	__type(value, struct kb_lb_backend);
} kb_lb_be SEC(".maps");

/* By backend number; a backend belongs to one frontend, so frontends are sums of these. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 131072);
	__type(key, __u32);
	__type(value, struct kb_lb_stat);
} kb_lb_be_stat SEC(".maps");

/* By frontend id: what its backends had counted before they left. Only user space touches it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct kb_lb_stat);
} kb_lb_fe_stat SEC(".maps");

/* Source ranges of frontends with LB_FE_SOURCES. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct kb_lb_source);
	__type(value, __u8);
} kb_lb_sources SEC(".maps");

/* What declared a frontend ("ServiceLB/shop:web"), by its id. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct kb_name);
} kb_lb_names SEC(".maps");

#ifdef KB_LB_IPV6
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, struct kb_lb_frontend_key6);
	__type(value, struct kb_lb_frontend);
} kb_lb_fe6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 131072);
	__type(key, __u32);
	__type(value, struct kb_lb_row);
} kb_lb_slots6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 131072);
	__type(key, __u32);
	__type(value, struct kb_lb_backend6);
} kb_lb_be6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 131072);
	__type(key, __u32);
	__type(value, struct kb_lb_stat);
} kb_lb_be_stat6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct kb_lb_stat);
} kb_lb_fe_stat6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct kb_lb_source6);
	__type(value, __u8);
} kb_lb_sources6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct kb_name);
} kb_lb_names6 SEC(".maps");
#endif

/* Of both families. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct kb_lb_config);
} kb_lb_cfg SEC(".maps");

static __always_inline const struct kb_lb_config *lb_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&kb_lb_cfg, &zero);
}

#endif

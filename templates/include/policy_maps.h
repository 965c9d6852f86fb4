// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* HostPolicy's maps. About 8 MB for each set of policies, whatever the number of rules. */
#ifndef KB_POLICY_MAPS_H
#define KB_POLICY_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "policy_types.h"

#define KB_LOCAL_ADDRESSES 65536
#define KB_FRAGMENTS 8192

/* An array of which each half has `entries`; user space writes through mmap. */
#define KB_POLICY_TABLE(name, entries, entry_type)             \
	struct {                                               \
		__uint(type, BPF_MAP_TYPE_ARRAY);              \
		__uint(map_flags, BPF_F_MMAPABLE);             \
		__uint(max_entries, KB_HALVES *(entries));     \
		__type(key, __u32);                            \
		__type(value, entry_type);                     \
	} name SEC(".maps")

KB_POLICY_TABLE(kb_p_enforced, 1, struct kb_rule_bits); /* rules of policies that are not in audit mode */
KB_POLICY_TABLE(kb_p_rules, KB_RULE_ENTRIES, struct kb_rule);
KB_POLICY_TABLE(kb_p_root, KB_ROOT_LINES, struct kb_line);
KB_POLICY_TABLE(kb_p_chunks, KB_CHUNKS, struct kb_chunk);
KB_POLICY_TABLE(kb_p_l4, KB_L4_LINES, struct kb_line);
KB_POLICY_TABLE(kb_p_src_bits, KB_CLASSES, struct kb_rule_bits);
KB_POLICY_TABLE(kb_p_l4_bits, KB_CLASSES, struct kb_rule_bits);

/* One store switches all tables at once. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct kb_policy_active);
} kb_p_active SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, KB_HIT_SLOTS);
	__type(key, __u32);
	__type(value, struct kb_hits);
} kb_p_hits SEC(".maps");

/* Datagrams whose first fragment was let through -> slot of the rule that did. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, KB_FRAGMENTS);
	__type(key, struct kb_fragment_key);
	__type(value, __u32);
} kb_p_fragments SEC(".maps");

/*
 * IPv4 addresses (network byte order) that mean this host: its own, subnet broadcasts, VIPs of
 * ServiceLB. Packets to others are forwarded and not judged. Written by the loader.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, KB_LOCAL_ADDRESSES);
	__type(key, __be32);
	__type(value, __u8);
} kb_local SEC(".maps");

#endif

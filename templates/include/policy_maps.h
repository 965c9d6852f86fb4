// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* HostPolicy's maps. About 8 MB for each set of policies, whatever the number of rules. */
#ifndef KB_POLICY_MAPS_H
#define KB_POLICY_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "names.h"
#include "policy_types.h"

#define KB_LOCAL_CROWDED 65536
#define KB_FRAGMENTS 8192

/*
 * A variable, not array maps: its address is in the code, so a table costs a load where a map costs a
 * lookup of a dozen instructions and a key on the stack: a third of the stage (30 ns a packet, now 20).
 * User space writes through mmap. Linux 5.10 refuses values above 4 MiB (KMALLOC_MAX_SIZE), 6.1 does not:
 * so the chunks, which not every packet needs, are a map.
 */
struct kb_policy kb_policy SEC(".bss");

_Static_assert(sizeof(struct kb_policy) <= 4 << 20, "Linux 5.10 would refuse the map");

/* Chunks of the source tree, of both halves. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, KB_HALVES *KB_CHUNKS);
	__type(key, __u32);
	__type(value, struct kb_chunk);
} kb_p_chunks SEC(".maps");

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

/* Addresses of this host (network byte order) whose line of kb_policy.local is full. Written by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, KB_LOCAL_CROWDED);
	__type(key, __be32);
	__type(value, __u8);
} kb_p_crowded SEC(".maps");

/* Names of rules ("policy/rule") by slot of kb_p_hits. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, KB_HIT_SLOTS);
	__type(key, __u32);
	__type(value, struct kb_name);
} kb_p_names SEC(".maps");

#endif

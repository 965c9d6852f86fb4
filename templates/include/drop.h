// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The one exit for packets that a built-in stage drops. */
#ifndef KB_DROP_H
#define KB_DROP_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "ctx.h"
#include "drop_reason.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, KB_DROP_MAX);
	__type(key, __u32);
	__type(value, __u64);
} kb_drops SEC(".maps");

/* Counts the reason; returns the verdict that drops. */
static __always_inline int kb_drop(enum kb_drop_reason reason)
{
	__u32 key = reason;
	__u64 *count = bpf_map_lookup_elem(&kb_drops, &key);

	if (count)
		++*count; /* per CPU, and on one CPU these programs do not nest */
	return KB_DROPPED;
}

#endif

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Accounting around one stage of an XDP chain.
 *
 * bpf(2)'s own statistics count whole programs; stages are subprograms, so the dispatcher counts them.
 * Time is taken on one run of KB_TIME_EVERY: two clock reads cost more than a small stage.
 */
#ifndef KB_CHAIN_H
#define KB_CHAIN_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "verdict.h"

#define KB_VERDICTS 6 /* XDP_ABORTED .. XDP_REDIRECT, then "went on to the next stage" */
#define KB_WENT_ON 5
#define KB_TIME_EVERY 64 /* a power of two */

struct kb_run {
	__u64 runs;
	__u64 timed_runs;
	__u64 timed_nsecs;
	__u64 verdicts[KB_VERDICTS];
};

struct kb_run_map {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct kb_run);
	__uint(max_entries, 1);
};

/* Returns the start time, 0 when this run is not timed. */
static __always_inline __u64 kb_stage_enter(struct kb_run *run)
{
	if (!run || run->runs++ & (KB_TIME_EVERY - 1))
		return 0;
	return bpf_ktime_get_ns();
}

static __always_inline void kb_stage_leave(struct kb_run *run, __u64 start, __u32 verdict)
{
	if (!run)
		return;
	if (start) {
		run->timed_runs++;
		run->timed_nsecs += bpf_ktime_get_ns() - start;
	}
	if (verdict < KB_VERDICTS)
		run->verdicts[verdict]++;
}

/* A verdict a stage may end the chain with; anything else is a fault of the stage and drops the packet as
 * the kernel itself would. */
static __always_inline int kb_final(int verdict)
{
	return (__u32)verdict > XDP_REDIRECT ? XDP_ABORTED : verdict;
}

#endif

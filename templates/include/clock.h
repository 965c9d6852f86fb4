// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The time since boot, to the last tick of the timer. */
#ifndef KB_CLOCK_H
#define KB_CLOCK_H

#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/* By its name in the BTF of the kernel: numbers in UAPI headers say what the compiler's machine has. */
enum bpf_func_id___clock {
	BPF_FUNC_ktime_get_coarse_ns___clock = 160,
};

/*
 * Nanoseconds of CLOCK_MONOTONIC. Linux 5.11 and later say them without reading the clock; on older ones
 * the verifier finds that this call is never reached, and takes it out.
 */
static __always_inline __u64 kb_now(void)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id___clock, BPF_FUNC_ktime_get_coarse_ns___clock))
		return bpf_ktime_get_coarse_ns();
	return bpf_ktime_get_ns();
}

#endif

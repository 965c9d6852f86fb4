// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Internet checksums, updated by difference (RFC 1624, equation 3). */
#ifndef KB_LB_CSUM_H
#define KB_LB_CSUM_H

#include <linux/types.h>

/* A sum of 16-bit words in one's complement; 64 bits hold any number of carries a packet can make. */
typedef __u64 lb_sum;

static __always_inline lb_sum lb_sum_replace32(lb_sum sum, __be32 from, __be32 to)
{
	return sum + (__u32)~from + to;
}

static __always_inline lb_sum lb_sum_replace16(lb_sum sum, __u16 from, __u16 to)
{
	return sum + (__u16)~from + to;
}

static __always_inline __u16 lb_sum_fold(lb_sum sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* The checksum that was `check`, after the changes in `diff`. */
static __always_inline __u16 lb_csum_apply(__u16 check, lb_sum diff)
{
	return ~lb_sum_fold(diff + (__u16)~check);
}

#endif

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * IP addresses of both families, by names that differ in a suffix: headers that are included once for each
 * family get theirs by LB_V(), as they do maps and types.
 */
#ifndef KB_LB_ADDRESS_H
#define KB_LB_ADDRESS_H

#include <stdbool.h>
#include <bpf/bpf_endian.h>

#include "lb_types.h"

typedef __be32 lb_address;
typedef struct kb_lb_address6 lb_address6;

static __always_inline bool lb_same(const lb_address *one, const lb_address *other)
{
	return *one == *other;
}

static __always_inline bool lb_same6(const lb_address6 *one, const lb_address6 *other)
{
	return one->words[0] == other->words[0] && one->words[1] == other->words[1] &&
	       one->words[2] == other->words[2] && one->words[3] == other->words[3];
}

/* 127.0.0.0/8 */
static __always_inline bool lb_is_loopback(const lb_address *address)
{
	return (*address & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
}

/* ::1 */
static __always_inline bool lb_is_loopback6(const lb_address6 *address)
{
	return !address->words[0] && !address->words[1] && !address->words[2] && address->words[3] == bpf_htonl(1);
}

/* To connect to no address is to connect to the loopback address. */
static __always_inline void lb_complete(lb_address *address)
{
	if (!*address)
		*address = bpf_htonl(0x7f000001);
}

static __always_inline void lb_complete6(lb_address6 *address)
{
	if (!address->words[0] && !address->words[1] && !address->words[2] && !address->words[3])
		address->words[3] = bpf_htonl(1);
}

#endif

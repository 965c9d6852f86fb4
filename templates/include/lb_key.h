// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Keys of hash tables, made in words. The kernel's hash reads them so, and a processor can't forward what was stored
 * in smaller pieces to a load of all of it: it waits until they are in the cache, which took a third of a look-up.
 */
#ifndef KB_LB_KEY_H
#define KB_LB_KEY_H

#include "lb_family.h"

/* Two halves of a word, in the order in which they lie in memory. */
static __always_inline __u32 lb_key_word(__u16 first, __u16 second)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return first | (__u32)second << 16;
#else
	return (__u32)first << 16 | second;
#endif
}

/* A byte and a zero, as they lie in memory. */
static __always_inline __u16 lb_key_byte(__u8 value)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return value;
#else
	return value << 8;
#endif
}

/* Two words, likewise. */
static __always_inline __u64 lb_key_long(__u32 first, __u32 second)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return first | (__u64)second << 32;
#else
	return (__u64)first << 32 | second;
#endif
}

static __always_inline void lb_frontend_key(struct LB_V(kb_lb_frontend_key) *key, const lb_addr *address, __be16 port,
					    __u8 protocol)
{
	__u32 rest = lb_key_word(port, lb_key_byte(protocol));
#ifdef KB_LB_V6

	key->address = *address;
	__builtin_memcpy(&key->port, &rest, sizeof(rest));
#else
	__u64 whole = lb_key_long(*address, rest);

	__builtin_memcpy(key, &whole, sizeof(whole));
#endif
}

static __always_inline void lb_flow_key(struct LB_V(kb_lb_flow_key) *key, const lb_addr *saddr, const lb_addr *daddr,
					__be16 sport, __be16 dport, __u8 protocol)
{
	__u64 rest = lb_key_long(lb_key_word(sport, dport), lb_key_word(lb_key_byte(protocol), 0));
#ifdef KB_LB_V6

	key->saddr = *saddr;
	key->daddr = *daddr;
#else
	__u64 addresses = lb_key_long(*saddr, *daddr);

	__builtin_memcpy(key, &addresses, sizeof(addresses));
#endif
	__builtin_memcpy(&key->sport, &rest, sizeof(rest));
}

#endif

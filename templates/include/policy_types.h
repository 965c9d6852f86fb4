// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Sizes and structures of HostPolicy's maps, shared with kubebee.policy.layout (host byte order).
 *
 * A packet has two properties that rules look at: its source address and its "L4 key" (protocol
 * and destination port, or ICMP type and code). Each property is mapped to a class by plain array
 * loads; a class has a bitmap of the rules that accept it. The first bit set in both bitmaps is
 * the rule. The cost depends on neither the number of rules nor on which one matches.
 */
#ifndef KB_POLICY_TYPES_H
#define KB_POLICY_TYPES_H

#include <linux/types.h>

#define KB_RULES 1024
#define KB_RULE_WORDS (KB_RULES / 64)

/* A rule set exists twice: one half serves packets while user space writes the other. */
#define KB_HALVES 2

/*
 * Source tree with strides 16-8-8: a node is a class, or with KB_NODE_CHUNK the index of a chunk.
 * Not an LPM trie map: its cost grows with the depth, and a replacement would not be atomic.
 */
#define KB_NODE_CHUNK 0x8000
#define KB_ROOT_NODES 65536
#define KB_CHUNK_NODES 256
#define KB_CHUNKS 4096

/* The space of L4 keys. */
#define KB_L4_TCP 0 /* + destination port */
#define KB_L4_UDP 65536 /* + destination port */
#define KB_L4_ICMP 131072 /* + type << 8 | code */
#define KB_L4_OTHER 196608 /* + protocol */
#define KB_L4_FRAGMENT (KB_L4_OTHER + 256) /* + protocol: a later fragment, ports unknown */
#define KB_L4_KEYS (KB_L4_FRAGMENT + 256)

#define KB_CLASSES 4096 /* of each property; a power of two */

/*
 * Addresses that mean this host, in lines of 32 bytes: one cache line answers, for 1 address and for 10,000.
 * An empty slot is 0.0.0.0, which means this host anyway.
 */
#define KB_LOCAL_LINE_BITS 12
#define KB_LOCAL_LINES (1 << KB_LOCAL_LINE_BITS)
#define KB_LOCAL_SLOTS 8
#define KB_LOCAL_HASH 0x9e3779b1U /* the golden ratio: neighbours fall far apart */

/* Entries behind the rules: what happens without a matching rule. */
#define KB_RULE_DEFAULT KB_RULES
#define KB_RULE_AUDIT_DEFAULT (KB_RULES + 1)
#define KB_RULE_ESTABLISHED (KB_RULES + 2)
#define KB_RULE_ENTRIES (KB_RULES + 3)

#define KB_HIT_SLOTS 4096
#define KB_HIT_NONE 0 /* the slot of an entry that is not in use */

enum kb_rule_flags {
	KB_RULE_DENY = 1 << 0,
	KB_RULE_AUDIT = 1 << 1, /* counted, then judged again by enforced rules only */
};

enum kb_policy_flags {
	KB_POLICY_ENFORCED = 1 << 0, /* at least one policy may drop */
	KB_POLICY_AUDITED = 1 << 1, /* at least one policy is in audit mode */
};

struct kb_chunk {
	__u16 node[KB_CHUNK_NODES];
};

struct kb_rule_bits {
	__u64 summary; /* bit i: words[i] is not 0 */
	__u64 words[KB_RULE_WORDS];
};

struct kb_rule {
	__u64 identity; /* hash of policy and rule name; for user space, so that counters survive a restart */
	__u32 slot; /* in kb_p_hits */
	__u32 flags; /* kb_rule_flags */
};

/* Aligned, so that one store changes both: flags belong to the half they were compiled for. */
struct kb_policy_active {
	__u32 half; /* that serves packets */
	__u32 flags; /* kb_policy_flags */
} __attribute__((aligned(8)));

/* A rule set, but for the chunks of its source tree. */
struct kb_policy_half {
	struct kb_rule_bits enforced; /* rules of policies that are not in audit mode */
	struct kb_rule rules[KB_RULE_ENTRIES];
	__u16 root[KB_ROOT_NODES];
	__u16 l4[KB_L4_KEYS];
	struct kb_rule_bits src_bits[KB_CLASSES];
	struct kb_rule_bits l4_bits[KB_CLASSES];
};

struct kb_policy {
	struct kb_policy_active active; /* one store switches all tables at once */
	__u8 pad[24];
	__be32 local[KB_LOCAL_LINES][KB_LOCAL_SLOTS];
	struct kb_policy_half half[KB_HALVES];
};

struct kb_hits {
	__u64 packets;
	__u64 bytes;
	__u64 audit_packets; /* matched while the policy was in audit mode */
	__u64 audit_bytes;
};

struct kb_fragment_key {
	__be32 saddr;
	__be32 daddr;
	__be16 id;
	__u8 proto;
	__u8 pad;
};

#endif

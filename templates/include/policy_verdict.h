// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* From the rule to the verdict: audit mode, replies, counters, drop reasons. */
#ifndef KB_POLICY_VERDICT_H
#define KB_POLICY_VERDICT_H

#include "drop.h"
#include "parse.h"
#include "policy_flow.h"
#include "policy_fragment.h"
#include "policy_match.h"
#include "verdict.h"

static __always_inline void kb_policy_count(__u32 slot, const struct kb_packet *packet, bool audit)
{
	struct kb_hits *hits = bpf_map_lookup_elem(&kb_p_hits, &slot);
	__u64 bytes = packet->data_end - packet->data;

	if (!hits)
		return;
	if (audit) {
		hits->audit_packets++;
		hits->audit_bytes += bytes;
	} else {
		hits->packets++;
		hits->bytes += bytes;
	}
}

static __always_inline int kb_policy_pass(__u32 flags, const struct kb_packet *packet, __u32 slot)
{
	kb_policy_count(slot, packet, false);
	if (packet->frag & KB_IP_MF && !kb_is_later_fragment(packet) && flags)
		kb_fragment_remember(packet, slot);
	return KB_CONTINUE;
}

static __always_inline int kb_policy_pass_established(__u32 flags, const struct kb_policy_half *half,
						      const struct kb_packet *packet)
{
	return kb_policy_pass(flags, packet, half->rules[KB_RULE_ESTABLISHED].slot);
}

static __always_inline int kb_policy_deny(const struct kb_packet *packet, const struct kb_rule *rule,
					  __u32 index)
{
	kb_policy_count(rule->slot, packet, false);
	if (kb_is_later_fragment(packet))
		return kb_drop(KB_DROP_FRAGMENT);
	return kb_drop(index < KB_RULES ? KB_DROP_POLICY_RULE : KB_DROP_POLICY_DEFAULT);
}

/* A packet to this host; `l4` is zero for later fragments. */
static __always_inline int kb_policy_judge(struct xdp_md *ctx, __u32 flags, __u32 active,
					   const struct kb_packet *packet, const struct kb_l4 *l4)
{
	const struct kb_policy_half *half = &kb_policy.half[active];
	const struct kb_rule_bits *src = kb_policy_src_bits(half, active, packet->ip->saddr);
	const struct kb_rule_bits *keys = kb_policy_l4_bits(half, kb_policy_l4_key(packet, l4));
	const struct kb_rule *rule;
	__u32 index;

	if (!src)
		return KB_CONTINUE; /* cannot be: user space numbers chunks below KB_CHUNKS */

	if (flags & KB_POLICY_AUDITED) {
		index = kb_policy_first(src, keys, NULL, KB_RULE_AUDIT_DEFAULT);
		rule = &half->rules[KB_WITHIN(index, KB_RULE_INDEX_MASK)];
		if (rule->flags & KB_RULE_AUDIT) {
			if (rule->flags & KB_RULE_DENY && kb_flow_known(ctx, packet, l4))
				return kb_policy_pass_established(flags, half, packet);
			kb_policy_count(rule->slot, packet, true);
		}
		index = kb_policy_first(src, keys, &half->enforced, KB_RULE_DEFAULT);
	} else {
		index = kb_policy_first(src, keys, NULL, KB_RULE_DEFAULT);
	}

	rule = &half->rules[KB_WITHIN(index, KB_RULE_INDEX_MASK)];
	if (!(rule->flags & KB_RULE_DENY))
		return kb_policy_pass(flags, packet, rule->slot);
	if (kb_flow_known(ctx, packet, l4))
		return kb_policy_pass_established(flags, half, packet);
	return kb_policy_deny(packet, rule, index);
}

/* A packet that cannot be judged must not reach a host that a policy protects. */
static __always_inline int kb_policy_unjudged(__u32 flags, enum kb_parsed why)
{
	if (!(flags & KB_POLICY_ENFORCED))
		return KB_CONTINUE;
	switch (why) {
	case KB_PARSED_TRUNCATED:
		return kb_drop(KB_DROP_TRUNCATED);
	case KB_PARSED_VLAN_DEPTH:
		return kb_drop(KB_DROP_VLAN_DEPTH);
	default:
		return kb_drop(KB_DROP_MALFORMED);
	}
}

#endif

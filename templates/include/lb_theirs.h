// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Packets of flows that stay with kube-proxy while ServiceLB takes over from it. */
#ifndef KB_LB_THEIRS_H
#define KB_LB_THEIRS_H

#include "lb_cut_over.h"
#include "lb_family.h"
#include "lb_flow_touch.h"

/* Not inline: it is over before what needs most of the stack begins. */
static __noinline int lb_is_theirs(const struct LB_V(kb_lb_flow_key) *key, __u8 tcp_flags, bool known_alone)
{
	bool tcp, begins;

	if (!key)
		return false;
	tcp = key->protocol == IPPROTO_TCP;
	begins = tcp && lb_is_syn(tcp_flags);
	return lb_cut_leaves(&LB_V(kb_lb_theirs), key, begins, tcp && !begins, known_alone);
}

/* Whether kube-proxy has a flow whose answers look like this: ours could not be told from them. */
static __always_inline bool lb_is_their_answer(const struct LB_V(kb_lb_flow_key) *key)
{
	return bpf_map_lookup_elem(&LB_V(kb_lb_theirs), key);
}

#endif

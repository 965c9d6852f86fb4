// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Source ranges: whether a client may come to a frontend that has LB_FE_SOURCES. */
#ifndef KB_LB_SOURCES_H
#define KB_LB_SOURCES_H

#include <stdbool.h>

#include "lb_family.h"
#include "lb_maps.h"

#define LB_SOURCE_FRONTEND_BITS 32

/* Not inline: few frontends have ranges, and the others' path stays short. */
static __noinline bool lb_source_may(const struct kb_lb_frontend *frontend, const lb_addr *client)
{
	struct LB_V(kb_lb_source) key = {
		.prefixlen = LB_SOURCE_FRONTEND_BITS + 8 * sizeof(*client),
	};

	if (!frontend)
		return false;
	key.frontend = frontend->id;
	key.address = *client;
	return bpf_map_lookup_elem(&LB_V(kb_lb_sources), &key);
}

#endif

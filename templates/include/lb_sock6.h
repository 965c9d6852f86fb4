// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Sockets that reach for IPv6 frontends: as lb_sock4.h, with names that end in 6. */
#ifndef KB_LB_SOCK6_H
#define KB_LB_SOCK6_H

#include "lb_select.h"

#define LB_V(name) name##6
#include "lb_sock_peers.h"
#include "lb_sock_calls.h"
#undef LB_V

#endif

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Sockets that reach for IPv4 frontends. */
#ifndef KB_LB_SOCK4_H
#define KB_LB_SOCK4_H

#include "lb_select.h"

#define LB_V(name) name
#include "lb_sock_peers.h"
#include "lb_sock_calls.h"
#undef LB_V

#endif

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Why a built-in stage dropped a packet: one enum for the whole project.
 *
 * User space takes the names in metrics from this file (KB_DROP_POLICY_RULE is "policy_rule").
 * Numbers are stable: append, never renumber, and leave room in each block.
 */
#ifndef KB_DROP_REASON_H
#define KB_DROP_REASON_H

enum kb_drop_reason {
	KB_DROP_NONE = 0,

	/* Packets that no stage can judge. */
	KB_DROP_TRUNCATED = 1, /* a header reaches beyond the frame or the IP total length */
	KB_DROP_MALFORMED = 2, /* IP version or lengths contradict each other */
	KB_DROP_VLAN_DEPTH = 3, /* more VLAN tags than KB_MAX_VLAN_TAGS */
	KB_DROP_FRAGMENT = 4, /* later fragment whose first fragment was not let through */

	/* HostPolicy */
	KB_DROP_POLICY_RULE = 16, /* a Deny rule matched */
	KB_DROP_POLICY_DEFAULT = 17, /* no rule matched, the default action is Deny */

	/* ServiceLB */
	KB_DROP_LB_NO_BACKEND = 32, /* the frontend has no backend */
	KB_DROP_LB_FRAGMENT = 33, /* fragment for a frontend: the ports are in another packet */
	KB_DROP_LB_TTL = 34, /* would have left with TTL 0 */
	KB_DROP_LB_MTU = 35, /* does not fit the way to the backend */
	KB_DROP_LB_NO_ROUTE = 36, /* no route to the backend or back to the client */
	KB_DROP_LB_FORWARDING_OFF = 37, /* net.ipv4.conf.*.forwarding is 0 on the ingress interface */
	KB_DROP_LB_HEADROOM = 38, /* no room for an outer header in front, or for one more IP option */
	KB_DROP_LB_PORTS = 39, /* no free source port towards the backend within the tries */
	KB_DROP_LB_FLOWS = 40, /* the flow table is full */
	KB_DROP_LB_SOURCE = 41, /* the client is in none of the frontend's source ranges */
	KB_DROP_LB_NOT_HERE = 42, /* the frontend's backends are on other nodes, and only those here may serve it */
	KB_DROP_LB_CONGESTION = 43, /* a router marked a tunnel's packet, and its sender knows no such marks */
	KB_DROP_LB_GATEWAY = 44, /* by L2 only hosts on a link of this node are reached, and the backend is on none */
	KB_DROP_LB_BOUNCE = 45, /* by L2: the host that it would go to has sent it here */

	/* ServiceLB at sockets: calls of processes instead of packets. */
	KB_DROP_LB_SOCK_NO_BACKEND = 56, /* the frontend has no backend for sockets */
	KB_DROP_LB_SOCK_MEMORY = 57, /* no memory to note what the socket is led to */
	KB_DROP_LB_SOCK_BIND = 58, /* bind to a node port */

	/* Slots of the per-CPU array kb_drops. */
	KB_DROP_MAX = 64,
};

#endif

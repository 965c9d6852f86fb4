// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What user space and the datapath of ServiceLB share. The user-space half of this file is
 * kubebee/lb/layout.py; a test compares the two through BTF.
 */
#ifndef KB_LB_TYPES_H
#define KB_LB_TYPES_H

#include <linux/types.h>

/* Slots are kept in rows: an array map rounds each value up to 8 bytes, which would waste half. */
#define LB_ROW_SLOTS 16
#define LB_ROW_SHIFT 4

/*
 * A slot is a backend's number, and for packets of flows that have no state here (DSR) whether it changed of late:
 * see lb_stay.h. LB_SLOT_NOBODY is no backend's number.
 */
#define LB_SLOT_NUMBER 0x0fffffff
#define LB_SLOT_FLOWS (1U << 31) /* flows of this slot may be in the flow table */
#define LB_SLOT_BEFORE (1U << 30) /* those that are not go where the table before leads them */
#define LB_SLOT_NOBODY LB_SLOT_NUMBER

/* An IPv6 address as words, in network order. */
struct kb_lb_address6 {
	__be32 words[4];
};

enum lb_frontend_flags {
	LB_FE_DSR_IPIP = 1 << 0, /* else SNAT */
	/* The key is a whole address (port 0, protocol 0): packets without ports ask for it. */
	LB_FE_ADDRESS = 1 << 1,
	LB_FE_SOURCES = 1 << 2, /* from outside only those in kb_lb_sources may come */
	LB_FE_SOCKETS_ONLY = 1 << 3, /* no packet is for it */
	LB_FE_DROP_OUTSIDE = 1 << 4, /* without a backend here: drop packets, don't refuse them */
	LB_FE_RESERVED = 1 << 5, /* processes of the host can't bind its address and port */
	LB_FE_PORT_RESERVED = 1 << 6, /* nor its port on any address; only at the loopback address */
	LB_FE_MOVING = 1 << 7, /* slots of its table have flags (lb_stay.h); only user space reads it */
	LB_FE_L2 = 1 << 8, /* beside LB_FE_DSR_IPIP: by the backend's MAC address instead of an outer header */
	LB_FE_IP_OPTION = 1 << 9, /* beside LB_FE_DSR_IPIP: translated to the backend, with an option */
	LB_FE_RANDOM = 1 << 10, /* not with LB_FE_DSR_IPIP: a new flow's slot is drawn, its entry keeps the backend */
};

enum lb_backend_flags {
	LB_BE_USED = 1 << 0,
	LB_BE_GONE = 1 << 1, /* takes no new flows; waits for its last one, then for the collector */
	LB_BE_NEXT_HOP = 1 << 2, /* ifindex, mtu and macs are valid: no route lookup */
	LB_BE_NOT_OUTSIDE = 1 << 3, /* not in the table for packets; only user space reads it */
	LB_BE_NOT_INSIDE = 1 << 4, /* not in the table for sockets */
	LB_BE_LOCAL = 1 << 5, /* this node, or a pod of it behind `ifindex`: the stack delivers */
	LB_BE_NO_FRAMES = 1 << 6, /* XDP can't send by its next hop, tc can */
	LB_BE_GATEWAY = 1 << 7, /* its next hop is another host */
};

struct kb_lb_frontend_key {
	__be32 address;
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

struct kb_lb_frontend_key6 {
	struct kb_lb_address6 address;
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

/* Of both families. */
struct kb_lb_frontend {
	/* A base (first slot) and a size (slots; 0 = no backend) are read as one word: together they are
	 * a table, and a new table comes into force in whole by one update. */
	__u32 base; /* for packets from outside */
	__u32 size;
	__u32 inside_base; /* for the node's own sockets; the same table where nothing differs */
	__u32 inside_size;
	__u32 id;
	__u32 fingerprint; /* of both tables' contents; only user space reads it */
	__u32 affinity; /* seconds that a client keeps its backend; 0 = no such thing */
	__u16 flags;
	__u16 pad;
} __attribute__((aligned(8)));

struct kb_lb_row {
	__u32 backend[LB_ROW_SLOTS];
};

/* 32 bytes, so that none spans two cache lines. Flags are last: the kernel copies upwards, so a
 * reader that sees LB_BE_NEXT_HOP sees what it vouches for. */
struct kb_lb_backend {
	__be32 address;
	__be16 port;
	__u16 weight; /* 0: takes no new flows, not even by affinity */
	__u32 frontend; /* id of the frontend it belongs to */
	__u32 ifindex;
	__u8 macs[12]; /* destination, then source: as a frame starts */
	__u16 mtu;
	__u16 flags;
};

/* One cache line. */
struct kb_lb_backend6 {
	struct kb_lb_address6 address;
	__be16 port;
	__u16 weight;
	__u32 frontend;
	__u32 ifindex;
	__u8 macs[12];
	__u16 mtu;
	__u16 flags;
	__u8 pad[20];
};

/* Places for source addresses towards SNAT backends, all taken: fewer addresses have several each. */
#define LB_SNAT_SOURCES 16

struct kb_lb_config {
	__u64 hash_seed;
	__be32 encap_source;
	__be32 encap_host_mask; /* bits of encap_source that are filled from the flow's hash */
	__u16 snat_first; /* host order */
	__u16 snat_ports;
	__be32 snat_source[LB_SNAT_SOURCES];
	struct kb_lb_address6 encap_source6;
	struct kb_lb_address6 snat_source6[LB_SNAT_SOURCES];
	__u32 pad;
};

enum lb_dev_flags {
	LB_DEV_FRAMES = 1 << 0, /* takes frames that XDP redirects to it */
};

/* An interface. */
struct kb_lb_dev {
	__u32 flags;
	__be32 snat_source; /* of packets to backends behind it; 0: that of the settings */
	struct kb_lb_address6 snat_source6;
};

/* Who may come from outside: prefixes of a frontend. */
struct kb_lb_source {
	__u32 prefixlen; /* 32 for the frontend, and the bits of the address */
	__u32 frontend; /* id, in this machine's order: it is always compared whole */
	__be32 address;
};

struct kb_lb_source6 {
	__u32 prefixlen;
	__u32 frontend;
	struct kb_lb_address6 address;
};

/* The backend that a client had. */
struct kb_lb_affinity {
	__u64 used; /* ns, coarse monotonic clock */
	__u32 backend; /* number */
	__u32 pad;
};

/* Ends of a packet's flow, as the packet carries them; zero padding. */
struct kb_lb_flow_key {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__u8 protocol;
	__u8 pad[3];
};

struct kb_lb_flow_key6 {
	struct kb_lb_address6 saddr;
	struct kb_lb_address6 daddr;
	__be16 sport;
	__be16 dport;
	__u8 protocol;
	__u8 pad[3];
};

/* From clients to backends; answers are not counted, under DSR they are not seen. */
struct kb_lb_stat {
	__u64 packets;
	__u64 bytes; /* IP total length */
	__u64 connections; /* TCP SYNs, flows created by SNAT, sockets connected */
};

#endif

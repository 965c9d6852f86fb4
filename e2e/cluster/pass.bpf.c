// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What the bridge's end of a node's link runs. It passes everything; that it is there matters: a veth loses frames
 * that XDP sends into it unless its receiving end has an XDP program.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int pass(struct xdp_md *ctx __attribute__((unused)))
{
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";

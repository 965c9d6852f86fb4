// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What the lab's hosts around the node run on their interface. It takes off an outer IPv4 header (a backend of
 * direct server return) and passes everything. That it is there matters too: a veth loses frames that XDP sends
 * into it unless its receiving end has an XDP program.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define IHL_WITHOUT_OPTIONS 5

SEC("xdp")
int lab_peer(struct xdp_md *ctx)
{
	void *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *outer = (void *)(eth + 1);
	struct ethhdr saved;

	if ((void *)(outer + 1) > data_end || eth->h_proto != bpf_htons(ETH_P_IP) ||
	    outer->protocol != IPPROTO_IPIP || outer->ihl != IHL_WITHOUT_OPTIONS)
		return XDP_PASS;

	saved = *eth;
	if (bpf_xdp_adjust_head(ctx, sizeof(*outer)))
		return XDP_DROP;
	eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	*eth = saved;
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// The XDP program of one port. It hands frames to the AF_XDP socket of their
// receive queue and leaves the rest to the host, and it counts what it does by
// the reasons that Go knows (enum xdp_fate, flow.Reason).

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum xdp_fate {
	FATE_STEERED,   // handed to a socket
	FATE_PASSED,    // left to the host
	FATE_NO_SOCKET, // dropped: no socket serves the queue
	FATE_TOO_LARGE, // dropped: does not fit a UMEM chunk
	NUM_FATES,
};
// Keeps the enum in the BTF that the Go types are made from.
const enum xdp_fate *unused_fate __attribute__((unused));

// Set before loading.
volatile const __u32 steer_all; // 1: every frame (bridge); 0: IP only (tap)
volatile const __u32 max_frame; // the longest frame that fits a chunk

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1); // set before loading
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, NUM_FATES);
} fates SEC(".maps");

static __always_inline int fate(__u32 f, int action)
{
	__u64 *n = bpf_map_lookup_elem(&fates, &f);

	if (n)
		(*n)++;
	return action;
}

struct vlan_hdr {
	__be16 tci;
	__be16 proto;
};

#define ND_FIRST 133 // router solicitation
#define ND_LAST 137  // redirect

// is_traffic tells IP traffic from what keeps the link itself going: ARP, LLDP
// and the like, and neighbour discovery.
static __always_inline int is_traffic(void *data, void *end)
{
	struct ethhdr *eth = data;
	void *at = eth + 1;
	__be16 proto;

	if (at > end)
		return 1; // user space has a name for it
	proto = eth->h_proto;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		struct vlan_hdr *v = at;

		if (proto != bpf_htons(ETH_P_8021Q) && proto != bpf_htons(ETH_P_8021AD))
			break;
		if ((void *)(v + 1) > end)
			return 1;
		proto = v->proto;
		at = v + 1;
	}
	if (proto == bpf_htons(ETH_P_IP))
		return 1;
	if (proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = at;
		__u8 *type = (void *)(ip + 1);

		if ((void *)(type + 1) > end)
			return 1;
		return ip->nexthdr != IPPROTO_ICMPV6 || *type < ND_FIRST || *type > ND_LAST;
	}
	return 0;
}

SEC("xdp")
int xdpct(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u32 queue = ctx->rx_queue_index;

	if (!steer_all && !is_traffic(data, end))
		return fate(FATE_PASSED, XDP_PASS);
	if (end - data > max_frame)
		return fate(FATE_TOO_LARGE, XDP_DROP);
	if (!bpf_map_lookup_elem(&sockets, &queue))
		return fate(FATE_NO_SOCKET, XDP_DROP);
	fate(FATE_STEERED, 0);
	return bpf_redirect_map(&sockets, queue, XDP_DROP);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

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
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stddef.h>

enum xdp_fate {
	FATE_STEERED,   // handed to a socket
	FATE_PASSED,    // left to the host
	FATE_NO_SOCKET, // dropped: no socket serves the queue
	FATE_TOO_LARGE, // dropped: does not fit a UMEM chunk
	FATE_LARGE,     // left to the program segment, see there
	NUM_FATES,
};
// Keeps the enum in the BTF that the Go types are made from.
const enum xdp_fate *unused_fate __attribute__((unused));

enum steer {
	STEER_TRAFFIC, // IP, but neither ARP nor neighbour discovery (tap)
	STEER_ALL,     // every frame (bridge)
	STEER_ROUTED,  // what a router forwards or translates
};

// Set before loading.
volatile const __u32 steer;     // enum steer
volatile const __u32 max_frame; // the longest frame that is taken as it is
volatile const __u32 segmenter; // interface for segment, 0: longer frames are dropped
volatile const __u32 untags;    // not 0: VLAN tags are gone before xdpct sees a frame
volatile const __u32 no_link;   // not 0: there is no Ethernet header (tun, PPP)

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1); // set before loading
} sockets SEC(".maps");

// The addresses of the host, IPv4 ones mapped (::ffff:a.b.c.d).
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct in6_addr);
	__type(value, __u8);
	__uint(max_entries, 4096);
} locals SEC(".maps");

// What of the packets to the host is for user space, because translation has, or may
// have, to do with it: ports by protocol, a bit each, and others by their kind.
#define PORT_WORDS 1024
#define PORT_PROTOS 4 // TCP, UDP, UDP-Lite, SCTP
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, PORT_PROTOS * PORT_WORDS);
} ports SEC(".maps");

struct config {
	__u8 mac[6];   // of the port
	__u8 all;      // 1: all that goes to the host
	__u8 portless; // 1: protocols without ports, and answers of ICMP
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct config);
	__uint(max_entries, 1);
} configs SEC(".maps");

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

// skip_tags returns what is behind at most two VLAN tags at at, and its protocol; NULL
// if they are cut off.
static __always_inline void *skip_tags(void *at, void *end, __be16 first, __be16 *proto)
{
	*proto = first;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		struct vlan_hdr *v = at;

		if (*proto != bpf_htons(ETH_P_8021Q) && *proto != bpf_htons(ETH_P_8021AD))
			break;
		if ((void *)(v + 1) > end)
			return NULL;
		*proto = v->proto;
		at = v + 1;
	}
	return at;
}

// network returns the IP header, or what else the frame carries, and its protocol as
// an EtherType, 0 for one without a number; NULL if the headers before it are cut off.
static __always_inline void *network(void *data, void *end, __be16 *proto)
{
	struct ethhdr *eth = data;
	__u8 *version = data;

	if (!no_link) {
		if ((void *)(eth + 1) > end)
			return NULL;
		return skip_tags(eth + 1, end, eth->h_proto, proto);
	}
	if ((void *)(version + 1) > end)
		return NULL;
	switch (*version >> 4) {
	case 4:
		*proto = bpf_htons(ETH_P_IP);
		break;
	case 6:
		*proto = bpf_htons(ETH_P_IPV6);
		break;
	default:
		*proto = 0;
	}
	return data;
}

#define ND_FIRST 133 // router solicitation
#define ND_LAST 137  // redirect

// is_traffic tells IP traffic from what keeps the link itself going: ARP, LLDP
// and the like, and neighbour discovery.
static __always_inline int is_traffic(void *data, void *end)
{
	__be16 proto;
	void *at = network(data, end, &proto);

	if (!at)
		return 1; // user space has a name for it
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

static __always_inline int port_number(__u8 proto)
{
	switch (proto) {
	case IPPROTO_TCP:
		return 0;
	case IPPROTO_UDP:
		return 1;
	case IPPROTO_UDPLITE:
		return 2;
	case IPPROTO_SCTP:
		return 3;
	}
	return -1;
}

// is_ours tells whether a packet to the host, whose transport header is at l4, is for
// user space.
static __always_inline int is_ours(struct config *cfg, __u8 proto, void *l4, void *end)
{
	int n = port_number(proto);
	__u8 *type = l4;

	if (cfg->all)
		return 1;
	if (n >= 0) {
		__be16 *port = l4;

		if ((void *)(port + 2) > end)
			return 0;
		__u32 p = bpf_ntohs(port[1]);
		__u32 word = n * PORT_WORDS + p / 64;
		__u64 *bits = bpf_map_lookup_elem(&ports, &word);

		return bits && *bits >> (p % 64) & 1;
	}
	if (!cfg->portless || (void *)(type + 1) > end)
		return 0;
	if (proto == IPPROTO_ICMP)
		return *type != 8; // a ping is for the host
	if (proto == IPPROTO_ICMPV6)
		return *type < 128 || *type == 129;
	return 1;
}

#define IP_FRAGMENT 0x3fff // more fragments, or an offset

#define BOOTP_CLIENT 68
#define BOOTP_REPLY 2
#define BOOTP_CHADDR 28

// is_lease tells whether a UDP datagram is the answer of a DHCP server to a client on
// this very port: it is sent to the address that is offered (RFC 2131 section 4.1), which
// is nobody's yet, and names the port's Ethernet address as the client's. An answer to a
// client elsewhere names another, and is routed.
static __always_inline int is_lease(struct config *cfg, void *l4, void *end)
{
	__be16 *port = l4;
	__u8 *bootp = l4 + 8;

	if ((void *)(bootp + BOOTP_CHADDR + 6) > end)
		return 0;
	if (port[1] != bpf_htons(BOOTP_CLIENT) || bootp[0] != BOOTP_REPLY)
		return 0;
	for (int i = 0; i < 6; i++)
		if (bootp[BOOTP_CHADDR + i] != cfg->mac[i])
			return 0;
	return 1;
}

// is_routed tells what a router forwards, or translates, from what the host gets:
// what is not sent to this port alone, and what is sent to an address of the host.
static __always_inline int is_routed(void *data, void *end)
{
	struct ethhdr *eth = data;
	struct in6_addr dst = {};
	struct config *cfg;
	__u32 zero = 0;
	__be16 proto;
	__u8 l4;
	int whole = 1;
	void *at;

	cfg = bpf_map_lookup_elem(&configs, &zero);
	at = network(data, end, &proto);
	if (!at || !cfg)
		return 0;
	for (int i = 0; !no_link && i < 6; i++)
		if (eth->h_dest[i] != cfg->mac[i])
			return 0;
	if (proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = at;

		if ((void *)(ip + 1) > end)
			return 1; // user space has a name for it
		if ((ip->daddr & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) || ip->daddr == 0xffffffff)
			return 0; // multicast, limited broadcast; Linux forwards the rest of 240.0.0.0/4
		dst.in6_u.u6_addr32[2] = bpf_htonl(0xffff);
		dst.in6_u.u6_addr32[3] = ip->daddr;
		l4 = ip->protocol;
		whole = !(ip->frag_off & bpf_htons(IP_FRAGMENT));
		at = at + ip->ihl * 4;
		if (l4 == IPPROTO_UDP && whole && !no_link && is_lease(cfg, at, end))
			return 0;
	} else if (proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = at;
		__u8 *type = (void *)(ip + 1);

		if ((void *)(ip + 1) > end)
			return 1;
		dst = ip->daddr;
		if (dst.in6_u.u6_addr8[0] == 0xff)
			return 0;
		if (dst.in6_u.u6_addr8[0] == 0xfe && (dst.in6_u.u6_addr8[1] & 0xc0) == 0x80)
			return 0; // link-local
		l4 = ip->nexthdr;
		if (l4 == IPPROTO_ICMPV6 && (void *)(type + 1) <= end && *type >= ND_FIRST && *type <= ND_LAST)
			return 0;
		whole = l4 != IPPROTO_FRAGMENT;
		at = ip + 1;
	} else {
		return 0;
	}
	if (!bpf_map_lookup_elem(&locals, &dst))
		return 1;
	if (!whole) // ports are in the first one only: user space puts them together
		return cfg->portless || cfg->all;
	return is_ours(cfg, l4, at, end);
}

// is_steered tells what is for user space.
static __always_inline int is_steered(void *data, void *end)
{
	switch (steer) {
	case STEER_TRAFFIC:
		return is_traffic(data, end);
	case STEER_ROUTED:
		return is_routed(data, end);
	}
	return 1;
}

extern int bpf_xdp_metadata_rx_vlan_tag(const struct xdp_md *ctx, __be16 *proto, __u16 *tci) __ksym;

// insert_tag puts the VLAN tag into the frame that the device, or on veth the sender, has
// left beside it. It returns 0 also if there is none.
static __always_inline int insert_tag(struct xdp_md *ctx)
{
	struct {
		__u8 macs[12];
		struct vlan_hdr tag;
	} *new, *old;
	__be16 proto;
	__u16 tci;

	if (bpf_xdp_metadata_rx_vlan_tag(ctx, &proto, &tci))
		return 0;
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(struct vlan_hdr)))
		return -1;
	new = (void *)(long)ctx->data;
	old = (void *)new + sizeof(struct vlan_hdr);
	if ((void *)(old + 1) > (void *)(long)ctx->data_end)
		return -1;
	__builtin_memmove(new->macs, old->macs, sizeof(new->macs));
	// In the order of the wire: the EtherType of the tag, then what it says. What follows
	// is the EtherType that the frame had.
	new->tag.tci = proto;
	new->tag.proto = bpf_htons(tci);
	return 0;
}

// What is read of the kernel's own structs; where the fields are the loader finds out.
struct xdp_buff {
	void *data_hard_start;
	__u32 frame_sz;
} __attribute__((preserve_access_index));

struct skb_shared_info {
	unsigned short gso_size;
} __attribute__((preserve_access_index));

extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym;
extern void *bpf_rdonly_cast(void *at, __u32 btf_id) __ksym;

#define CACHE_LINE 64 // SMP_CACHE_BYTES

// is_glued tells whether a frame of generic mode is many segments (skb_is_gso). What says so
// is behind the room for the frame: XDP gets the memory of the skb as it is, up to and with
// its skb_shared_info (bpf_prog_run_generic_xdp).
static __always_inline int is_glued(struct xdp_md *ctx)
{
	struct xdp_buff *xdp = bpf_cast_to_kern_ctx(ctx);
	__u64 size = (bpf_core_type_size(struct skb_shared_info) + CACHE_LINE - 1) & -CACHE_LINE;
	struct skb_shared_info *info;

	info = bpf_rdonly_cast(xdp->data_hard_start + xdp->frame_sz - size, bpf_core_type_id_kernel(struct skb_shared_info));
	return info->gso_size != 0;
}

static __always_inline int receive(struct xdp_md *ctx, int tags, int glue)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u32 queue = ctx->rx_queue_index;
	__u32 len = bpf_xdp_get_buff_len(ctx); // end - data would take CAP_PERFMON

	if (!is_steered(data, end))
		return fate(FATE_PASSED, XDP_PASS);
	if (segmenter && (untags || len > max_frame || (glue && is_glued(ctx))))
		return fate(FATE_LARGE, XDP_PASS);
	if (len > max_frame)
		return fate(FATE_TOO_LARGE, XDP_DROP);
	if (!bpf_map_lookup_elem(&sockets, &queue))
		return fate(FATE_NO_SOCKET, XDP_DROP);
	if (tags && insert_tag(ctx))
		return fate(FATE_TOO_LARGE, XDP_DROP); // no room in front of it
	fate(FATE_STEERED, 0);
	return bpf_redirect_map(&sockets, queue, XDP_DROP);
}

SEC("xdp")
int xdpct(struct xdp_md *ctx)
{
	return receive(ctx, 0, 0);
}

// xdpct_tags is xdpct for devices that tell XDP of VLAN tags (Linux 6.8).
SEC("xdp")
int xdpct_tags(struct xdp_md *ctx)
{
	return receive(ctx, 1, 0);
}

// xdpct_glue is xdpct for generic mode, where it knows what is many segments (Linux 6.2,
// CAP_PERFMON).
SEC("xdp")
int xdpct_glue(struct xdp_md *ctx)
{
	return receive(ctx, 0, 1);
}

// segment is for generic mode, where a packet of 64 KiB comes as one frame if the sender,
// on this machine, left segmentation to its device, or if GRO made it of many below a
// bridge. How long the segments are is known to the kernel alone. So a frame of many goes to
// a device that can do nothing by itself: the kernel cuts it for that, and completes the
// checksums, and user space reads the segments there.
//
// So do all frames of a device that lies on others (a bridge, a macvlan): the
// kernel has taken the VLAN tag out of the frame before it gets there, where generic XDP
// does not see it. The device at the end has it in the frame again.
//
// It runs behind xdpct (tcx ingress), on what that has let pass.
#define TCX_NEXT (-1) // younger than some headers
SEC("tc")
int segment(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;

	if ((!untags && skb->len <= max_frame && !skb->gso_size) || !is_steered(data, end))
		return TCX_NEXT;
	return bpf_redirect(segmenter, 0);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// The two ends of a measurement on the wire. generate is run with live frames
// (BPF_F_TEST_XDP_LIVE_FRAMES): it makes each frame a UDP packet of some
// connection and sends it out of an interface. count counts what arrives, and
// how long the marked frames among that took.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// Set before loading.
volatile const __u32 out_ifindex;
volatile const __u32 macs[2 * ETH_ALEN / 4]; // destination and source, as they lie in a frame
volatile const __u32 flows;             // number of connections
volatile const __u32 source;            // address of the first one's source
volatile const __u32 destination;
volatile const __u32 uniform;      // 1: connections at random; 0: in turn
volatile const __u64 interval_ps;  // between two frames, in picoseconds; 0: none
volatile const __u64 frames;       // how many to send
volatile const __u32 reply;        // 1: the answers to these packets

#define PORTS_LOG 14 // source ports of an address, from FIRST_PORT on
#define FIRST_PORT 1024
#define SERVER_PORT 4433
#define BURST 64 // frames that may follow each other without an interval
#define MARKED 64 // one frame in so many carries the time

// What generate did. It runs on one CPU at a time.
struct progress {
	__u64 frames;
	__u64 first, last; // when, in nanoseconds; last of the marked ones
	__u64 due;         // when the next one is, in picoseconds
} sent;

#define LATENCIES 512

struct received {
	__u64 frames;
	__u64 bytes;
	__u64 latency[LATENCIES]; // marked frames by time: three bits below the highest
};
const struct received *unused_received __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct received);
	__uint(max_entries, 1);
} receipts SEC(".maps");

struct packet {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	__u64 stamp;
} __attribute__((packed));

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	struct packet *p = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u32 n, address, total, sum;
	__u16 port;
	__u64 now = 0;

	if ((void *)(p + 1) > end)
		return XDP_ABORTED;
	if (sent.frames >= frames)
		return XDP_DROP;
	if (!sent.first)
		sent.first = bpf_ktime_get_ns();
	if (interval_ps) {
		// There is no sleeping here: what comes too early is not sent. What
		// comes late is, but a pause is not made up for by a burst.
		now = bpf_ktime_get_ns();
		if (sent.due > now * 1000)
			return XDP_DROP;
		if (now * 1000 - sent.due > BURST * interval_ps)
			sent.due = now * 1000;
		sent.due += interval_ps;
	}
	if (uniform)
		n = (__u64)bpf_get_prandom_u32() * flows >> 32;
	else
		n = sent.frames % flows;
	address = source + (n >> PORTS_LOG);
	port = FIRST_PORT + (n & ((1 << PORTS_LOG) - 1));

	// A frame is used again and again, and whoever it passes changes it.
	for (int i = 0; i < 3; i++)
		((__u32 *)p)[i] = macs[i];
	p->eth.h_proto = bpf_htons(ETH_P_IP);
	total = end - (void *)&p->ip;
	p->ip.version = 4;
	p->ip.ihl = 5;
	p->ip.tos = 0;
	p->ip.tot_len = bpf_htons(total);
	p->ip.id = 0;
	p->ip.frag_off = 0;
	p->ip.ttl = 64;
	p->ip.protocol = IPPROTO_UDP;
	if (reply) {
		p->ip.saddr = bpf_htonl(destination);
		p->ip.daddr = bpf_htonl(address);
		p->udp.source = bpf_htons(SERVER_PORT);
		p->udp.dest = bpf_htons(port);
	} else {
		p->ip.saddr = bpf_htonl(address);
		p->ip.daddr = bpf_htonl(destination);
		p->udp.source = bpf_htons(port);
		p->udp.dest = bpf_htons(SERVER_PORT);
	}
	sum = 0x4500 + total + (64 << 8 | IPPROTO_UDP);
	sum += (address >> 16) + (address & 0xffff) + (destination >> 16) + (destination & 0xffff);
	p->ip.check = bpf_htons(fold(sum));
	p->udp.len = bpf_htons(total - sizeof(p->ip));
	p->udp.check = 0;
	p->stamp = 0;
	if (sent.frames % MARKED == 0) {
		if (!now)
			now = bpf_ktime_get_ns();
		p->stamp = now;
		sent.last = now;
	}
	sent.frames++;
	return bpf_redirect(out_ifindex, 0);
}

// bucket sorts a time by its highest bit and the three below it.
static __always_inline __u32 bucket(__u64 t)
{
	__u32 high = 0;

#pragma unroll
	for (int step = 32; step; step >>= 1)
		if (t >> (high + step))
			high += step;
	if (high < 3)
		return t & 7;
	return (high * 8 + (t >> (high - 3) & 7)) & (LATENCIES - 1);
}

// count is attached where a frame has just come in: an XDP program would have
// most frames copied for its sake first.
SEC("tcx/ingress")
int count(struct __sk_buff *skb)
{
	struct packet *p = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	__u32 zero = 0;
	struct received *r = bpf_map_lookup_elem(&receipts, &zero);

	if (!r || (void *)(p + 1) > end || p->eth.h_proto != bpf_htons(ETH_P_IP) || p->ip.protocol != IPPROTO_UDP)
		return TC_ACT_OK;
	r->frames++;
	r->bytes += skb->len;
	if (p->stamp)
		r->latency[bucket(bpf_ktime_get_ns() - p->stamp)]++;
	return TC_ACT_SHOT;
}

// discard drops and counts.
SEC("xdp")
int discard(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct received *r = bpf_map_lookup_elem(&receipts, &zero);

	if (r)
		r->frames++;
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

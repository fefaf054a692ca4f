package shard

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/frag"
	"github.com/xdpct/xdpct/internal/dialogue"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/route"
)

// answering are rules that reject by each kind of answer, and translate.
const answering = `*raw
-A PREROUTING -p udp -m udp --dport 9 -j CT --notrack
COMMIT
*nat
-A PREROUTING -p tcp -d 10.2.0.9 -j DNAT --to-destination 10.2.0.1:80
-A POSTROUTING -p udp -j SNAT --to-source 192.0.2.1:9000-9003
-A POSTROUTING -p tcp -j MASQUERADE
COMMIT
*filter
-A FORWARD -p tcp -m tcp --dport 80 -m conntrack --ctstate NEW -j REJECT --reject-with tcp-reset
-A FORWARD -p icmp -m icmp --icmp-type 8 -j REJECT
-A FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
`

var answering6 = strings.NewReplacer("10.2.0.9", "2001:db8:2::9", "10.2.0.1:80", "[2001:db8:2::1]:80", "192.0.2.1:", "[2001:db8::1]:",
	"-p icmp -m icmp --icmp-type 8", "-p ipv6-icmp -m icmp6 --icmpv6-type 128").Replace(answering)

// garbageFrames are frames of all protocols, right and wrong, of both families.
func garbageFrames() (all [][]byte) {
	add := func(d []byte) { all = append(all, packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, d)) }
	for seed := range uint64(6) {
		for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
			for _, s := range dialogue.Fragments(seed, dialogue.Make(seed, 250, f, fuzzNetwork), 8) {
				if len(s.Datagram) > 0 {
					add(s.Datagram)
				}
			}
		}
	}
	for _, d := range oddHeaders() {
		add(d)
	}
	others := notIP()
	for _, name := range slices.Sorted(maps.Keys(others)) {
		f := others[name]
		all = append(all, f, f[:min(len(f), 13)], tagged(f, 1, 2, 3))
	}
	host, once := fuzzNetwork.Host, add
	add = func(d []byte) { once(d); once(d) } // by either interface
	for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
		a, b := host(false, 1, f), host(true, 1, f)
		for n := range uint16(40) { // too many for the range that they are mapped to
			add(packet.AppendUDP(nil, packet.IP{Src: a, Dst: b}, 5000+n, 53, []byte("x")))
			add(packet.AppendTCP(nil, packet.IP{Src: a, Dst: b}, 5000+n, 80, packet.Segment{Flags: packet.SYN, Window: 100}))
			add(packet.AppendTCP(nil, packet.IP{Src: a, Dst: b}, 6000+n, 22, packet.Segment{Flags: packet.SYN, Window: 100}))
		}
		echo := uint8(8)
		if f == flow.IPv6 {
			echo = 128
		}
		add(packet.AppendICMP(nil, packet.IP{Src: a, Dst: b}, echo, 0, 1<<16, make([]byte, 1300)))
		for _, chunk := range []uint8{1, 0, 11, 10, 2, 14} { // of SCTP: INIT, and what its state forbids
			add(packet.AppendSCTP(nil, packet.IP{Src: a, Dst: b}, 7, 8, uint32(chunk/2), packet.AppendChunk(nil, chunk, 0, make([]byte, 16))))
		}
		add(packet.AppendUDP(nil, packet.IP{Src: a, Dst: b, TTL: 1}, 1, 2, nil))
		add(packet.AppendUDP(nil, packet.IP{Src: a, Dst: b}, 1, 2, make([]byte, 2000)))
		add(packet.AppendUDP(nil, packet.IP{Src: a, Dst: b}, 1, 9, nil))
		elsewhere := map[flow.Family]string{flow.IPv4: "203.0.113.1", flow.IPv6: "2001:db8:ff::1"}[f]
		add(packet.AppendUDP(nil, packet.IP{Src: a, Dst: netip.MustParseAddr(elsewhere)}, 1, 2, nil))
		loopback := map[flow.Family]string{flow.IPv4: "127.0.0.1", flow.IPv6: "::1"}[f]
		add(packet.AppendUDP(nil, packet.IP{Src: netip.MustParseAddr(loopback), Dst: b}, 1, 2, nil))
		add(packet.AppendUDP(nil, packet.IP{Src: a, Dst: host(false, 2, f)}, 1, 2, nil)) // back to where it came from
	}
	for i := range 200 { // damaged: lengths, checksums, flags
		f := slices.Clone(all[i*7%len(all)])
		f[14+i%max(len(f)-14, 1)] ^= byte(1 + i)
		all = append(all, f, f[:max(14, len(f)/2)])
	}
	return all
}

// garbagePath is a shard and what a worker has around it, without allocations of its own.
type garbagePath struct {
	*natBox
	buf    [][]byte // of frames, by number
	frags  *frag.Table[[]byte]
	pieces []packet.Piece
	whole  []byte
	p      [1]packet.Packet
	v      [1]Verdict
	own    int
	passed int
}

func newGarbagePath(b *natBox, frames [][]byte) *garbagePath {
	g := &garbagePath{natBox: b, whole: make([]byte, 0, packet.MaxDatagram), frags: frag.New(frag.Linux(), func([]byte, flow.Reason) {})}
	for _, f := range frames {
		g.buf = append(g.buf, make([]byte, 0, len(f)+128))
	}
	return g
}

// run lets all frames come in.
func (g *garbagePath) run(frames [][]byte) {
	for i, f := range frames {
		g.now += 3
		g.Tick(g.now)
		g.frags.Expire(g.now)
		frame := append(g.buf[i][:0], f...)
		p := &g.p[0]
		p.Parse(frame, len(frame), packet.Checks{Transport: true})
		p.In, p.Largest, p.Bridged = i&1, 0, g.forward.Routes == nil
		p.Trim()
		g.Hash(p)
		if p.Kind == packet.Fragmented && p.Reason == flow.NoReason && g.Screen(p) == flow.NoReason {
			d, _ := g.frags.Add(p, p.Frame, g.now)
			if d == nil {
				continue
			}
			g.pieces = g.pieces[:0]
			for k := range d.Frames {
				g.pieces = append(g.pieces, packet.Piece{Fragment: d.Fragments[k], Frame: d.Frames[k]})
			}
			in := p.In
			g.whole, _ = packet.Assemble(g.whole[:0], g.pieces)
			p.ParseWhole(g.whole, len(g.whole), int(g.pieces[0].L3), packet.Checks{Transport: true})
			p.In = in
			p.Largest, _ = packet.Largest(g.pieces)
			g.Hash(p)
		}
		g.Process(g.p[:], g.v[:])
		if g.v[0].Action == Accept {
			g.passed++
		}
		g.own += len(g.TakeOwn())
		g.TakeLogged()
	}
}

// notOfAShard are the reasons that TestNoGarbage does not bring about, by who gives them.
var notOfAShard = map[string]string{
	"frag, beside whose table they are not counted here": "fragment_duplicate fragment_ecn fragment_end fragment_held fragment_length fragment_limit fragment_nested fragment_overlap fragment_timeout fragment_tiny fragment_too_long fragment_header fragment",
	"engine and rx":                         "bad_descriptor elsewhere fill_ring_empty frame_too_large handover_full host_busy link_source no_chunk no_neighbour no_port no_vlan rx_dropped rx_ring_full tx_down tx_dropped tx_error tx_ring_full xdp_no_socket",
	"several shards":                        "nat_directory_full",
	"another configuration":                 "tcp_not_loose tcp_not_exact zone_full",
	"a table that is in use":                "table_full probe_limit clash",
	"other routes or sysctls":               "blackhole prohibited reverse_path not_forwarded local_redirect",
	"helpers, which no connection here has": "helper_held helper_early helper_waits helper_refused",
	"other headers, which take the same steps as those that are here": "icmp_redirect nat_redirect nat_too_short sctp_state tcp_challenge",
}

// TestNoGarbage: the packet path allocates nothing, whatever comes, whichever way it is judged
// and however it is answered, once its buffers are there. Each reason is in it that a shard
// gives, or named above.
func TestNoGarbage(t *testing.T) {
	frames := garbageFrames()
	var hit [flow.NumReasons]bool
	for name, routes := range map[string]*route.Table{"bridge": nil, "router": routesOfBoth()} {
		for rules, text := range map[string][2]string{"every": {everyRule, everyRule6}, "answering": {answering, answering6}, "none": {"", ""}} {
			t.Run(name+"/"+rules, func(t *testing.T) {
				if routes != nil {
					for i := range routes.Interfaces {
						routes.Interfaces[i].SendRedirects, routes.Interfaces[i].SharedMedia = true, true
					}
				}
				g := newGarbagePath(newForwarder(t, text[0], text[1], routes), frames)
				for range 40 { // until each buffer has been as long as any
					g.run(frames)
				}
				g.own, g.passed = 0, 0
				if n := testing.AllocsPerRun(5, func() { g.run(frames) }); n != 0 {
					t.Errorf("%v allocations for %d frames", n, len(frames))
					for i := range frames { // which of them
						g.run(frames[i : i+1])
						if n := testing.AllocsPerRun(2, func() { g.run(frames[i : i+1]) }); n != 0 {
							t.Fatalf("%x: %v allocations, %v %v", frames[i], n, g.v[0].Action, g.v[0].Reason)
						}
					}
				}
				if g.passed == 0 || g.own == 0 && (routes != nil || rules != "none") {
					t.Errorf("%d frames passed, %d answers", g.passed, g.own)
				}
				for r, n := range g.Stats().Reasons {
					hit[r] = hit[r] || n > 0
				}
			})
		}
	}
	var named []string
	for _, reasons := range notOfAShard {
		named = append(named, strings.Fields(reasons)...)
	}
	for r := flow.NoReason + 1; r < flow.NumReasons; r++ {
		if !hit[r] && !slices.Contains(named, r.String()) {
			t.Errorf("no packet had reason %v", r)
		}
	}
}

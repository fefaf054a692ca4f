package shard

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/dialogue"
	"github.com/xdpct/xdpct/internal/reference"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/packet"
)

var testSecret = flow.Secret{0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb, 0xd6e8feb86659fd93, 0xa0761d6478bd642f, 0xe7037ed1a0b428db, 0x8ebc6af09c88c6e3}

var network = dialogue.Network{Hosts: 4, Host: func(b bool, n int, f flow.Family) netip.Addr {
	side := byte(1)
	if b {
		side = 2
	}
	if f == flow.IPv4 {
		return netip.AddrFrom4([4]byte{10, side, side, byte(n)})
	}
	return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, side, 15: byte(n)})
}}

// pairing is a shard and the reference tracker, fed with the same datagrams.
type pairing struct {
	shard *Shard
	ref   *reference.Tracker
	now   int64
	pkt   [1]packet.Packet
	out   [1]Verdict
}

func newPairing(t testing.TB, change func(*l4.Config, *reference.Tracker)) *pairing {
	t.Helper()
	p := &pairing{ref: reference.New(), now: 1000}
	cfg := Config{L4: l4.Linux(), MaxConns: 4096, Secret: testSecret, Checks: packet.Checks{Transport: true}}
	if change != nil {
		change(&cfg.L4, p.ref)
	}
	var err error
	if p.shard, err = New(cfg, p.now); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.shard.Close() })
	return p
}

// step feeds both and returns the difference, or "".
func (p *pairing) step(d []byte) string {
	want := p.ref.Datagram(p.now, d)
	typ := packet.EtherIPv4
	if len(d) > 0 && d[0]>>4 == 6 {
		typ = packet.EtherIPv6
	}
	k := &p.pkt[0]
	k.ParseFrom(d, len(d), 0, typ, p.shard.cfg.Checks)
	p.shard.Hash(k)
	p.shard.Tick(p.now)
	p.shard.Process(p.pkt[:], p.out[:])
	v := p.out[0]
	got := reference.Verdict{Drop: v.Action == Drop, State: v.State.String(), Known: v.Conn}
	if v.Conn {
		got.Reply = v.Dir == flow.Reply
		got.Seen, got.Assured = v.Status&flow.SeenReply != 0, v.Status&flow.Assured != 0
		got.Expires = p.now + int64(v.Expires.Until(flow.Millis(p.now)))
		got.L4State = flow.StateName(k.Key.L4.Proto(), v.L4State)
	}
	if got != want {
		return fmt.Sprintf("at %d: %+v (%v), the reference says %+v\n%x", p.now, got, v.Reason, want, d)
	}
	return ""
}

// end compares the number of live connections.
func (p *pairing) end() string {
	n := 0
	p.shard.Walk(0, p.shard.MaxConns(), func(uint32, *flow.Conn) bool { n++; return false })
	if want := p.ref.Len(p.now); n != want {
		return fmt.Sprintf("%d connections, the reference has %d", n, want)
	}
	return ""
}

// TestReference runs random dialogues, with pauses of all lengths, through both.
func TestReference(t *testing.T) {
	for seed := range uint64(30) {
		for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
			p := newPairing(t, func(c *l4.Config, r *reference.Tracker) {
				switch seed % 4 {
				case 1:
					c.TCPLoose, r.Loose = false, false
				case 2:
					c.TCPBeLiberal, r.Liberal = true, true
					c.TCPMaxRetrans, r.MaxRetrans = 0, 0
				case 3:
					c.TCPIgnoreInvalidRST, r.IgnoreInvalidRST = true, true
				}
			})
			for i, s := range dialogue.Make(seed, 3000, f, network) {
				p.now += int64(i*7919) % 50 // milliseconds
				if i%97 == 0 {
					p.now += []int64{2500, 31_000, 61_000, 301_000}[i/97%4]
				}
				if diff := p.step(s.Datagram); diff != "" {
					t.Fatalf("seed %d, %v, packet %d: %s", seed, f, i, diff)
				}
			}
			if diff := p.end(); diff != "" {
				t.Fatalf("seed %d, %v: %s", seed, f, diff)
			}
		}
	}
}

// FuzzDatagrams feeds datagrams of arbitrary bytes to both trackers. The input is
// a sequence of records: milliseconds to wait (2 bytes), length (2 bytes),
// datagram.
func FuzzDatagrams(f *testing.F) {
	for seed := range uint64(6) {
		for _, fam := range []flow.Family{flow.IPv4, flow.IPv6} {
			var in []byte
			for _, s := range dialogue.Make(seed, 12, fam, network) {
				in = append(in, 0, byte(seed*40))
				in = binary.BigEndian.AppendUint16(in, uint16(len(s.Datagram)))
				in = append(in, s.Datagram...)
			}
			f.Add(in)
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		p := newPairing(t, nil)
		for len(in) >= 4 {
			p.now += int64(binary.BigEndian.Uint16(in)) * 16
			n := min(int(binary.BigEndian.Uint16(in[2:])), len(in)-4)
			d := in[4 : 4+n]
			in = in[4+n:]
			if len(d) > 0 {
				repair(d)
			}
			if diff := p.step(d); diff != "" {
				t.Fatal(diff)
			}
		}
		if diff := p.end(); diff != "" {
			t.Fatal(diff)
		}
	})
}

// repair makes the checksums of a datagram right in three of four cases, so that
// the fuzzer gets past them.
func repair(d []byte) {
	if len(d) < 20 || d[0]>>4 != 4 || d[len(d)-1]&3 == 0 {
		return
	}
	ihl := int(d[0]&15) * 4
	if ihl < 20 || ihl > len(d) {
		return
	}
	if int(binary.BigEndian.Uint16(d[2:])) > len(d) {
		binary.BigEndian.PutUint16(d[2:], uint16(len(d)))
	}
	d[10], d[11] = 0, 0
	binary.BigEndian.PutUint16(d[10:], ^onesSum(d[:ihl], 0))
	total := int(binary.BigEndian.Uint16(d[2:]))
	if total < ihl {
		return
	}
	l4 := d[ihl:total]
	var at int
	var pseudo uint32
	switch d[9] {
	case 6:
		at = 16
	case 17, 136:
		at = 6
	case 1:
		at = 2
	default:
		return
	}
	if len(l4) < at+2 {
		return
	}
	if d[9] != 1 {
		pseudo = uint32(onesSum(d[12:20], uint32(d[9])+uint32(len(l4))))
	}
	l4[at], l4[at+1] = 0, 0
	binary.BigEndian.PutUint16(l4[at:], ^onesSum(l4, pseudo))
}

func onesSum(b []byte, sum uint32) uint16 {
	for i, c := range b {
		sum += uint32(c) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// TestProtocolsDoNotAllocate judges a packet of each protocol again and again.
func TestProtocolsDoNotAllocate(t *testing.T) {
	ip := packet.IP{Src: network.Host(false, 1, flow.IPv4), Dst: network.Host(true, 1, flow.IPv4)}
	init := packet.AppendChunk(nil, 1, 0, make([]byte, 16))
	for name, d := range map[string][]byte{
		"tcp":  packet.AppendTCP(nil, ip, 1, 2, packet.Segment{Flags: packet.SYN, Window: 1}),
		"udp":  packet.AppendUDP(nil, ip, 1, 2, nil),
		"sctp": packet.AppendSCTP(nil, ip, 1, 2, 0, init),
		"gre":  packet.AppendIP(nil, ip, flow.GRE, make([]byte, 8)),
		"icmp": packet.AppendICMP(nil, ip, 8, 0, 1, nil),
	} {
		p := newPairing(t, nil)
		n := testing.AllocsPerRun(100, func() {
			p.pkt[0].ParseFrom(d, len(d), 0, packet.EtherIPv4, p.shard.cfg.Checks)
			p.shard.Hash(&p.pkt[0])
			p.shard.Tick(p.now)
			p.shard.Process(p.pkt[:], p.out[:])
		})
		if n != 0 || !p.out[0].Conn {
			t.Errorf("%s: %v allocations, %v", name, n, p.out[0].Reason)
		}
	}
}

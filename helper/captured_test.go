package helper

import (
	"errors"
	"io"
	"net/netip"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/rx/capture"
)

// captured is a packet of a capture that carries something.
type captured struct {
	proto    flow.Proto
	src, dst netip.AddrPort // of GRE: the key in dst
	seq      uint32
	payload  []byte
}

// packets returns those of a capture in which TCP, UDP or version 1 of GRE carries
// something, without the repetitions of a stream's bytes.
func packets(t testing.TB, name string) (all []captured) {
	t.Helper()
	r, err := capture.Open(testenv.Shared(t, "pcaps/"+name))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	next := map[[2]netip.AddrPort]uint32{}
	for {
		var f capture.Frame
		if err := r.Next(&f); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		var p packet.Packet
		f.Parse(&p, packet.Checks{})
		if p.Kind != packet.Data {
			continue
		}
		tuple := p.Key
		if p.Flipped {
			tuple, _ = tuple.Invert()
		}
		c := captured{
			proto: p.Proto,
			src:   netip.AddrPortFrom(tuple.Src.Netip(p.Family), tuple.L4.Src()),
			dst:   netip.AddrPortFrom(tuple.Dst.Netip(p.Family), tuple.L4.Dst()),
		}
		end := int(p.L3) + int(p.Len)
		switch at := int(p.L4); {
		case end > len(p.Frame):
			continue
		case p.Proto == flow.TCP:
			c.seq = p.TCP.Seq
			c.payload = p.Frame[at+int(p.TCP.HeaderLen) : end]
			k := [2]netip.AddrPort{c.src, c.dst}
			if n, ok := next[k]; len(c.payload) == 0 || ok && int32(c.seq-n) < 0 {
				continue
			}
			next[k] = c.seq + uint32(len(c.payload))
		case p.Proto == flow.UDP:
			c.payload = p.Frame[at+8 : end]
		case p.Proto == flow.GRE && end-at >= 8 && p.Frame[at+1]&7 == 1:
			c.payload = p.Frame[at+8 : end]
			c.dst = netip.AddrPortFrom(c.dst.Addr(), uint16(p.Frame[at+6])<<8|uint16(p.Frame[at+7]))
		default:
			continue
		}
		c.payload = append([]byte(nil), c.payload...)
		all = append(all, c)
	}
}

// heard is a connection of a capture that a helper has read.
type heard struct {
	*dialogue
	client, server netip.AddrPort
	sent, read     [2]string
}

// hear has a helper read those connections of a capture that go to a port. Its sessions
// come in the order in which they began; rest is the other packets.
func hear(t *testing.T, name string, h *Helper, proto flow.Proto, port uint16) (all []*heard, rest []captured) {
	t.Helper()
	by := map[[2]netip.AddrPort]*heard{}
	for _, p := range packets(t, name) {
		d, k := flow.Original, [2]netip.AddrPort{p.src, p.dst}
		if back := [2]netip.AddrPort{p.dst, p.src}; p.dst.Port() != port || by[back] != nil {
			d, k = flow.Reply, back
		}
		if p.proto != proto || k[1].Port() != port {
			rest = append(rest, p)
			continue
		}
		g := by[k]
		if g == nil {
			g = &heard{
				dialogue: newDialogue(t, h, fakeConn(proto, k[0].String(), k[1].String(), "")),
				client:   k[0], server: k[1],
			}
			g.env.strict = true
			by[k] = g
			all = append(all, g)
		}
		g.sent[d] += string(p.payload)
		g.read[d] += g.say(d, string(p.payload))
	}
	for _, g := range all {
		for d := range g.read {
			if got := g.read[d] + string(g.rest[d]); got != g.sent[d] {
				t.Errorf("%s: %v: %x is read as %x", name, g.client, g.sent[d], got)
			}
		}
	}
	return all, rest
}

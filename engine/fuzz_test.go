package engine

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/dialogue"
	"github.com/xdpct/xdpct/rx/capture"
)

// FuzzReplay feeds datagrams of arbitrary bytes, fragments above all, to a tracker
// of three shards: nothing may crash it, and what it holds stays accounted for. The
// input is a sequence of records: length (2 bytes), datagram.
func FuzzReplay(f *testing.F) {
	net := dialogue.Network{Hosts: 2, Host: func(b bool, n int, fam flow.Family) netip.Addr {
		side := byte(1)
		if b {
			side = 2
		}
		if fam == flow.IPv4 {
			return netip.AddrFrom4([4]byte{10, side, side, byte(n)})
		}
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, side, 15: byte(n)})
	}}
	for seed := range uint64(8) {
		for _, fam := range []flow.Family{flow.IPv4, flow.IPv6} {
			var in []byte
			for _, s := range dialogue.Fragments(seed, dialogue.Make(seed, 12, fam, net), 2) {
				in = append(binary.BigEndian.AppendUint16(in, uint16(len(s.Datagram))), s.Datagram...)
			}
			f.Add(in)
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		s := DefaultSettings()
		s.Max, s.Checksum = 300, false
		r, err := NewReplay(s, 3, Zoning{})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		frames, passed := 0, 0
		for len(in) >= 2 {
			n := min(int(binary.BigEndian.Uint16(in)), len(in)-2)
			d := in[2 : 2+n]
			in = in[2+n:]
			r.Frame(&capture.Frame{Data: d, Wire: len(d), Link: capture.LinkRaw})
			frames++
			passed += len(r.Passed())
			if passed+r.frags.Len() > frames {
				t.Fatalf("%d frames came, %d have passed, %d are held", frames, passed, r.frags.Len())
			}
		}
		if n := len(r.Records()); n > frames {
			t.Fatalf("%d connections of %d frames", n, frames)
		}
	})
}

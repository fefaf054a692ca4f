package packet

import (
	"encoding/binary"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/xdpct/xdpct/flow"
)

// chainOf makes an IPv6 datagram of a chain of headers, each of which announces the
// next; the last is a transport protocol with a payload of n bytes.
func chainOf(protos []flow.Proto, n int) []byte {
	var body []byte
	for i, proto := range protos[:len(protos)-1] {
		next := byte(protos[i+1])
		switch proto {
		case fragment: // an atomic one
			body = append(body, next, 0, 0, 0, 1, 2, 3, 4)
		case authHeader:
			body = append(body, next, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1)
			body = append(body, make([]byte, 12)...)
		case routing:
			body = append(body, next, 2, 0, 0, 0, 0, 0, 0)
			body = append(body, make([]byte, 16)...)
		default:
			body = append(body, next, 0, 1, 4, 0, 0, 0, 0) // PadN
		}
	}
	return AppendIP(nil, IP{Src: a6, Dst: b6}, protos[0], append(body, make([]byte, n)...))
}

// TestExtensions walks over a chain with every header that there is.
func TestExtensions(t *testing.T) {
	d := chainOf([]flow.Proto{hopByHop, destOptions, routing, fragment, authHeader, destOptions, 135}, 16)
	f := append(AppendEthernet(nil, MAC{1}, MAC{2}, d), 1, 2, 3) // with a trailer
	var p Packet
	p.Parse(f, len(f), whole)
	var got []Extension
	for x := range p.Extensions {
		got = append(got, x)
	}
	want := []Extension{
		{Proto: hopByHop, At: 54, Len: 8}, {Proto: destOptions, At: 62, Len: 8}, {Proto: routing, At: 70, Len: 24},
		{Proto: fragment, At: 94, Len: 8}, {Proto: authHeader, At: 102, Len: 24}, {Proto: destOptions, At: 126, Len: 8},
		{Proto: 135, At: 134, Len: 16, Last: true},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if x, ok, cut := p.Extension(routing); !ok || cut || x != want[2] {
		t.Errorf("the routing header is %+v", x)
	}
	if n := testing.AllocsPerRun(100, func() {
		for range p.Extensions {
		}
		p.Extension(authHeader)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	binary.BigEndian.PutUint16(p.Frame[96:], 8) // a later fragment: nothing behind it is a header
	if x, ok, cut := p.Extension(authHeader); ok || cut {
		t.Errorf("behind a later fragment there is %+v, cut %v", x, cut)
	}
	if x, ok, _ := p.Extension(fragment); !ok || !x.Last {
		t.Errorf("the fragment header is %+v, %v", x, ok)
	}
	f = AppendEthernet(nil, MAC{1}, MAC{2}, AppendIP(nil, IP{Src: a4, Dst: b4}, authHeader, make([]byte, 24)))
	p.Parse(f, len(f), whole)
	for x := range p.Extensions {
		if x != (Extension{Proto: authHeader, At: 34, Len: 24, Last: true}) {
			t.Errorf("IPv4: %+v", x)
		}
	}
}

// TestExtensionsCut cuts a chain at every byte: the walk ends where the bytes do, says
// so iff a header is missing that was announced, and finds what is before.
func TestExtensionsCut(t *testing.T) {
	protos := []flow.Proto{hopByHop, routing, fragment, destOptions, flow.UDP}
	whole := chainOf(protos, 8)
	starts := []int{40, 48, 72, 80, 88}
	for n := 40; n <= len(whole); n++ {
		d := slices.Clone(whole[:n])
		binary.BigEndian.PutUint16(d[4:], uint16(n-40))
		p := Packet{Frame: append(d, 0xff, 0xff, 0xff, 0xff)[:n:n], Family: flow.IPv6, Len: uint32(n)}
		var seen []flow.Proto
		var last Extension
		for x := range p.Extensions {
			seen, last = append(seen, x.Proto), x
		}
		want := 0
		for i, at := range starts {
			least := 2
			if protos[i] == fragment {
				least = 4
			}
			if want = i + 1; protos[i] != flow.UDP && n < at+least {
				break
			}
		}
		if !slices.Equal(seen, protos[:want]) || last.Cut != (protos[want-1] != flow.UDP) || !last.Last {
			t.Errorf("of %d bytes: %v, the last is %+v", n, seen, last)
		}
	}
}

// TestExtensionsAgree: the walk of Parse and the one that is given to others end at the
// same header, whatever the bytes are.
func TestExtensionsAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kinds := []byte{hopByHop, routing, fragment, authHeader, destOptions, noNext, 6, 135}
		b := rapid.SliceOfN(rapid.Byte(), 0, 120).Draw(t, "body")
		for i := range b {
			if b[i]&1 == 0 {
				b[i] = kinds[int(b[i]>>1)%len(kinds)]
			} else if b[i]&2 == 0 {
				b[i] = 0
			}
		}
		d := AppendIP(nil, IP{Src: a6, Dst: b6}, flow.Proto(rapid.SampledFrom(kinds).Draw(t, "first")), b)
		p := Packet{Frame: d, Family: flow.IPv6, Len: uint32(len(d))}
		x := skipExtensions(d, flow.Proto(d[6]), ipv6Len)
		var last Extension
		firstFragment := false
		for e := range p.Extensions {
			last = e
			if e.Proto == fragment && !e.Cut && !e.Last && d[e.At+3]&1 != 0 {
				firstFragment = true // there the walk of Parse ends
			}
		}
		switch {
		case x.fragment:
			if !firstFragment && (!last.Last || last.Proto != fragment) {
				t.Fatalf("%x: a fragment for one, %+v for the other", d, last)
			}
		case firstFragment:
			t.Fatalf("%x: a fragment for one, %+v for the other", d, x)
		case last.At != x.at || last.Proto != x.proto || (last.Cut || last.Proto == noNext) != x.cut:
			t.Fatalf("%x: %+v and %+v", d, last, x)
		}
	})
}

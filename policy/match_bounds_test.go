package policy

import (
	"slices"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// TestDCCPOptionsCut: the offsets that a DCCP header names may lie behind its capture.
// What is expected is dccp_find_option: a data offset that ends with the fixed part means
// no options, before what was captured is looked at; one before it, and one behind the
// datagram, drop the packet.
func TestDCCPOptionsCut(t *testing.T) {
	const response, extended = 1 << 1, 1
	for _, c := range []struct {
		name   string
		length int
		typ    byte // and X
		offset byte // in words
		want   int  // options, in bytes
		ok     bool
	}{
		{"RESPONSE without options, whole", 28, response | extended, 7, 0, true},
		{"RESPONSE without options, cut off", 12, response | extended, 7, 0, true},
		{"RESPONSE, options cut off", 28, response | extended, 8, 0, false},
		{"RESPONSE, options", 32, response | extended, 8, 4, true},
		{"RESPONSE, offset within the fixed part", 40, response | extended, 6, 0, false},
		{"REQUEST without options, cut off", 12, 0, 4, 0, true},
		{"largest offset, cut off", 12, 15<<1 | extended, 255, 0, false},
	} {
		h := slices.Clip(make([]byte, c.length)) // nothing lies behind it
		h[4], h[8] = c.offset, c.typ
		o, ok := dccpOptions(h)
		if len(o) != c.want || ok != c.ok {
			t.Errorf("%s: %d bytes of options, %v; want %d, %v", c.name, len(o), ok, c.want, c.ok)
		}
	}
}

// TestHeadersCut: an extension header that lies in the datagram, but behind what was
// captured of it, is cut off for ip6t_ipv6header.
func TestHeadersCut(t *testing.T) {
	f := make([]byte, 40)
	f[0], f[6] = 0x60, byte(protoDstOpts)
	v := View{P: &packet.Packet{Frame: slices.Clip(f), Family: flow.IPv6, Len: 56}}
	if has, ok := v.headers(); ok {
		t.Errorf("headers %#x are read of a chain that is cut off", has)
	}
}

package export

import (
	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
)

// exact is the mask of an address all of which counts.
var exact = flow.Addr{Hi: ^uint64(0), Lo: ^uint64(0)}

// AppendExpectationEvent appends the line of `conntrack -E expect`.
func AppendExpectationEvent(b []byte, k flow.EventKind, e *expect.Expectation, now int64) []byte {
	return AppendExpectation(appendKind(b, k), e, now)
}

// AppendExpectation appends the line of `conntrack -L expect` for e, without a
// newline (nfexp_snprintf). now is the time in milliseconds by which e expires.
func AppendExpectation(b []byte, e *expect.Expectation, now int64) []byte {
	b = number(b, "", uint64(max(e.Expires-now, 0))/1000)
	b = number(b, "proto=", uint64(e.Tuple.L4.Proto()))
	b = appendL4(appendEnds(b, &e.Tuple), e.Tuple.L4)

	f := e.Tuple.L4.Family()
	b = append(e.Mask.Src.Netip(f).AppendTo(append(b, "mask-src="...)), ' ')
	b = append(exact.Netip(f).AppendTo(append(b, "mask-dst="...)), ' ')
	b = appendL4(b, flow.MakeL4(f, e.Tuple.L4.Proto(), 0, e.Mask.ID, 0xffff))

	b = append(e.Master.Src.Netip(f).AppendTo(append(b, "master-src="...)), ' ')
	b = append(e.Master.Dst.Netip(f).AppendTo(append(b, "master-dst="...)), ' ')
	b = appendL4(b, e.Master.L4)
	if z := e.Tuple.L4.Zone(); z != 0 {
		b = number(b, "zone=", uint64(z))
	}
	for i, name := range []string{"PERMANENT", "INACTIVE", "USERSPACE"} {
		if e.Flags>>i&1 != 0 {
			b = append(append(b, name...), ',')
		}
	}
	if e.Flags != 0 {
		b[len(b)-1] = ' '
	}
	b = number(b, "class=", uint64(e.Class))
	return append(append(b, "helper="...), e.Helper.String()...)
}

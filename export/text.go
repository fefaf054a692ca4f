package export

import (
	"strconv"

	"github.com/xdpct/xdpct/flow"
)

// Format selects what a text line shows beyond the default.
type Format struct {
	Extended bool // -o extended: begin with the layer 3 protocol
	Counters bool // packets= and bytes=, as the kernel does with nf_conntrack_acct=1
}

// AppendFlow appends the line of `conntrack -L` for r, without a newline.
func (f Format) AppendFlow(b []byte, r *flow.Record) []byte {
	return f.appendRecord(b, r, true)
}

// AppendEvent appends the line of `conntrack -E` for e, without a newline.
func (f Format) AppendEvent(b []byte, e *flow.Event) []byte {
	switch e.Kind {
	case flow.EventNew:
		b = append(b, "    [NEW] "...)
	case flow.EventUpdate:
		b = append(b, " [UPDATE] "...)
	case flow.EventDestroy:
		b = append(b, "[DESTROY] "...)
	}
	return f.appendRecord(b, &e.Record, false)
}

// appendRecord follows __snprintf_conntrack_default of libnetfilter_conntrack.
func (f Format) appendRecord(b []byte, r *flow.Record, listed bool) []byte {
	proto := r.Orig.L4.Proto()
	if f.Extended {
		b = padded(b, r.Orig.L4.Family().String(), 8)
		b = number(b, "", uint64(r.Orig.L4.Family()))
	}
	b = padded(b, proto.String(), 8)
	b = number(b, "", uint64(proto))
	if r.Status&(flow.Offload|flow.HWOffload) == 0 {
		if listed || r.Timeout > 0 { // the event of an expired one has no timeout
			b = number(b, "", uint64(r.Timeout))
		}
		if s := r.StateName(); s != "" {
			b = append(append(b, s...), ' ')
		}
	}
	b = f.appendDirection(b, r, flow.Original)
	if r.Status&flow.SeenReply == 0 {
		b = append(b, "[UNREPLIED] "...)
	}
	b = f.appendDirection(b, r, flow.Reply)
	switch {
	case r.Status&flow.HWOffload != 0:
		b = append(b, "[HW_OFFLOAD] "...)
	case r.Status&flow.Offload != 0:
		b = append(b, "[OFFLOAD] "...)
	case r.Status&flow.Assured != 0:
		b = append(b, "[ASSURED] "...)
	}
	if listed {
		b = number(b, "mark=", uint64(r.Mark))
	}
	if z := r.Orig.L4.Zone(); z != 0 {
		b = number(b, "zone=", uint64(z))
	}
	if listed {
		b = append(b, "use=1 "...)
	}
	return b[:len(b)-1]
}

func (f Format) appendDirection(b []byte, r *flow.Record, d flow.Direction) []byte {
	t := &r.Orig
	if d == flow.Reply {
		t = &r.Reply
	}
	b = append(b, "src="...)
	b = t.Src.Netip(t.L4.Family()).AppendTo(b)
	b = append(b, " dst="...)
	b = t.Dst.Netip(t.L4.Family()).AppendTo(b)
	b = append(b, ' ')
	b = appendL4(b, t.L4)
	if f.Counters {
		b = number(b, "packets=", r.Counters[d].Packets)
		b = number(b, "bytes=", r.Counters[d].Bytes)
	}
	return b
}

func appendL4(b []byte, l flow.L4) []byte {
	switch l.Proto() {
	case flow.TCP, flow.UDP, flow.UDPLite, flow.SCTP, flow.DCCP:
		b = number(b, "sport=", uint64(l.Src()))
		return number(b, "dport=", uint64(l.Dst()))
	case flow.GRE:
		b = append(b, "srckey=0x"...)
		b = append(strconv.AppendUint(b, uint64(l.Src()), 16), " dstkey=0x"...)
		return append(strconv.AppendUint(b, uint64(l.Dst()), 16), ' ')
	case flow.ICMP, flow.ICMPv6:
		b = number(b, "type=", uint64(l.ICMPType()))
		b = number(b, "code=", uint64(l.ICMPCode()))
		return number(b, "id=", uint64(l.Src()))
	}
	return b
}

func number(b []byte, name string, v uint64) []byte {
	return append(strconv.AppendUint(append(b, name...), v, 10), ' ')
}

func padded(b []byte, s string, width int) []byte {
	b = append(b, s...)
	for n := len(s); n < width; n++ {
		b = append(b, ' ')
	}
	return append(b, ' ')
}

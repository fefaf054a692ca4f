package export

import (
	"strconv"
	"time"

	"github.com/xdpct/xdpct/flow"
)

// Format selects what a text line shows beyond the default.
type Format struct {
	Extended   bool // -o extended: begin with the layer 3 protocol
	Counters   bool // packets= and bytes=, as the kernel does with nf_conntrack_acct=1
	ID         bool // -o id
	KTimestamp bool // -o ktimestamp: [start=] and [stop=]
	// Labels shows labels, under the names that LabelNames has for their numbers;
	// those without a name are not shown (-o labels).
	Labels     bool
	LabelNames map[int]string
	// Use is what use= says, the number of references; 0 means 1. The kernel has
	// one more while it answers a request about one connection.
	Use int
	// Now is the time by which delta-time= is reckoned, in nanoseconds since 1970.
	Now int64
}

// AppendFlow appends the line of `conntrack -L` for r, without a newline.
func (f *Format) AppendFlow(b []byte, r *flow.Record) []byte {
	return f.appendRecord(b, r, true)
}

// AppendEvent appends the line of `conntrack -E` for e, without a newline.
func (f *Format) AppendEvent(b []byte, e *flow.Event) []byte {
	b = appendKind(b, e.Kind)
	return f.of(e.Kind).appendRecord(b, &e.Record, false)
}

// of returns the format of an event: counters come with the last one only.
func (f *Format) of(k flow.EventKind) *Format {
	g := *f
	g.Counters = f.Counters && k == flow.EventDestroy
	return &g
}

func appendKind(b []byte, k flow.EventKind) []byte {
	switch k {
	case flow.EventNew:
		return append(b, "    [NEW] "...)
	case flow.EventUpdate:
		return append(b, " [UPDATE] "...)
	}
	return append(b, "[DESTROY] "...)
}

// appendRecord follows __snprintf_conntrack_default of libnetfilter_conntrack.
func (f *Format) appendRecord(b []byte, r *flow.Record, listed bool) []byte {
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
	if listed || r.Mark != 0 {
		b = number(b, "mark=", uint64(r.Mark))
	}
	if r.Zone.Zone != 0 && !r.Zone.Directional() {
		b = number(b, "zone=", uint64(r.Zone.Zone))
	}
	b = f.appendTimes(b, r)
	if r.Helper != 0 {
		b = append(append(append(b, "helper="...), r.Helper.String()...), ' ')
	}
	if listed {
		b = number(b, "use=", uint64(max(f.Use, 1)))
	}
	if f.ID {
		b = number(b, "id=", uint64(r.ID))
	}
	if names := f.labels(r); len(names) > 0 {
		b = append(b, "labels="...)
		for _, n := range names {
			b = append(append(b, n...), ',')
		}
		b[len(b)-1] = ' '
	}
	return b[:len(b)-1]
}

// appendTimes appends how long the connection has lasted, and since when.
func (f *Format) appendTimes(b []byte, r *flow.Record) []byte {
	if r.Start == 0 {
		return b
	}
	stop := r.Stop
	if stop == 0 {
		stop = f.Now
	}
	b = number(b, "delta-time=", uint64(max(stop/1e9-r.Start/1e9, 0)))
	if f.KTimestamp {
		b = ctime(append(b, "[start="...), r.Start)
		if r.Stop != 0 {
			b = ctime(append(b, "[stop="...), r.Stop)
		}
	}
	return b
}

func ctime(b []byte, ns int64) []byte {
	return append(time.Unix(0, ns).AppendFormat(b, time.ANSIC), "] "...)
}

// labels returns the names of the labels that are to be shown.
func (f *Format) labels(r *flow.Record) (names []string) {
	if !f.Labels || r.Labels == (flow.Labels{}) {
		return nil
	}
	for n := range 128 {
		if name := f.LabelNames[n]; name != "" && r.Labels.Has(n) {
			names = append(names, name)
		}
	}
	return names
}

func (f *Format) appendDirection(b []byte, r *flow.Record, d flow.Direction) []byte {
	t := &r.Orig
	if d == flow.Reply {
		t = &r.Reply
	}
	b = appendEnds(b, t)
	b = appendL4(b, t.L4)
	if z := t.L4.Zone(); z != 0 && r.Zone.Directional() {
		name := "zone-orig="
		if d == flow.Reply {
			name = "zone-reply="
		}
		b = number(b, name, uint64(z))
	}
	if f.Counters {
		b = number(b, "packets=", r.Counters[d].Packets)
		b = number(b, "bytes=", r.Counters[d].Bytes)
	}
	return b
}

func appendEnds(b []byte, t *flow.Tuple) []byte {
	b = append(b, "src="...)
	b = t.Src.Netip(t.L4.Family()).AppendTo(b)
	b = append(b, " dst="...)
	b = t.Dst.Netip(t.L4.Family()).AppendTo(b)
	return append(b, ' ')
}

func appendL4(b []byte, l flow.L4) []byte {
	switch p := l.Proto(); {
	case p.HasPorts():
		b = number(b, "sport=", uint64(l.Src()))
		return number(b, "dport=", uint64(l.Dst()))
	case p == flow.GRE:
		b = append(b, "srckey=0x"...)
		b = append(strconv.AppendUint(b, uint64(l.Src()), 16), " dstkey=0x"...)
		return append(strconv.AppendUint(b, uint64(l.Dst()), 16), ' ')
	case p == flow.ICMP || p == flow.ICMPv6:
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

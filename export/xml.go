package export

import (
	"strconv"
	"time"

	"github.com/xdpct/xdpct/flow"
)

// What stands before and after the elements of AppendXML.
const (
	XMLHeader = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<conntrack>\n"
	XMLFooter = "</conntrack>\n"
)

// AppendXML appends the element of `conntrack -L -o xml` for r, without a newline
// (__snprintf_conntrack_xml of libnetfilter_conntrack, quirks included: ICMP has
// an empty layer 4, and the states of SCTP are called by the names of TCP's).
func (f *Format) AppendXML(b []byte, r *flow.Record) []byte {
	return f.appendXML(append(b, "<flow>"...), r, time.Time{})
}

// AppendXMLEvent appends the element of `conntrack -E -o xml` for e.
func (f *Format) AppendXMLEvent(b []byte, e *flow.Event) []byte {
	b = append(b, `<flow type="`...)
	b = append(b, [...]string{"new", "update", "destroy"}[e.Kind]...)
	return f.of(e.Kind).appendXML(append(b, `">`...), &e.Record, time.Unix(0, e.Time))
}

func (f *Format) appendXML(b []byte, r *flow.Record, when time.Time) []byte {
	b = f.appendXMLDirection(b, r, flow.Original)
	b = f.appendXMLDirection(b, r, flow.Reply)
	b = append(b, `<meta direction="independent">`...)
	if r.StateName() != "" {
		b = element(b, "state", flow.TCPState(r.State).String())
	}
	if when.IsZero() || r.Timeout > 0 {
		b = count(b, "timeout", uint64(r.Timeout))
	}
	if when.IsZero() || r.Mark != 0 {
		b = count(b, "mark", uint64(r.Mark))
	}
	if names := f.labels(r); len(names) > 0 {
		b = append(b, "<labels>"...)
		for _, n := range names {
			b = element(b, "label", n)
		}
		b = append(b, "</labels>"...)
	}
	if r.Zone.Zone != 0 && !r.Zone.Directional() {
		b = count(b, "zone", uint64(r.Zone.Zone))
	}
	if when.IsZero() {
		b = count(b, "use", uint64(max(f.Use, 1)))
	}
	b = count(b, "id", uint64(r.ID))
	if r.Status&flow.Assured != 0 {
		b = append(b, "<assured/>"...)
	}
	if r.Status&flow.SeenReply == 0 {
		b = append(b, "<unreplied/>"...)
	}
	b = f.appendXMLTimes(b, r)
	b = append(b, "</meta>"...)
	if !when.IsZero() {
		b = append(b, "<when>"...)
		b = count(b, "hour", uint64(when.Hour()))
		b = count(b, "min", uint64(when.Minute()))
		b = count(b, "sec", uint64(when.Second()))
		b = count(b, "wday", uint64(when.Weekday())+1)
		b = count(b, "day", uint64(when.Day()))
		b = count(b, "month", uint64(when.Month()))
		b = count(b, "year", uint64(when.Year()))
		b = append(b, "</when>"...)
	}
	if r.Helper != 0 {
		b = element(b, "helper", r.Helper.String())
	}
	return append(b, "</flow>"...)
}

func (f *Format) appendXMLTimes(b []byte, r *flow.Record) []byte {
	if r.Start == 0 {
		return b
	}
	if f.KTimestamp {
		b = append(b, "<timestamp>"...)
		b = count(b, "start", uint64(r.Start))
		if r.Stop != 0 {
			b = count(b, "stop", uint64(r.Stop))
		}
		b = append(b, "</timestamp>"...)
	}
	stop := r.Stop
	if stop == 0 {
		stop = f.Now
	}
	return count(b, "deltatime", uint64(max(stop/1e9-r.Start/1e9, 0)))
}

func (f *Format) appendXMLDirection(b []byte, r *flow.Record, d flow.Direction) []byte {
	t, name := &r.Orig, "original"
	if d == flow.Reply {
		t, name = &r.Reply, "reply"
	}
	family, proto := t.L4.Family(), t.L4.Proto()
	b = append(append(append(b, `<meta direction="`...), name...), `"><layer3 protonum="`...)
	b = strconv.AppendUint(b, uint64(family), 10)
	b = append(append(append(b, `" protoname="`...), family.String()...), `"><src>`...)
	b = append(t.Src.Netip(family).AppendTo(b), "</src><dst>"...)
	b = append(t.Dst.Netip(family).AppendTo(b), `</dst></layer3><layer4 protonum="`...)
	b = strconv.AppendUint(b, uint64(proto), 10)
	b = append(append(append(b, `" protoname="`...), proto.String()...), `">`...)
	switch {
	case proto.HasPorts():
		b = count(b, "sport", uint64(t.L4.Src()))
		b = count(b, "dport", uint64(t.L4.Dst()))
	case proto == flow.GRE:
		b = append(strconv.AppendUint(append(b, "<srckey>0x"...), uint64(t.L4.Src()), 16), "</srckey><dstkey>0x"...)
		b = append(strconv.AppendUint(b, uint64(t.L4.Dst()), 16), "</dstkey>"...)
	}
	b = append(b, "</layer4>"...)
	if z := t.L4.Zone(); z != 0 && r.Zone.Directional() {
		b = count(b, "zone", uint64(z))
	}
	if f.Counters {
		b = append(b, "<counters>"...)
		b = count(b, "packets", r.Counters[d].Packets)
		b = count(b, "bytes", r.Counters[d].Bytes)
		b = append(b, "</counters>"...)
	}
	return append(b, "</meta>"...)
}

func count(b []byte, name string, v uint64) []byte {
	b = append(append(append(b, '<'), name...), '>')
	b = strconv.AppendUint(b, v, 10)
	return append(append(append(b, "</"...), name...), '>')
}

func element(b []byte, name, text string) []byte {
	b = append(append(append(b, '<'), name...), '>')
	b = append(b, text...)
	return append(append(append(b, "</"...), name...), '>')
}

package export

import (
	"math/bits"

	"github.com/xdpct/xdpct/flow"
)

// AppendSave appends the line of `conntrack -L -o save` for r, without a newline:
// the options of the command that would make the connection. Like conntrack(8) it
// leaves out marks and labels.
func AppendSave(b []byte, r *flow.Record) []byte {
	b = append(b, "-A -t "...)
	b = number(b, "", uint64(r.Timeout))
	return appendSaved(b, r)
}

// AppendSaveEvent is AppendSave for an event.
func AppendSaveEvent(b []byte, e *flow.Event) []byte {
	b = append(b, [...]string{"-A ", "-U ", "-D "}[e.Kind]...)
	if e.Kind != flow.EventDestroy {
		b = number(b, "-t ", uint64(e.Record.Timeout))
	}
	return appendSaved(b, &e.Record)
}

func appendSaved(b []byte, r *flow.Record) []byte {
	b = append(b, "-u "...)
	switch r.Status & (flow.SeenReply | flow.Assured) {
	case 0:
		b = append(b, "UNSET"...)
	case flow.SeenReply:
		b = append(b, "SEEN_REPLY"...)
	case flow.Assured:
		b = append(b, "ASSURED"...)
	default:
		b = append(b, "SEEN_REPLY,ASSURED"...)
	}
	b = append(b, ' ')
	switch z := r.Zone; {
	case z.Directional() && z.Dirs == flow.ZoneOriginal:
		b = number(b, "--orig-zone ", uint64(z.Zone))
	case z.Directional():
		b = number(b, "--reply-zone ", uint64(z.Zone))
	case z.Zone != 0:
		b = number(b, "-w ", uint64(z.Zone))
	}
	b = appendOption(b, "-s ", r.Orig.Src, r)
	b = appendOption(b, "-d ", r.Orig.Dst, r)
	if r.Status&flow.DstNAT != 0 {
		b = appendOption(b, "-g ", r.Reply.Src, r)
	} else {
		b = appendOption(b, "-r ", r.Reply.Src, r)
	}
	if r.Status&flow.SrcNAT != 0 {
		b = appendOption(b, "-n ", r.Reply.Dst, r)
	} else {
		b = appendOption(b, "-q ", r.Reply.Dst, r)
	}
	return appendSavedL4(b, r)
}

func appendOption(b []byte, name string, a flow.Addr, r *flow.Record) []byte {
	return append(a.Netip(r.Orig.L4.Family()).AppendTo(append(b, name...)), ' ')
}

func appendSavedL4(b []byte, r *flow.Record) []byte {
	o, y, p := r.Orig.L4, r.Reply.L4, r.Orig.L4.Proto()
	if p.String() == "unknown" {
		b = number(b, "-p ", uint64(p))
	} else {
		b = append(append(append(b, "-p "...), p.String()...), ' ')
	}
	switch {
	case p.HasPorts():
		b = number(b, "--sport ", uint64(o.Src()))
		b = number(b, "--dport ", uint64(o.Dst()))
		b = number(b, "--reply-port-src ", uint64(y.Src()))
		b = number(b, "--reply-port-dst ", uint64(y.Dst()))
		if s := r.StateName(); s != "" {
			b = append(append(append(b, "--state "...), s...), ' ')
		}
		if p == flow.SCTP { // conntrack(8) shows tags in the byte order of the wire
			b = number(b, "--orig-vtag ", uint64(bits.ReverseBytes32(r.VTag[flow.Original])))
			b = number(b, "--reply-vtag ", uint64(bits.ReverseBytes32(r.VTag[flow.Reply])))
		}
	case p == flow.GRE:
		b = number(b, "--srckey ", uint64(o.Src()))
		b = number(b, "--dstkey ", uint64(o.Dst()))
		b = number(b, "--reply-key-src ", uint64(y.Src()))
		b = number(b, "--reply-key-dst ", uint64(y.Dst()))
	case p == flow.ICMP || p == flow.ICMPv6:
		name := "--" + p.String()
		b = number(b, name+"-type ", uint64(o.ICMPType()))
		b = number(b, name+"-code ", uint64(o.ICMPCode()))
		b = number(b, name+"-id ", uint64(o.Src()))
	}
	return b[:len(b)-1]
}

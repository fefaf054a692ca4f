package packet

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/flow"
)

// The IPv4 options that a router looks at (RFC 791, 3.1; include/uapi/linux/ip.h).
const (
	optionEnd         = 0
	optionNoop        = 1
	optionRecordRoute = 7
	optionTimestamp   = 68
	optionLooseRoute  = 131
	optionCIPSO       = 134
	optionStrictRoute = 137
	optionRouterAlert = 148

	optionCopied = 0x80 // of the type: the option is in every fragment
)

// The flags of a timestamp option (IPOPT_TS_*).
const (
	stampOnly      = 0
	stampAddressed = 1
	stampPrespec   = 3
)

// Stamper says what a router writes into the options of what it forwards.
type Stamper interface {
	// Address is the router's own that an answer to the packet under way would be
	// sent from (fib_compute_spec_dst).
	Address() flow.Addr
	// Here reports whether an IPv4 address is the router's own, a broadcast or a
	// multicast one (inet_addr_type: other than RTN_UNICAST).
	Here(flow.Addr) bool
	// Midnight is the time in milliseconds since midnight UT (inet_current_timestamp).
	Midnight() uint32
}

// Options is what CompileOptions has found (struct ip_options). The zero Options is
// that of a packet without options.
type Options struct {
	// SourceRoute says that there is a strict or loose source route, RouterAlert that
	// routers are to look at the packet.
	SourceRoute, RouterAlert bool

	record, stamp, cipso uint8 // offsets from the IP header, 0: there is none
	recordAddr           bool  // an address was recorded: that of the interface out takes its place
	stampAddr, stampTime bool  // an address, or a time, was written
	routed               bool  // it came by a source route
	changed              bool  // the header's checksum is to be made anew
}

// HasOptions reports whether there is anything between the fixed IP header of a packet
// and its payload: IPv4 options, or IPv6 extension headers. Valid iff Kind is Data or
// Error.
func (p *Packet) HasOptions() bool {
	plain := uint16(ipv4Len)
	if p.Family == flow.IPv6 {
		plain = ipv6Len
	}
	return p.L4-p.L3 != plain
}

// CompileOptions checks the options of a received IPv4 packet and fills in those that
// ask for it (ip_options_compile). problem is the offset from the IP header of the
// byte that is wrong, 0 if none is: then a parameter problem that points there is the
// answer (RFC 792). The checksum of the header is left as it was, as in the kernel,
// until ForwardOptions.
//
// Valid iff Family is IPv4 and the frame is whole up to L4.
func (p *Packet) CompileOptions(s Stamper) (o Options, problem uint8) {
	h := p.header4()
	for at := ipv4Len; at < len(h); {
		switch h[at] {
		case optionEnd:
			for at++; at < len(h); at++ {
				if h[at] != optionEnd {
					h[at], o.changed = optionEnd, true
				}
			}
			return o, 0
		case optionNoop:
			at++
			continue
		}
		if at+2 > len(h) || h[at+1] < 2 || at+int(h[at+1]) > len(h) {
			return o, uint8(at)
		}
		opt := h[at : at+int(h[at+1])]
		if bad, ok := o.compile(opt, uint8(at), s); !ok {
			return o, uint8(at) + bad
		}
		at += len(opt)
	}
	return o, 0
}

// header4 returns the IPv4 header with its options.
func (p *Packet) header4() []byte {
	h := p.Frame[p.L3:]
	return h[:int(h[0]&15)*4]
}

// compile does one option, which is at an offset of the header. If ok is false it is
// wrong at byte bad.
func (o *Options) compile(opt []byte, at uint8, s Stamper) (bad uint8, ok bool) {
	switch opt[0] {
	case optionLooseRoute, optionStrictRoute:
		switch {
		case len(opt) < 3:
			return 1, false
		case opt[2] < 4:
			return 2, false
		case o.SourceRoute:
			return 0, false
		}
		o.SourceRoute = true
		o.routed = min(int(opt[2]), len(opt)+1) > 7
	case optionRecordRoute:
		return o.compileRecord(opt, at, s)
	case optionTimestamp:
		return o.compileStamp(opt, at, s)
	case optionRouterAlert:
		if len(opt) < 4 {
			return 1, false
		}
		o.RouterAlert = o.RouterAlert || opt[2]|opt[3] == 0
	case optionCIPSO:
		// Its domain of interpretation has to be configured (cipso_v4_validate), and none
		// is here, as in a kernel without labels.
		o.cipso = at
		if len(opt) < 8 {
			return 1, false
		}
		return 2, false
	}
	return 0, true
}

func (o *Options) compileRecord(opt []byte, at uint8, s Stamper) (bad uint8, ok bool) {
	switch {
	case o.record != 0:
		return 0, false
	case len(opt) < 3:
		return 1, false
	case opt[2] < 4:
		return 2, false
	}
	if next := int(opt[2]); next <= len(opt) { // there is room
		if next+3 > len(opt) {
			return 2, false
		}
		putAddr4(opt[next-1:], s.Address())
		opt[2] += 4
		o.recordAddr, o.changed = true, true
	}
	o.record = at
	return 0, true
}

func (o *Options) compileStamp(opt []byte, at uint8, s Stamper) (bad uint8, ok bool) {
	switch {
	case o.stamp != 0:
		return 0, false
	case len(opt) < 4:
		return 1, false
	case opt[2] < 5:
		return 2, false
	}
	next, kind := int(opt[2]), opt[3]&15
	if next > len(opt) {
		if kind != stampPrespec { // count who found no room
			if opt[3]>>4 == 15 {
				return 3, false
			}
			opt[3] += 0x10
			o.changed = true
		}
		o.stamp = at
		return 0, true
	}
	if next+3 > len(opt) || (kind == stampAddressed || kind == stampPrespec) && next+7 > len(opt) {
		return 2, false
	}
	switch {
	case kind == stampOnly:
		o.stampAt(opt, next-1, s)
		opt[2] += 4
	case kind == stampAddressed:
		putAddr4(opt[next-1:], s.Address())
		o.stampAt(opt, next+3, s)
		o.stampAddr = true
		opt[2] += 8
	case kind == stampPrespec && s.Here(flow.AddrFrom4(opt[next-1:])):
		o.stampAt(opt, next+3, s)
		opt[2] += 8
	}
	o.stamp = at
	return 0, true
}

func (o *Options) stampAt(opt []byte, at int, s Stamper) {
	binary.BigEndian.PutUint32(opt[at:], s.Midnight())
	o.stampTime, o.changed = true, true
}

// putAddr4 writes an IPv4 address.
func putAddr4(b []byte, a flow.Addr) { binary.BigEndian.PutUint32(b, uint32(a.Lo)) }

// ForwardOptions finishes what CompileOptions began, for a packet that leaves by an
// interface: the address recorded is the one that the router has there, src
// (ip_forward_options; ip_rt_get_source). The header's checksum is right afterwards.
func (p *Packet) ForwardOptions(o *Options, src flow.Addr) {
	h := p.header4()
	if o.recordAddr {
		opt := h[o.record:]
		putAddr4(opt[opt[2]-5:], src)
	}
	if o.changed {
		sumHeader4(h)
	}
}

// sumHeader4 makes the checksum of an IPv4 header anew.
func sumHeader4(h []byte) {
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], ^sum(h, 0))
}

// fragmentOptions makes the options of a first fragment those of a later one: what is
// not copied gives way to No Operation (ip_options_fragment).
func fragmentOptions(h []byte) {
	for at := ipv4Len; at < len(h) && h[at] != optionEnd; {
		if h[at] == optionNoop {
			at++
			continue
		}
		if at+2 > len(h) || h[at+1] < 2 || at+int(h[at+1]) > len(h) {
			return
		}
		opt := h[at : at+int(h[at+1])]
		if opt[0]&optionCopied == 0 {
			for i := range opt {
				opt[i] = optionNoop
			}
		}
		at += len(opt)
	}
}

// appendEcho appends the options that an ICMP error from src about a packet with the
// IPv4 header h has (__ip_options_echo, ip_options_build): the route and the times
// recorded so far and the sender's own, and a label. ok is false if there is to be no
// error: a recorded route has no room for a whole address, or the error would have to
// go back along a source route.
func (o *Options) appendEcho(b, h []byte, src flow.Addr, s Stamper) (out []byte, ok bool) {
	from := len(b)
	if o.routed {
		return b, false
	}
	if o.record != 0 {
		at := len(b)
		b = append(b, h[o.record:o.record+h[o.record+1]]...)
		opt := b[at:]
		if next := int(opt[2]); o.recordAddr && next <= len(opt) {
			if next+3 > len(opt) {
				return b[:from], false
			}
			putAddr4(opt[next-1:], src)
			opt[2] += 4
		}
	}
	if o.stamp != 0 {
		at := len(b)
		b = append(b, h[o.stamp:o.stamp+h[o.stamp+1]]...)
		if !o.echoStamp(b[at:], src, s) {
			return b[:from], false
		}
	}
	if o.cipso != 0 {
		b = append(b, h[o.cipso:o.cipso+h[o.cipso+1]]...)
	}
	for (len(b)-from)%4 != 0 {
		b = append(b, optionEnd)
	}
	return b, true
}

func (o *Options) echoStamp(opt []byte, src flow.Addr, s Stamper) (ok bool) {
	next := int(opt[2])
	if next > len(opt) {
		return true
	}
	if o.stampAddr {
		if next+3 > len(opt) {
			return false
		}
		putAddr4(opt[next-1:], src)
		next += 4
	}
	if o.stampTime {
		if next+3 > len(opt) {
			return false
		}
		if opt[3]&15 != stampPrespec {
			binary.BigEndian.PutUint32(opt[next-1:], s.Midnight())
			next += 4
		} else if next+7 <= len(opt) && s.Here(flow.AddrFrom4(opt[next-1:])) {
			binary.BigEndian.PutUint32(opt[next+3:], s.Midnight())
			next += 8
		}
	}
	opt[2] = uint8(next)
	return true
}

package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// oddity is what is unusual about a datagram and the frame that carries it. The zero
// oddity is nothing unusual.
type oddity struct {
	what     string
	tos      byte
	ttl      byte
	df       bool
	options  []byte // of IPv4, a multiple of four bytes
	headers  []exthdr
	cut      int // of the transport header that is left, plus one
	spoil    int // the byte behind the IP header that is wrong, plus one
	noSum    bool
	fragment int // payload of each fragment but the last
	shuffle  bool
	id       uint32
	trailer  []byte
	pad      bool
	link     func(frame []byte) []byte
}

// exthdr is an IPv6 extension header without its Next Header field.
type exthdr struct {
	proto flow.Proto
	rest  []byte
}

// oddities chooses what is unusual about a datagram, which most often is little.
func (g *traffic) oddities(from Side) (o oddity) {
	r := g.r
	note := func(what string) { o.what += ", " + what }
	o.tos, o.ttl, o.id = pick[byte](r, 0, 0, 0, 0x10, 0x08, 0xb8), 64, r.Uint32()
	o.df = one(r, 3)
	if one(r, 12) {
		o.tos = byte(r.IntN(256))
	}
	if one(r, 30) {
		o.ttl = byte(1 + r.IntN(3))
	}
	if g.one(60, "ttl0") {
		o.ttl = 0
		note("TTL 0")
	}
	if g.one(15, "padding") {
		o.pad = true
		note("padded")
	}
	if g.one(25, "trailer") {
		o.trailer = bytes.Repeat([]byte{0xa5}, 1+r.IntN(20))
		note("trailer")
	}
	switch {
	case g.f == flow.IPv4 && one(r, 16):
		if name, b := optionsIPv4(r); on(name) {
			o.options = b
			note(name)
		}
	case g.f == flow.IPv6 && one(r, 16):
		o.headers = g.extensions()
		if o.headers != nil {
			note(fmt.Sprintf("headers %v", o.headers))
		}
	}
	switch {
	case one(r, 40) && (g.legacy || on("cutnft")):
		o.cut = 1 + r.IntN(20)
		note("cut")
	case one(r, 40):
		o.spoil = 1 + r.IntN(40)
		note("damaged")
	case g.one(40, "nosum"):
		o.noSum = true
		note("no checksum")
	case g.one(20, "fragments"):
		o.fragment = 8 * pick(r, 3, 4, 13, 60, 80, 150)
		if g.f == flow.IPv6 {
			o.fragment += 96
		}
		o.shuffle = one(r, 3)
		note("in fragments")
	}
	if one(r, 60) {
		o.link = g.oddLink(from, note)
	}
	return o
}

// oddLink chooses an unusual link header.
func (g *traffic) oddLink(from Side, note func(string)) func([]byte) []byte {
	r := g.r
	setDst := func(mac ...byte) func([]byte) []byte {
		return func(f []byte) []byte { copy(f, mac); return f }
	}
	tag := func(tci uint16) func([]byte) []byte {
		return func(f []byte) []byte {
			t := binary.BigEndian.AppendUint16([]byte{0x81, 0}, tci)
			return append(append(bytes.Clone(f[:12]), t...), f[12:]...)
		}
	}
	name, link := "", (func([]byte) []byte)(nil)
	switch r.IntN(5) {
	case 0:
		name, link = "linkbroadcast", setDst(0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	case 1:
		name, link = "linkmulticast", setDst(1, 0, 0x5e, 0, 0, 5)
	case 2:
		name, link = "linkother", setDst(2, 0, 0, 0, 9, 9)
	case 3:
		name, link = "linkpriority", tag(0x6000)
	default:
		name, link = "linkvlan", tag(7)
	}
	if !on(name) {
		return nil
	}
	note(name)
	return link
}

// optionsIPv4 chooses options, by the feature that they are of.
func optionsIPv4(r *rand.Rand) (feature string, b []byte) {
	route := func(typ byte, room, ptr int) []byte {
		return append([]byte{typ, byte(3 + 4*room), byte(ptr), 10, 2, 2, 1}, make([]byte, 4*room-4)...)
	}
	switch r.IntN(12) {
	case 0:
		feature, b = "optnop", []byte{1, 1, 1, 0}
	case 1:
		feature, b = "optrr", route(7, 3, pick(r, 4, 8, 12, 16))
	case 2:
		feature, b = "optts", pick(r, []byte{68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0}, []byte{68, 12, 13, 0x10, 0, 0, 0, 1, 0, 0, 0, 2}, []byte{68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	case 3:
		feature, b = "optalert", []byte{148, 4, 0, 0}
	case 4:
		feature, b = "optsource", route(pick[byte](r, 131, 137), 2, pick(r, 4, 8, 12))
	case 5:
		feature, b = "opteol", []byte{1, 0, 7, 9, 1, 2, 3, 4}
	case 6:
		feature, b = "optbad", pick(r, []byte{7, 0, 0, 0}, []byte{7, 1, 4, 0}, []byte{7, 39, 4, 0}, []byte{68, 3, 5, 0}, []byte{7, 7, 3, 0, 0, 0, 0}, []byte{131, 7, 2, 1, 1, 1, 1})
	case 7:
		feature, b = "optbad", append(route(7, 1, 4), 7, 7, 4, 0, 0, 0, 0) // twice
	case 8:
		feature, b = "optsecurity", []byte{130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	case 9:
		feature, b = "optunknown", []byte{200, 4, 1, 2}
	case 10:
		feature, b = "optunknown", []byte{30, 6, 1, 2, 3, 4, 1, 1}
	default:
		feature, b = "optunknown", []byte{94, 4, 1, 2, 1, 1, 1, 1}
	}
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return feature, b
}

// extensions chooses IPv6 extension headers.
func (g *traffic) extensions() (all []exthdr) {
	r := g.r
	tlv := func(proto flow.Proto, options ...byte) exthdr {
		for (len(options)+2)%8 != 0 {
			options = append(options, 0)
		}
		return exthdr{proto, append([]byte{byte((len(options)+2)/8 - 1)}, options...)}
	}
	if one(r, 3) {
		feature, h := "hbhpad", tlv(0, 1, 4, 0, 0, 0, 0)
		switch r.IntN(8) {
		case 0:
			feature, h = "hbhalert", tlv(0, 5, 2, 0, 0, 1, 0)
		case 1:
			feature, h = "hbhlongpad", tlv(0, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		case 2:
			feature, h = "hbhunknown", tlv(0, pick[byte](r, 0x1e, 0x5e, 0x9e, 0xde), 4, 1, 2, 3, 4)
		case 3:
			feature, h = "hbhpadvalue", tlv(0, 1, 4, 0, 7, 0, 0)
		case 4:
			feature, h = "hbhjumbo", tlv(0, 0xc2, 4, 0, 1, 0, 0)
		case 5:
			feature, h = "hbhbad", tlv(0, pick[byte](r, 1, 0x1e), pick[byte](r, 5, 200), 0, 0, 0, 0)
		}
		if on(feature) {
			all = append(all, h)
		}
	}
	for range r.IntN(3) {
		feature, h := "dst", tlv(60, pick[byte](r, 1, 0x1e, 0xde), 4, 0, 0, 0, 0)
		switch r.IntN(5) {
		case 0:
			left := byte(r.IntN(2))
			feature, h = fmt.Sprintf("routing%d", left), exthdr{43, append([]byte{2, pick[byte](r, 0, 2, 4, 9), left, 0, 0, 0, 0}, B.Host(1, flow.IPv6).AsSlice()...)}
		case 1:
			feature, h = "atomic", exthdr{44, append([]byte{0, 0, 0}, binary.BigEndian.AppendUint32(nil, r.Uint32())...)}
		case 2:
			feature, h = "ah6nft", exthdr{51, append([]byte{4, 0, 0, 0, 0, 1, 0}, make([]byte, 16)...)}
		}
		if on(feature) || feature == "ah6nft" && g.legacy {
			all = append(all, h)
		}
	}
	return all
}

// to returns what is unusual about a datagram to an address: for the router itself there
// are no options, unless such are wanted.
func (o oddity) to(dst netip.Addr) *oddity {
	for s := range Side(2) {
		if (dst == s.Host(254, flow.IPv4) || dst == s.Host(254, flow.IPv6)) && !on("optown") {
			o.headers, o.options = nil, nil
		}
	}
	return &o
}

// frames makes the frames that carry a datagram with what is unusual about it.
func (o *oddity) frames(from Side, d []byte) (all [][]byte) {
	d = bytes.Clone(d)
	v4 := d[0]>>4 == 4
	ihl := 20
	if !v4 {
		ihl = 40
	}
	switch {
	case o.cut > 0:
		d = d[:min(ihl+o.cut-1, len(d))]
	case o.spoil > 0 && len(d) > ihl:
		d[min(ihl+o.spoil-1, len(d)-1)] ^= 0x55
	case o.noSum && v4 && d[9] == 17:
		d[ihl+6], d[ihl+7] = 0, 0
	}
	if v4 {
		d = append(append(bytes.Clone(d[:20]), o.options...), d[20:]...)
		d[0] = 0x40 | byte(20+len(o.options))/4
		d[1], d[8] = o.tos, o.ttl
		if o.df {
			d[6] |= 0x40
		}
	} else {
		d[0], d[1], d[7] = 0x60|o.tos>>4, o.tos<<4|d[1]&0x0f, o.ttl
		d = o.extend(d)
	}
	for _, p := range o.pieces(finish(d)) {
		f := Frame(from, p)
		if o.link != nil {
			f = o.link(f)
		}
		if o.pad && len(f) < 60 {
			f = append(f, make([]byte, 60-len(f))...)
		}
		if len(f) < 1300 { // else there may be no room on the link
			f = append(f, o.trailer...)
		}
		all = append(all, f)
	}
	return all
}

// extend puts extension headers behind an IPv6 header.
func (o *oddity) extend(d []byte) []byte {
	if len(o.headers) == 0 {
		return d
	}
	out := bytes.Clone(d[:40])
	at := 6 // of the field that names the next header
	last := d[6]
	for _, h := range o.headers {
		out[at] = byte(h.proto)
		at = len(out)
		out = append(append(out, 0), h.rest...)
	}
	out[at] = last
	return append(out, d[40:]...)
}

// pieces cuts a datagram into fragments, if it is to be cut.
func (o *oddity) pieces(d []byte) (all [][]byte) {
	v4 := d[0]>>4 == 4
	head := int(d[0]&15) * 4
	if !v4 {
		head = 40
		if len(o.headers) > 0 {
			o.fragment = 0 // one thing at a time
		}
	}
	if o.fragment == 0 || len(d)-head <= o.fragment {
		return [][]byte{d}
	}
	for at := head; at < len(d); at += o.fragment {
		to := min(at+o.fragment, len(d))
		field := uint16(at-head) / 8
		more := to < len(d)
		p := bytes.Clone(d[:head])
		if v4 {
			if more {
				field |= 0x2000
			}
			if o.df {
				field |= 0x4000
			}
			binary.BigEndian.PutUint16(p[6:], field)
		} else {
			p[6] = 44
			field *= 8
			if more {
				field |= 1
			}
			p = binary.BigEndian.AppendUint16(append(p, d[6], 0), field)
			p = binary.BigEndian.AppendUint32(p, o.id)
		}
		all = append(all, finish(append(p, d[at:to]...)))
	}
	if o.shuffle {
		all[0], all[len(all)-1] = all[len(all)-1], all[0]
	}
	return all
}

// finish makes the length of a datagram and the checksum of its IP header right.
func finish(d []byte) []byte {
	if d[0]>>4 == 6 {
		binary.BigEndian.PutUint16(d[4:], uint16(len(d)-40))
		return d
	}
	binary.BigEndian.PutUint16(d[2:], uint16(len(d)))
	d[10], d[11] = 0, 0
	sum := uint32(0)
	for i := 0; i < int(d[0]&15)*4; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(d[i:]))
	}
	putSum(d[10:], sum)
	return d
}

// stray makes a packet of a stranger, with addresses that should not be there.
func (g *traffic) stray() (a act, ok bool) {
	r := g.r
	from := Side(r.IntN(2))
	src, dst := from.Host(1+r.IntN(Hosts), g.f), (from^1).Host(1+r.IntN(Hosts), g.f)
	list := strays4
	if g.f == flow.IPv6 {
		list = strays6
	}
	s := list[r.IntN(len(list))]
	what := ""
	if one(r, 2) && s.src != "" {
		src, what = netip.MustParseAddr(s.addr), s.src
	} else if s.dst != "" {
		dst, what = netip.MustParseAddr(s.addr), s.dst
	}
	if !g.lab.remote && !g.onLink(src, dst) {
		return a, false // the kernel answers now and then only (route/error_cost)
	}
	if src == dst && !on("equal") {
		return a, false
	}
	if what == "" || !on(what) {
		return a, false
	}
	id := uint16(r.Uint32())
	kind, port := r.IntN(4), g.port()
	odd := oddity{ttl: 64}
	a = act{from: from, what: "a stray packet, " + what}
	a.frames = func(int) [][]byte {
		ip := packet.IP{Src: src, Dst: dst, ID: id}
		var d []byte
		switch kind {
		case 0:
			d = packet.AppendTCP(nil, ip, port, 80, packet.Segment{Seq: 1, Flags: packet.SYN, Window: 1000})
		case 1:
			typ := uint8(8)
			proto := flow.ICMP
			if g.f == flow.IPv6 {
				typ, proto = 128, flow.ICMPv6
			}
			_ = proto
			d = packet.AppendICMP(nil, ip, typ, 0, uint32(port)<<16, nil)
		case 2:
			d = packet.AppendIP(nil, ip, 99, make([]byte, 20))
		default:
			d = packet.AppendUDP(nil, ip, port, 53, make([]byte, 10))
		}
		return odd.frames(from, d)
	}
	return a, true
}

// onLink reports whether both addresses are of hosts of the lab, or such as no route is
// ever asked for.
func (g *traffic) onLink(src, dst netip.Addr) bool {
	for _, a := range []netip.Addr{src, dst} {
		near := false
		for s := range Side(2) {
			bits := 24
			if g.f == flow.IPv6 {
				bits = 48
			}
			near = near || netip.PrefixFrom(s.Host(1, g.f), bits).Contains(a)
		}
		if !near && !a.IsMulticast() && !a.IsLoopback() {
			return false
		}
	}
	return true
}

// strayAddr is an address, and the features of packets from and to it.
type strayAddr struct{ addr, src, dst string }

var strays4 = []strayAddr{
	{"0.0.0.0", "srczero", "dstzero"}, {"0.1.2.3", "srcnet0", "dstnet0"}, {"127.0.0.1", "srcloopback", "dstloopback"},
	{"224.0.0.5", "srcmulticast", "dstmulticast"}, {"239.1.2.3", "srcmulticast", "dstmulticast"},
	{"240.0.0.1", "srcclasse", "dstclasse"}, {"255.255.255.254", "srcclasse", "dstclasse"},
	{"255.255.255.255", "srclimited", "dstlimited"},
	{"10.1.1.255", "srcbroadcast", "dstbroadcast"}, {"10.2.2.255", "srcbroadcast", "dstbroadcast"},
	{"10.1.1.254", "srcown", "dstown"}, {"10.2.2.254", "srcown", "dstown"},
	{"10.1.1.3", "srcspoofed", "dstback"}, {"10.2.2.3", "srcspoofed", "dstback"},
	{"169.254.1.1", "srclinklocal", "dstlinklocal"}, {"192.0.2.1", "srcremote", "dstremote"},
}

var strays6 = []strayAddr{
	{"::", "srczero6", "dstzero6"}, {"::1", "srcloopback6", "dstloopback6"}, {"ff02::1", "srcmulticast6", "dstmulticast6"},
	{"ff05::2", "srcmulticast6", "dstmulticast6"}, {"fe80::1", "srclinklocal6", "dstlinklocal6"},
	{"::ffff:1.2.3.4", "srcmapped6", "dstmapped6"}, {"fec0::1", "srcsite6", "dstsite6"}, {"fc00::1", "srcula6", "dstula6"},
	{"2001:db8:1::", "srcanycast6", "dstanycast6"}, {"2001:db8:1::fe", "srcown6", "dstown6"}, {"2001:db8:2::fe", "srcown6", "dstown6"},
	{"2001:db8:1::3", "srcspoofed6", ""}, {"3fff::1", "srcremote6", "dstremote6"},
}

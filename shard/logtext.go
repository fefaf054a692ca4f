package shard

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// AppendText appends the line that the kernel's LOG writes of the packet
// (nf_log_syslog), the rule's prefix first. in and out are the names of its interfaces,
// "" for none.
func (l *Logged) AppendText(b []byte, in, out string) []byte {
	b = fmt.Appendf(b, "%sIN=%s OUT=%s ", l.Rule.Prefix, in, out)
	if l.In >= 0 {
		b = l.appendLink(b)
	}
	t := logText{l: l, b: b}
	t.ip(l.datagram[:l.n], int(l.Len), true)
	return t.b
}

// appendLink is dump_mac_header.
func (l *Logged) appendLink(b []byte) []byte {
	switch {
	case l.hasLink && l.Rule.MACDecode:
		return fmt.Appendf(b, "MACSRC=%s MACDST=%s MACPROTO=%04x ", hexWith(l.link[6:12]), hexWith(l.link[:6]), l.link[12:])
	case l.hasLink:
		return fmt.Appendf(b, "MAC=%s ", hexWith(l.link[:]))
	}
	return append(b, "MAC= "...)
}

// hexWith prints bytes with colons between.
func hexWith(b []byte) (s string) {
	for i, c := range b {
		if i > 0 {
			s += ":"
		}
		s += fmt.Sprintf("%02x", c)
	}
	return s
}

// logText is a line that is being written.
type logText struct {
	l *Logged
	b []byte
}

func (t *logText) addf(format string, a ...any) { t.b = fmt.Appendf(t.b, format, a...) }

// ip writes of a datagram d, of which perhaps less is here than its length. outer says
// that it is the packet itself, not one that an ICMP error quotes.
func (t *logText) ip(d []byte, length int, outer bool) {
	whole := false
	if t.l.Family == flow.IPv6 {
		whole = t.ipv6(d, length, outer)
	} else {
		whole = t.ipv4(d, length, outer)
	}
	if whole && outer && t.l.Mark != 0 {
		t.addf("MARK=0x%x ", t.l.Mark)
	}
}

// ipv4 is dump_ipv4_packet. It reports whether the kernel comes to the end of it: it
// gives up where headers are cut off, but for ICMP's.
func (t *logText) ipv4(d []byte, length int, outer bool) (whole bool) {
	if len(d) < 20 {
		t.addf("TRUNCATED")
		return false
	}
	t.addf("SRC=%s DST=%s ", netip.AddrFrom4([4]byte(d[12:])), netip.AddrFrom4([4]byte(d[16:])))
	t.addf("LEN=%d TOS=0x%02X PREC=0x%02X TTL=%d ID=%d ", be16(d[2:]), d[1]&0x1e, d[1]&0xe0, d[8], be16(d[4:]))
	off := be16(d[6:])
	for _, f := range []struct {
		bit  uint16
		name string
	}{{0x8000, "CE "}, {0x4000, "DF "}, {0x2000, "MF "}} {
		if off&f.bit != 0 {
			t.addf("%s", f.name)
		}
	}
	if off&0x1fff != 0 {
		t.addf("FRAG:%d ", off&0x1fff)
	}
	head := int(d[0]&15) * 4
	if t.l.Rule.IPOptions && head > 20 {
		if len(d) < head {
			t.addf("TRUNCATED")
			return false
		}
		t.addf("OPT (%X) ", d[20:head])
	}
	body := segment{d[min(head, len(d)):], length - head, off&0x1fff != 0}
	p := flow.Proto(d[9])
	if p != flow.ICMP {
		return t.transport(p, body)
	}
	t.icmp(body, outer)
	return true
}

// segment is what a datagram carries.
type segment struct {
	b     []byte // as much of it as is here
	len   int
	later bool // of a fragment that is not the first
}

// incomplete writes that a segment has less than n bytes, if it has.
func (t *logText) incomplete(s segment, n int) bool {
	if s.len >= n && len(s.b) >= n {
		return false
	}
	t.addf("INCOMPLETE [%d bytes] ", max(s.len, 0))
	return true
}

// transport writes of protocols that both families have. It returns what ipv4 does.
func (t *logText) transport(p flow.Proto, s segment) (whole bool) {
	switch p {
	case flow.TCP:
		return t.tcp(s)
	case flow.UDP, flow.UDPLite:
		t.addf("PROTO=%s ", map[flow.Proto]string{flow.UDP: "UDP", flow.UDPLite: "UDPLITE"}[p])
		if !s.later {
			if t.incomplete(s, 8) {
				return false
			}
			t.addf("SPT=%d DPT=%d LEN=%d ", be16(s.b), be16(s.b[2:]), be16(s.b[4:]))
		}
	case 51, 50: // AH and ESP; in IPv6 extension headers
		name, at := "ESP", 0
		if p == 51 {
			name, at = "AH", 4
		}
		t.addf("PROTO=%s ", name)
		if !s.later && !t.incomplete(s, at+8) {
			t.addf("SPI=0x%x ", binary.BigEndian.Uint32(s.b[at:]))
		}
	default:
		t.addf("PROTO=%d ", uint8(p))
	}
	return true
}

// tcp is nf_log_dump_tcp_header. It returns what ipv4 does.
func (t *logText) tcp(s segment) (whole bool) {
	t.addf("PROTO=TCP ")
	if s.later {
		return true
	}
	if t.incomplete(s, 20) {
		return false
	}
	b := s.b
	t.addf("SPT=%d DPT=%d ", be16(b), be16(b[2:]))
	if t.l.Rule.TCPSequence {
		t.addf("SEQ=%d ACK=%d ", binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:]))
	}
	t.addf("WINDOW=%d RES=0x%02x ", be16(b[14:]), b[12]&15<<2)
	for _, f := range []struct {
		bit  packet.TCPFlags
		name string
	}{
		{packet.CWR, "CWR "}, {packet.ECE, "ECE "}, {packet.URG, "URG "}, {packet.ACK, "ACK "},
		{packet.PSH, "PSH "}, {packet.RST, "RST "}, {packet.SYN, "SYN "}, {packet.FIN, "FIN "},
	} {
		if packet.TCPFlags(b[13])&f.bit != 0 {
			t.addf("%s", f.name)
		}
	}
	t.addf("URGP=%d ", be16(b[18:]))
	if head := int(b[12]>>4) * 4; t.l.Rule.TCPOptions && head > 20 && len(b) >= head && s.len >= head {
		t.addf("OPT (%X) ", b[20:head])
	}
	return true
}

// icmpLeast is how much of an ICMP message of a type there has to be (required_len).
var icmpLeast = map[uint8]int{0: 4, 3: 28, 4: 28, 5: 28, 8: 4, 11: 28, 12: 28, 13: 20, 14: 20, 17: 12, 18: 12}

// icmp writes of an ICMP message.
func (t *logText) icmp(s segment, outer bool) {
	t.addf("PROTO=ICMP ")
	if s.later || t.incomplete(s, 8) {
		return
	}
	b := s.b
	typ, code := b[0], b[1]
	t.addf("TYPE=%d CODE=%d ", typ, code)
	if t.incomplete(s, icmpLeast[typ]) {
		return
	}
	switch typ {
	case 0, 8:
		t.addf("ID=%d SEQ=%d ", be16(b[4:]), be16(b[6:]))
		return
	case 12:
		t.addf("PARAMETER=%d ", b[4])
		return
	case 5:
		t.addf("GATEWAY=%s ", netip.AddrFrom4([4]byte(b[4:])))
	case 3, 4, 11:
	default:
		return
	}
	if outer {
		t.addf("[")
		t.ip(b[8:], s.len-8, false)
		t.addf("] ")
	}
	if typ == 3 && code == 4 {
		t.addf("MTU=%d ", be16(b[6:]))
	}
}

// ipv6 is dump_ipv6_packet. It returns what ipv4 does.
func (t *logText) ipv6(d []byte, length int, outer bool) (whole bool) {
	if len(d) < 40 {
		t.addf("TRUNCATED")
		return false
	}
	word := binary.BigEndian.Uint32(d)
	t.addf("SRC=%s DST=%s ", netip.AddrFrom16([16]byte(d[8:])).StringExpanded(), netip.AddrFrom16([16]byte(d[24:])).StringExpanded())
	t.addf("LEN=%d TC=%d HOPLIMIT=%d FLOWLBL=%d ", int(be16(d[4:]))+40, word>>20&0xff, d[7], word&0xfffff)
	proto, at, later := flow.Proto(d[6]), 40, false
	for isExtension(proto) {
		h := d[min(at, len(d)):]
		if len(h) < 8 {
			t.addf("TRUNCATED")
			return false
		}
		size, ok := t.extension(proto, h, length-at, &later)
		if !ok {
			return false
		}
		proto, at = flow.Proto(h[0]), at+size
	}
	s := segment{d[min(at, len(d)):], length - at, later}
	if proto != flow.ICMPv6 {
		return t.transport(proto, s)
	}
	t.icmpv6(s, outer)
	return true
}

func isExtension(p flow.Proto) bool {
	return p == 0 || p == 43 || p == 44 || p == 50 || p == 51 || p == 60
}

// extension writes of an extension header, and returns its size; ok is false if nothing
// more is to be written.
func (t *logText) extension(p flow.Proto, h []byte, left int, later *bool) (size int, ok bool) {
	options := t.l.Rule.IPOptions
	if options {
		t.addf("OPT ( ")
	}
	switch p {
	case 44:
		off := be16(h[2:])
		t.addf("FRAG:%d ", off&0xfff8)
		if off&1 != 0 {
			t.addf("INCOMPLETE ")
		}
		t.addf("ID:%08x ", binary.BigEndian.Uint32(h[4:]))
		*later = *later || off&0xfff8 != 0
		size = 8
	case 50, 51:
		if options && !t.spi(p, h, left, *later) || p == 50 {
			return 0, false
		}
		size = (int(h[1]) + 2) * 4
	default:
		if *later {
			if options {
				t.addf(")")
			}
			return 0, false
		}
		size = (int(h[1]) + 1) * 8
	}
	if options {
		t.addf(") ")
	}
	return size, true
}

// spi writes of AH and ESP in IPv6, which the kernel does among the options alone. It
// reports false if nothing more is to be written.
func (t *logText) spi(p flow.Proto, h []byte, left int, later bool) bool {
	name, least, at := "AH", 12, 4
	if p == 50 {
		name, least, at = "ESP", 8, 0
	}
	t.addf("%s ", name)
	switch {
	case later:
		t.addf(")")
		return false
	case left < least || len(h) < least:
		t.addf("INCOMPLETE [%d bytes] )", max(left, 0))
		return false
	case p == 50:
		t.addf("SPI=0x%x )", binary.BigEndian.Uint32(h[at:]))
		return false
	}
	t.addf("SPI=0x%x ", binary.BigEndian.Uint32(h[at:]))
	return true
}

// icmpv6 writes of an ICMPv6 message.
func (t *logText) icmpv6(s segment, outer bool) {
	t.addf("PROTO=ICMPv6 ")
	if s.later || t.incomplete(s, 8) {
		return
	}
	b := s.b
	typ, code := b[0], b[1]
	t.addf("TYPE=%d CODE=%d ", typ, code)
	switch typ {
	case 128, 129:
		t.addf("ID=%d SEQ=%d ", be16(b[4:]), be16(b[6:]))
		return
	case 4:
		t.addf("POINTER=%08x ", binary.BigEndian.Uint32(b[4:]))
	case 1, 2, 3:
	default:
		return
	}
	if outer {
		t.addf("[")
		t.ip(b[8:], s.len-8, false)
		t.addf("] ")
	}
	if typ == 2 {
		t.addf("MTU=%d ", binary.BigEndian.Uint32(b[4:]))
	}
}

func be16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }

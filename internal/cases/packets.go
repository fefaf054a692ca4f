package cases

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// Run is one run of a case between two hosts: it knows what was sent, for errors to
// quote. A, B, and a router on the way of each are addresses of one family.
type Run struct {
	A, B, RouterA, RouterB netip.Addr
	// Port is that of side a (8080 is that of b), or the identifier of echo requests. One
	// of its own for each run keeps runs apart in one table.
	Port uint16
	last [2][]byte // the last datagram of each side
}

// Initial sequence numbers of the two sides.
const (
	isnA = 0x10000000
	isnB = 0x20000000
)

const portB = 8080

// builder makes a datagram that one side sends.
type builder func(r *Run, fromB bool) ([]byte, error)

// Datagram returns the IP datagram of the next step.
func (r *Run) Datagram(s *Step) ([]byte, error) {
	d, err := s.make(r, s.FromB)
	if err != nil {
		return nil, fmt.Errorf("line %d: %w", s.Line, err)
	}
	r.last[index(s.FromB)] = d
	return d, nil
}

func index(fromB bool) int {
	if fromB {
		return 1
	}
	return 0
}

func (r *Run) ip(fromB bool) packet.IP {
	if fromB {
		return packet.IP{Src: r.B, Dst: r.A}
	}
	return packet.IP{Src: r.A, Dst: r.B}
}

func (r *Run) ports(fromB bool) (sport, dport uint16) {
	if fromB {
		return portB, r.Port
	}
	return r.Port, portB
}

// parsePacket understands the words that follow a packet's side.
func parsePacket(proto string, words []string) (builder, error) {
	switch proto {
	case "tcp":
		return parseTCP(words)
	case "udp":
		return parseUDP(words)
	case "echo", "echo-reply":
		return parseEcho(proto == "echo-reply", words)
	case "error":
		return parseError(words)
	case "sctp":
		return parseSCTP(words)
	case "ip":
		return parseIP(words)
	case "fragment":
		return parseFragment(words)
	}
	return nil, fmt.Errorf("%q is no kind of packet", proto)
}

var flagLetters = map[rune]packet.TCPFlags{
	'F': packet.FIN, 'S': packet.SYN, 'R': packet.RST, 'P': packet.PSH,
	'A': packet.ACK, 'U': packet.URG, 'E': packet.ECE, 'C': packet.CWR,
}

// parseTCP reads flags ("." for none), a sequence number, an acknowledgement number if
// there is an A or a number follows, and options.
func parseTCP(words []string) (builder, error) {
	if len(words) < 2 {
		return nil, fmt.Errorf("tcp: flags and a sequence number are expected")
	}
	seg := packet.Segment{Window: 65535}
	for _, l := range strings.Trim(words[0], ".") {
		f, ok := flagLetters[l]
		if !ok {
			return nil, fmt.Errorf("tcp: %q is no flag", l)
		}
		seg.Flags |= f
	}
	seq, err := strconv.ParseInt(words[1], 10, 64)
	if err != nil {
		return nil, fmt.Errorf("tcp: sequence number: %w", err)
	}
	words = words[2:]
	ack, acks := int64(0), false
	if len(words) > 0 {
		if n, err := strconv.ParseInt(words[0], 10, 64); err == nil {
			ack, acks, words = n, true, words[1:]
		}
	}
	opts, err := pairs(words, "win", "len", "mss", "wscale", "hex", "sackok", "sack", "badsum")
	if err != nil {
		return nil, fmt.Errorf("tcp: %w", err)
	}
	if v, ok := opts["win"]; ok {
		seg.Window = uint16(v)
	}
	seg.Payload = make([]byte, opts["len"])
	if v, ok := opts["mss"]; ok {
		seg.Options = binary.BigEndian.AppendUint16(append(seg.Options, 2, 4), uint16(v))
	}
	if v, ok := opts["wscale"]; ok {
		seg.Options = append(seg.Options, 1, 3, 3, byte(v))
	}
	if _, ok := opts["sackok"]; ok {
		seg.Options = append(seg.Options, 1, 1, 4, 2)
	}
	sack, sacks := opts["sack"]
	return func(r *Run, fromB bool) ([]byte, error) {
		own, other := uint32(isnA), uint32(isnB)
		if fromB {
			own, other = other, own
		}
		s := seg
		s.Seq = own + uint32(seq)
		if acks {
			s.Ack = other + uint32(ack)
		}
		if sacks { // one block of a hundred bytes
			s.Options = append(s.Options[:len(s.Options):len(s.Options)], 1, 1, 5, 10)
			s.Options = binary.BigEndian.AppendUint32(s.Options, other+uint32(sack))
			s.Options = binary.BigEndian.AppendUint32(s.Options, other+uint32(sack)+100)
		}
		sport, dport := r.ports(fromB)
		return damaged(packet.AppendTCP(nil, r.ip(fromB), sport, dport, s), opts), nil
	}, nil
}

func parseUDP(words []string) (builder, error) {
	opts, err := pairs(words, "len", "badsum", "nosum")
	return func(r *Run, fromB bool) ([]byte, error) {
		sport, dport := r.ports(fromB)
		d := packet.AppendUDP(nil, r.ip(fromB), sport, dport, make([]byte, opts["len"]))
		if _, ok := opts["nosum"]; ok {
			at := headerLen(d)
			d[at+6], d[at+7] = 0, 0
		}
		return damaged(d, opts), nil
	}, err
}

func parseEcho(reply bool, words []string) (builder, error) {
	opts, err := pairs(words, "seq", "id", "badsum")
	return func(r *Run, fromB bool) ([]byte, error) {
		typ := map[bool][2]uint8{false: {8, 128}, true: {0, 129}}[reply][familyIndex(r.A)]
		id := uint32(r.Port) + uint32(opts["id"])
		return damaged(packet.AppendICMP(nil, r.ip(fromB), typ, 0, id<<16|uint32(opts["seq"]), []byte("ping")), opts), nil
	}, err
}

// errors are the ICMP errors, type and code for IPv4 and for IPv6.
var icmpErrors = map[string][2][2]uint8{
	"net-unreachable":  {{3, 0}, {1, 0}},
	"host-unreachable": {{3, 1}, {1, 3}},
	"port-unreachable": {{3, 3}, {1, 4}},
	"too-big":          {{3, 4}, {2, 0}},
	"prohibited":       {{3, 13}, {1, 1}},
	"time-exceeded":    {{11, 0}, {3, 0}},
	"parameter":        {{12, 0}, {4, 0}},
}

// parseError reads the name of an ICMP error about the last datagram of the other side:
// "router" sends it, not the host; "misdirected", not to who sent that; "quote N" has no
// more than N bytes of that datagram's payload.
func parseError(words []string) (builder, error) {
	if len(words) == 0 {
		return nil, fmt.Errorf("error: which?")
	}
	kind, ok := icmpErrors[words[0]]
	if !ok {
		return nil, fmt.Errorf("error: there is none called %q here", words[0])
	}
	opts, err := pairs(words[1:], "router", "misdirected", "quote", "badsum")
	return func(r *Run, fromB bool) ([]byte, error) {
		quoted := r.last[1-index(fromB)]
		if quoted == nil {
			return nil, fmt.Errorf("there is no datagram to quote")
		}
		if n, ok := opts["quote"]; ok {
			quoted = quoted[:min(len(quoted), headerLen(quoted)+int(n))]
		}
		ip := r.ip(fromB)
		if _, ok := opts["router"]; ok {
			ip.Src = r.RouterA
			if fromB {
				ip.Src = r.RouterB
			}
		}
		if _, ok := opts["misdirected"]; ok {
			ip.Dst = r.RouterB
			if fromB {
				ip.Dst = r.RouterA
			}
		}
		k := kind[familyIndex(r.A)]
		rest := uint32(0)
		if words[0] == "too-big" {
			rest = 1280
		}
		return damaged(packet.AppendICMP(nil, ip, k[0], k[1], rest, quoted), opts), nil
	}, err
}

// chunkTypes are the chunks of SCTP (RFC 9260, 3.2).
var chunkTypes = map[string]uint8{
	"DATA": 0, "INIT": 1, "INIT_ACK": 2, "SACK": 3, "HEARTBEAT": 4, "HEARTBEAT_ACK": 5, "ABORT": 6, "SHUTDOWN": 7,
	"SHUTDOWN_ACK": 8, "ERROR": 9, "COOKIE_ECHO": 10, "COOKIE_ACK": 11, "SHUTDOWN_COMPLETE": 14,
}

// parseSCTP reads a verification tag and chunks, each by its name; INIT and INIT_ACK have
// "tag N" behind them.
func parseSCTP(words []string) (builder, error) {
	if len(words) < 2 {
		return nil, fmt.Errorf("sctp: a verification tag and chunks are expected")
	}
	vtag, err := strconv.ParseUint(words[0], 0, 32)
	if err != nil {
		return nil, fmt.Errorf("sctp: verification tag: %w", err)
	}
	var chunks []byte
	for words = words[1:]; len(words) > 0; words = words[1:] {
		typ, ok := chunkTypes[words[0]]
		if !ok {
			return nil, fmt.Errorf("sctp: %q is no chunk", words[0])
		}
		value := make([]byte, 12)
		if typ == 1 || typ == 2 {
			if len(words) < 3 || words[1] != "tag" {
				return nil, fmt.Errorf("sctp: %s needs tag N", words[0])
			}
			tag, err := strconv.ParseUint(words[2], 0, 32)
			if err != nil {
				return nil, fmt.Errorf("sctp: tag: %w", err)
			}
			value = binary.BigEndian.AppendUint32(nil, uint32(tag))
			value = append(value, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1)
			words = words[2:]
		}
		chunks = packet.AppendChunk(chunks, typ, 0, value)
	}
	return func(r *Run, fromB bool) ([]byte, error) {
		sport, dport := r.ports(fromB)
		return packet.AppendSCTP(nil, r.ip(fromB), sport, dport, uint32(vtag), chunks), nil
	}, nil
}

// parseIP reads a protocol number and the payload in hexadecimal.
func parseIP(words []string) (builder, error) {
	if len(words) != 2 {
		return nil, fmt.Errorf("ip: a protocol and a payload in hexadecimal are expected")
	}
	n, err := strconv.ParseUint(words[0], 10, 8)
	if err != nil {
		return nil, fmt.Errorf("ip: protocol: %w", err)
	}
	payload, err := hex.DecodeString(words[1])
	return func(r *Run, fromB bool) ([]byte, error) {
		return packet.AppendIP(nil, r.ip(fromB), flow.Proto(n), payload), nil
	}, err
}

// parseFragment reads identification, offset and length in bytes, "more" or "last", and
// the packet that the fragment is of.
func parseFragment(words []string) (builder, error) {
	if len(words) < 5 {
		return nil, fmt.Errorf("fragment: ID, offset, length, more or last, and a packet are expected")
	}
	var n [3]int
	for i := range n {
		v, err := strconv.Atoi(words[i])
		if err != nil {
			return nil, fmt.Errorf("fragment: %w", err)
		}
		n[i] = v
	}
	if words[3] != "more" && words[3] != "last" {
		return nil, fmt.Errorf("fragment: %q is neither more nor last", words[3])
	}
	whole, err := parsePacket(words[4], words[5:])
	if err != nil {
		return nil, err
	}
	more := words[3] == "more"
	return func(r *Run, fromB bool) ([]byte, error) {
		d, err := whole(r, fromB)
		if err != nil {
			return nil, err
		}
		hdr := headerLen(d)
		if n[1]+n[2] > len(d)-hdr {
			return nil, fmt.Errorf("the datagram has but %d bytes", len(d)-hdr)
		}
		return fragment(d, uint16(n[0])+r.Port, n[1], d[hdr+n[1]:hdr+n[1]+n[2]], more), nil
	}, nil
}

func fragment(d []byte, id uint16, offset int, body []byte, more bool) []byte {
	field := uint16(offset / 8)
	if d[0]>>4 == 4 {
		if more {
			field |= 0x2000
		}
		f := append(append([]byte(nil), d[:20]...), body...)
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		binary.BigEndian.PutUint16(f[4:], id)
		binary.BigEndian.PutUint16(f[6:], field)
		binary.BigEndian.PutUint16(f[10:], 0)
		binary.BigEndian.PutUint16(f[10:], onesComplement(f[:20]))
		return f
	}
	field <<= 3
	if more {
		field |= 1
	}
	f := append([]byte(nil), d[:40]...)
	f = append(f, d[6], 0, byte(field>>8), byte(field))
	f = append(binary.BigEndian.AppendUint32(f, uint32(id)), body...)
	f[6] = 44
	binary.BigEndian.PutUint16(f[4:], uint16(len(f)-40))
	return f
}

// onesComplement is the Internet checksum, written anew so that these packets do not
// depend on what they test.
func onesComplement(b []byte) uint16 {
	n := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		n += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for n > 0xffff {
		n = n>>16 + n&0xffff
	}
	return ^uint16(n)
}

// sumAt is where the transport checksum is, by protocol.
var sumAt = map[flow.Proto]int{flow.TCP: 16, flow.UDP: 6, flow.ICMP: 2, flow.ICMPv6: 2}

// damaged spoils the checksum of a datagram, if the options ask for that.
func damaged(d []byte, opts map[string]int64) []byte {
	if _, ok := opts["badsum"]; ok {
		proto := flow.Proto(d[9])
		if d[0]>>4 == 6 {
			proto = flow.Proto(d[6])
		}
		d[headerLen(d)+sumAt[proto]] ^= 0x55
	}
	return d
}

// pairs reads words with a number behind those that take one.
func pairs(words []string, known ...string) (map[string]int64, error) {
	flags := map[string]bool{"badsum": true, "nosum": true, "router": true, "misdirected": true, "sackok": true}
	opts := map[string]int64{}
	for len(words) > 0 {
		name := words[0]
		ok := false
		for _, k := range known {
			ok = ok || k == name
		}
		if !ok {
			return nil, fmt.Errorf("%q is not understood", name)
		}
		if words = words[1:]; flags[name] {
			opts[name] = 1
			continue
		}
		if len(words) == 0 {
			return nil, fmt.Errorf("%s needs a number", name)
		}
		n, err := strconv.ParseInt(words[0], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		opts[name], words = n, words[1:]
	}
	return opts, nil
}

func headerLen(d []byte) int {
	if d[0]>>4 == 6 {
		return 40
	}
	return 20
}

func familyIndex(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

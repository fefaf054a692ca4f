package kernel

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// header is where the headers of an IP packet are in a frame, or in an ICMP error.
type header struct {
	family   flow.Family
	proto    flow.Proto
	l3, l4   int // offsets; l4 may be beyond the end
	end      int // of the packet, or of what there is of it
	src, dst netip.Addr
	later    bool // a fragment that is not the first: there is no transport header
	more     bool // a fragment that is not the last
	fragAt   int  // offset of the IPv6 fragment header, 0: there is none
}

// headerAt reads the IP header at an offset. ok is false if there is none that is whole.
func headerAt(b []byte, at int) (h header, ok bool) {
	d := b[min(at, len(b)):]
	h.l3 = at
	switch {
	case len(d) >= 20 && d[0]>>4 == 4:
		h.family, h.proto, h.l4 = flow.IPv4, flow.Proto(d[9]), at+int(d[0]&15)*4
		h.src, h.dst = netip.AddrFrom4([4]byte(d[12:])), netip.AddrFrom4([4]byte(d[16:]))
		field := binary.BigEndian.Uint16(d[6:])
		h.later, h.more = field&0x1fff != 0, field&0x2000 != 0
		h.end = min(at+int(binary.BigEndian.Uint16(d[2:])), len(b))
		return h, h.l4 >= at+20
	case len(d) >= 40 && d[0]>>4 == 6:
		h.family, h.proto, h.l4 = flow.IPv6, flow.Proto(d[6]), at+40
		h.src, h.dst = netip.AddrFrom16([16]byte(d[8:])), netip.AddrFrom16([16]byte(d[24:]))
		h.end = min(at+40+int(binary.BigEndian.Uint16(d[4:])), len(b))
		for h.l4+2 <= len(b) && !h.later {
			size := 8 * (int(b[h.l4+1]) + 1)
			switch h.proto {
			case 0, 43, 60:
			case 51:
				size = 4 * (int(b[h.l4+1]) + 2)
			case 44:
				if h.l4+8 > len(b) {
					return h, true
				}
				field := binary.BigEndian.Uint16(b[h.l4+2:])
				h.fragAt, h.later, h.more, size = h.l4, field>>3 != 0, field&1 != 0, 8
			default:
				return h, true
			}
			h.proto, h.l4 = flow.Proto(b[h.l4]), h.l4+size
		}
		return h, true
	}
	return h, false
}

// isError reports whether a packet is an ICMP error, whose quote begins 8 bytes behind l4.
func (h *header) isError(b []byte) bool {
	if h.later || h.l4+8 > len(b) {
		return false
	}
	switch typ := b[h.l4]; h.proto {
	case flow.ICMP:
		return typ == 3 || typ == 4 || typ == 5 || typ == 11 || typ == 12
	case flow.ICMPv6:
		return typ < 128
	}
	return false
}

// port returns the offset of the source (or destination) port, or of the identifier
// of an ICMP query; ok is false if there is none.
func (h *header) port(b []byte, source bool) (at int, ok bool) {
	if h.later {
		return 0, false
	}
	switch h.proto {
	case flow.TCP, flow.UDP, flow.UDPLite, flow.SCTP, flow.DCCP:
		at = h.l4
		if !source {
			at += 2
		}
	case flow.ICMP, flow.ICMPv6:
		if !source || h.l4 >= len(b) || h.isError(b) {
			return 0, false
		}
		at = h.l4 + 4
	default:
		return 0, false
	}
	return at, at+2 <= h.end
}

// seen reads what a host sees of a packet: the first fragment, if it came in such.
func seen(frame []byte) *end {
	h, ok := headerAt(frame, 14)
	if !ok || h.later {
		return nil
	}
	e := &end{src: h.src, dst: h.dst, proto: h.proto, datagram: frame[14:h.end]}
	if at, ok := h.port(frame, true); ok {
		e.sport = binary.BigEndian.Uint16(frame[at:])
		e.dport = e.sport // of a query
	}
	if at, ok := h.port(frame, false); ok {
		e.dport = binary.BigEndian.Uint16(frame[at:])
	}
	return e
}

// patchPort writes a port and keeps the checksum of the transport header as right or
// wrong as it was.
func (h *header) patchPort(b []byte, at int, port uint16) {
	old := binary.BigEndian.Uint16(b[at:])
	binary.BigEndian.PutUint16(b[at:], port)
	sum := 0
	switch h.proto {
	case flow.TCP:
		if h.l4+20 > h.end { // of less of a header, in a quote, the ports alone are translated (tcp_manip_pkt)
			return
		}
		sum = 16
	case flow.UDP, flow.UDPLite, flow.DCCP:
		sum = 6
	case flow.ICMP, flow.ICMPv6:
		sum = 2
	}
	if sum == 0 || h.l4+sum+2 > h.end {
		return
	}
	s := b[h.l4+sum:]
	if h.proto == flow.UDP && s[0]|s[1] == 0 {
		return
	}
	putSum(s, uint32(^binary.BigEndian.Uint16(s))+uint32(^old)+uint32(port)) // RFC 1624
	if h.proto != flow.TCP && s[0]|s[1] == 0 {
		s[0], s[1] = 0xff, 0xff
	}
}

// putSum writes the complement of a sum of words.
func putSum(b []byte, c uint32) {
	for c > 0xffff {
		c = c>>16 + c&0xffff
	}
	binary.BigEndian.PutUint16(b, ^uint16(c))
}

// translations follow how the kernel and a device translate ports that are chosen at
// random. For each endpoint that both have translated, towards one peer, the choices
// must belong together for as long as the connection lives, and a port that need not
// be chosen must be the same.
type translations struct {
	kernel, device map[endpoint]uint16 // what the other has chosen
	drawn          [2]map[drawn]bool   // ports that each chose at random, kernel first
	ranges         [][2]uint16         // that rules give
	random         []randomRule        // rules that draw a port for each connection
	Drawn, Evaded  int                 // choices at random, and those because another's choice was in the way
}

// endpoint is the translated end of a connection, as its peer sees it.
type endpoint struct {
	proto      flow.Proto
	addr, peer netip.Addr
	port, far  uint16
}

// drawn is a port of an address.
type drawn struct {
	proto flow.Proto
	addr  netip.Addr
	port  uint16
}

var portRange = regexp.MustCompile(`--to-(?:source|destination|ports) \S*?:?(\d+)-(\d+)(?:/\d+)?(?:\s|$)`)

// randomRule is a rule with --random or --random-fully: the port of each connection is
// drawn, and may happen to be the one that the source has.
type randomRule struct {
	proto string // -p of the rule, as it is written; "": any
	ports [2]uint16
	wide  bool // no ports are named
}

var (
	withRandom = regexp.MustCompile(`(?m)^-A .* --random(-fully)?( .*)?$`)
	ofProto    = regexp.MustCompile(` -p (\S+)`)
)

func newRandomRule(line string) (r randomRule) {
	if m := ofProto.FindStringSubmatch(line); m != nil && !strings.Contains(line, "! -p") {
		r.proto = m[1]
	}
	r.wide = true
	if m := portRange.FindStringSubmatch(line); m != nil {
		r.ports, r.wide = portsOf(m), false
	}
	return r
}

// mayDraw reports whether one random choice may come to either of two ports.
func (t *translations) mayDraw(p flow.Proto, a, b uint16) bool {
	for _, r := range t.random {
		switch {
		case r.proto != "" && r.proto != strings.ToLower(p.String()) && r.proto != "ipv6-icmp":
		case r.wide && t.alike(p, a, b), !r.wide && within(r.ports, a) && within(r.ports, b):
			return true
		}
	}
	return false
}

func within(r [2]uint16, p uint16) bool { return r[0] <= p && p <= r[1] }

// portsOf returns what portRange has found.
func portsOf(m []string) [2]uint16 {
	lo, _ := strconv.ParseUint(m[1], 10, 16)
	hi, _ := strconv.ParseUint(m[2], 10, 16)
	return [2]uint16{uint16(lo), uint16(hi)}
}

func newTranslations(rules string) *translations {
	t := &translations{kernel: map[endpoint]uint16{}, device: map[endpoint]uint16{}}
	for i := range t.drawn {
		t.drawn[i] = map[drawn]bool{}
	}
	for _, m := range portRange.FindAllStringSubmatch(rules, -1) {
		t.ranges = append(t.ranges, portsOf(m))
	}
	for _, line := range withRandom.FindAllString(rules, -1) {
		t.random = append(t.random, newRandomRule(line))
	}
	return t
}

// alike reports whether two ports are such as one and the same choice may come to.
func (t *translations) alike(p flow.Proto, a, b uint16) bool {
	for _, r := range t.ranges {
		if within(r, a) && within(r, b) {
			return true
		}
	}
	if p == flow.ICMP || p == flow.ICMPv6 {
		return true
	}
	class := func(p uint16) int { // nf_nat_l4proto_unique_tuple
		switch {
		case p < 512:
			return 0
		case p < 1024:
			return 1
		}
		return 2
	}
	return class(a) == class(b)
}

// pair is the same port in a frame of the kernel's and in one of the device's.
type pair struct {
	k, x     endpoint // as seen from there
	sent     [2]uint16
	wasSent  bool
	newEntry bool // the device says that the packet is NEW
}

// check says what is wrong with a pair of ports, if anything is.
func (t *translations) check(p *pair) string {
	if x, ok := t.kernel[p.k]; ok && x == p.x.port {
		if k, ok := t.device[p.x]; ok && k == p.k.port {
			return ""
		}
	}
	if p.wasSent && p.k.port == p.sent[0] && p.x.port == p.sent[1] { // neither is translated
		t.kernel[p.k], t.device[p.x] = p.x.port, p.k.port
		return ""
	}
	if !p.newEntry {
		return fmt.Sprintf("port %d of %v to the kernel's peer is not the device's port %d (%d)", p.k.port, p.k.addr, p.x.port, t.kernel[p.k])
	}
	kd, xd := drawn{p.k.proto, p.k.addr, p.k.port}, drawn{p.x.proto, p.x.addr, p.x.port}
	switch {
	case t.mayDraw(p.k.proto, p.k.port, p.x.port): // one may have drawn the port of the source
		t.Drawn++
	case p.wasSent && p.k.port == p.sent[0]: // the kernel kept it
		if !t.drawn[1][drawn{p.x.proto, p.x.addr, p.k.port}] {
			return fmt.Sprintf("the kernel keeps port %d, the device chose %d", p.k.port, p.x.port)
		}
		t.Evaded++
	case p.wasSent && p.x.port == p.sent[1]:
		if !t.drawn[0][drawn{p.k.proto, p.k.addr, p.x.port}] {
			return fmt.Sprintf("the device keeps port %d, the kernel chose %d", p.x.port, p.k.port)
		}
		t.Evaded++
	case !t.alike(p.k.proto, p.k.port, p.x.port):
		return fmt.Sprintf("the kernel chose port %d, the device %d, which is of another range", p.k.port, p.x.port)
	default:
		t.Drawn++
	}
	t.drawn[0][kd], t.drawn[1][xd] = true, true
	t.kernel[p.k], t.device[p.x] = p.x.port, p.k.port
	return ""
}

// sameFrame compares a frame of the kernel's with one of a device's, for which each
// was sent that. It returns what is different, "" if nothing is.
func (t *translations) sameFrame(kernel, device []byte, sent [2][]byte, newEntry bool) string {
	k, x := anonymous(kernel, sent[0]), anonymous(device, sent[1])
	if bytes.Equal(k, x) {
		return ""
	}
	if asSent(k, sent[0], x, sent[1]) {
		return ""
	}
	what := "different frames"
	if why, ok := t.reconcile(k, x, sent, newEntry); !ok {
		what += why
	} else if bytes.Equal(k, x) {
		return ""
	}
	return fmt.Sprintf("%s\nkernel %x\nxdpct  %x", what, kernel, device)
}

// asSent reports whether two frames carry just what their routers were sent, under the
// same IP header: nothing was translated.
func asSent(k, sentK, x, sentX []byte) bool {
	hk, ok1 := headerAt(k, 14)
	hx, ok2 := headerAt(x, 14)
	sk, ok3 := headerAt(sentK, 14)
	sx, ok4 := headerAt(sentX, 14)
	return ok1 && ok2 && ok3 && ok4 && len(k) == len(x) && bytes.Equal(k[:min(hk.l4, len(k))], x[:min(hx.l4, len(x))]) &&
		bytes.Equal(k[min(hk.l4, hk.end):hk.end], sentK[min(sk.l4, sk.end):sk.end]) &&
		bytes.Equal(x[min(hx.l4, hx.end):hx.end], sentX[min(sx.l4, sx.end):sx.end])
}

// reconcile writes the kernel's choice of ports into a frame of the device's.
func (t *translations) reconcile(k, x []byte, sent [2][]byte, newEntry bool) (why string, ok bool) {
	hk, ok1 := headerAt(k, 14)
	hx, ok2 := headerAt(x, 14)
	if len(k) != len(x) || !ok1 || !ok2 {
		return "", false
	}
	var hs [2]header
	for i, s := range sent {
		if hs[i], ok = headerAt(s, 14); !ok {
			return "", false
		}
	}
	quoted := hk.isError(k)
	if quoted {
		outer := hx
		if hk, ok1 = headerAt(k, hk.l4+8); !ok1 {
			return "", false
		}
		if hx, ok2 = headerAt(x, hx.l4+8); !ok2 {
			return "", false
		}
		defer func() { resumICMP(x, &outer) }()
	}
	if hk.proto != hx.proto || hk.l4 != hx.l4 || hk.end != hx.end {
		return "", false
	}
	if quoted && hk.l4 < hk.end && bytes.HasPrefix(sent[0][min(hs[0].l4, hs[0].end):], k[hk.l4:hk.end]) &&
		bytes.HasPrefix(sent[1][min(hs[1].l4, hs[1].end):], x[hx.l4:hx.end]) { // quoted as it was sent
		copy(x[hx.l4:hx.end], k[hk.l4:hk.end])
		return "", true
	}
	sctp := hx.proto == flow.SCTP && hx.l4+12 <= hx.end && // of a fragment it cannot be told
		(hk.more && hx.more || sctpRight(k[hk.l4:hk.end]) && sctpRight(x[hx.l4:hx.end]))
	drawn := bytes.Clone(x) // both ends are named as the device has them, whichever is reconciled first
	for _, source := range []bool{true, false} {
		ak, ok1 := hk.port(k, source)
		ax, ok2 := hx.port(x, source)
		if !ok1 || !ok2 || ak != ax {
			continue
		}
		kp, xp := binary.BigEndian.Uint16(k[ak:]), binary.BigEndian.Uint16(x[ax:])
		if kp == xp {
			continue
		}
		p := pair{k: hk.endpoint(k, source), x: hx.endpoint(drawn, source), newEntry: newEntry && !quoted}
		if at, ok := hs[0].port(sent[0], source); ok && !quoted {
			p.wasSent = true
			p.sent[0] = binary.BigEndian.Uint16(sent[0][at:])
			at, _ = hs[1].port(sent[1], source)
			p.sent[1] = binary.BigEndian.Uint16(sent[1][at:])
		}
		if why := t.check(&p); why != "" {
			return ": " + why, false
		}
		hx.patchPort(x, ax, kp)
	}
	if sctp { // a CRC cannot be updated
		copy(x[hx.l4+8:hx.l4+12], k[hk.l4+8:])
	}
	if quoted && hx.proto == flow.SCTP { // what was sent has quoted the CRC as it was for each
		copy(x[min(hx.l4+8, hx.end):min(hx.l4+12, hx.end)], k[min(hk.l4+8, hk.end):])
	}
	return "", true
}

// sctpRight reports whether an SCTP packet has the right checksum.
func sctpRight(b []byte) bool {
	d := packet.AppendSCTP(nil, packet.IP{Src: A.Host(1, flow.IPv4), Dst: B.Host(1, flow.IPv4)},
		binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), binary.BigEndian.Uint32(b[4:]), b[12:])
	return bytes.Equal(d[20+8:20+12], b[8:12])
}

// endpoint names the end of a packet whose port is the source (or destination).
func (h *header) endpoint(b []byte, source bool) endpoint {
	read := func(source bool) uint16 {
		if at, ok := h.port(b, source); ok {
			return binary.BigEndian.Uint16(b[at:])
		}
		return 0
	}
	e := endpoint{proto: h.proto, addr: h.src, peer: h.dst, port: read(source), far: read(!source)}
	query := h.proto == flow.ICMP || h.proto == flow.ICMPv6 // its identifier is that of both ends
	if !source || query && h.dst.Less(h.src) {
		e.addr, e.peer = h.dst, h.src
	}
	return e
}

// resumICMP makes the checksum of an ICMP error anew.
func resumICMP(b []byte, h *header) {
	m := b[h.l4:h.end]
	m[2], m[3] = 0, 0
	var c uint32
	if h.family == flow.IPv6 {
		for i := h.l3 + 8; i < h.l3+40; i += 2 {
			c += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		c += uint32(len(m)) + uint32(h.proto)
	}
	for i := 0; i < len(m); i += 2 {
		c += uint32(m[i]) << 8
		if i+1 < len(m) {
			c += uint32(m[i+1])
		}
	}
	putSum(m[2:], c)
}

// anonymous returns a frame without what a router chooses by chance: identification or
// flow label of its own packets, and the identification of IPv6 fragments. sent is what
// the frame came of.
func anonymous(frame, sent []byte) []byte {
	f := bytes.Clone(frame)
	h, ok := headerAt(f, 14)
	if !ok {
		return f
	}
	d := f[14:]
	s, ok := headerAt(sent, 14)
	own := h.isError(f) && !(ok && s.isError(sent)) || // of the router, unless one was sent on
		h.proto == flow.TCP && !h.later && h.l4+20 <= h.end && f[h.l4+13]&4 != 0
	switch {
	case own && h.family == flow.IPv4:
		copy(d, Number(d, 0))
	case own:
		d[1], d[2], d[3] = d[1]&0xf0, 0, 0
	}
	if h.fragAt > 0 {
		copy(f[h.fragAt+4:], []byte{0, 0, 0, 0})
	}
	if h.family == flow.IPv4 { // and the time of day
		noTime(d)
		if h.isError(f) && h.l4+28 < len(f) && f[h.l4+8]>>4 == 4 {
			q := f[h.l4+8:]
			if before := bytes.Clone(q); len(q) >= int(q[0]&15)*4 {
				if noTime(q); !bytes.Equal(q, before) {
					resumICMP(f, &h)
				}
			}
		}
	}
	return f
}

func dump(frames [][]byte) string {
	var s []string
	for _, f := range frames {
		s = append(s, hex.EncodeToString(f))
	}
	return strings.Join(s, "\n       ")
}

// counts are what rules have counted, by table and chain: of the policy, and of each
// rule in turn.
type counts map[string][]string

var (
	savedChain = regexp.MustCompile(`^:(\S+) \S+ \[(\d+:\d+)\]`)
	savedRule  = regexp.MustCompile(`^\[(\d+:\d+)\] -A (\S+)`)
)

// readCounts reads what iptables-save -c prints. Chains for a router's own packets, which
// xdpct leaves to its host, are left out.
func readCounts(saved string) counts {
	c := counts{}
	table := ""
	for line := range strings.Lines(saved) {
		if t, ok := strings.CutPrefix(line, "*"); ok {
			table = strings.TrimSpace(t)
		} else if m := savedChain.FindStringSubmatch(line); m != nil && m[1] != "INPUT" && m[1] != "OUTPUT" {
			c[table+" "+m[1]] = []string{m[2]}
			if strings.Contains(line, m[1]+" - ") {
				c[table+" "+m[1]] = []string{"-"}
			}
		} else if m := savedRule.FindStringSubmatch(line); m != nil && c[table+" "+m[2]] != nil {
			c[table+" "+m[2]] = append(c[table+" "+m[2]], m[1])
		}
	}
	return c
}

// sameCounts says what is different about what rules have counted.
func sameCounts(kernel, device, rules string) (all []string) {
	k, x := readCounts(kernel), readCounts(device)
	for chain, kc := range k {
		xc := x[chain]
		if xc == nil || len(kc) == 1 { // a chain without rules need not be passed at all
			continue
		}
		if len(kc) != len(xc) {
			all = append(all, fmt.Sprintf("chain %s has %d rules in the kernel, %d here", chain, len(kc)-1, len(xc)-1))
			continue
		}
		for i := range kc {
			if kc[i] != xc[i] {
				all = append(all, fmt.Sprintf("counted by %s, %s: kernel %s, xdpct %s", chain, nthRule(rules, chain, i), kc[i], xc[i]))
			}
		}
	}
	slices.Sort(all)
	return all
}

// nthRule returns the text of rule n, from 1, of a table's chain; 0 is its policy.
func nthRule(rules, chain string, n int) string {
	if n == 0 {
		return "policy"
	}
	table, name, _ := strings.Cut(chain, " ")
	in := false
	for line := range strings.Lines(rules) {
		if strings.HasPrefix(line, "*") {
			in = strings.TrimSpace(line[1:]) == table
		}
		if in && strings.HasPrefix(line, "-A "+name+" ") {
			if n--; n == 0 {
				return strings.TrimSpace(line)
			}
		}
	}
	return "?"
}

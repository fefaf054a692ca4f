package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// world is two hosts' worth of TCP and UDP on either side of one router. A script of a
// protocol runs in a world of each router: its hosts answer to what they have received
// through that router, and to nothing else. What happens is written down, so that worlds can
// be compared.
type world struct {
	t      *testing.T
	router router
	f      flow.Family
	wires  []*wire
	notes  []note
	drawn  []drawnNumber
	show   func(payload []byte) string // how a payload is written down; nil: as a string
	stale  string                      // expectations that the kernel leaves behind, by their beginnings: nothing can use them
	lose   bool                        // the next frame that comes out is lost before it arrives
	wrong  []string                    // what no host may see: a gap, an acknowledgement of what was not sent, a wrong checksum
}

// note is something that happened, and the frames that it was seen by.
type note struct {
	text   string
	frames [][]byte
}

func (w *world) note(frames [][]byte, format string, a ...any) {
	w.notes = append(w.notes, note{fmt.Sprintf(format, a...), frames})
}

// drawnNumber is a port or a call id that a router chose, and that may differ from that of
// another. In what is compared it has a name.
type drawnNumber struct {
	n     uint16
	forms *regexp.Regexp // how it is written
}

// draw says that a port is one that the router chose.
func (w *world) draw(port uint16) {
	w.drawn = append(w.drawn, drawnNumber{port, regexp.MustCompile(fmt.Sprintf(`\b%d,%d\b|\b%d\b`, port>>8, port&255, port))})
}

// drawAt is draw for a port that is a choice at one address alone.
func (w *world) drawAt(a netip.AddrPort) {
	addr := regexp.QuoteMeta(a.Addr().String())
	w.drawn = append(w.drawn, drawnNumber{a.Port(), regexp.MustCompile(fmt.Sprintf(`\b%s:%d\b|\bdst=%s sport=\d+ dport=%d\b`, addr, a.Port(), addr, a.Port()))})
}

// drawCall is draw for the call id of a PPTP tunnel.
func (w *world) drawCall(id uint16) {
	w.drawn = append(w.drawn, drawnNumber{id, regexp.MustCompile(fmt.Sprintf(`\bcall %d\b|key=0x%x\b`, id, id))})
}

// plain returns a text with names in the place of what was drawn.
func (w *world) plain(s string) string {
	for i, d := range w.drawn {
		s = d.forms.ReplaceAllString(s, fmt.Sprintf("<choice %d>", i+1))
	}
	lines := strings.Split(s, "\n")
	if len(lines) > 1 { // a list, which the numbers have ordered
		slices.Sort(lines[1:])
	}
	return strings.Join(lines, "\n")
}

// shown is a payload as it is written down.
func (w *world) shown(payload []byte) string {
	if w.show != nil {
		return w.show(payload)
	}
	return fmt.Sprintf("%q", payload)
}

// wire is a connection as its two ends see it: end 0 has begun it.
type wire struct {
	w     *world
	proto flow.Proto
	name  string
	ends  [2]tcpEnd
	up    bool // the handshake came through
}

// tcpEnd is one end of a wire: for UDP only its addresses count.
type tcpEnd struct {
	side      Side
	own, peer netip.AddrPort // as this end knows them
	iss       uint32
	sent      []byte // the stream
	fin       bool
	seen      bool   // the first segment of the other end has come
	base      uint32 // sequence number of the first byte that it receives
	got       []byte
	acked     uint32 // the highest acknowledgement that it received, counted from iss+1
	last      []byte // the last datagram with payload
	heard     string // the last payload
	sack      []uint32
}

var names = [2]string{"client", "server"}

func (e *tcpEnd) next() uint32 {
	n := e.iss + 1 + uint32(len(e.sent))
	if e.fin {
		n++
	}
	return n
}

func (e *tcpEnd) expects() uint32 { return e.base + uint32(len(e.got)) }

// begin makes a wire from a host on one side to what it knows as to.
func (w *world) begin(name string, p flow.Proto, from Side, own, to netip.AddrPort) *wire {
	c := &wire{w: w, proto: p, name: name}
	n := uint32(len(w.wires))
	c.ends[0] = tcpEnd{side: from, own: own, peer: to, iss: 1000 + n*100_000}
	c.ends[1] = tcpEnd{side: from ^ 1, iss: 0xffffff00 + n*100_000} // one that wraps soon
	w.wires = append(w.wires, c)
	return c
}

// dial begins a TCP connection. If it does not come about, nobody answers.
func (w *world) dial(name string, from Side, own, to netip.AddrPort) *wire {
	c := w.begin(name, flow.TCP, from, own, to)
	mss := []byte{2, 4, 5, 180, 4, 2, 0, 0} // and SACK is permitted
	c.segment(0, packet.Segment{Seq: c.ends[0].iss, Flags: packet.SYN, Options: mss})
	if !c.ends[1].seen {
		return c
	}
	c.segment(1, packet.Segment{Seq: c.ends[1].iss, Ack: c.ends[1].base, Flags: packet.SYN | packet.ACK, Options: mss})
	if !c.ends[0].seen {
		return c
	}
	c.segment(0, packet.Segment{Seq: c.ends[0].next(), Ack: c.ends[0].base, Flags: packet.ACK})
	c.up = true
	return c
}

// segment sends a segment of an end.
func (c *wire) segment(who int, s packet.Segment) {
	e := &c.ends[who]
	if s.Window == 0 {
		s.Window = 30000
	}
	c.send(who, packet.AppendTCP(nil, packet.IP{Src: e.own.Addr(), Dst: e.peer.Addr()}, e.own.Port(), e.peer.Port(), s))
}

// say sends text, which the other end acknowledges as far as it has come.
func (c *wire) say(who int, text string) {
	if c.proto == flow.UDP {
		e := &c.ends[who]
		c.send(who, packet.AppendUDP(nil, packet.IP{Src: e.own.Addr(), Dst: e.peer.Addr()}, e.own.Port(), e.peer.Port(), []byte(text)))
		return
	}
	c.tell(who, text)
	c.ack(who ^ 1)
}

// tell sends text, and nothing comes back.
func (c *wire) tell(who int, text string) {
	e := &c.ends[who]
	seq := e.next()
	e.sent = append(e.sent, text...)
	c.segment(who, packet.Segment{Seq: seq, Ack: e.expects(), Flags: packet.ACK | packet.PSH, Payload: []byte(text)})
}

// ack acknowledges what an end has received.
func (c *wire) ack(who int) {
	e := &c.ends[who]
	c.segment(who, packet.Segment{Seq: e.next(), Ack: e.expects(), Flags: packet.ACK})
}

// again sends the last datagram of an end that had a payload once more.
func (c *wire) again(who int) { c.send(who, c.ends[who].last) }

// close ends a TCP connection.
func (c *wire) close() {
	for _, who := range []int{0, 1} {
		e := &c.ends[who]
		seq := e.next()
		e.fin = true
		c.segment(who, packet.Segment{Seq: seq, Ack: e.expects(), Flags: packet.ACK | packet.FIN})
		c.ends[who^1].got = append(c.ends[who^1].got, 0) // it takes a number
	}
	c.ack(0)
}

// reset ends a TCP connection at once.
func (c *wire) reset(who int) {
	e := &c.ends[who]
	c.segment(who, packet.Segment{Seq: e.next(), Ack: e.expects(), Flags: packet.RST | packet.ACK})
}

// send sends a datagram of an end, and gives the other what comes of it.
func (c *wire) send(who int, d []byte) {
	c.w.t.Helper()
	e := &c.ends[who]
	if len(payloadOf(d)) > 0 {
		e.last = d
	}
	out, err := c.w.router.exchange(e.side, Frame(e.side, d))
	if err != nil {
		c.w.t.Fatal(err)
	}
	for _, f := range out[e.side] {
		c.w.note([][]byte{f}, "%s: to the %s comes %s", c.name, names[who], brief(f))
	}
	if len(out[e.side^1]) == 0 {
		c.w.note(nil, "%s: nothing comes of the %s's %s", c.name, names[who], brief(Frame(e.side, d)))
	}
	for _, f := range out[e.side^1] {
		if c.w.lose {
			c.w.lose = false
			c.w.note([][]byte{f}, "%s: of the %s is lost %s", c.name, names[who], brief(f))
			continue
		}
		c.w.note([][]byte{f}, "%s: of the %s comes %s", c.name, names[who], c.arrives(who^1, f))
	}
}

// arrives gives an end a frame, and says what it makes of it.
func (c *wire) arrives(who int, frame []byte) string {
	e := &c.ends[who]
	var p packet.Packet
	p.Parse(bytes.Clone(frame), len(frame), packet.Checks{Transport: true})
	h, ok := headerAt(frame, 14)
	if !ok || p.Kind == packet.Malformed || h.proto != c.proto {
		c.w.wrong = append(c.w.wrong, fmt.Sprintf("%s: the %s gets %x (%v)", c.name, names[who], frame, p.Reason))
		return "something else"
	}
	sport, dport := binary.BigEndian.Uint16(frame[h.l4:]), binary.BigEndian.Uint16(frame[h.l4+2:])
	src, dst := netip.AddrPortFrom(h.src, sport), netip.AddrPortFrom(h.dst, dport)
	first := !e.seen
	if first {
		e.own, e.peer, e.seen = dst, src, true
	}
	if e.own != dst || e.peer != src {
		c.w.wrong = append(c.w.wrong, fmt.Sprintf("%s: the %s of %v > %v gets %v > %v", c.name, names[who], e.peer, e.own, src, dst))
	}
	body := frame[14:]
	if e.heard = ""; len(payloadOf(body)) > 0 {
		e.heard = string(payloadOf(body))
	}
	text := fmt.Sprintf("%v > %v ", src, dst)
	if c.proto == flow.UDP {
		return text + c.w.shown([]byte(e.heard))
	}
	return text + c.receives(who, frame[h.l4:h.end], first)
}

// receives is arrives for a segment.
func (c *wire) receives(who int, seg []byte, first bool) string {
	e := &c.ends[who]
	seq, ack, flags := binary.BigEndian.Uint32(seg[4:]), binary.BigEndian.Uint32(seg[8:]), packet.TCPFlags(seg[13])
	if first {
		e.base = seq + 1
	}
	text := flagNames(flags)
	if flags&packet.ACK != 0 && flags&packet.SYN == 0 {
		e.acked = max(e.acked, ack-e.iss-1)
		if n := ack - e.iss - 1; n > e.next()-e.iss-1 {
			c.w.wrong = append(c.w.wrong, fmt.Sprintf("%s: the %s, which sent %d bytes, gets an acknowledgement of %d", c.name, names[who], len(e.sent), int32(n)))
		}
		text += fmt.Sprintf(" acknowledges all but %d", e.next()-ack)
	}
	e.sack = sackOf(seg)
	for i, edge := range e.sack {
		e.sack[i] = e.next() - edge
		text += fmt.Sprintf(" sack edge %d", int32(e.sack[i]))
	}
	data := seg[int(seg[12]>>4)*4:]
	at := int32(seq - e.base)
	switch {
	case flags&(packet.SYN|packet.RST) != 0:
	case at > int32(len(e.got)) && len(data) > 0:
		text += " which leaves a gap"
		e.sack = []uint32{seq, seq + uint32(len(data))}
	case at > int32(len(e.got)) || at < 0 && len(data) > 0:
		c.w.wrong = append(c.w.wrong, fmt.Sprintf("%s: the %s, which has %d bytes, gets %q at %d", c.name, names[who], len(e.got), data, at))
	case len(data) > 0 && int(at) < len(e.got):
		n := min(len(e.got)-int(at), len(data))
		if !bytes.Equal(e.got[at:int(at)+n], data[:n]) {
			c.w.wrong = append(c.w.wrong, fmt.Sprintf("%s: the %s had %q and gets %q in its place", c.name, names[who], e.got[at:int(at)+n], data[:n]))
		}
		e.got = append(e.got, data[n:]...)
		text += " again"
	default:
		e.got = append(e.got, data...)
	}
	if c.proto == flow.TCP && len(data) > 0 {
		text += " " + c.w.shown(data)
	}
	return text
}

// flagNames are the flags of a segment as tcpdump writes them.
func flagNames(f packet.TCPFlags) (s string) {
	for i, name := range "FSRP.U" {
		if f&(1<<i) != 0 {
			s += string(name)
		}
	}
	return s
}

// sackOf returns the edges of SACK blocks (RFC 2018).
func sackOf(seg []byte) (edges []uint32) {
	b := seg[20 : int(seg[12]>>4)*4]
	for len(b) > 1 && b[0] != 0 {
		if b[0] == 1 {
			b = b[1:]
			continue
		}
		n := int(b[1])
		if n < 2 || n > len(b) {
			return edges
		}
		if b[0] == 5 {
			for at := 2; at+4 <= n; at += 4 {
				edges = append(edges, binary.BigEndian.Uint32(b[at:]))
			}
		}
		b = b[n:]
	}
	return edges
}

// payloadOf returns the payload of a TCP or UDP datagram.
func payloadOf(d []byte) []byte {
	h, ok := headerAt(d, 0)
	switch {
	case !ok || h.later || h.l4+20 > h.end && h.proto == flow.TCP || h.l4+8 > h.end:
	case h.proto == flow.TCP:
		return d[min(h.l4+int(d[h.l4+12]>>4)*4, h.end):h.end]
	case h.proto == flow.UDP:
		return d[h.l4+8 : h.end]
	}
	return nil
}

// brief says what a frame is.
func brief(frame []byte) string {
	h, ok := headerAt(frame, 14)
	if !ok {
		return fmt.Sprintf("%x", frame)
	}
	ports := ""
	if h.proto == flow.TCP || h.proto == flow.UDP {
		ports = fmt.Sprintf(" %d > %d", binary.BigEndian.Uint16(frame[h.l4:]), binary.BigEndian.Uint16(frame[h.l4+2:]))
	}
	return fmt.Sprintf("%v > %v %v%s %q", h.src, h.dst, h.proto, ports, payloadOf(frame[14:]))
}

// gre sends a packet of a PPTP tunnel (RFC 2637, 4.1) with a call id from a host to another,
// and notes what comes of it. It returns the call id and the addresses that arrive.
func (w *world) gre(from Side, src, dst netip.Addr, call uint16, payload string) (id uint16, as, to netip.Addr) {
	b := []byte{0x30, 0x01, 0x88, 0x0b}
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	b = binary.BigEndian.AppendUint16(b, call)
	b = binary.BigEndian.AppendUint32(b, 1)
	d := packet.AppendIP(nil, packet.IP{Src: src, Dst: dst}, flow.GRE, append(b, payload...))
	out, err := w.router.exchange(from, Frame(from, d))
	if err != nil {
		w.t.Fatal(err)
	}
	if len(out[from^1]) != 1 {
		w.note(out[from^1], "GRE: %d frames come of %v > %v call %d", len(out[from^1]), src, dst, call)
		return 0, as, to
	}
	f := out[from^1][0]
	h, _ := headerAt(f, 14)
	id = binary.BigEndian.Uint16(f[h.l4+6:])
	w.note(out[from^1], "GRE: of %v > %v call %d comes %v > %v call %d %q", src, dst, call, h.src, h.dst, id, f[h.l4+12:h.end])
	return id, h.src, h.dst
}

var (
	uses     = regexp.MustCompile(` use=\d+| id=\d+`)
	timeouts = regexp.MustCompile(`^\d+ `)
)

// look notes the expectations and the connections of the router.
func (w *world) look() {
	w.t.Helper()
	for _, what := range []string{"expect", "conntrack"} {
		lines, err := list(w.router, w.f, what)
		if err != nil {
			w.t.Fatal(err)
		}
		if _, ok := w.router.(*linux); ok && what == "expect" && w.stale != "" {
			lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, w.stale) })
		}
		slices.Sort(lines)
		w.note(nil, "%s:\n\t%s", what, strings.Join(lines, "\n\t"))
	}
}

// expects returns the expectations of the router, as lines of conntrack -L expect without
// their timeouts.
func (w *world) expects() []string {
	w.t.Helper()
	lines, err := list(w.router, w.f, "expect")
	if err != nil {
		w.t.Fatal(err)
	}
	return lines
}

// list returns lines of conntrack -L without what depends on the clock.
func list(r router, f flow.Family, table string) (lines []string, err error) {
	if k, ok := r.(*linux); ok {
		var out []byte
		err = k.o.Do(func() error {
			args := []string{"-L", table, "-f", f.String()}
			if table == "conntrack" {
				args = append(args, "-o", "extended")
			}
			out, err = exec.Command("conntrack", args...).Output()
			return err
		})
		lines = strings.Split(strings.TrimSpace(string(out)), "\n")
		if len(out) == 0 {
			lines = nil
		}
	} else {
		lines = r.(*device).list(table)
	}
	for i, l := range lines {
		l = uses.ReplaceAllString(l, "")
		if strings.Contains(l, " udp ") { // of a datagram more than two seconds behind the first
			l = strings.Replace(l, "[ASSURED] ", "", 1)
		}
		if table == "conntrack" { // family, number, protocol, number, timeout
			w := strings.Fields(l)
			l = strings.Join(append(slices.Clone(w[:4]), w[5:]...), " ")
		}
		lines[i] = strings.Join(strings.Fields(timeouts.ReplaceAllString(l, "")), " ")
	}
	return lines, err
}

// list returns lines as conntrack -L does.
func (d *device) list(table string) (lines []string) {
	if table == "expect" {
		if d.expect == nil {
			return nil
		}
		now := d.shards[0].Now()
		for _, e := range d.expect.List(now) {
			lines = append(lines, string(export.AppendExpectation(nil, &e, now)))
		}
		return lines
	}
	format := export.Format{Extended: true}
	for _, s := range d.shards {
		for at := uint32(0); ; {
			at = s.Walk(at, 1<<20, func(entry uint32, _ *flow.Conn) bool {
				r := s.Record(entry)
				lines = append(lines, string(format.AppendFlow(nil, &r)))
				return false
			})
			if at == 0 {
				break
			}
		}
	}
	return lines
}

// sameWorld says what is different in a world from that of the kernel, "" if nothing is.
func sameWorld(k, x *world) string {
	exact := len(k.drawn) == 0 && len(x.drawn) == 0
	for i := range min(len(k.notes), len(x.notes)) {
		a, b := &k.notes[i], &x.notes[i]
		if k.plain(a.text) == x.plain(b.text) && (!exact || slices.EqualFunc(a.frames, b.frames, bytes.Equal)) {
			continue
		}
		return fmt.Sprintf("note %d\nkernel %s\n       %s\nxdpct  %s\n       %s\nbefore:\n%s", i, a.text, dump(a.frames), b.text, dump(b.frames), k.story(max(0, i-4), i))
	}
	if len(k.notes) != len(x.notes) {
		n := min(len(k.notes), len(x.notes))
		return fmt.Sprintf("the kernel's story has %d notes, xdpct's %d: %s%s", len(k.notes), len(x.notes), k.story(n, len(k.notes)), x.story(n, len(x.notes)))
	}
	return ""
}

func (w *world) story(from, to int) string {
	var b strings.Builder
	for _, n := range w.notes[from:to] {
		fmt.Fprintf(&b, "%s\n", w.plain(n.text))
	}
	return b.String()
}

package helper

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/xdpct/xdpct/flow"
)

// The model: two hosts with a TCP of the plainest kind, a network on either side of the flow
// which loses, repeats and reorders, and the flow between them. Host d sends lines; what the
// other one is to read of a line is said character by character (reads), and whether a line is
// edited by whether its expectation was entered.

// lineHelper is a helper of lines: a tag, a number, and characters that are edited as reads
// says. The tag says what becomes of the expectation, or that the session fails.
var lineHelper = &Helper{ID: 1, Protos: []flow.Proto{flow.TCP}, IPv4: true, Limit: 200, New: func() Session { return lineSession{} }}

type lineSession struct{}

// reads is what the receiver reads of a character.
func reads(c byte) string {
	switch c {
	case '0': // taken out
		return ""
	case '1':
		return "ab"
	case '2':
		return strings.Repeat("x", 40)
	case 'i': // put in before
		return "INi"
	}
	return string(c)
}

func (lineSession) Message(m *Message) (int, error) {
	n := bytes.IndexByte(m.Data, '\n') + 1
	if n == 0 {
		return 0, nil
	}
	switch line := m.Data[:n]; line[0] {
	case 'K': // it ends where another begins
		if n == len(m.Data) {
			return 0, nil
		}
		fallthrough
	default:
		return lineSession{}.line(m, n)
	case 'P':
		panic("a defect")
	case 'E':
		return 0, ErrEncrypted
	case '?':
		return 0, ErrProtocol
	}
}

func (lineSession) line(m *Message, n int) (int, error) {
	line := m.Data[:n]
	var id uint16
	if _, err := fmt.Sscanf(string(line[1:]), "%d:", &id); err != nil {
		return 0, ErrProtocol
	}
	if _, err := m.Env.Expect(m, Expected{Class: int(line[0]), To: netip.AddrPortFrom(m.Conn.Self(m.Dir).Addr(), id)}); err != nil {
		return n, nil
	}
	for i := bytes.IndexByte(line, ':'); i < n; i++ {
		if line[i] == 'i' {
			m.Replace(i, 0, []byte("IN"))
		} else if r := reads(line[i]); r != string(line[i]) {
			m.Replace(i, 1, []byte(r))
		}
	}
	return n, nil
}

// modelEnv is the table of expectations of the model.
type modelEnv struct {
	fakeEnv
	t      *rapid.T
	last   [2]int // the line read last, -1: none
	retry  [2]int // how often the last one was refused
	edited [2]map[int]bool
	read   [2]int
	edit   bool
	stats  *Stats
}

func (e *modelEnv) Expect(m *Message, xs ...Expected) (netip.AddrPort, error) {
	id, d := int(xs[0].To.Port()), m.Dir
	switch {
	case id > e.last[d]:
		if e.edit && e.stats.Passed == 0 && e.retry[d] != 0 && e.retry[d] != tries+1 {
			e.t.Fatalf("direction %v: line %d went on after it was refused %d times", d, e.last[d], e.retry[d])
		}
		e.retry[d] = 0
		e.read[d]++
	case id < e.last[d] || e.retry[d] == 0 || e.retry[d] > tries+1:
		e.t.Fatalf("direction %v: line %d is read after %d", d, id, e.last[d])
	}
	e.last[d] = id
	switch tag := xs[0].Class; {
	case tag == 'F':
		return netip.AddrPort{}, ErrForeign
	case tag == 'L' || tag == 'N' && e.retry[d] == 0:
		e.retry[d]++
		return netip.AddrPort{}, ErrLimit
	}
	e.retry[d] = 0
	e.edited[d][id] = true
	return xs[0].To, nil
}

// modelPacket is one on its way.
type modelPacket struct {
	d       flow.Direction
	seq     uint32
	payload []byte
	fin     bool
	probe   bool // without data, one below the next number
	isAck   bool
	ack     uint32
	sack    [][2]uint32
}

// modelHost sends the data of one direction. Offsets count from its first byte.
type modelHost struct {
	isn    uint32 // number of the first byte
	data   []byte
	starts []int // of the lines
	una    int
	nxt    int
	fin    bool // sent
	sacked map[int]bool
}

// modelPeer receives them. Offsets count from the first byte as well, of what it reads.
type modelPeer struct {
	got []byte
	has []bool
	nxt int
	end int // of the stream, -1: unknown
}

type model struct {
	t       *rapid.T
	c       *Conn
	budget  *Budget
	f       *Flow
	env     *modelEnv
	hosts   [2]*modelHost
	peers   [2]*modelPeer // by the direction of the data
	in, out []modelPacket // to the flow, from the flow
	edit    bool
	fair    bool // nothing is lost any more

	lost bool // bytes came to a receiver by another path, or too far ahead to be kept
}

func newModel(t *rapid.T, edit bool) *model {
	m := &model{t: t, c: fakeConn(flow.TCP, "10.0.0.1:1000", "192.0.2.9:21", ""), edit: edit, budget: &Budget{Flows: 1}}
	if edit {
		m.c = translated()
	}
	m.budget.Bytes = rapid.SampledFrom([]int{0, 0, 0, 4000, 100}).Draw(t, "budget")
	m.f = m.budget.Open(lineHelper)
	m.env = &modelEnv{t: t, stats: &m.budget.Stats, edit: edit, last: [2]int{-1, -1}, edited: [2]map[int]bool{{}, {}}}
	tags := []byte("AAAAAAAAAAAAAAKKFNL")
	if rapid.IntRange(0, 4).Draw(t, "fails") == 0 {
		tags = append(tags, "PE?"...)
	}
	chars := rapid.StringOfN(rapid.SampledFrom([]rune("abc012i")), 0, 30, -1)
	for d := range m.hosts {
		h := &modelHost{sacked: map[int]bool{}}
		h.isn = rapid.OneOf(rapid.Uint32(), rapid.Uint32Range(0xffffffc0, 0xffffffff), rapid.Uint32Range(0x7fffffc0, 0x80000010)).Draw(t, "isn")
		for i := range rapid.IntRange(0, 12).Draw(t, "lines") {
			h.starts = append(h.starts, len(h.data))
			text := chars.Draw(t, "line")
			switch rapid.IntRange(0, 40).Draw(t, "long") {
			case 1, 2, 3, 4, 5: // many edits
				text += strings.Repeat("1a", 20)
			case 6: // longer than allowed, or more edits than allowed
				text += strings.Repeat("1a", 80+rapid.IntRange(0, 30).Draw(t, "more"))
			}
			h.data = append(h.data, fmt.Sprintf("%c%d:%s\n", rapid.SampledFrom(tags).Draw(t, "tag"), i, text)...)
		}
		if rapid.IntRange(0, 4).Draw(t, "open") == 0 { // the last line is never whole
			h.starts = append(h.starts, len(h.data))
			h.data = append(h.data, "A99:112"...)
		}
		m.hosts[d], m.peers[d] = h, &modelPeer{end: -1}
		m.f.begin(flow.Direction(d), h.isn, 0)
	}
	return m
}

// line returns what the receiver reads of a line of direction d.
func (m *model) line(d flow.Direction, i int, line []byte) []string {
	out := make([]string, len(line))
	body := bytes.IndexByte(line, ':')
	for j, c := range line {
		out[j] = string(c)
		if m.edit && m.env.edited[d][i] && j >= body {
			out[j] = reads(c)
		}
	}
	return out
}

// place is where the receiver reads offset o of direction d, as things stand: before and behind
// what is put in there.
func (m *model) place(d flow.Direction, o int) (at, behind int) {
	h := m.hosts[d]
	for i, start := range h.starts {
		end := len(h.data)
		if i+1 < len(h.starts) {
			end = h.starts[i+1]
		}
		for j, s := range m.line(d, i, h.data[start:end]) {
			if start+j >= o {
				return at, at + max(0, strings.IndexByte(s, 'i'))
			}
			at += len(s)
		}
	}
	at += max(0, o-len(h.data))
	return at, at
}

// all is what the receiver of direction d is to read.
func (m *model) all(d flow.Direction) string {
	h := m.hosts[d]
	var b strings.Builder
	for i, start := range h.starts {
		end := len(h.data)
		if i+1 < len(h.starts) {
			end = h.starts[i+1]
		}
		for _, s := range m.line(d, i, h.data[start:end]) {
			b.WriteString(s)
		}
	}
	return b.String()
}

// send has host d send bytes from offset at on: new ones, or old ones with other boundaries.
func (m *model) send(d flow.Direction, at, n int) {
	h := m.hosts[d]
	end := min(at+n, len(h.data))
	p := modelPacket{d: d, seq: h.isn + uint32(at), payload: bytes.Clone(h.data[min(at, end):end])}
	if p.fin = end == len(h.data) && (h.fin || m.fair || rapid.Bool().Draw(m.t, "fin")); p.fin {
		h.fin = true
		end++
	}
	if len(p.payload) > 0 || p.fin {
		h.nxt = max(h.nxt, end)
		m.in = append(m.in, p)
	}
}

// take removes a packet from a queue, one of the first few.
func (m *model) take(q *[]modelPacket) (p modelPacket, ok bool) {
	if len(*q) == 0 {
		return p, false
	}
	i := 0
	if !m.fair {
		i = rapid.IntRange(0, min(len(*q)-1, 4)).Draw(m.t, "which")
	}
	p = (*q)[i]
	fate := 9
	if !m.fair {
		fate = rapid.IntRange(0, 9).Draw(m.t, "fate")
	}
	if fate != 0 { // 0: it comes, and comes again
		*q = slices.Delete(*q, i, i+1)
	}
	return p, fate > 1 || fate == 0 // 1: it is lost
}

// transit takes a packet through the flow.
func (m *model) transit(p modelPacket) {
	switch {
	case p.isAck:
		m.f.Acked(p.d, p.ack)
		p.ack = m.f.Ack(p.d, p.ack)
		p.sack = slices.Clone(p.sack)
		for i, b := range p.sack {
			p.sack[i][0], p.sack[i][1] = m.f.Sack(p.d, b[0], b[1])
		}
		m.out = append(m.out, p)
		return
	case p.probe:
		p.seq = m.f.Seq(p.d, p.seq)
		m.out = append(m.out, p)
		return
	}
	m.look(p)
	before, on := m.budget.Stats, m.f.Off() == nil
	r := m.f.Segment(m.c, m.env, p.d, p.seq, p.payload)
	if on && errors.Is(m.f.Off(), ErrEdits) { // its expectation is there, and comes to nothing
		delete(m.env.edited[p.d], m.env.last[p.d])
	}
	if f, b := m.budget.Used(); f != 1 || b < 0 || m.f.Off() == nil && len(m.f.streams[p.d].buf) > lineHelper.Limit {
		m.t.Fatalf("%d flows, %d bytes used", f, b)
	}
	if r.Drop != flow.NoReason {
		if !m.edit && r.Drop != flow.ReasonHelperRefused {
			m.t.Fatalf("%v, although nothing is translated", r.Drop)
		}
		if before == m.budget.Stats {
			m.t.Fatalf("%v is not counted", r.Drop)
		}
		return
	}
	if !m.edit && (r.Seq != p.seq || !r.Same() && m.budget.Stats.Refused == before.Refused) {
		m.t.Fatalf("changed although nothing is translated: %+v", r)
	}
	out := r.Append(nil, p.payload)
	if len(out) != r.Len(len(p.payload)) {
		m.t.Fatalf("%d bytes, and Len says %d", len(out), r.Len(len(p.payload)))
	}
	if len(out) == 0 && len(p.payload) > 0 {
		m.t.Fatal("a segment without a byte, which nobody acknowledges")
	}
	fin := p.fin && r.Cut == 0
	for at, part := range split(out, rapid.IntRange(5, 100).Draw(m.t, "room")) {
		m.out = append(m.out, modelPacket{d: p.d, seq: r.Seq + at, payload: part, fin: fin && int(at)+len(part) == len(out)})
	}
}

// look notes whether a packet comes too far ahead to be kept until what is missing is there.
func (m *model) look(p modelPacket) {
	s := &m.f.streams[p.d]
	far := int32(p.seq+uint32(len(p.payload))-s.next()) > int32(lineHelper.Limit)
	m.lost = m.lost || !m.edit && (m.budget.Bytes > 0 || far || len(s.ahead) >= maxPieces)
}

// arrive gives a packet to the host that it is for.
func (m *model) arrive(p modelPacket) {
	if p.isAck {
		m.acknowledged(p)
		return
	}
	r, h := m.peers[p.d], m.hosts[p.d]
	at := int(int32(p.seq - h.isn))
	if p.probe {
		if at >= r.nxt && r.nxt != r.end { // a FIN has a number, too
			m.t.Fatalf("a probe at %d, which is no old number: %d is next", at, r.nxt)
		}
		return
	}
	folded := len(m.f.streams[0].adj.log)+len(m.f.streams[1].adj.log) < int(m.budget.Stats.Edits)
	take := len(p.payload)
	if !m.fair && rapid.IntRange(0, 9).Draw(m.t, "window") == 0 {
		take = rapid.IntRange(0, take).Draw(m.t, "window")
	}
	for i, c := range p.payload {
		o := at + i
		if o < 0 {
			continue
		}
		for len(r.got) <= o {
			r.got, r.has = append(r.got, 0), append(r.has, false)
		}
		if r.has[o] && r.got[o] != c && (o >= r.nxt || !folded) {
			m.t.Fatalf("byte %d of direction %v is %q and %q", o, p.d, r.got[o], c)
		}
		if !r.has[o] && i < take {
			r.got[o], r.has[o] = c, true
		}
	}
	dup := [2]uint32{p.seq, p.seq + uint32(len(p.payload))}
	isDup := at+len(p.payload) <= r.nxt && len(p.payload) > 0
	for r.nxt < len(r.has) && r.has[r.nxt] {
		r.nxt++
	}
	if p.fin {
		if end := at + len(p.payload); r.end >= 0 && r.end != end {
			m.t.Fatalf("the stream ends at %d and at %d", r.end, end)
		} else {
			r.end = end
		}
	}
	a := modelPacket{d: p.d.Other(), isAck: true, ack: h.isn + uint32(r.nxt)}
	if r.nxt == r.end {
		a.ack++
	}
	if isDup {
		a.sack = append(a.sack, dup)
	}
	for o := r.nxt; o < len(r.has) && len(a.sack) < 4; o++ {
		if from := o; r.has[o] {
			for o < len(r.has) && r.has[o] {
				o++
			}
			a.sack = append(a.sack, [2]uint32{h.isn + uint32(from), h.isn + uint32(o)})
		}
	}
	m.in = append(m.in, a)
}

// acknowledged gives a sender an acknowledgement, which must say nothing that is not so.
func (m *model) acknowledged(p modelPacket) {
	d := p.d.Other()
	h, r := m.hosts[d], m.peers[d]
	o := int(int32(p.ack - h.isn))
	if o > h.nxt {
		m.t.Fatalf("%d is acknowledged, and %d was sent", o, h.nxt)
	}
	if at, _ := m.place(d, o); at > r.nxt && (at != r.end+1 || r.nxt != r.end) {
		m.t.Fatalf("%d is acknowledged, which is %d to the receiver, and it has %d", o, at, r.nxt)
	}
	h.una = max(h.una, o)
	for _, b := range p.sack {
		from, to := int(int32(b[0]-h.isn)), int(int32(b[1]-h.isn))
		if to > h.nxt || from > to {
			m.t.Fatalf("block %d to %d, and %d was sent", from, to, h.nxt)
		}
		for o := max(from, 0); o < to; o++ {
			h.sacked[o] = true
		}
		_, at := m.place(d, max(from, 0))
		for last, _ := m.place(d, to); from < to && at < last; at++ {
			if !r.has[at] {
				m.t.Fatalf("block %d to %d, and byte %d never came; nxt %d una %d ack %d data %q got %q log %+v base %d acked %d", from, to, at, r.nxt, h.una, o, h.data, r.got, m.f.streams[d].adj.log, m.f.streams[d].adj.base, m.f.streams[d].adj.acked-h.isn)
			}
		}
	}
}

// step does one thing.
func (m *model) step() {
	d := flow.Direction(rapid.IntRange(0, 1).Draw(m.t, "direction"))
	h := m.hosts[d]
	switch rapid.IntRange(0, 9).Draw(m.t, "what") {
	case 0, 1:
		m.send(d, min(h.nxt, len(h.data)), rapid.IntRange(1, 60).Draw(m.t, "length"))
	case 2: // again, from what is missing on, or from anywhere
		at := h.una
		if at < h.nxt && rapid.Bool().Draw(m.t, "hole") {
			at = rapid.IntRange(max(0, at-40), h.nxt-1).Draw(m.t, "from")
		}
		for at < h.nxt && h.sacked[at] {
			at++
		}
		if at < h.nxt {
			m.send(d, at, rapid.IntRange(1, h.nxt-at+20).Draw(m.t, "length"))
		}
	case 3:
		if h.una == h.nxt && h.una > 0 {
			m.in = append(m.in, modelPacket{d: d, seq: h.isn + uint32(h.una) - 1, probe: true})
		}
	case 4, 5, 6:
		p, ok := m.take(&m.in)
		switch {
		case !ok:
		case !m.edit && rapid.IntRange(0, 15).Draw(m.t, "path") == 1:
			m.out = append(m.out, p)
			m.lost = true
		default:
			m.transit(p)
		}
	default:
		if p, ok := m.take(&m.out); ok {
			m.arrive(p)
		}
	}
}

// finish lets everything through that is missing, from now on in order.
func (m *model) finish() {
	m.fair = true
	for range 400 {
		for len(m.in)+len(m.out) > 0 {
			if p, ok := m.take(&m.in); ok {
				m.transit(p)
			}
			if p, ok := m.take(&m.out); ok {
				m.arrive(p)
			}
		}
		left := 0
		for d, h := range m.hosts {
			if h.una <= len(h.data) {
				m.send(flow.Direction(d), h.una, 120)
				left++
			}
		}
		if left == 0 {
			return
		}
	}
	m.t.Fatalf("it does not come to an end: %d of %d, %d of %d; %v", m.hosts[0].una, len(m.hosts[0].data), m.hosts[1].una, len(m.hosts[1].data), m.f.Off())
}

// judge compares what was received with what is to be.
func (m *model) judge() {
	if err := m.f.Off(); errors.Is(err, ErrGap) && !m.lost || errors.Is(err, ErrConflict) || errors.Is(err, ErrMidstream) {
		m.t.Fatalf("%v, %+v", err, m.budget.Stats)
	}
	for d := range m.hosts {
		d := flow.Direction(d)
		want, r := m.all(d), m.peers[d]
		if got := string(r.got[:r.nxt]); got != want || r.end != len(want) {
			m.t.Fatalf("direction %v: received\n%q (end %d), not\n%q", d, got, r.end, want)
		}
		lines := len(m.hosts[d].starts)
		if lines > 0 {
			last := m.hosts[d].data[m.hosts[d].starts[lines-1]:]
			if last[0] == 'K' || last[len(last)-1] != '\n' {
				lines--
			}
		}
		if s := &m.budget.Stats; m.f.Off() == nil && m.env.read[d] < lines-int(s.Passed) {
			m.t.Fatalf("direction %v: %d of %d lines read, %d let go", d, m.env.read[d], lines, s.Passed)
		}
		if !m.edit && m.f.Off() == nil && m.env.read[d] != lines {
			m.t.Fatalf("direction %v: %d of %d lines read", d, m.env.read[d], lines)
		}
	}
	m.f.Close()
	if f, b := m.budget.Used(); f != 0 || b != 0 {
		m.t.Fatalf("%d flows and %d bytes are not given back", f, b)
	}
}

func modelProperty(t *rapid.T) {
	m := newModel(t, rapid.IntRange(0, 3).Draw(t, "translated") > 0)
	for range rapid.IntRange(0, 150).Draw(t, "steps") {
		m.step()
	}
	m.finish()
	m.judge()
}

// TestFlowModel: whatever a network does to both streams of a connection, their receivers read
// what was sent with the edits made, and the senders are told nothing that is not so.
func TestFlowModel(t *testing.T) {
	for range 5 {
		rapid.Check(t, modelProperty)
	}
}

// split cuts what Append has made of the payload of a TCP segment into segments of no more than
// limit bytes each, which is above 0, and goes through them with their offsets from Result.Seq, as
// packet.Segments does.
// One is never too many: an acknowledgement that covers half an edit is taken back to its
// beginning by Ack, so the sender sends all of it again. PSH and FIN belong to the last.
func split(out []byte, limit int) iter.Seq2[uint32, []byte] {
	return func(yield func(uint32, []byte) bool) {
		for at := 0; ; {
			n := min(limit, len(out)-at)
			if !yield(uint32(at), out[at:at+n]) || at+n >= len(out) {
				return
			}
			at += n
		}
	}
}

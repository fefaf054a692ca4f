package helper

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// translated is a connection whose client is translated, untranslated one where nobody is.
func translated() *Conn {
	return fakeConn(flow.TCP, "10.0.0.1:1000", "192.0.2.9:21", "192.0.2.1:2000")
}

func untranslated() *Conn { return fakeConn(flow.TCP, "10.0.0.1:1000", "192.0.2.9:21", "") }

// talk is a flow of lineHelper (or another) whose first byte of each direction is 1000.
type talk struct {
	t   *testing.T
	b   Budget
	f   *Flow
	c   *Conn
	env fakeEnv
}

func newTalk(t *testing.T, c *Conn, h *Helper) *talk {
	t.Helper()
	k := &talk{t: t, c: c}
	k.f = k.b.Open(h)
	k.f.begin(flow.Original, 1000, 0)
	k.f.begin(flow.Reply, 1000, 0)
	return k
}

// says has the client send bytes, and compares what becomes of them: the reason why they are
// dropped, or the sequence number, what goes out and, if some of it does not, "+" and how much.
func (k *talk) says(seq uint32, payload, want string) {
	k.t.Helper()
	r := k.f.Segment(k.c, &k.env, flow.Original, seq, []byte(payload))
	got := r.Drop.String()
	if r.Drop == 0 {
		got = fmt.Sprintf("%d %s", r.Seq, r.Append(nil, []byte(payload)))
	}
	if r.Cut > 0 {
		got += fmt.Sprintf("+%d", r.Cut)
	}
	if got != want {
		k.t.Errorf("%d %q: %q, not %q", seq, payload, got, want)
	}
}

func (k *talk) expected(n int) {
	k.t.Helper()
	if len(k.env.log) != n {
		k.t.Errorf("expected %q", k.env.log)
	}
}

func (k *talk) off(err error) {
	k.t.Helper()
	if !errors.Is(k.f.Off(), err) || err != nil && k.b.Stats.Off[indexOf(offErrors[:], err)] != 1 {
		k.t.Errorf("off: %v, not %v; %+v", k.f.Off(), err, k.b.Stats)
	}
}

// TestHeld: a line of several segments goes out as one, with what was read of it rewritten, and
// the line that the last one begins is kept back in its turn.
func TestHeld(t *testing.T) {
	k := newTalk(t, translated(), lineHelper)
	k.says(1000, "A0:", "helper_held")
	k.says(1003, "11", "helper_held")
	k.says(1005, "1\nA1", "1000 A0:ababab\n+2")
	k.says(1009, ":1\n", "1010 A1:ab\n")
	k.expected(2)
	if s := k.b.Stats; s.Held != 3 || s.Messages != 2 || s.Edits != 2 {
		t.Errorf("%+v", s)
	}
	// Without translation nothing is held.
	k = newTalk(t, untranslated(), lineHelper)
	k.says(1000, "A0:", "1000 A0:")
	k.says(1003, "11", "1003 11")
	k.says(1005, "1\nA1", "1005 1\nA1")
	k.expected(1)
}

// TestHeldAlone: what is held goes on as it is if it comes again without the rest, or if the
// stream ends. Its message says nothing then; the next one does.
func TestHeldAlone(t *testing.T) {
	k := newTalk(t, translated(), lineHelper)
	k.says(1000, "A0:1", "helper_held")
	k.says(1000, "A0:1", "1000 A0:1")
	k.says(1004, "1\nA1:1\nA2", "1004 1\nA1:ab\n+2")
	k.expected(1)
	k.says(1011, "A2:", "1012 A2:") // longer, but no line yet
	k.says(1014, "1\n", "1015 1\n")
	k.expected(1)
	if k.b.Stats.Passed != 2 || k.b.Stats.Expects[indexOf(refusals[:], ErrPassed)] != 2 {
		t.Errorf("%+v", k.b.Stats)
	}
	k.says(1016, "A3", "helper_held")
	k.says(1018, "", "1017 A3") // FIN
	k.off(nil)
}

// TestSentAgain: what is sent again has the same edits, and of an edit of which it has a part
// all of it.
func TestSentAgain(t *testing.T) {
	k := newTalk(t, translated(), lineHelper)
	k.says(1000, "A0:a12b\n", "1000 A0:aab"+strings.Repeat("x", 40)+"b\n")
	all := "ab" + strings.Repeat("x", 40) // of 1004 to 1006
	k.says(1000, "A0:a12b\n", "1000 A0:a"+all+"b\n")
	k.says(1000, "A0:a", "1000 A0:a")
	k.says(1000, "A0:a1", "1000 A0:a"+all)
	k.says(1005, "2b\n", "1004 "+all+"b\n")
	k.says(1005, "?", "1004 "+all)                // even a probe with a byte that is none
	k.says(1003, "a12b\nA", "1003 a"+all+"b\n+1") // old ones, and a new one, which is held
	k.says(1006, "b\nA1:", "1046 b\nA1:")         // which comes again
	k.expected(1)
}

// TestEarly: bytes that come before what precedes them are dropped if they may have to be
// edited; if not they go on, and are read when their turn comes.
func TestEarly(t *testing.T) {
	k := newTalk(t, translated(), lineHelper)
	k.says(1005, "A1:1\n", "helper_early")
	k.says(1005, "", "helper_early") // a FIN would be misplaced by the edits before it
	k.says(1000, "A0:1\n", "1000 A0:ab\n")
	k.expected(1)
	if k.b.Stats.Early != 2 {
		t.Errorf("%+v", k.b.Stats)
	}
	k = newTalk(t, untranslated(), lineHelper)
	k.says(1010, "A2:1\n", "1010 A2:1\n")
	k.says(1005, "A1:", "1005 A1:")
	k.says(1007, ":1\nA", "1007 :1\nA") // over the next one as well
	k.expected(0)
	k.says(1000, "A0:1\n", "1000 A0:1\n")
	k.expected(3)
	k.off(nil)
	if _, n := k.b.Used(); n != 0 {
		t.Errorf("%d bytes are kept", n)
	}
	k.says(1020, "A9:1\n", "1020 A9:1\n")
	k.says(1015, "A3:1\nB9", "1015 A3:1\nB9") // says otherwise
	k.off(ErrConflict)
}

// TestGap: what was acknowledged and never seen went another way: the flow is read no further.
func TestGap(t *testing.T) {
	for _, c := range []*Conn{untranslated(), translated()} {
		k := newTalk(t, c, lineHelper)
		k.f.Acked(flow.Reply, 1000)
		k.says(1000, "A0:\n", "1000 A0:\n")
		k.f.Acked(flow.Reply, 1005) // and a FIN
		k.off(nil)
		k.f.Acked(flow.Reply, 1006)
		k.off(ErrGap)
		k.says(1006, "A1:1\n", "1006 A1:1\n")
		k.expected(1)
	}
	k := newTalk(t, translated(), lineHelper)
	k.says(1000, "A0:", "helper_held")
	k.f.Acked(flow.Reply, 1001) // of what has not gone on
	k.off(ErrGap)
}

// TestConflict: a part of a message that is sent again with other bytes cannot be trusted.
func TestConflict(t *testing.T) {
	for _, again := range []string{"A0:2", "A0:2\n"} {
		k := newTalk(t, translated(), lineHelper)
		k.says(1000, "A0:1", "helper_held")
		k.says(1000, again, "1000 "+again)
		k.off(ErrConflict)
		k.expected(0)
	}
}

// TestBegin: a stream is read from its first byte on or not at all (H1).
func TestBegin(t *testing.T) {
	k := &talk{t: t, c: untranslated()}
	k.f = k.b.Open(lineHelper)
	k.f.Answer(flow.Reply, 7000, 5000)
	k.f.Acked(flow.Original, 7000)
	k.says(5000, "A0:\n", "5000 A0:\n")
	k.f.Answer(flow.Reply, 7000, 5000) // sent again
	k.says(5004, "A1:\n", "5004 A1:\n")
	k.expected(2)
	k.f = k.b.Open(lineHelper)
	k.says(1000, "A0:\n", "1000 A0:\n")
	k.off(ErrMidstream)
	k.expected(2)
}

// TestBeginAnew: a connection that begins with other numbers, while there is one still, is read
// from its beginning; what is added to the numbers of each side stays the same, since the SYNs
// have gone through with it.
func TestBeginAnew(t *testing.T) {
	for _, first := range []uint32{5000, 0x90000000} { // behind all edits, and, by the wrap, before them
		k := newTalk(t, translated(), lineHelper)
		k.says(1000, "A0:1\n", "1000 A0:ab\n")
		k.says(1005, "A1:1", "helper_held")
		before := k.f.Seq(flow.Original, first) - first // with which the SYN goes on
		k.f.Answer(flow.Reply, 77, first+before)
		k.f.Acked(flow.Reply, first+before)
		k.says(first, "A2:1\n", fmt.Sprintf("%d A2:ab\n", first+before))
		k.says(first+5, "A3:1\n", fmt.Sprintf("%d A3:ab\n", first+before+6))
		if n := k.f.Ack(flow.Reply, first+before+12); n != first+10 {
			t.Errorf("the sender is told of %d bytes", n-first)
		}
		k.off(nil)
		if _, bytes := k.b.Used(); bytes != k.f.streams[0].adj.cost() {
			t.Errorf("%d bytes are charged", bytes)
		}
	}
}

// TestNumbers: sequence and acknowledgement numbers and SACK edges between the spaces of the
// sender and of the receiver, around edits that lengthen and shorten and over the wrap.
func TestNumbers(t *testing.T) {
	k := newTalk(t, translated(), lineHelper)
	const isn = 0xfffffffa
	k.f.begin(flow.Original, isn, 0)
	// A 0 : a 1 1 b 0 c \n      sender:   0 1 2 3 4 5 6 7 8 9 10
	// A 0 : a abab (b) c \n     receiver: 0 1 2 3 4 ----- 8 9 10 11
	isn32 := uint32(isn)
	k.says(isn, "A0:a11b0c\n", fmt.Sprintf("%d A0:aababbc\n", isn32))
	if !k.f.Adjusted() {
		t.Fatal("nothing is edited")
	}
	d, back := flow.Original, flow.Reply
	seq := func(n uint32) uint32 { return k.f.Seq(d, isn32+n) - isn32 }
	for n, want := range map[uint32]uint32{
		0: 0, 3: 3, 4: 4,
		5: 7,       // in the edit: one below its end
		6: 8, 7: 8, // b and the 0 behind it, which is taken out, became one edit
		8: 9, 9: 10,
		10: 11, // FIN, RST, a pure ACK, an urgent pointer behind all of it
		11: 12, 5000: 5001,
	} {
		if got := seq(n); got != want {
			t.Errorf("seq %d: %d, not %d", n, got, want)
		}
	}
	for ack, want := range map[uint32]uint32{
		0: 0, 4: 4, 5: 4, 6: 4, 7: 4, // a part of an edit: sent again from its beginning on
		8: 6, 9: 8, 10: 9, 11: 10, 12: 11,
	} {
		if got := k.f.Ack(back, isn32+ack) - isn32; got != want {
			t.Errorf("ack %d: %d, not %d", ack, got, want)
		}
	}
	for block, want := range map[[2]uint32][2]uint32{
		{8, 11}: {6, 10}, {4, 8}: {4, 6}, {0, 4}: {0, 4}, // D-SACK, too
		{5, 8}: {6, 6}, // the end of an edit: nothing that the sender knows of
		{4, 7}: {4, 4}, // its beginning
		{5, 9}: {6, 8}, {3, 7}: {3, 4}, {11, 20}: {10, 19},
	} {
		l, r := k.f.Sack(back, isn32+block[0], isn32+block[1])
		if l-isn32 != want[0] || r-isn32 != want[1] {
			t.Errorf("block %v: %d %d, not %v", block, l-isn32, r-isn32, want)
		}
	}
	// The other direction has its own.
	if k.f.Seq(back, 5000) != 5000 || k.f.Ack(d, 5000) != 5000 {
		t.Error("the other direction is changed")
	}
}

// TestOff: what turns a helper off turns it off for the flow only; what was held goes out, and
// what was edited stays so.
func TestOff(t *testing.T) {
	session := map[string]func(m *Message) (int, error){
		"panic":     func(*Message) (int, error) { panic("a defect") },
		"too much":  func(m *Message) (int, error) { return len(m.Data) + 1, nil },
		"negative":  func(*Message) (int, error) { return -1, nil },
		"edit of 0": func(m *Message) (int, error) { m.Replace(0, 1, []byte("x")); return 0, nil },
		"beyond":    func(m *Message) (int, error) { m.Replace(0, 2, []byte("x")); return 1, nil },
		"order":     func(m *Message) (int, error) { m.Replace(1, 1, nil); m.Replace(0, 1, nil); return 2, nil },
		"all":       func(m *Message) (int, error) { m.Replace(0, 5, nil); return 5, nil },
		"range":     func(m *Message) (int, error) { m.Replace(-1, 1, nil); return 5, nil },
	}
	for name, message := range session {
		t.Run(name, func(t *testing.T) {
			on := false
			h := *lineHelper
			h.New = func() Session {
				return sessionFunc(func(m *Message) (int, error) {
					if on {
						return message(m)
					}
					return lineSession{}.Message(m)
				})
			}
			k := newTalk(t, translated(), &h)
			k.says(1000, "A0:1\n", "1000 A0:ab\n")
			k.says(1005, "A1:", "helper_held")
			on = true
			k.says(1008, "1\n", "1006 A1:1\n")
			k.off(ErrPanic)
			on = false
			k.says(1010, "A2:1\n", "1011 A2:1\n")
			k.says(1003, "1", "1003 ab")
			k.f.Acked(flow.Reply, 1016)
			if k.f.Ack(flow.Reply, 1016) != 1015 || k.f.Seq(flow.Original, 1015) != 1016 {
				t.Error("the numbers are adjusted no more")
			}
			k.f.Close()
			k.f.Close()
			if f, n := k.b.Used(); f != 0 || n != 0 {
				t.Errorf("%d flows, %d bytes", f, n)
			}
		})
	}
}

// sessionFunc is a Session that is a function.
type sessionFunc func(m *Message) (int, error)

func (f sessionFunc) Message(m *Message) (int, error) { return f(m) }

// TestTooLong: as many bytes of an incomplete message are kept as the helper says, and none
// beyond the budget.
func TestTooLong(t *testing.T) {
	for _, c := range []*Conn{untranslated(), translated()} {
		k := newTalk(t, c, lineHelper)
		part := strings.Repeat("y", lineHelper.Limit)
		r := k.f.Segment(c, &k.env, flow.Original, 1000, []byte(part))
		if held := r.Drop == flow.ReasonHelperHeld; held != editable(c) {
			t.Errorf("%v", r.Drop)
		}
		k.off(nil)
		want := "1200 y"
		if editable(c) {
			want = "1000 " + part + "y"
		}
		k.says(1200, "y", want)
		k.off(ErrTooLong)
		if _, n := k.b.Used(); n != 0 {
			t.Errorf("%d bytes are kept", n)
		}
	}
	k := newTalk(t, translated(), lineHelper)
	k.b.Bytes = 5
	k.says(1000, "A0:", "helper_held")
	k.says(1003, "111", "1000 A0:111")
	k.off(ErrBudget)
}

// TestWaits: if as many edits as are remembered are not acknowledged the next message waits
// until they are. What is forgotten then leaves late duplicates among what nobody reads.
func TestWaits(t *testing.T) {
	k := newTalk(t, translated(), lineHelper)
	seq, i := uint32(1000), 0
	line := func() string { return fmt.Sprintf("A%03d:%s\n", i, strings.Repeat("1a", 20)) }
	for ; i < 6; i++ {
		r := k.f.Segment(k.c, &k.env, flow.Original, seq, []byte(line()))
		if wait := i == 5; (r.Drop == flow.ReasonHelperWaits) != wait {
			t.Fatalf("line %d: %v", i, r.Drop)
		} else if wait {
			break
		}
		seq += uint32(len(line()))
	}
	if k.b.Stats.Waited != 1 {
		t.Errorf("%+v", k.b.Stats)
	}
	k.expected(5)
	k.f.Acked(flow.Reply, k.f.Seq(flow.Original, seq)-1) // not all of it
	r := k.f.Segment(k.c, &k.env, flow.Original, seq, []byte(line()))
	if r.Drop != 0 || r.Len(len(line())) != len(line())+20 || r.Seq != seq+5*20 {
		t.Fatalf("%+v", r)
	}
	k.f.Acked(flow.Reply, r.Seq+uint32(r.Len(len(line()))))
	if n := len(k.f.streams[0].adj.log); n != lateEdits {
		t.Errorf("%d acknowledged edits are kept", n)
	}
	// A late duplicate of all of it ends where it did, and begins no earlier.
	r = k.f.Segment(k.c, &k.env, flow.Original, 1000, make([]byte, seq+46-1000))
	end := r.Seq + uint32(r.Len(int(seq+46-1000)))
	if end != seq+46+6*20 || before(r.Seq, 1000) {
		t.Errorf("from %d to %d", r.Seq, end)
	}
	k.off(nil)
}

// TestTooManyEdits: a message with more edits than can be remembered goes on as it is.
func TestTooManyEdits(t *testing.T) {
	h := *lineHelper
	h.Limit = 1000
	k := newTalk(t, translated(), &h)
	line := "A0:" + strings.Repeat("1a", maxEdits+1) + "\n"
	k.says(1000, line, "1000 "+line)
	k.off(ErrEdits)
}

// TestLongStream: edits are forgotten before their numbers could be taken for others.
func TestLongStream(t *testing.T) {
	k := newTalk(t, translated(), lineHelper)
	k.says(1000, "A0:1\n", "1000 A0:ab\n")
	k.says(1005, "E\n", "1006 E\n")
	k.off(ErrEncrypted)
	seq := uint32(1007)
	for range 24 { // 12 GiB, of which nobody acknowledges anything
		seq += 1 << 29
		k.says(seq, "x", fmt.Sprintf("%d x", seq+1))
		if k.f.Ack(flow.Reply, seq+2) != seq+1 || k.f.Seq(flow.Original, seq) != seq+1 {
			t.Fatal("the shift is lost")
		}
	}
	if len(k.f.streams[0].adj.log) != 0 {
		t.Error("it is still remembered")
	}
}

// TestRefused: what announces a connection for which there is no room is dropped to be sent
// again, three times; what must not be announced goes on as it is.
func TestRefused(t *testing.T) {
	for _, c := range []*Conn{untranslated(), translated()} {
		k := newTalk(t, c, lineHelper)
		k.env.err = ErrLimit
		for range tries {
			k.says(1000, "A0:1\n", "helper_refused")
		}
		k.says(1000, "A0:1\n", "1000 A0:1\n")
		k.env.err = ErrNoPort
		k.says(1005, "A1:1\n", "helper_refused")
		k.env.err = ErrForeign
		k.says(1005, "A1:1\n", "1005 A1:1\n")
		k.expected(tries + 3)
		if s := k.b.Stats; s.Refused != tries+1 || s.Expects[0] != 1 || s.Expects[2] != tries+1 {
			t.Errorf("%+v", s)
		}
		k.off(nil)
	}
}

// TestDatagram: a datagram is edited, dropped if there is no room for what it announces, and
// read no more after an error.
func TestDatagram(t *testing.T) {
	c := fakeConn(flow.UDP, "10.0.0.1:1000", "192.0.2.9:21", "192.0.2.1:2000")
	k := newTalk(t, c, lineHelper)
	say := func(payload, want string) {
		t.Helper()
		r := k.f.Datagram(c, &k.env, flow.Original, []byte(payload))
		got := r.Drop.String()
		if r.Drop == 0 {
			got = string(r.Append(nil, []byte(payload)))
		}
		if got != want || r.Drop == 0 && len(got) != r.Len(len(payload)) {
			t.Errorf("%q: %q, not %q", payload, got, want)
		}
	}
	say("A0:1i0\nA1:1\n", "A0:abINi\nA1:1\n")
	k.env.err = ErrLimit
	say("A0:1\n", "helper_refused")
	k.env.err = errors.New("another")
	say("A0:1\n", "A0:1\n")
	k.env.err = nil
	say("P\n", "P\n")
	k.off(ErrPanic)
	say("A0:1\n", "A0:1\n")
	if k.b.Stats.Expects[len(refusals)] != 1 {
		t.Errorf("%+v", k.b.Stats)
	}
}

// TestTidy: edits that put in or take out nothing take a byte beside them along.
func TestTidy(t *testing.T) {
	for _, c := range []struct {
		edits []Edit
		want  string // "": they are none
	}{
		{[]Edit{{2, 0, []byte("x")}}, "1+1 bx"},
		{[]Edit{{0, 0, []byte("x")}}, "0+1 xa"},
		{[]Edit{{0, 2, nil}}, "0+3 c"},
		{[]Edit{{3, 2, nil}}, "2+3 c"},
		{[]Edit{{1, 1, []byte("x")}, {2, 1, nil}}, "1+2 x"},
		{[]Edit{{0, 0, []byte("x")}, {1, 1, nil}}, "0+2 xa"},
		{[]Edit{{1, 0, nil}}, "none"},
		{[]Edit{{0, 5, nil}}, ""},
		{[]Edit{{4, 2, nil}}, ""},
		{[]Edit{{2, 1, nil}, {1, 1, nil}}, ""},
	} {
		got := "none"
		edits, ok := tidy(c.edits, []byte("abcde"))
		if !ok {
			got = ""
		}
		for i, e := range edits {
			if got = fmt.Sprintf("%d+%d %s", e.Off, e.Len, e.With); i > 0 {
				t.Error("more than one")
			}
		}
		if got != c.want {
			t.Errorf("%v: %q, not %q", c.edits, got, c.want)
		}
	}
}

// TestMapPassed: a message of which a part has gone on is told that nothing is translated.
func TestMapPassed(t *testing.T) {
	var told []netip.AddrPort
	h := *lineHelper
	h.New = func() Session {
		return sessionFunc(func(m *Message) (int, error) {
			n := strings.IndexByte(string(m.Data), '\n') + 1
			if n > 0 {
				told = append(told, m.Env.Map(m, m.Conn.Self(m.Dir)))
			}
			return n, nil
		})
	}
	k := newTalk(t, translated(), &h)
	k.says(1000, "a", "helper_held")
	k.says(1000, "a", "1000 a")
	k.says(1001, "\n\n", "1001 \n\n")
	if len(told) != 2 || told[0] != k.c.Self(flow.Original) || told[1] != k.c.Seen(flow.Original) {
		t.Errorf("%v", told)
	}
}

// TestFlowAllocates: a segment that holds whole messages and no edit allocates nothing, nor
// does any other once the helper is off.
func TestFlowAllocates(t *testing.T) {
	h := *lineHelper
	h.New = func() Session { return sessionFunc(func(m *Message) (int, error) { return len(m.Data), nil }) }
	k := newTalk(t, translated(), &h)
	payload, seq := []byte("NOOP\r\n"), uint32(1000)
	if n := testing.AllocsPerRun(100, func() {
		k.f.Acked(flow.Reply, seq)
		k.f.Segment(k.c, &k.env, flow.Original, seq, payload)
		seq += uint32(len(payload))
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestLookahead: a session that looks at what follows a message may end one in bytes that are
// held already, or have gone on already.
func TestLookahead(t *testing.T) {
	h := *lineHelper
	h.New = func() Session {
		return sessionFunc(func(m *Message) (int, error) {
			if n := strings.IndexByte(string(m.Data), '\n') + 1; n > 0 && n+2 <= len(m.Data) {
				return n, nil
			}
			return 0, nil
		})
	}
	k := newTalk(t, translated(), &h)
	k.says(1000, "a\nb", "helper_held")
	k.says(1003, "c", "1000 a\n+1")
	k = newTalk(t, translated(), &h)
	k.says(1000, "a\nb", "helper_held")
	k.says(1000, "a\nb", "1000 a\nb")
	k.says(1003, "c\nd", "1003 c\nd")
}

// TestSeenAhead: bytes that no window reaches have not been sent, and edits are not forgotten
// because of them.
func TestSeenAhead(t *testing.T) {
	k := newTalk(t, translated(), lineHelper)
	k.says(1000, "A0:1\n", "1000 A0:ab\n")
	k.says(1005+0x50000000, "x", "helper_early")
	k.says(1000, "A0:1\n", "1000 A0:ab\n")
	k.f.off(ErrGap)
	k.says(1005+0x50000000, "x", fmt.Sprintf("%d x", 1006+0x50000000))
	k.says(1000, "A0:1\n", "1000 A0:ab\n")
}

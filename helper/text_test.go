package helper

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// Of most tests the client is 10.0.1.2, which the server knows as 203.0.113.1 where it is
// translated, and the server is 192.0.2.2, which the client knows as 198.51.100.9.
const (
	plain = iota
	snat
	dnat
)

// textConn is a connection of the client to a port of the server.
func textConn(p flow.Proto, port string, nat int) *Conn {
	switch nat {
	case snat:
		return fakeConn(p, "10.0.1.2:40000", "192.0.2.2:"+port, "203.0.113.1:40000")
	case dnat:
		c := fakeConn(p, "10.0.1.2:40000", "198.51.100.9:"+port, "")
		c.Tuples[flow.Reply] = fakeConn(p, "10.0.1.2:40000", "192.0.2.2:"+port, "").Tuples[flow.Reply]
		return c
	}
	return fakeConn(p, "10.0.1.2:40000", "192.0.2.2:"+port, "")
}

// textConn6 is textConn of IPv6, translated or not.
func textConn6(p flow.Proto, port string, nat int) *Conn {
	seen := ""
	if nat != plain {
		seen = "[2001:db8::1]:40000"
	}
	return fakeConn(p, "[fd00:1::2]:40000", "[fd00:2::2]:"+port, seen)
}

// turn is what one side says; of one that begins with '<' the server, with '>' the client.
func turn(s string) (flow.Direction, string) {
	if s[0] == '<' {
		return flow.Reply, s[1:]
	}
	return flow.Original, s[1:]
}

// play has a helper read a dialogue in pieces: cut says where a turn is split. It returns what
// the receivers read.
func play(t *testing.T, h *Helper, c *Conn, turns []string, cut func(turn, at int) bool) (out [2]string, g *dialogue) {
	t.Helper()
	g = newDialogue(t, h, c)
	g.env.strict = true
	for i, s := range turns {
		d, text := turn(s)
		from := 0
		for at := 1; at < len(text); at++ {
			if cut(i, at) && c.Proto == flow.TCP {
				out[d] += g.say(d, text[from:at])
				from = at
			}
		}
		out[d] += g.say(d, text[from:])
	}
	return out, g
}

func uncut(int, int) bool { return false }

// everyCut plays a dialogue whole, with each turn split at each byte in its turn, and byte by
// byte. It returns what comes of it, which has to be the same every time.
func everyCut(t *testing.T, h *Helper, c *Conn, turns []string) (out [2]string, log []string, err error) {
	t.Helper()
	out, g := play(t, h, c, turns, uncut)
	check := func(cut func(turn, at int) bool) {
		o, b := play(t, h, c, turns, cut)
		for d := range o {
			if o[d]+string(b.rest[d]) != out[d]+string(g.rest[d]) {
				t.Fatalf("direction %d is read as %q and, split, as %q", d, out[d], o[d])
			}
		}
		if !slices.Equal(b.env.log, g.env.log) || !errors.Is(b.err, g.err) {
			t.Fatalf("expected %q, %v and, split, %q, %v", g.env.log, g.err, b.env.log, b.err)
		}
	}
	for i, s := range turns {
		for at := 1; at < len(s)-1; at++ {
			check(func(turn, a int) bool { return turn == i && a == at })
		}
	}
	check(func(int, int) bool { return true })
	return [2]string{out[0] + string(g.rest[0]), out[1] + string(g.rest[1])}, g.env.log, g.err
}

// textCase is what one side says after a beginning, and what comes of it.
type textCase struct {
	say    string // see turn
	expect string // "" nothing; several are separated by "; "
	read   string // what the receiver reads instead, "" for the same
	err    error
}

// textCases plays each case after a beginning.
func textCases(t *testing.T, h *Helper, c *Conn, begin []string, cases []textCase) {
	t.Helper()
	for _, tc := range cases {
		d, text := turn(tc.say)
		before := ""
		for _, s := range begin {
			if e, b := turn(s); e == d {
				before += b
			}
		}
		want := text
		if tc.read != "" {
			want = tc.read
		}
		out, log, err := everyCut(t, h, c, append(slices.Clone(begin), tc.say))
		if got := strings.Join(log, "; "); got != tc.expect {
			t.Errorf("%q: expected %q, want %q", tc.say, got, tc.expect)
		}
		if out[d] != before+want {
			t.Errorf("%q: read as %q, want %q", tc.say, out[d], before+want)
		}
		if !errors.Is(err, tc.err) {
			t.Errorf("%q: %v, want %v", tc.say, err, tc.err)
		}
	}
}

// TestFlowOfText: through a Flow, which drops and keeps, the receiver reads of a command that is
// cut anywhere what it reads of a whole one, and of one that comes a second time.
func TestFlowOfText(t *testing.T) {
	const login, sent, want = "USER x\r\n", "NOOP\r\nPORT 10,0,1,2,200,10\r\nSTOR x\r\n", "NOOP\r\nPORT 203,0,113,1,200,10\r\nSTOR x\r\n"
	for cut := 1; cut < len(sent); cut++ {
		c, env := textConn(flow.TCP, "21", snat), &fakeEnv{strict: true}
		f := NewFlow(ftp())
		f.begin(flow.Original, 1000, 0)
		f.begin(flow.Reply, 5000, 0)
		f.Segment(c, env, flow.Reply, 5000, []byte("220 ready\r\n"))
		f.Segment(c, env, flow.Original, 1000, []byte(login))
		got := make([]byte, 100) // as the receiver has it, by sequence number
		end := 0
		pass := func(from, to int) {
			part := []byte(sent[from:to])
			r := f.Segment(c, env, flow.Original, 1000+uint32(len(login)+from), part)
			if r.Drop != flow.NoReason {
				return
			}
			out := r.Append(nil, part)
			at := int(r.Seq) - 1000 - len(login)
			copy(got[at:], out)
			end = max(end, at+len(out))
		}
		pass(0, cut)
		pass(cut, len(sent))
		pass(0, len(sent)) // again
		if string(got[:end]) != want || len(env.log) != 1 || f.Off() != nil {
			t.Fatalf("cut at %d: %q, expected %q, %v", cut, got[:end], env.log, f.Off())
		}
	}
}

// TestNoAllocation: what announces nothing costs no memory.
func TestNoAllocation(t *testing.T) {
	for _, tc := range []struct {
		h    *Helper
		port string
		d    flow.Direction
		say  string
	}{
		{ftp(), "21", flow.Original, "RETR file\r\n"},
		{ftp(), "21", flow.Reply, "226 done\r\n"},
		{irc(), "6667", flow.Original, "PRIVMSG b :hello\r\n"},
		{irc(), "6667", flow.Reply, ":a PRIVMSG b :hello\r\n"},
		{sane(), "6566", flow.Original, words32(6, 0)},
		{rpc(), "111", flow.Original, words32(1<<31|24, 7, 0, 2, 100000, 2, 0)},
	} {
		s := tc.h.New()
		env := &fakeEnv{}
		m := &Message{Conn: textConn(flow.TCP, tc.port, snat), Dir: tc.d, Env: env}
		if tc.h.ID == ftpID {
			m.Dir, m.Data = flow.Reply, []byte("220 x\r\n")
			if _, err := s.Message(m); err != nil {
				t.Fatal(err)
			}
		}
		m.Dir, m.Data = tc.d, []byte(tc.say)
		if n := testing.AllocsPerRun(100, func() {
			if n, err := s.Message(m); n == 0 || err != nil {
				t.Fatalf("%q: %d, %v", tc.say, n, err)
			}
		}); n != 0 {
			t.Errorf("%q: %v allocations", tc.say, n)
		}
	}
}

// fuzzText has a helper read a dialogue whole and split, and compares. The turns of the client
// begin with 0xff, those of the server with 0xfe.
func fuzzText(t *testing.T, h *Helper, c *Conn, input string, at int) {
	t.Helper()
	var all []string
	side := ">"
	for input != "" {
		n := 0
		for n < len(input) && input[n] < 0xfe {
			n++
		}
		if n > 0 {
			all = append(all, side+input[:n])
		}
		if n < len(input) {
			side = map[byte]string{0xff: ">", 0xfe: "<"}[input[n]]
			n++
		}
		input = input[n:]
	}
	out, g := play(t, h, c, all, uncut)
	for _, cut := range []func(turn, a int) bool{
		func(_, a int) bool { return a == at },
		func(int, int) bool { return true },
	} {
		o, b := play(t, h, c, all, cut)
		for d := range o {
			if o[d]+string(b.rest[d]) != out[d]+string(g.rest[d]) {
				t.Fatalf("direction %d is read as %q and, split, as %q", d, out[d], o[d])
			}
		}
		if !slices.Equal(b.env.log, g.env.log) || !errors.Is(b.err, g.err) {
			t.Fatalf("expected %q, %v and, split, %q, %v", g.env.log, g.err, b.env.log, b.err)
		}
	}
	for _, line := range g.env.log {
		if strings.Contains(line, ">:0") || strings.Contains(line, "invalid AddrPort:") {
			t.Fatalf("expected to nowhere: %s", line)
		}
	}
}

// seeds makes the input of fuzzText of dialogues.
func seeds(f *testing.F, dialogues ...[]string) {
	f.Helper()
	for _, turns := range dialogues {
		var b strings.Builder
		for _, s := range turns {
			d, text := turn(s)
			b.WriteByte(0xff - byte(d))
			b.WriteString(text)
		}
		for _, nat := range []uint8{plain, snat, dnat} {
			f.Add(b.String(), uint16(7), nat)
		}
	}
}

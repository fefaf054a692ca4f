package helper

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
)

// TestRSH: the port at the beginning, and nothing after it.
func TestRSH(t *testing.T) {
	const to = "0/tcp 192.0.2.2:0>10.0.1.2:1008"
	textCases(t, rsh(), textConn(flow.TCP, "514", plain), nil, []textCase{
		{say: ">1008\x00root\x00root\x00ls\x00", expect: to},
		{say: ">01008\x00", expect: to},
		{say: ">51210\x001008\x00", expect: "0/tcp 192.0.2.2:0>10.0.1.2:51210"},
		{say: ">0\x00root\x00"},
		{say: ">\x00root\x00"},
		{say: "<1008\x00"},
	})
	textCases(t, rsh(), textConn(flow.TCP, "514", snat), nil, []textCase{{say: ">01008\x00root\x00", expect: to, read: "1008\x00root\x00"}})
	g := newDialogue(t, rsh(), textConn(flow.TCP, "514", snat))
	g.env.shift = 9000
	if got := g.say(flow.Original, "100") + g.say(flow.Original, "8") + g.say(flow.Original, "\x00me"); got != "10008\x00me" {
		t.Errorf("read as %q", got)
	}
}

// TestSlipstreamRSH (H1), with numbers that are none (H4).
func TestSlipstreamRSH(t *testing.T) {
	for _, begin := range []string{"POST / HTTP/1.1\r\n", "1008 root\x00", "100800\x00", "99999\x00", "70000\x00", "-1\x00", "x", "1\n"} {
		out, log, err := everyCut(t, rsh(), textConn(flow.TCP, "514", snat), []string{">" + begin, ">1008\x00"})
		if !errors.Is(err, ErrProtocol) || len(log) != 0 || out[0] != begin+"1008\x00" {
			t.Errorf("%q: %v, expected %q", begin, err, log)
		}
	}
}

// getPort is a call to the port mapper, with an authenticator of n words; got is an answer.
func getPort(xid, proc, proto uint32, n int) string {
	return words32(xid, 0, 2, 100000, 2, proc, 1, uint32(4*n)) + strings.Repeat("auth", n) + words32(0, 0, 100003, 3, proto, 0)
}

func got(xid, port uint32) string { return words32(xid, 1, 0, 0, 0, 0, port) }

// TestRPC: the answer to a call of GETPORT, by its transaction id (RFC 1833, RFC 5531).
func TestRPC(t *testing.T) {
	const udp, tcp = "0/udp 10.0.1.2:0>192.0.2.2:2049", "0/tcp 10.0.1.2:0>192.0.2.2:2049"
	c := textConn(flow.UDP, "111", plain)
	textCases(t, rpc(), c, []string{">" + getPort(7, 3, 17, 0), ">" + getPort(8, 3, 6, 100), ">" + getPort(9, 4, 6, 0), ">" + getPort(10, 3, 132, 0)}, []textCase{
		{say: "<" + got(7, 2049), expect: udp},
		{say: "<" + got(8, 2049), expect: tcp},
		{say: "<" + got(9, 2049)},  // DUMP
		{say: "<" + got(10, 2049)}, // SCTP
		{say: "<" + got(11, 2049)}, // nobody asked
		{say: "<" + got(7, 0)},
		{say: "<" + got(7, 0x10000+2049)}, // H4
		{say: "<" + got(7, 800), expect: "0/udp 10.0.1.2:0>192.0.2.2:800: a port below 1024"},
		{say: "<" + words32(7, 1, 1, 0, 2, 2)},             // denied
		{say: "<" + words32(7, 1, 0, 0, 0, 1, 2049)},       // not here
		{say: "<" + words32(7, 1, 0, 0, 0xffffffff, 0, 1)}, // H4
		{say: "<" + words32(7, 1, 0, 0, 0, 0)},
		{say: "<" + words32(7, 0, 0, 0, 0, 0, 2049), err: ErrProtocol},
		{say: "<" + got(7, 2049)[:8], err: ErrProtocol},
	})
	// Each call is answered once; of many that wait the last eight are known.
	for _, tc := range []struct{ calls, n int }{{8, 8}, {9, 8}} {
		g := newDialogue(t, rpc(), c)
		for i := range tc.calls {
			g.say(flow.Original, getPort(uint32(i), 3, 17, 0))
			g.say(flow.Original, getPort(uint32(i), 3, 17, 0)) // sent again
		}
		for i := range 2 * tc.calls {
			g.say(flow.Reply, got(uint32(i%tc.calls), uint32(2000+i)))
		}
		if len(g.env.log) != tc.n {
			t.Errorf("of %d calls %d are answered", tc.calls, len(g.env.log))
		}
	}
	record := func(text string, n int, last bool) string {
		mark := uint32(n)
		if last {
			mark |= 1 << 31
		}
		return words32(mark) + text
	}
	call := ">" + record(getPort(7, 3, 6, 0), 56, true)
	textCases(t, rpc(), textConn(flow.TCP, "111", plain), []string{call}, []textCase{
		{say: "<" + record(got(7, 2049), 28, true), expect: tcp},
		{say: "<" + record(got(6, 1)+got(7, 2049), 56, true) + record(got(7, 2049), 28, true), expect: tcp},
		{say: "<" + record(got(7, 2049), 28, false), err: ErrProtocol},
		{say: "<" + record("HTTP", 0x48545450, false), err: ErrProtocol},
	})
	long := ">" + record(strings.Repeat("a", 1500), 1500, false) + record(getPort(7, 3, 6, 0), 56, true)
	textCases(t, rpc(), textConn(flow.TCP, "111", plain), []string{call, long}, []textCase{{say: "<" + record(got(7, 2049), 28, true), expect: tcp}})
}

// TestSlipstreamRPC (H1).
func TestSlipstreamRPC(t *testing.T) {
	for _, p := range []flow.Proto{flow.UDP, flow.TCP} {
		for _, begin := range []string{">POST / HTTP/1.1\r\n", ">" + words32(1<<31|24, 7, 0, 2, 100003, 2, 3), ">" + words32(7, 0, 2, 100003, 2, 3)} {
			_, log, err := everyCut(t, rpc(), textConn(p, "111", snat), []string{begin, ">" + getPort(7, 3, 17, 0), "<" + got(7, 2049)})
			if !errors.Is(err, ErrProtocol) || len(log) != 0 {
				t.Errorf("%v %q: %v, expected %q", p, begin, err, log)
			}
		}
	}
}

// TestIPFVectors reads what IPFilter's tests of its proxies for the port mapper and rsh have
// behind the headers of the first connection: the bytes are the same, and the second connection
// is the one that is expected.
func TestIPFVectors(t *testing.T) {
	f, err := os.Open(testenv.Shared(t, "vectors/ipf_vectors.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tests := map[string]struct {
		h      *Helper
		c      *Conn
		expect []string
	}{
		"ni20": {rsh(), fakeConn(flow.TCP, "192.168.113.3:1009", "192.168.113.4:514", ""), []string{"0/tcp 192.168.113.4:0>192.168.113.3:1008"}},
		"ni6":  {rpc(), fakeConn(flow.UDP, "192.168.6.1:32885", "192.168.7.1:111", "192.168.7.2:32885"), []string{"0/udp 192.168.7.2:0>192.168.7.1:2049"}},
	}
	ran := 0
	for s := bufio.NewScanner(bufio.NewReaderSize(f, 1<<20)); s.Scan(); {
		var v struct {
			Test  string
			Input []struct{ Dir, Hex string }
		}
		if err := json.Unmarshal(s.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		tc, ok := tests[v.Test]
		if !ok {
			continue
		}
		ran++
		g := newDialogue(t, tc.h, tc.c)
		port := tc.c.Peer(flow.Original).Port()
		for _, in := range v.Input {
			b, err := hex.DecodeString(in.Hex)
			if err != nil {
				t.Fatal(err)
			}
			sport, dport := uint16(b[20])<<8|uint16(b[21]), uint16(b[22])<<8|uint16(b[23])
			payload := b[28:]
			if tc.c.Proto == flow.TCP {
				payload = b[20+int(b[32]>>4)*4:]
			}
			d := flow.Original
			if sport == port {
				d = flow.Reply
			} else if dport != port {
				continue
			}
			if got := g.say(d, string(payload)); len(payload) > 0 && got != string(payload) {
				t.Errorf("%s: %q is read as %q", v.Test, payload, got)
			}
		}
		slices.Sort(g.env.log)
		if log := slices.Compact(g.env.log); !slices.Equal(log, tc.expect) || g.err != nil {
			t.Errorf("%s: expected %q, %v", v.Test, log, g.err)
		}
	}
	if ran != 2 {
		t.Errorf("%d vectors", ran)
	}
}

func FuzzRSH(f *testing.F) {
	seeds(f, []string{">1008\x00root\x00root\x00ls\x00", "<\x00out"}, []string{">\x00root\x00"})
	f.Fuzz(func(t *testing.T, input string, at uint16, nat uint8) {
		fuzzText(t, rsh(), textConn(flow.TCP, "514", int(nat%3)), input, int(at))
	})
}

func FuzzRPC(f *testing.F) {
	seeds(f,
		[]string{">" + getPort(7, 3, 17, 0), "<" + got(7, 2049)},
		[]string{">" + words32(1<<31|56) + getPort(7, 3, 6, 0), "<" + words32(1<<31|28) + got(7, 2049)})
	f.Fuzz(func(t *testing.T, input string, at uint16, nat uint8) {
		for _, p := range []flow.Proto{flow.UDP, flow.TCP} {
			fuzzText(t, rpc(), textConn(p, "111", int(nat%3)), input, int(at))
		}
	})
}

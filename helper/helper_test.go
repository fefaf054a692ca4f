package helper

import (
	"net/netip"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// word is a helper of a protocol of lines: "at PORT" announces a connection.
type word struct{}

func (word) Message(m *Message) (int, error) {
	for i, c := range m.Data {
		if c != '\n' {
			continue
		}
		if _, err := m.Env.Expect(m, Expected{Proto: flow.TCP, To: m.Conn.Self(m.Dir)}); err == nil {
			m.Replace(0, i, []byte(m.Env.Map(m, m.Conn.Self(m.Dir)).String()))
		}
		return i + 1, nil
	}
	return 0, nil
}

func TestRegistry(t *testing.T) {
	h := &Helper{ID: 1, Protos: []flow.Proto{flow.TCP}, IPv4: true, Limit: 100, New: func() Session { return word{} }}
	r := NewRegistry(h)
	if r.Of(1, flow.TCP, flow.IPv4) != h {
		t.Error("a helper is not found")
	}
	for _, got := range []*Helper{r.Of(1, flow.UDP, flow.IPv4), r.Of(1, flow.TCP, flow.IPv6), r.Of(2, flow.TCP, flow.IPv4), r.Of(200, flow.TCP, flow.IPv4)} {
		if got != nil {
			t.Error("found what is not there")
		}
	}
	// Of a stream in pieces the receiver reads what it reads of a whole one.
	const sent, want = "12345678901234\nrest\n", "192.0.2.1:2000\n192.0.2.1:2000\n"
	for i := range len(sent) {
		g := newDialogue(t, h, fakeConn(flow.TCP, "10.0.0.1:1000", "192.0.2.9:21", "192.0.2.1:2000"))
		if got := g.say(flow.Original, sent[:i]) + g.say(flow.Original, sent[i:]); got != want {
			t.Fatalf("split at %d: %q", i, got)
		}
		if len(g.env.log) != 2 || g.env.log[0] != "0/tcp :0>10.0.0.1:1000" && g.env.log[0] != "0/tcp invalid AddrPort>10.0.0.1:1000" {
			t.Fatalf("split at %d: %q", i, g.env.log)
		}
	}
}

func TestTranslated(t *testing.T) {
	c := fakeConn(flow.UDP, "[fd00::1]:1000", "[2001:db8::9]:69", "[2001:db8::1]:1000")
	if !c.Translated(flow.Original) || c.Translated(flow.Reply) {
		t.Error("the client is translated, and the server is not")
	}
	if c.Peer(flow.Reply) != netip.MustParseAddrPort("[2001:db8::1]:1000") || c.Peer(flow.Original) != c.Self(flow.Reply) {
		t.Error("peers")
	}
}

// TestReads: flow says of each helper what it reads, by which rules are checked.
func TestReads(t *testing.T) {
	all := All()
	for id := range flow.HelperID(len(all)) {
		for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
			for _, p := range []flow.Proto{flow.TCP, flow.UDP, flow.GRE, flow.ICMP} {
				if got, want := id.Reads(p, f), all.Of(id, p, f) != nil; got != want {
					t.Errorf("%v, %v, %v: %v, the helper says %v", id, p, f, got, want)
				}
			}
		}
	}
	if n := len(flow.HelperNames()); n != 15 {
		t.Errorf("%d names", n)
	}
}

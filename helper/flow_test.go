package helper

import (
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// words is a helper of lines (word).
var words = &Helper{ID: 1, Protos: []flow.Proto{flow.TCP}, IPv4: true, Limit: 100, New: func() Session { return word{} }}

// translated is a connection whose client is translated.
func translated() *Conn {
	return fakeConn(flow.TCP, "10.0.0.1:1000", "192.0.2.9:21", "192.0.2.1:2000")
}

// TestHeld: a line of two segments goes out as one, with what was read of it rewritten, and the
// line that the second one begins is kept back in its turn.
func TestHeld(t *testing.T) {
	f := NewFlow(words)
	f.Begin(flow.Original, 1000)
	if r := f.Segment(translated(), &fakeEnv{}, flow.Original, 1000, []byte("1234567")); r.Drop != flow.ReasonHelperHeld {
		t.Fatalf("the first half: %+v", r)
	}
	rest := []byte("8901234\nrest")
	r := f.Segment(translated(), &fakeEnv{}, flow.Original, 1007, rest)
	if got := string(r.Append(nil, rest)); got != "192.0.2.1:2000\n" || r.Seq != 1000 || r.Cut != 4 || r.Len(len(rest)) != len(got) {
		t.Fatalf("%q %+v", got, r)
	}
}

package helper

import (
	"net/netip"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// TestRefusedThenRoom: a message that was dropped for want of room is read when it is sent again.
func TestRefusedThenRoom(t *testing.T) {
	for _, c := range []struct {
		h              *Helper
		before, refuse string // of the client, and of whom d says
		d              flow.Direction
	}{
		{rsh(), "", "1022\x00", flow.Original},
		{sane(), words32(saneStart, 0), words32(0, 5000), flow.Reply},
	} {
		k := newTalk(t, translated(), c.h)
		s := k.f.session
		if v, ok := s.(*saneSession); ok {
			v.begun = true
		}
		if c.before != "" {
			k.f.Segment(k.c, &k.env, flow.Original, 1000, []byte(c.before))
		}
		k.env.err = ErrLimit
		if r := k.f.Segment(k.c, &k.env, c.d, 1000, []byte(c.refuse)); r.Drop != flow.ReasonHelperRefused {
			t.Fatalf("%v: %v", c.h.ID, r.Drop)
		}
		k.env.err = nil
		k.env.log = nil
		if r := k.f.Segment(k.c, &k.env, c.d, 1000, []byte(c.refuse)); r.Drop != 0 || len(k.env.log) != 1 {
			t.Errorf("%v: %v, asked for %q", c.h.ID, r.Drop, k.env.log)
		}
	}
}

// TestPanicOfEnv: a panic of the environment, which may hold a lock, is not taken for one of the
// parser.
func TestPanicOfEnv(t *testing.T) {
	k := newTalk(t, translated(), rsh())
	defer func() {
		if recover() == nil || k.f.Off() != nil {
			t.Error("it was taken for one of the parser")
		}
	}()
	k.f.Segment(k.c, panics{}, flow.Original, 1000, []byte("1022\x00"))
}

type panics struct{ Env }

func (panics) Expect(*Message, ...Expected) (netip.AddrPort, error) { panic("of the environment") }

package helper

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/xdpct/xdpct/flow"
)

// FuzzFlow gives a flow of any helper segments and acknowledgements from anywhere: it does not
// fail, keeps no more than it may, gives back all of it, and says nothing that cannot be done.
//
// The bytes are the helper, and a run of operations: what, how far from the next number, how
// many bytes, and these.
func FuzzFlow(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x05A0:1\n\x02\x05\x00\x00\x00\x03A1:\x00\x00\x021\n"))
	f.Add([]byte("\x01\x00\x00\x18PORT 10,0,0,1,4,5\r\nNOOP\r\x00\x00\x01\n\x03\x80\x00"))
	f.Add([]byte("\x00\x00\x05\x05A1:1\n\x00\xfb\x05A0:1\n\x05\x00\x00\x02\x20\x00"))
	helpers := []*Helper{lineHelper}
	for _, h := range All() {
		if h != nil && slices.Contains(h.Protos, flow.TCP) {
			helpers = append(helpers, h)
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 {
			return
		}
		h, c := helpers[int(in[0]>>1)%len(helpers)], untranslated()
		if in[0]&1 != 0 {
			c = translated()
		}
		var b Budget
		fl, env := b.Open(h), &fakeEnv{shift: 7}
		for d := range flow.Direction(2) {
			fl.Begin(d, 0xfffffff0)
		}
		for in = in[1:]; len(in) > 2; {
			d, s := flow.Direction(in[0]&1), &fl.streams[in[0]&1]
			at := s.next() + uint32(int32(int8(in[1])))
			if in[0]&2 != 0 {
				fl.Acked(d.Other(), fl.Seq(d, at))
				in = in[3:]
				continue
			}
			n := min(int(in[2]), len(in)-3)
			fuzzSegment(t, fl, env, c, d, at, in[3:3+n])
			in = in[3+n:]
		}
		if errors.Is(fl.Off(), ErrPanic) && h != lineHelper {
			t.Fatalf("%v: a panic", h.ID)
		}
		fl.Close()
		if n, bytes := b.Used(); n != 0 || bytes != 0 {
			t.Fatalf("%d flows and %d bytes are not given back", n, bytes)
		}
	})
}

func fuzzSegment(t *testing.T, fl *Flow, env Env, c *Conn, d flow.Direction, seq uint32, payload []byte) {
	t.Helper()
	refused := fl.budget.Stats.Refused
	r := fl.Segment(c, env, d, seq, payload)
	s := &fl.streams[d]
	if most := maxPieces*len(payload) + fl.h.Limit + 255*maxPieces; len(s.buf) > fl.h.Limit || fl.budget.bytes > 2*(most+maxEdits*editCost+maxEditBytes) || fl.budget.bytes < 0 {
		t.Fatalf("%d bytes are kept, %d paid for", len(s.buf), fl.budget.bytes)
	}
	if r.Drop != 0 {
		return
	}
	if !editable(c) && fl.budget.Stats.Refused == refused && (!r.Same() || r.Seq != seq) {
		t.Fatalf("changed although nothing is translated: %+v", r)
	}
	out := r.Append(nil, payload)
	if len(out) != r.Len(len(payload)) || r.Cut > len(payload) {
		t.Fatalf("%d bytes: %+v", len(out), r)
	}
	if r.Cut == 0 && len(r.Edits) == 0 && r.Seq != fl.Seq(d, seq-uint32(len(r.Held))) {
		t.Fatalf("it begins at %d: %+v", fl.Seq(d, seq), r)
	}
	if top := s.adj.top; fl.Ack(d.Other(), fl.Seq(d, top)) != top {
		t.Fatalf("%d is %d, and that is %d", top, fl.Seq(d, top), fl.Ack(d.Other(), fl.Seq(d, top)))
	}
}

// FuzzFlowModel is TestFlowModel.
func FuzzFlowModel(f *testing.F) { f.Fuzz(rapid.MakeFuzz(modelProperty)) }

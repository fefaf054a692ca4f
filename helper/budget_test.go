package helper

import (
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// TestBudget: no more flows are read than the budget says.
func TestBudget(t *testing.T) {
	b := Budget{Flows: 1}
	f := b.Open(lineHelper)
	if b.Open(lineHelper) != nil || b.Stats.Full != 1 {
		t.Error("more flows than allowed")
	}
	f.Close()
	if b.Open(lineHelper) == nil {
		t.Error("a flow was not given back")
	}
	var sum Stats
	sum.Add(&b.Stats)
	sum.Add(&b.Stats)
	if sum.Flows != 4 || sum.Full != 2 {
		t.Errorf("%+v", sum)
	}
}

// TestShare: no host has more flows, or more of the bytes, than its share; what a flow used is
// given back to its host.
func TestShare(t *testing.T) {
	b := Budget{Flows: 10, Source: 2, Bytes: 1 << 20}
	one, other := flow.Addr{Lo: 1}, flow.Addr{Lo: 2}
	open := func(from flow.Addr) (f *Flow, ok bool) { f = b.Open(lineHelper); return f, f.Answered(from) }
	f, _ := open(one)
	g, _ := open(one)
	if h, ok := open(one); ok || b.Stats.Crowded != 1 {
		t.Error("a host has more flows than its share")
	} else {
		h.Close()
	}
	if !f.charge(200<<10) || g.charge(20<<10) {
		t.Error("a host has more bytes than its share, or not all of it") // 1 MiB / 10 * 2
	}
	if h, ok := open(other); !ok || !h.charge(200<<10) {
		t.Error("another one has nothing of it")
	}
	f.use(-200 << 10)
	f.Close()
	if _, ok := open(one); !ok {
		t.Error("a flow was not given back")
	}
	if len(b.shares) != 2 {
		t.Errorf("%d hosts", len(b.shares))
	}
}

// TestEditsBeyondBudget: edits for which there is no memory are not made.
func TestEditsBeyondBudget(t *testing.T) {
	k := newTalk(t, translated(), lineHelper)
	k.b.Bytes = 2*editCost + 8
	k.says(1000, "A0:1\n", "1000 A0:ab\n")
	k.says(1005, "A1:1\n", "1006 A1:ab\n")
	k.says(1010, "A2:1\n", "1012 A2:1\n")
	k.off(ErrEdits)
	if _, bytes := k.b.Used(); bytes > k.b.Bytes {
		t.Errorf("%d bytes of %d", bytes, k.b.Bytes)
	}
}

package perf

import (
	"testing"
	"time"
)

// TestHelperCost: the helper reads as many connections as it is to, and all others pass
// beside them; what cannot be measured is an error.
func TestHelperCost(t *testing.T) {
	load := DefaultLoad()
	load.Flows, load.Duration = 5000, time.Millisecond
	r, err := HelperCost(load, 100)
	if err != nil {
		t.Fatal(err)
	}
	if r.Controls != 100 || r.Flows != 5000 || r.Messages == 0 || r.Ratio <= 0 || r.RatioRule <= 0 || r.PPS <= 0 {
		t.Errorf("%+v", r)
	}
	for _, bad := range []func(*EngineLoad){
		func(l *EngineLoad) { l.IPv6 = true }, func(l *EngineLoad) { l.Size = 100 }, func(l *EngineLoad) { l.Shards = 2 }, func(l *EngineLoad) { l.Work = New },
	} {
		l := load
		bad(&l)
		if _, err := HelperCost(l, 100); err == nil {
			t.Errorf("%+v is measured", l)
		}
	}
	if _, err := HelperCost(load, 0); err == nil {
		t.Error("no control connection is measured")
	}
}

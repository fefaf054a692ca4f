package timerwheel

import (
	"testing"

	"pgregory.net/rapid"
)

// reference is the wheel as anyone would write it first: a map of due times.
type reference map[uint32]Tick

type recorder struct {
	t     *rapid.T
	w     *Wheel
	due   reference // when the entry really is due
	fired map[uint32]Tick
}

func (r *recorder) Due(i uint32) (Tick, bool) {
	if at := r.due[i]; at.Until(r.w.Now()) > 0 {
		return at, true
	}
	r.fired[i] = r.w.Now()
	delete(r.due, i)
	return 0, false
}

func TestWheelAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const n = 40
		start := Tick(rapid.SampledFrom([]uint32{0, 1, 63, 4095, 1<<24 - 5, 1<<32 - 100, 1<<31 - 7}).Draw(t, "start"))
		w := New(make([]Link, Links(n)), n, start)
		r := &recorder{t: t, w: w, due: reference{}, fired: map[uint32]Tick{}}
		now := start
		delay := rapid.Custom(func(t *rapid.T) Tick {
			return Tick(rapid.Uint32Range(0, 1<<rapid.IntRange(0, 26).Draw(t, "magnitude")).Draw(t, "delay"))
		})
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			i := rapid.Uint32Range(0, n-1).Draw(t, "entry")
			_, armed := r.due[i]
			switch op := rapid.SampledFrom([]string{"arm", "arm", "arm", "extend", "disarm", "advance", "advance"}).Draw(t, "op"); {
			case op == "arm" && !armed:
				r.due[i] = now + delay.Draw(t, "in")
				w.Arm(i, r.due[i])
			case op == "extend" && armed: // lazily: the wheel is not told
				r.due[i] += delay.Draw(t, "by")
			case op == "disarm" && armed:
				w.Disarm(i)
				delete(r.due, i)
			case op == "advance":
				now += delay.Draw(t, "turn")
				clear(r.fired)
				want := reference{}
				for e, at := range r.due {
					if at.Until(now) <= 0 {
						want[e] = at
					}
				}
				budget := rapid.IntRange(1, 10).Draw(t, "budget")
				for calls := 0; !w.Advance(now, budget, r); calls++ {
					if calls > 100*n {
						t.Fatal("Advance does not come to an end")
					}
				}
				for e, at := range want {
					if f, ok := r.fired[e]; !ok {
						// An entry that was due when it was armed comes up with
						// the next tick.
						if at.Until(now) == 0 {
							continue
						}
						t.Fatalf("entry %d due at %d has not fired at %d", e, at, now)
					} else if f.Until(at) < 0 {
						t.Fatalf("entry %d due at %d fired early at %d", e, at, f)
					}
				}
				if len(r.fired) > len(want) {
					t.Fatalf("fired %v, want %v", r.fired, want)
				}
			}
			if w.Len() != len(r.due) {
				t.Fatalf("Len() = %d, want %d", w.Len(), len(r.due))
			}
		}
	})
}

// TestWheelIsPunctual arms one entry for every delay that matters and turns the
// wheel tick by tick: none may be early, none late.
func TestWheelIsPunctual(t *testing.T) {
	delays := []Tick{1, 2, 62, 63, 64, 65, 127, 128, 4095, 4096, 4097, 8191, 8192, 262143, 262144, 262145, 300000}
	for _, start := range []Tick{0, 5, 63, 64, 4095, 262143, 1<<32 - 3} {
		n := len(delays)
		w := New(make([]Link, Links(n)), n, start)
		r := &recorder{w: w, due: reference{}, fired: map[uint32]Tick{}}
		for i, d := range delays {
			r.due[uint32(i)] = start + d
			w.Arm(uint32(i), start+d)
		}
		for now := start; now-start <= 300001; now++ {
			w.Advance(now, 1000, r)
		}
		for i, d := range delays {
			if got := r.fired[uint32(i)] - start; got != d {
				t.Errorf("start %d: timer of %d ticks fired after %d", start, d, got)
			}
		}
	}
}

func BenchmarkArmDisarm(b *testing.B) {
	const n = 1 << 16
	w := New(make([]Link, Links(n)), n, 0)
	b.ReportAllocs()
	for i := range b.N {
		e := uint32(i) % n
		w.Arm(e, Tick(i%100000))
		w.Disarm(e)
	}
}

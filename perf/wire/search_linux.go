package wire

import (
	"errors"
	"fmt"
	"time"
)

// Rates are what a search found, in packets a second.
type Rates struct {
	Name Subject `json:"name"`
	// NDR is the highest rate at which no frame was lost (RFC 2544, 26.1), PDR
	// the highest at which at most half a percent was. 0: at none that was tried.
	NDR float64 `json:"ndr_pps"`
	PDR float64 `json:"pdr_pps"`
	// Trials are all that was tried, in order.
	Trials []Trial `json:"trials"`
}

// Trial is one step of a search.
type Trial struct {
	OfferedPPS float64 `json:"offered_pps"`
	Loss       float64 `json:"loss"` // share of frames, 0..1
}

// PartialLoss is the loss that PDR allows.
const PartialLoss = 0.005

// precision is how near the bounds of a search come to each other.
const precision = 0.02

// Search finds the rates that a subject carries without loss and with little,
// by bisection, each trial lasting o.Duration. As in MLRsearch, a trial serves
// both searches, and a rate at which one trial failed is held to be too high.
func Search(name Subject, o Options) (r Rates, err error) {
	if err := o.Validate(); err != nil {
		return r, err
	}
	r.Name = name
	err = with(name, o, func(b *bench) error {
		if err := b.setUp(); err != nil {
			return err
		}
		probe, err := b.try(500_000, 0)
		if err != nil {
			return err
		}
		top := probe.offered()
		if r.PDR, err = b.search(&r, top, PartialLoss); err != nil {
			return err
		}
		r.NDR, err = b.search(&r, min(top, 1.1*r.PDR), 0)
		r.PDR = max(r.PDR, r.NDR) // a rate that failed by chance may have carried on
		return err
	})
	return r, err
}

// search finds the highest rate up to top at which no more than a share loss
// is lost.
func (b *bench) search(r *Rates, top, loss float64) (float64, error) {
	low, high := 0.0, top
	for _, t := range r.Trials { // what is known already
		if t.Loss <= loss {
			low = max(low, min(t.OfferedPPS, top))
		} else {
			high = min(high, t.OfferedPPS)
		}
	}
	for high-low > precision*high && high > 10_000 {
		rate := (low + high) / 2
		t, err := b.try(int(rate*b.o.Duration.Seconds()), rate)
		if err != nil {
			return 0, err
		}
		r.Trials = append(r.Trials, Trial{t.offered(), max(t.loss(), 0)})
		if t.loss() <= loss {
			low = rate
		} else {
			high = rate
		}
	}
	return low, nil
}

// SetUpRates are the figures of RFC 9693 for stateful boxes.
type SetUpRates struct {
	Name Subject `json:"name"`
	// Establishment is the highest rate of new connections, a second, at which
	// all of them came to be (RFC 9693, 4.5).
	Establishment float64 `json:"establishment_cps"`
	// TearDown is the rate at which the system ended all of them when told to
	// (RFC 9693, 4.7).
	TearDown float64 `json:"tear_down_cps"`
	// Capacity is how many connections there were after more were offered than
	// there was room for (RFC 9693, 4.8), and Room is the room.
	Capacity int `json:"capacity"`
	Room     int `json:"room"`
}

// Phases measures how fast connections come and go.
func Phases(name Subject, o Options) (r SetUpRates, err error) {
	if err := o.Validate(); err != nil {
		return r, err
	}
	r.Name = name
	err = with(name, o, func(b *bench) error {
		if _, ok, err := b.sys.flows(); err != nil || !ok {
			return errors.Join(err, errNoFlows(name, ok))
		}
		low, high := 0.0, 8e6
		for high-low > precision*high && high > 10_000 {
			rate := (low + high) / 2
			at, all, err := b.establish(rate)
			if err != nil {
				return err
			}
			if all && at > 0.95*rate {
				low = rate
			} else {
				high = rate
			}
		}
		r.Establishment = low
		if err := b.setUp(); err != nil {
			return err
		}
		begin := time.Now()
		if err := b.sys.flush(); err != nil {
			return err
		}
		r.TearDown = float64(o.Flows) / time.Since(begin).Seconds()
		return b.capacity(&r)
	})
	return r, err
}

func errNoFlows(name Subject, ok bool) error {
	if ok {
		return nil
	}
	return fmt.Errorf("%s knows no connections", name)
}

// establish offers new connections at a rate to an empty table. It returns the
// rate that there was, and whether all came to be.
func (b *bench) establish(rate float64) (at float64, all bool, err error) {
	if err := b.sys.flush(); err != nil {
		return 0, false, err
	}
	s, err := b.send(b.o.Flows, rate, false, LiveFrames)
	if err != nil {
		return 0, false, err
	}
	n, _, err := b.sys.flows()
	return float64(s.Frames) / s.Took.Seconds(), n == b.o.Flows, err
}

// capacity offers half as many connections again as there is room for, again and again
// until there are no more of them than before: on a busy machine first packets get lost.
func (b *bench) capacity(r *SetUpRates) error {
	r.Room = b.o.Flows + b.o.Flows/4
	more := *b
	more.o.Flows = min(r.Room+r.Room/2, MaxFlows)
	for {
		if _, err := more.send(more.o.Flows, setUpRate, false, LiveFrames); err != nil {
			return err
		}
		n, _, err := b.sys.flows()
		if err != nil || n <= r.Capacity {
			return err
		}
		r.Capacity = n
	}
}

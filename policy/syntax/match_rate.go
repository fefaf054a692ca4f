package syntax

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Rate is packets in a period: "3/minute".
type Rate struct {
	Given
	// Cost is the time that one packet uses up, in units of 1/RateScale s.
	Cost uint64
}

var periods = []struct {
	name    string
	seconds uint64
}{{"day", 86400}, {"hour", 3600}, {"min", 60}, {"sec", 1}}

// RateScale is how many units of time a second has for a Rate (XT_LIMIT_SCALE).
const RateScale = 10000

// period returns the length in seconds of a unit that may be cut short.
func period(s string) (uint64, bool) {
	for _, full := range []struct {
		name    string
		seconds uint64
	}{{"second", 1}, {"minute", 60}, {"hour", 3600}, {"day", 86400}} {
		if s != "" && strings.HasPrefix(full.name, strings.ToLower(s)) {
			return full.seconds, true
		}
	}
	return 0, false
}

func (r *Rate) read(args []string) error {
	count, seconds, err := readRate(args[0])
	if err != nil {
		return err
	}
	if r.Cost = RateScale * seconds / count; r.Cost == 0 {
		return fmt.Errorf("faster than the %d a second that can be told apart", RateScale)
	}
	return nil
}

// readRate reads "count/period".
func readRate(s string) (count, seconds uint64, err error) {
	n, unit, has := strings.Cut(s, "/")
	seconds, ok := uint64(1), true
	if has {
		seconds, ok = period(unit)
	}
	count, err = strconv.ParseUint(n, 10, 32)
	if !ok || err != nil || count == 0 {
		return 0, 0, errors.New("a rate is expected: 3/second, 10/minute, 1/hour, 1/day")
	}
	return count, seconds, nil
}

func (r *Rate) text() string {
	text, _ := rateText(r.Cost, RateScale)
	return text
}

// rateText is print_rate of libxt_limit and libxt_hashlimit: by the period of whose
// parts the cost tells most. seconds is that period.
func rateText(cost, scale uint64) (text string, seconds uint64) {
	best := 0
	for i := 1; i < len(periods); i++ {
		unit := periods[i].seconds * scale
		if cost > unit || unit/cost < unit%cost {
			break
		}
		best = i
	}
	return fmt.Sprintf("%d/%s", periods[best].seconds*scale/cost, periods[best].name), periods[best].seconds
}

// Limit is xt_limit.
type Limit struct {
	Rate  Rate
	Burst Number
}

// Name returns the name of the match.
func (m *Limit) Name() string { return "limit" }

func (m *Limit) options() []option {
	return []option{{name: "--limit", value: &m.Rate, noNot: true}, {name: "--limit-burst", value: &m.Burst, noNot: true}}
}

func (m *Limit) check(*Rule, place) error {
	if !m.Rate.Set { // 3/hour, as the match has it by itself
		m.Rate = Rate{Given{Set: true}, RateScale * 3600 / 3}
	}
	if !m.Burst.Set {
		m.Burst.N = 5
	}
	if m.Burst.N == 5 {
		m.Burst.Set = false // not printed
	}
	if m.Burst.N == 0 {
		return errors.New("a burst of 0 would never match")
	}
	return nil
}

// Statistic is xt_statistic.
type Statistic struct {
	Mode        Word // random or nth
	Probability Probability
	Every       Number
	Packet      Number
}

// Probability is a number from 0 to 1 in 2^31 steps.
type Probability struct {
	Given
	N uint32
}

func (p *Probability) read(args []string) error {
	f, err := strconv.ParseFloat(args[0], 64)
	if err != nil || f < 0 || f > 1 || math.IsNaN(f) {
		return errors.New("must be 0..1")
	}
	p.N = uint32(math.Round(f * (1 << 31)))
	return nil
}

func (p *Probability) text() string { return fmt.Sprintf("%.11f", float64(p.N)/(1<<31)) }

func newStatistic() *Statistic {
	return &Statistic{Mode: Word{oneOf: []string{"random", "nth"}}}
}

// Name returns the name of the match.
func (m *Statistic) Name() string { return "statistic" }

func (m *Statistic) options() []option {
	return []option{
		{name: "--mode", value: &m.Mode, noNot: true}, {name: "--probability", value: &m.Probability},
		{name: "--every", value: &m.Every}, {name: "--packet", value: &m.Packet, noNot: true},
	}
}

func (m *Statistic) check(*Rule, place) error {
	switch m.Mode.S {
	case "random":
		if !m.Probability.Set || m.Every.Set || m.Packet.Set {
			return errors.New("--mode random needs --probability and nothing else")
		}
	case "nth":
		if !m.Every.Set || m.Probability.Set || m.Every.N == 0 || m.Packet.N >= m.Every.N {
			return errors.New("--mode nth needs --every N, and --packet below N")
		}
		m.Packet.Set = true
	default:
		return errors.New("needs --mode random or --mode nth")
	}
	return nil
}

// ConnBytes is xt_connbytes.
type ConnBytes struct {
	Amount OpenSpan
	Mode   Word // packets, bytes or avgpkt
	Dir    Word // original, reply or both
}

func newConnBytes() *ConnBytes {
	return &ConnBytes{
		Amount: OpenSpan{Span{max: math.MaxUint64, open: true, always: true}},
		Mode:   Word{oneOf: []string{"packets", "bytes", "avgpkt"}}, Dir: Word{oneOf: []string{"original", "reply", "both"}},
	}
}

// Name returns the name of the match.
func (m *ConnBytes) Name() string { return "connbytes" }

func (m *ConnBytes) options() []option {
	return []option{
		{name: "--connbytes", value: &m.Amount},
		{name: "--connbytes-mode", value: &m.Mode, noNot: true}, {name: "--connbytes-dir", value: &m.Dir, noNot: true},
	}
}

// OpenSpan is a Span in which a single number means "from there on".
type OpenSpan struct{ Span }

func (s *OpenSpan) read(args []string) error {
	a := args[0]
	if !strings.Contains(a, ":") {
		a += ":"
	}
	return s.Span.read([]string{a})
}

func (m *ConnBytes) check(*Rule, place) error {
	if !m.Amount.Set || !m.Mode.Set || !m.Dir.Set {
		return errors.New("needs --connbytes, --connbytes-mode and --connbytes-dir")
	}
	if m.Amount.Lo == m.Amount.Hi {
		m.Amount.Not = false // the kernel is told "not" by exchanged bounds
	}
	return nil
}

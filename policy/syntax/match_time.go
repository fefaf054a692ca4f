package syntax

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Time is xt_time, in UTC.
type Time struct {
	Start, Stop         DayTime
	MonthDays           MonthDays
	WeekDays            WeekDays
	DateStart, DateStop Date
	kernelTZ            Flag
	Contiguous          Flag // a span over midnight belongs to the day that it begins at
}

// DayTime is a time of the day, in seconds.
type DayTime struct {
	Given
	N uint32
}

func (d *DayTime) read(args []string) error {
	n, err := clock(args[0])
	d.N = n
	return err
}

// clock reads hh:mm[:ss].
func clock(s string) (uint32, error) {
	parts := strings.Split(s, ":")
	if len(parts) < 2 || len(parts) > 3 {
		return 0, errors.New("a time is expected: hh:mm or hh:mm:ss")
	}
	var n [3]uint64
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 10, 8)
		if err != nil || v > 59 || i == 0 && v > 23 {
			return 0, errors.New("a time is expected: hh:mm or hh:mm:ss")
		}
		n[i] = v
	}
	return uint32(n[0]*3600 + n[1]*60 + n[2]), nil
}

func (d *DayTime) text() string { return fmt.Sprintf("%02d:%02d:%02d", d.N/3600, d.N/60%60, d.N%60) }

const lastSecond = 86399 // of a day

// MonthDays is a set of days of a month, 1..31, a bit each.
type MonthDays struct {
	Given
	Bits uint32
}

const allMonthDays = 1<<32 - 2

func (d *MonthDays) read(args []string) error {
	d.Bits = 0
	for s := range strings.SplitSeq(args[0], ",") {
		n, err := parseNumber(s, 31)
		if err != nil || n == 0 {
			return errors.New("a day of a month is 1..31")
		}
		d.Bits |= 1 << n
	}
	if d.Not {
		d.Bits, d.Not = d.Bits^allMonthDays, false
	}
	d.Set = d.Bits != allMonthDays
	return nil
}

func (d *MonthDays) text() string {
	var all []string
	for n := 1; n <= 31; n++ {
		if d.Bits>>n&1 != 0 {
			all = append(all, strconv.Itoa(n))
		}
	}
	return strings.Join(all, ",")
}

// WeekDays is a set of days, Monday 1 to Sunday 7, a bit each.
type WeekDays struct {
	Given
	Bits uint8
}

const allWeekDays = 0xfe

var weekDays = []string{"", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"}

func (d *WeekDays) read(args []string) error {
	d.Bits = 0
next:
	for s := range strings.SplitSeq(args[0], ",") {
		if n, err := strconv.ParseUint(s, 10, 8); err == nil {
			if n == 0 || n > 7 {
				return errors.New("a day is 1..7, Monday to Sunday")
			}
			d.Bits |= 1 << n
			continue
		}
		if len(s) >= 2 {
			for n, name := range weekDays {
				if n > 0 && strings.EqualFold(s[:2], name[:2]) {
					d.Bits |= 1 << n
					continue next
				}
			}
		}
		return fmt.Errorf("there is no day %q: Mon, Tue, Wed, Thu, Fri, Sat, Sun", s)
	}
	if d.Not {
		d.Bits, d.Not = d.Bits^allWeekDays, false
	}
	d.Set = d.Bits != allWeekDays
	return nil
}

func (d *WeekDays) text() string {
	var all []string
	for n, name := range weekDays {
		if n > 0 && d.Bits>>n&1 != 0 {
			all = append(all, name)
		}
	}
	return strings.Join(all, ",")
}

// Date is a moment, in seconds since 1970.
type Date struct {
	Given
	N int64
}

func (d *Date) read(args []string) error {
	layout, s := "2006-01-02T15:04:05", args[0]
	for _, n := range []int{19, 16, 13, 10, 7, 4} {
		if len(s) == n {
			t, err := time.Parse(layout[:n], s)
			if err != nil {
				break
			}
			d.N = t.Unix()
			if d.N < 0 || d.N > math.MaxInt32 {
				return errors.New("a date is in 1970..2038")
			}
			return nil
		}
	}
	return errors.New("a date is expected: YYYY[-MM[-DD[Thh[:mm[:ss]]]]]")
}

func (d *Date) text() string { return time.Unix(d.N, 0).UTC().Format("2006-01-02T15:04:05") }

func newTime() *Time {
	return &Time{
		Stop: DayTime{N: lastSecond}, MonthDays: MonthDays{Bits: allMonthDays}, WeekDays: WeekDays{Bits: allWeekDays},
		DateStop: Date{N: math.MaxInt32},
	}
}

// Name returns the name of the match.
func (m *Time) Name() string { return "time" }

func (m *Time) options() []option {
	return []option{
		{name: "--timestart", value: &m.Start, noNot: true}, {name: "--timestop", value: &m.Stop, noNot: true},
		{name: "--monthdays", value: &m.MonthDays}, {name: "--weekdays", value: &m.WeekDays},
		{name: "--datestart", value: &m.DateStart, noNot: true}, {name: "--datestop", value: &m.DateStop, noNot: true},
		{name: "--kerneltz", value: &m.kernelTZ, noNot: true, aliases: []string{"--localtz"}},
		{name: "--contiguous", value: &m.Contiguous, noNot: true},
		{name: "--utc", value: &setBy{apply: func([]string) error { return nil }}, noNot: true},
	}
}

func (m *Time) check(*Rule, place) error {
	switch {
	case m.kernelTZ.Set:
		return errors.New("--kerneltz is not supported: times are in UTC, which is what the kernel's time zone is on most systems; leave it out")
	case m.Contiguous.Set && m.Start.N < m.Stop.N:
		return errors.New("--contiguous goes with a --timestop before the --timestart")
	}
	usual := m.Start.N == 0 && m.Stop.N == lastSecond
	m.Start.Set, m.Stop.Set = !usual, !usual
	m.DateStart.Set, m.DateStop.Set = m.DateStart.N != 0, true
	return nil
}

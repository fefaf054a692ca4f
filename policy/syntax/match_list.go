package syntax

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// HashLimit is xt_hashlimit.
type HashLimit struct {
	Upto, Above        ByteRate
	Burst              ByteCount
	Mode               HashMode
	SrcMask, DstMask   Number // bits
	Table              Word
	Size, Max          Number // of the table: buckets, entries
	GCInterval, Expire Number // milliseconds
	RateMatch          Flag
	RateInterval       Number // seconds
}

// ByteRate is a rate of packets, or of bytes: "512kb/s".
type ByteRate struct {
	Rate
	Bytes uint64 // a second; 0: packets
}

func (r *ByteRate) read(args []string) error {
	n, unit, has := strings.Cut(args[0], "b/")
	if !has {
		return r.Rate.read(args)
	}
	v, err := sizeOf(n)
	if _, ok := period(unit); !ok || err != nil || v == 0 || unit[0] != 's' {
		return errors.New("a rate in bytes is expected: 512b/s, 10kb/s, 1mb/s")
	}
	r.Bytes = v
	return nil
}

// sizeOf reads a number that may end in k or m.
func sizeOf(s string) (uint64, error) {
	by := uint64(1)
	switch {
	case strings.HasSuffix(s, "k"):
		s, by = s[:len(s)-1], 1024
	case strings.HasSuffix(s, "m"):
		s, by = s[:len(s)-1], 1024*1024
	}
	n, err := strconv.ParseUint(s, 10, 32)
	return n * by, err
}

func sizeText(n uint64) string {
	switch {
	case n >= 1024*1024 && n%(1024*1024) == 0:
		return fmt.Sprintf("%dmb", n/1024/1024)
	case n >= 1024 && n%1024 == 0:
		return fmt.Sprintf("%dkb", n/1024)
	}
	return fmt.Sprintf("%db", n)
}

func (r *ByteRate) text() string {
	if r.Bytes > 0 {
		return sizeText(r.Bytes) + "/s"
	}
	return r.Rate.text()
}

// ByteCount is a burst in packets, or in bytes: "10mb".
type ByteCount struct {
	Number
	InBytes bool
}

func (c *ByteCount) read(args []string) (err error) {
	if s, ok := strings.CutSuffix(args[0], "b"); ok {
		c.InBytes = true
		c.N, err = sizeOf(s)
		return err
	}
	c.max = 1 << 32
	return c.Number.read(args)
}

func (c *ByteCount) text() string {
	if c.InBytes {
		return sizeText(c.N)
	}
	return c.Number.text()
}

// HashMode is a list of srcip, dstip, srcport, dstport.
type HashMode struct {
	Given
	SrcIP, DstIP, SrcPort, DstPort bool
}

func (h *HashMode) read(args []string) error {
	for s := range strings.SplitSeq(args[0], ",") {
		switch s {
		case "srcip":
			h.SrcIP = true
		case "dstip":
			h.DstIP = true
		case "srcport":
			h.SrcPort = true
		case "dstport":
			h.DstPort = true
		default:
			return errors.New("a list of srcip, dstip, srcport, dstport is expected")
		}
	}
	return nil
}

func (h *HashMode) text() string {
	var names []string
	for _, n := range []struct {
		on   bool
		name string
	}{{h.SrcIP, "srcip"}, {h.SrcPort, "srcport"}, {h.DstIP, "dstip"}, {h.DstPort, "dstport"}} {
		if n.on {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, ",")
}

func newHashLimit(f flow.Family) *HashLimit {
	mask := Number{N: uint64(familyBits(f)), max: uint64(familyBits(f))}
	return &HashLimit{SrcMask: mask, DstMask: mask, Table: Word{most: 255}}
}

// Name returns the name of the match.
func (m *HashLimit) Name() string { return "hashlimit" }

func (m *HashLimit) options() []option {
	return []option{
		{name: "--hashlimit-upto", value: &m.Upto, aliases: []string{"--hashlimit"}, noNot: true},
		{name: "--hashlimit-above", value: &m.Above, noNot: true},
		{name: "--hashlimit-burst", value: &m.Burst, noNot: true},
		{name: "--hashlimit-mode", value: &m.Mode, noNot: true},
		{name: "--hashlimit-name", value: &m.Table, noNot: true},
		{name: "--hashlimit-htable-size", value: &m.Size, noNot: true},
		{name: "--hashlimit-htable-max", value: &m.Max, noNot: true},
		{name: "--hashlimit-htable-gcinterval", value: &m.GCInterval, noNot: true},
		{name: "--hashlimit-htable-expire", value: &m.Expire, noNot: true},
		{name: "--hashlimit-srcmask", value: &m.SrcMask, noNot: true},
		{name: "--hashlimit-dstmask", value: &m.DstMask, noNot: true},
		{name: "--hashlimit-rate-match", value: &m.RateMatch, noNot: true},
		{name: "--hashlimit-rate-interval", value: &m.RateInterval, noNot: true},
	}
}

func (m *HashLimit) check(*Rule, place) error {
	switch {
	case m.Upto.Set == m.Above.Set:
		return errors.New("needs one of --hashlimit-upto and --hashlimit-above")
	case !m.Table.Set || m.Table.S == "":
		return errors.New("needs --hashlimit-name")
	case m.RateMatch.Set || m.RateInterval.Set:
		return errors.New("--hashlimit-rate-match is not supported; --hashlimit-above without it is")
	}
	r := m.Rate()
	if !m.Burst.Set {
		m.Burst.N, m.Burst.Set = 5, r.Bytes == 0 // printed, as iptables-save does
		if r.Bytes > 0 {
			m.Burst.N = r.Bytes
		}
	} else if m.Burst.InBytes != (r.Bytes > 0) {
		return errors.New("rate and burst are in different units")
	}
	return nil
}

// Rate returns the rate of the rule, up to which or above which it matches.
func (m *HashLimit) Rate() *ByteRate {
	if m.Above.Set {
		return &m.Above
	}
	return &m.Upto
}

// ConnLimit is xt_connlimit: how many connections an address or net has.
type ConnLimit struct {
	Upto, Above  Number
	Mask         Number // bits
	SAddr, DAddr Flag   // one of them is set
}

func newConnLimit(f flow.Family) *ConnLimit {
	bits := uint64(familyBits(f))
	return &ConnLimit{Mask: Number{N: bits, max: bits}}
}

// Name returns the name of the match.
func (m *ConnLimit) Name() string { return "connlimit" }

func (m *ConnLimit) options() []option {
	return []option{
		{name: "--connlimit-upto", value: &m.Upto, noNot: true},
		{name: "--connlimit-above", value: &m.Above},
		{name: "--connlimit-mask", value: &m.Mask, noNot: true},
		{name: "--connlimit-saddr", value: &m.SAddr, noNot: true},
		{name: "--connlimit-daddr", value: &m.DAddr, noNot: true},
	}
}

func (m *ConnLimit) check(*Rule, place) error {
	if m.Upto.Set == m.Above.Set {
		return errors.New("needs one of --connlimit-upto and --connlimit-above")
	}
	if m.SAddr.Set && m.DAddr.Set {
		return errors.New("--connlimit-saddr and --connlimit-daddr exclude each other")
	}
	if m.Above.Not { // ! --connlimit-above is --connlimit-upto
		m.Upto, m.Above = m.Above, Number{}
		m.Upto.Not = false
	}
	m.Mask.Set = true // printed as iptables-save does
	m.SAddr.Set = !m.DAddr.Set
	return nil
}

// Recent is xt_recent: one of its first four flags is set.
type Recent struct {
	DoSet, RCheck, Update, Remove Flag
	Seconds, HitCount             Number
	Reap, RTTL                    Flag
	List                          Word // the name of the list
	Mask                          RecentMask
	RSource, RDest                Flag // one of them is set
}

// Not reports whether the action of the rule is inverted.
func (m *Recent) Not() bool { return m.DoSet.Not || m.RCheck.Not || m.Update.Not || m.Remove.Not }

// RecentMask is an address used as a mask.
type RecentMask struct {
	Given
	family flow.Family
	Mask   flow.Addr
}

func (m *RecentMask) read(args []string) (err error) {
	m.Mask, err = parseAddr(args[0], m.family)
	if m.family == flow.IPv4 {
		m.Mask.Hi, m.Mask.Lo = ^uint64(0), m.Mask.Lo|0xffffffff<<32
	}
	return err
}

func (m *RecentMask) text() string { return addrText(m.Mask, m.family) }

func newRecent(f flow.Family) *Recent {
	return &Recent{List: Word{S: "DEFAULT", most: 199},
		Mask: RecentMask{family: f, Mask: PrefixMask(familyBits(f), f)}, HitCount: Number{max: 255}}
}

// Name returns the name of the match.
func (m *Recent) Name() string { return "recent" }

func (m *Recent) options() []option {
	return []option{
		{name: "--set", value: &m.DoSet}, {name: "--rcheck", value: &m.RCheck},
		{name: "--update", value: &m.Update}, {name: "--remove", value: &m.Remove},
		{name: "--seconds", value: &m.Seconds, noNot: true}, {name: "--reap", value: &m.Reap, noNot: true},
		{name: "--hitcount", value: &m.HitCount, noNot: true}, {name: "--rttl", value: &m.RTTL, noNot: true},
		{name: "--name", value: &m.List, noNot: true}, {name: "--mask", value: &m.Mask, noNot: true},
		{name: "--rsource", value: &m.RSource, noNot: true}, {name: "--rdest", value: &m.RDest, noNot: true},
	}
}

func (m *Recent) check(*Rule, place) error {
	n := 0
	for _, f := range []*Flag{&m.DoSet, &m.RCheck, &m.Update, &m.Remove} {
		if f.Set {
			n++
		}
	}
	switch {
	case n != 1:
		return errors.New("needs one of --set, --rcheck, --update and --remove")
	case m.RSource.Set && m.RDest.Set:
		return errors.New("--rsource and --rdest exclude each other")
	case m.Reap.Set && !m.Seconds.Set:
		return errors.New("--reap needs --seconds")
	case (m.Seconds.Set || m.HitCount.Set) && (m.DoSet.Set || m.Remove.Set):
		return errors.New("--seconds and --hitcount go with --rcheck or --update")
	}
	m.List.Set, m.Mask.Set, m.RSource.Set = true, true, !m.RDest.Set
	return nil
}

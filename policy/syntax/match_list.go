package syntax

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// HashLimit is xt_hashlimit.
type HashLimit struct {
	Upto, Above        HashRate
	Burst              ByteCount
	Mode               HashMode
	SrcMask, DstMask   Number // bits
	Table              Word
	Size, Max          Number // of the table: buckets, entries
	GCInterval, Expire Number // milliseconds
	RateMatch          Flag
	RateInterval       Number // seconds
}

// HashScale is how many units of time a second has for a HashRate
// (XT_HASHLIMIT_SCALE_v2).
const HashScale = 1000000

// HashRate is a rate of packets, or of bytes: "512kb/s".
type HashRate struct {
	Given
	// Cost is what a packet takes of the time, in units of 1/HashScale s; or 16 bytes
	// of a second, in units of 2^-32.
	Cost    uint64
	InBytes bool
	unit    uint64 // seconds of the period as it was written
}

// The time after which an entry expires if the rule does not say, in seconds
// (XT_HASHLIMIT_BYTE_EXPIRE, XT_HASHLIMIT_BYTE_EXPIRE_BURST).
const (
	byteExpire      = 15
	byteExpireBurst = 60
)

func (r *HashRate) read(args []string) error {
	n, unit, inBytes := strings.Cut(args[0], "b/")
	if !inBytes {
		count, seconds, err := readRate(args[0])
		if err != nil {
			return err
		}
		if r.Cost, r.unit = HashScale*seconds/count, seconds; r.Cost == 0 {
			return fmt.Errorf("faster than the %d a second that can be told apart", HashScale)
		}
		return nil
	}
	v, err := sizeOf(n)
	if err != nil || v == 0 || unit != "s" && unit != "sec" && unit != "second" {
		return errors.New("a rate in bytes is expected: 512b/s, 10kb/s, 1mb/s")
	}
	r.Cost, r.InBytes, r.unit = math.MaxUint32/(v>>4+1), true, byteExpire
	return nil
}

// PerSecond returns the packets or bytes of a second.
func (r *HashRate) PerSecond() uint64 {
	if r.InBytes {
		return (math.MaxUint32/r.Cost - 1) << 4
	}
	return HashScale / r.Cost
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

func (r *HashRate) text() string {
	if r.InBytes {
		return sizeText(r.PerSecond()) + "/s"
	}
	text, _ := rateText(r.Cost, HashScale)
	return text
}

// ByteCount is a burst in packets, or in bytes: "10mb".
type ByteCount struct {
	Number
	inBytes bool
}

func (c *ByteCount) read(args []string) (err error) {
	if s, ok := strings.CutSuffix(args[0], "b"); ok {
		c.inBytes = true
		c.N, err = sizeOf(s)
		return err
	}
	c.max = 1 << 32
	return c.Number.read(args)
}

func (c *ByteCount) text() string {
	if c.inBytes {
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
	case !fileName(m.Table.S):
		return errors.New("--hashlimit-name has the name of a file: no slash, nor . or .. alone")
	case m.RateInterval.Set && !m.RateMatch.Set:
		return errors.New("--hashlimit-rate-interval needs --hashlimit-rate-match")
	}
	if err := m.checkBurst(); err != nil {
		return err
	}
	m.checkTable()
	return nil
}

// checkBurst verifies the burst, and what it is where the rule does not say.
func (m *HashLimit) checkBurst() error {
	r, b := m.Rate(), &m.Burst
	switch {
	case !b.Set && r.InBytes:
		b.N = 0
	case !b.Set:
		b.N, b.Set = 5, true // printed, as iptables-save does
	case b.inBytes != r.InBytes:
		return errors.New("rate and burst are in different units")
	case r.InBytes && r.PerSecond() == 0: // which ends iptables by a signal
		return errors.New("a burst needs a rate of at least 16 bytes a second, the least that the kernel tells from none")
	case r.InBytes && b.N < r.PerSecond():
		return fmt.Errorf("a burst cannot be smaller than %db, which passes in a second", r.PerSecond())
	case r.InBytes: // whole seconds, as the kernel has it
		b.N = (b.N + r.PerSecond() - 1) / r.PerSecond() * r.PerSecond()
	case b.N > maxHashBurst || b.N == 0:
		return fmt.Errorf("a burst is 1..%d packets", maxHashBurst)
	}
	if !m.RateMatch.Set && !r.InBytes && credits(r.Cost*b.N) < credits(r.Cost) {
		return fmt.Errorf("a burst of %d at %s is more than the kernel can count", b.N, r.text())
	}
	return nil
}

// credits is user2credits of xt_hashlimit, which wraps around at 2^64.
func credits(cost uint64) uint64 {
	const second = 250 << 39 // HZ * CREDITS_PER_JIFFY, the same for any HZ
	if cost > math.MaxUint64/second {
		return cost / HashScale * second
	}
	return cost * second / HashScale
}

// maxHashBurst is XT_HASHLIMIT_BURST_MAX.
const maxHashBurst = 1000000

// BurstUnits returns the burst in packets, or in the bytes of whole seconds.
func (m *HashLimit) BurstUnits() uint64 {
	if m.Rate().InBytes {
		return m.Burst.N / max(m.Rate().PerSecond(), 1) // no burst is given where the rate is none
	}
	return m.Burst.N
}

// checkTable fills in what the table is where the rule does not say, and leaves what
// iptables-save does not print.
func (m *HashLimit) checkTable() {
	r := m.Rate()
	if m.RateMatch.Set && !r.InBytes && r.unit > 1 { // as many in an interval, whatever the period
		r.Cost /= r.unit
	}
	usual := byteExpire * uint64(1000)
	switch {
	case r.InBytes && m.Burst.N > 0:
		usual = byteExpireBurst * 1000
	case !r.InBytes:
		_, seconds := rateText(r.Cost, HashScale)
		usual = seconds * 1000
	}
	if !m.Expire.Set {
		m.Expire.N = r.unit * 1000
		if r.InBytes {
			m.Expire.N = usual
		}
	}
	m.Expire.Set = m.Expire.N != usual
	if !m.GCInterval.Set {
		m.GCInterval.N = 1000
	}
	m.GCInterval.Set = m.GCInterval.N != 1000
	m.Size.Set, m.Max.Set = m.Size.N != 0, m.Max.N != 0
	m.SrcMask.Set, m.DstMask.Set = m.SrcMask.N != m.SrcMask.max, m.DstMask.N != m.DstMask.max
	if m.RateInterval.N == 0 {
		m.RateInterval.N = 1
	}
	m.RateInterval.Set = m.RateMatch.Set && m.RateInterval.N != 1
}

// Rate returns the rate of the rule, up to which or above which it matches.
func (m *HashLimit) Rate() *HashRate {
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

// fileName reports whether the kernel can make a file of that name in /proc, as it does for
// lists and tables (proc_create).
func fileName(s string) bool {
	return s != "." && s != ".." && !strings.Contains(s, "/")
}

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
	case (m.Seconds.Set || m.HitCount.Set || m.RTTL.Set) && (m.DoSet.Set || m.Remove.Set):
		return errors.New("--seconds, --hitcount and --rttl go with --rcheck or --update")
	case m.Seconds.Set && m.Seconds.N == 0:
		return errors.New("--seconds is at least 1")
	case !fileName(m.List.S):
		return errors.New("--name has the name of a file: no slash, nor . or .. alone")
	}
	m.List.Set, m.Mask.Set, m.RSource.Set = true, true, !m.RDest.Set
	return nil
}

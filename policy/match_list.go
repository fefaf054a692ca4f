package policy

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/xdpct/xdpct/flow"
)

// The matches here remember addresses. What they remember is shared by all shards
// and behind a lock, which only their rules pay for.

// hashlimitMatch is xt_hashlimit.
type hashlimitMatch struct {
	family           flow.Family
	upto, above      byteRate
	burst            byteCount
	mode             hashMode
	srcmask, dstmask number
	table            word
	size, most       number
	gc, expire       number
	rateMatch        flagOption
	interval         number

	mu      sync.Mutex
	buckets map[hashKey]*hashBucket
	swept   int64
}

// hashKey is what of a packet has a bucket of its own.
type hashKey struct {
	src, dst     flow.Addr
	sport, dport uint16
}

type hashBucket struct {
	bucket
	seen int64
}

// byteRate is a rate of packets, or of bytes: "512kb/s".
type byteRate struct {
	rate
	bytes uint64 // a second; 0: packets
}

func (r *byteRate) read(args []string) error {
	n, unit, has := strings.Cut(args[0], "b/")
	if !has {
		return r.rate.read(args)
	}
	v, err := sizeOf(n)
	if _, ok := period(unit); !ok || err != nil || v == 0 || unit[0] != 's' {
		return errors.New("a rate in bytes is expected: 512b/s, 10kb/s, 1mb/s")
	}
	r.bytes = v
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

func (r *byteRate) text() string {
	if r.bytes > 0 {
		return sizeText(r.bytes) + "/s"
	}
	return r.rate.text()
}

// byteCount is a burst in packets, or in bytes: "10mb".
type byteCount struct {
	number
	inBytes bool
}

func (c *byteCount) read(args []string) (err error) {
	if s, ok := strings.CutSuffix(args[0], "b"); ok {
		c.inBytes = true
		c.n, err = sizeOf(s)
		return err
	}
	c.max = 1 << 32
	return c.number.read(args)
}

func (c *byteCount) text() string {
	if c.inBytes {
		return sizeText(c.n)
	}
	return c.number.text()
}

// hashMode is a list of srcip, dstip, srcport, dstport.
type hashMode struct {
	given
	srcip, dstip, srcport, dstport bool
}

func (h *hashMode) read(args []string) error {
	for s := range strings.SplitSeq(args[0], ",") {
		switch s {
		case "srcip":
			h.srcip = true
		case "dstip":
			h.dstip = true
		case "srcport":
			h.srcport = true
		case "dstport":
			h.dstport = true
		default:
			return errors.New("a list of srcip, dstip, srcport, dstport is expected")
		}
	}
	return nil
}

func (h *hashMode) text() string {
	var names []string
	for _, n := range []struct {
		on   bool
		name string
	}{{h.srcip, "srcip"}, {h.srcport, "srcport"}, {h.dstip, "dstip"}, {h.dstport, "dstport"}} {
		if n.on {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, ",")
}

func newHashlimit(f flow.Family) match {
	bits := uint64(familyBits(f))
	return &hashlimitMatch{family: f, srcmask: number{n: bits, max: bits}, dstmask: number{n: bits, max: bits},
		table: word{most: 255}, buckets: map[hashKey]*hashBucket{}}
}

func (m *hashlimitMatch) name() string { return "hashlimit" }

func (m *hashlimitMatch) options() []option {
	return []option{
		{name: "--hashlimit-upto", value: &m.upto, aliases: []string{"--hashlimit"}, noNot: true},
		{name: "--hashlimit-above", value: &m.above, noNot: true},
		{name: "--hashlimit-burst", value: &m.burst, noNot: true},
		{name: "--hashlimit-mode", value: &m.mode, noNot: true},
		{name: "--hashlimit-name", value: &m.table, noNot: true},
		{name: "--hashlimit-htable-size", value: &m.size, noNot: true},
		{name: "--hashlimit-htable-max", value: &m.most, noNot: true},
		{name: "--hashlimit-htable-gcinterval", value: &m.gc, noNot: true},
		{name: "--hashlimit-htable-expire", value: &m.expire, noNot: true},
		{name: "--hashlimit-srcmask", value: &m.srcmask, noNot: true},
		{name: "--hashlimit-dstmask", value: &m.dstmask, noNot: true},
		{name: "--hashlimit-rate-match", value: &m.rateMatch, noNot: true},
		{name: "--hashlimit-rate-interval", value: &m.interval, noNot: true},
	}
}

func (m *hashlimitMatch) check(*Rule, *ruleParser) error {
	switch {
	case m.upto.set == m.above.set:
		return errors.New("needs one of --hashlimit-upto and --hashlimit-above")
	case !m.table.set || m.table.s == "":
		return errors.New("needs --hashlimit-name")
	case m.rateMatch.set || m.interval.set:
		return errors.New("--hashlimit-rate-match is not supported; --hashlimit-above without it is")
	}
	r := m.rate()
	if !m.burst.set {
		m.burst.n, m.burst.set = 5, r.bytes == 0 // printed, as iptables-save does
		if r.bytes > 0 {
			m.burst.n = r.bytes
		}
	} else if m.burst.inBytes != (r.bytes > 0) {
		return errors.New("rate and burst are in different units")
	}
	return nil
}

func (m *hashlimitMatch) rate() *byteRate {
	if m.above.set {
		return &m.above
	}
	return &m.upto
}

// hashMax is how many buckets there may be, if the rule does not say (the kernel
// has eight for each slot of a table that it sizes by memory).
const hashMax = 1 << 16

func (m *hashlimitMatch) key(v *View) (k hashKey) {
	cut := func(a flow.Addr, n uint64) flow.Addr {
		mask := prefixMask(int(n), m.family)
		return flow.Addr{Hi: a.Hi & mask.Hi, Lo: a.Lo & mask.Lo}
	}
	if m.mode.srcip {
		k.src = cut(v.Src, m.srcmask.n)
	}
	if m.mode.dstip {
		k.dst = cut(v.Dst, m.dstmask.n)
	}
	if m.mode.srcport {
		k.sport = v.SrcPort
	}
	if m.mode.dstport {
		k.dport = v.DstPort
	}
	return k
}

func (m *hashlimitMatch) conditions(*compiler) []condition {
	return []condition{remember(m.holds)}
}

func (m *hashlimitMatch) holds(v *View) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	expire := int64(m.expire.n)
	if !m.expire.set {
		expire = 10_000
	}
	if v.Now-m.swept >= 1000 {
		m.swept = v.Now
		for k, b := range m.buckets {
			if v.Now-b.seen >= expire {
				delete(m.buckets, k)
			}
		}
	}
	k := m.key(v)
	b := m.buckets[k]
	if b == nil {
		most := m.most.n
		if most == 0 {
			most = hashMax
		}
		if uint64(len(m.buckets)) >= most {
			return m.above.set // beyond what can be counted is above the limit
		}
		b = &hashBucket{}
		b.empty.Store(math.MinInt64 / 2)
		m.buckets[k] = b
	}
	b.seen = v.Now
	cost, now := m.rate().cost, units(v)
	full := cost * m.burst.n
	if rate := m.rate().bytes; rate > 0 { // time in which so many bytes pass, in nanoseconds
		cost, now, full = uint64(v.P.Len)*1e9/rate, v.Now*1e6, m.burst.n*1e9/rate
	}
	return b.take(now, cost, full) != m.above.set
}

// connlimitMatch is xt_connlimit: how many connections an address or net has.
type connlimitMatch struct {
	family       flow.Family
	upto, above  number
	mask         number
	saddr, daddr flagOption
	counted      *connCount
}

// connCount counts connections by address.
type connCount struct {
	mu    sync.Mutex
	conns map[flow.Addr]map[flow.Tuple]bool
	of    map[flow.Tuple][]flow.Addr // a connection counts for each address that it was asked about
}

// add counts a connection and returns how many its address has.
func (c *connCount) add(a flow.Addr, t flow.Tuple) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns[a] == nil {
		c.conns[a] = map[flow.Tuple]bool{}
	}
	if !c.conns[a][t] {
		c.conns[a][t] = true
		c.of[t] = append(c.of[t], a)
	}
	return len(c.conns[a])
}

// gone takes a connection off.
func (c *connCount) gone(t flow.Tuple) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.of[t] {
		if delete(c.conns[a], t); len(c.conns[a]) == 0 {
			delete(c.conns, a)
		}
	}
	delete(c.of, t)
}

func newConnlimit(f flow.Family) match {
	bits := uint64(familyBits(f))
	return &connlimitMatch{family: f, mask: number{n: bits, max: bits},
		counted: &connCount{conns: map[flow.Addr]map[flow.Tuple]bool{}, of: map[flow.Tuple][]flow.Addr{}}}
}

func (m *connlimitMatch) name() string { return "connlimit" }

func (m *connlimitMatch) options() []option {
	return []option{
		{name: "--connlimit-upto", value: &m.upto, noNot: true},
		{name: "--connlimit-above", value: &m.above},
		{name: "--connlimit-mask", value: &m.mask, noNot: true},
		{name: "--connlimit-saddr", value: &m.saddr, noNot: true},
		{name: "--connlimit-daddr", value: &m.daddr, noNot: true},
	}
}

func (m *connlimitMatch) check(*Rule, *ruleParser) error {
	if m.upto.set == m.above.set {
		return errors.New("needs one of --connlimit-upto and --connlimit-above")
	}
	if m.saddr.set && m.daddr.set {
		return errors.New("--connlimit-saddr and --connlimit-daddr exclude each other")
	}
	if m.above.not { // ! --connlimit-above is --connlimit-upto
		m.upto, m.above = m.above, number{}
		m.upto.not = false
	}
	m.mask.set = true // printed as iptables-save does
	m.saddr.set = !m.daddr.set
	return nil
}

func (m *connlimitMatch) conditions(c *compiler) []condition {
	c.counts = append(c.counts, m.counted)
	return []condition{remember(func(v *View) bool {
		if !v.Tracked {
			return false
		}
		a := v.Src
		if m.daddr.set {
			a = v.Dst
		}
		mask := prefixMask(int(m.mask.n), m.family)
		n := m.counted.add(flow.Addr{Hi: a.Hi & mask.Hi, Lo: a.Lo & mask.Lo}, v.tuple(flow.Original))
		v.Counted = true
		if m.upto.set {
			return uint64(n) <= m.upto.n
		}
		return uint64(n) > m.above.n
	})}
}

// recentMatch is xt_recent.
type recentMatch struct {
	family                        flow.Family
	doSet, rcheck, update, remove flagOption
	seconds, hitcount             number
	reap, rttl                    flagOption
	table                         word
	mask                          recentMask
	rsource, rdest                flagOption
	list                          *recentList
}

// recentMask is an address used as a mask.
type recentMask struct {
	given
	family flow.Family
	mask   flow.Addr
}

func (m *recentMask) read(args []string) (err error) {
	m.mask, err = parseAddr(args[0], m.family)
	if m.family == flow.IPv4 {
		m.mask.Hi, m.mask.Lo = ^uint64(0), m.mask.Lo|0xffffffff<<32
	}
	return err
}

func (m *recentMask) text() string { return addrText(m.mask, m.family) }

// recentList is the addresses of one name, last seen last.
type recentList struct {
	mu      sync.Mutex
	entries map[flow.Addr]*recentEntry
	order   []flow.Addr
	stamps  int // kept for each address
}

type recentEntry struct {
	stamps []int64 // milliseconds, a ring
	next   int
	ttl    uint8
}

const (
	recentAddrs  = 100 // ip_list_tot
	recentStamps = 20  // ip_pkt_list_tot
)

func newRecent(f flow.Family) match {
	return &recentMatch{family: f, table: word{s: "DEFAULT", most: 199},
		mask:    recentMask{family: f, mask: prefixMask(familyBits(f), f)},
		seconds: number{}, hitcount: number{max: 255}}
}

func (m *recentMatch) name() string { return "recent" }

func (m *recentMatch) options() []option {
	return []option{
		{name: "--set", value: &m.doSet}, {name: "--rcheck", value: &m.rcheck},
		{name: "--update", value: &m.update}, {name: "--remove", value: &m.remove},
		{name: "--seconds", value: &m.seconds, noNot: true}, {name: "--reap", value: &m.reap, noNot: true},
		{name: "--hitcount", value: &m.hitcount, noNot: true}, {name: "--rttl", value: &m.rttl, noNot: true},
		{name: "--name", value: &m.table, noNot: true}, {name: "--mask", value: &m.mask, noNot: true},
		{name: "--rsource", value: &m.rsource, noNot: true}, {name: "--rdest", value: &m.rdest, noNot: true},
	}
}

func (m *recentMatch) check(*Rule, *ruleParser) error {
	n := 0
	for _, f := range []*flagOption{&m.doSet, &m.rcheck, &m.update, &m.remove} {
		if f.set {
			n++
		}
	}
	switch {
	case n != 1:
		return errors.New("needs one of --set, --rcheck, --update and --remove")
	case m.rsource.set && m.rdest.set:
		return errors.New("--rsource and --rdest exclude each other")
	case m.reap.set && !m.seconds.set:
		return errors.New("--reap needs --seconds")
	case (m.seconds.set || m.hitcount.set) && (m.doSet.set || m.remove.set):
		return errors.New("--seconds and --hitcount go with --rcheck or --update")
	}
	m.table.set, m.mask.set, m.rsource.set = true, true, !m.rdest.set
	return nil
}

func (m *recentMatch) conditions(c *compiler) []condition {
	m.list = c.recent(m.table.s)
	m.list.stamps = max(m.list.stamps, recentStamps, int(m.hitcount.n))
	return []condition{remember(m.holds)}
}

func (m *recentMatch) holds(v *View) bool {
	a := v.Src
	if m.rdest.set {
		a = v.Dst
	}
	a = flow.Addr{Hi: a.Hi & m.mask.mask.Hi, Lo: a.Lo & m.mask.mask.Lo}
	ttl := uint8(hops(v))
	if v.Out >= 0 {
		ttl++ // as it was when it came in
	}
	m.list.mu.Lock()
	defer m.list.mu.Unlock()
	invert := m.doSet.not || m.rcheck.not || m.update.not || m.remove.not
	e := m.list.entries[a]
	if e != nil && m.rttl.set && e.ttl != ttl {
		e = nil
	}
	if e == nil {
		if !m.doSet.set {
			return invert
		}
		m.list.add(a, v.Now, ttl)
		return !invert
	}
	found := false
	switch {
	case m.doSet.set:
		found = true
	case m.remove.set:
		m.list.drop(a)
		return !invert
	default:
		found = m.hits(e, v.Now)
		if m.reap.set {
			m.list.reap(v.Now - int64(m.seconds.n)*1000)
		}
	}
	if m.doSet.set || m.update.set && found != invert {
		m.list.touch(a, e, v.Now, ttl)
	}
	return found != invert
}

// hits reports whether an address was seen often enough, recently enough.
func (m *recentMatch) hits(e *recentEntry, now int64) bool {
	n := uint64(0)
	for _, s := range e.stamps {
		if m.seconds.set && m.seconds.n > 0 && now-int64(m.seconds.n)*1000 > s {
			continue
		}
		if n++; m.hitcount.n == 0 || n >= m.hitcount.n {
			return true
		}
	}
	return false
}

func (l *recentList) add(a flow.Addr, now int64, ttl uint8) {
	if len(l.entries) >= recentAddrs {
		l.drop(l.order[0])
	}
	l.entries[a] = &recentEntry{stamps: []int64{now}, next: 1, ttl: ttl}
	l.order = append(l.order, a)
}

func (l *recentList) drop(a flow.Addr) {
	delete(l.entries, a)
	l.order = slices.DeleteFunc(l.order, func(b flow.Addr) bool { return a == b })
}

func (l *recentList) touch(a flow.Addr, e *recentEntry, now int64, ttl uint8) {
	e.ttl = ttl
	e.next %= l.stamps
	if e.next == len(e.stamps) {
		e.stamps = append(e.stamps, now)
	} else {
		e.stamps[e.next] = now
	}
	e.next++
	l.order = append(slices.DeleteFunc(l.order, func(b flow.Addr) bool { return a == b }), a)
}

// reap drops the oldest address if it was last seen before a moment.
func (l *recentList) reap(before int64) {
	if len(l.order) == 0 {
		return
	}
	oldest := l.order[0]
	if e := l.entries[oldest]; slices.Max(e.stamps) < before {
		l.drop(oldest)
	}
}

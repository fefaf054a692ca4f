package mirror

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/route"
)

// state is what Run knows. Nobody else touches it.
type state struct {
	work        *route.Table // what is being changed
	published   bool         // work is the Table that was published: it must not be changed
	lastPublish time.Time

	parts [numParts]part
	dumps chan outcome

	current  *linkState
	up       map[int]bool // links by what was told of them last
	slots    []slot       // of the interfaces, by number
	decode   routes
	suspects suspects

	neighbours map[neighbourKey]*entry
	byID       []neighbourKey // by ID
	freeIDs    []uint32
	count      [2]int // by family, as limit
	limit      [2]int
	full       bool // neighbours were refused
	confBusy   bool

	said map[string]time.Time // when something was logged
}

// part is a part of the state and how sure of it we are.
type part struct {
	dirty     bool
	reason    string // why
	cheap     bool   // no message was lost: the dump is not a resynchronisation
	since     time.Time
	notBefore time.Time
	attempts  int

	running bool
	began   time.Time
	ended   time.Time
	log     [][]byte // what was told since the dump began
	bytes   int
	lost    bool // messages were lost since it began, or what it skipped over changed
}

// maxLog bounds part.log, in bytes.
const maxLog = 64 << 20

// slot is where an interface is; it keeps its number for as long as the mirror lives.
type slot struct {
	index int
	port  int
	vlan  uint16
}

// suspects are links and addresses with which routes may have gone in silence.
type suspects struct {
	links       map[int]bool
	addrs       map[netip.Addr]bool
	all         bool // whatever links and addresses say
	first, last time.Time
}

type neighbourKey struct {
	index int
	addr  netip.Addr
}

type entry struct {
	id    uint32
	state uint16
	mac   [6]byte
}

// outcome is what a dump found.
type outcome struct {
	part       Part // numParts: of sysctls
	err        error
	unneeded   bool // it turned out not to be needed
	links      *linkState
	routes     *routeState
	neighbours []neighbour
	conf       map[string]conf
}

// readAll reads everything, before Run. vlans are interfaces that have their numbers
// already.
func (m *Mirror) readAll(vlans ...slot) error {
	m.begin(vlans)
	for p := range numParts {
		for try := 0; ; try++ {
			o := m.read(p, suspects{}, nil)
			holes := errors.Is(o.err, errInterrupted)
			if holes && (try < 5 || p == Links && try < 50) {
				continue
			}
			if o.err != nil && (!holes || p == Links) {
				return o.err
			}
			if o.err != nil {
				m.dirty(p, "the dump at the start was interrupted", false)
			}
			m.install(&o)
			break
		}
	}
	m.publish(time.Now())
	return nil
}

// begin makes the state that nothing is known of yet.
func (m *Mirror) begin(vlans []slot) {
	m.state = state{
		work: route.New(nil), dumps: make(chan outcome, int(numParts)+1), up: map[int]bool{}, neighbours: map[neighbourKey]*entry{},
		byID: make([]neighbourKey, 1), said: map[string]time.Time{},
	}
	for i, p := range m.cfg.Ports {
		m.slots = append(m.slots, slot{index: p.Index, port: i})
	}
	m.slots = append(m.slots, vlans...)
}

// read dumps a part. It runs beside Run.
func (m *Mirror) read(p Part, s suspects, known *route.Table) (o outcome) {
	o.part = p
	defer func() {
		if o.err != nil && !errors.Is(o.err, errInterrupted) {
			o.err = errors.Join(o.err, m.cfg.InNamespace(func() error { return m.dumper.reopen(p) }))
		}
	}()
	switch p {
	case Links:
		if o.links, o.err = m.dumper.readLinks(); o.err != nil {
			return o
		}
		var names []string
		for _, l := range o.links.links {
			if m.mayBeOurs(o.links, &l) {
				names = append(names, l.name)
			}
		}
		o.err = m.cfg.InNamespace(func() error {
			o.links.conf = readConf(names)
			return nil
		})
	case Routes:
		if known != nil && !uses(known, s.links, s.addrs) {
			o.unneeded = true
			return o
		}
		o.routes, o.err = m.dumper.readRoutes()
	case Neighbours:
		o.neighbours, o.err = m.dumper.readNeighbours()
	}
	return o
}

// mayBeOurs reports whether a link is a port or a VLAN of one, as far as its name and
// kind tell.
func (m *Mirror) mayBeOurs(s *linkState, l *link) bool {
	t := m.table.Load()
	return l.kind == "vlan" || slices.ContainsFunc(m.cfg.Ports, func(p Port) bool { return p.Name == l.name || p.Index == l.index }) ||
		t != nil && t.Number(l.index) >= 0
}

// job runs something beside Run, and hands over its outcome.
func (m *Mirror) job(f func() outcome) {
	m.running.Go(func() {
		o := f()
		select {
		case m.dumps <- o:
		case <-m.stop:
		}
	})
}

// dirty says that a part may be wrong.
func (m *Mirror) dirty(p Part, reason string, cheap bool) {
	s := &m.parts[p]
	now := time.Now()
	if !s.dirty {
		s.dirty, s.reason, s.since, s.cheap, s.attempts = true, reason, now, cheap, 0
	}
	if !cheap && s.cheap {
		s.reason, s.cheap = reason, false
	}
	if s.running {
		s.lost = true
		return
	}
	if !cheap { // there may be more to come: wait until it is quiet, but not for ever
		wait := now.Add(50 * time.Millisecond)
		if most := s.since.Add(500 * time.Millisecond); wait.After(most) {
			wait = most
		}
		if wait.After(s.notBefore) {
			s.notBefore = wait
		}
	}
}

// settle does what is due and returns when to look again at the latest.
func (m *Mirror) settle(now time.Time) time.Duration {
	next := time.Hour
	until := func(t time.Time) bool {
		d := t.Sub(now)
		if d > 0 {
			next = min(next, d)
		}
		return d <= 0
	}
	if s := &m.suspects; !s.last.IsZero() {
		// Wait a little for what the kernel says of those routes itself.
		if at := s.last.Add(20 * time.Millisecond); until(at) || until(s.first.Add(200*time.Millisecond)) {
			m.dirty(Routes, "interfaces or addresses went away", true)
		}
	}
	for p := range numParts {
		s := &m.parts[p]
		if s.dirty && !s.running && !m.subscriptionOf(p).congested && until(s.notBefore) {
			m.start(p, now)
		}
	}
	if !m.published && until(m.lastPublish.Add(publishGap)) {
		m.publish(now)
	}
	return next
}

// subscriptionOf returns the subscription that tells of a part.
func (m *Mirror) subscriptionOf(p Part) *subscription {
	if p == Neighbours {
		return m.subs[1]
	}
	return m.subs[0]
}

// publishGap is the least time between two Tables, so that what comes at once makes
// one.
const publishGap = 5 * time.Millisecond

// start starts to read a part anew.
func (m *Mirror) start(p Part, now time.Time) {
	s := &m.parts[p]
	s.running, s.began, s.log, s.bytes, s.lost = true, now, nil, 0, false
	var check suspects
	var known *route.Table
	if p == Routes {
		if s.cheap && !m.suspects.all {
			m.publish(now) // nobody changes what is published
			check, known = m.suspects, m.work
		}
		m.suspects = suspects{}
	}
	m.job(func() outcome { return m.read(p, check, known) })
}

// adopt takes the outcome of a dump.
func (m *Mirror) adopt(o outcome) {
	if o.part == numParts {
		m.takeConf(o)
		return
	}
	s := &m.parts[o.part]
	took := time.Since(s.began)
	s.running, s.ended = false, time.Now()
	holes := errors.Is(o.err, errInterrupted)
	select {
	case <-m.stop:
		return
	default:
	}
	if o.err != nil && !holes {
		s.attempts++
		s.notBefore = time.Now().Add(min(50*time.Millisecond<<min(s.attempts, 10), 5*time.Second))
		m.say("the kernel's "+o.part.String()+" cannot be read; what is known of them stays in force", "error", o.err)
		return
	}
	lost := s.lost && !o.unneeded
	if again := holes || lost; again && o.part != Links {
		m.interrupted.Add(1)
		s.attempts++
	}
	const enough = 3
	if holes && (s.attempts < enough && o.part != Neighbours || o.part == Links) {
		s.notBefore = time.Now().Add(min(20*time.Millisecond<<min(s.attempts, 10), time.Second))
		return
	}
	if !o.unneeded {
		m.install(&o)
		log := s.log
		s.log = nil
		for _, b := range log {
			m.apply(b, o.part)
		}
	}
	s.log = nil
	// One that is needed again right away waits for as long as it took, so that
	// reading takes half of the time at most.
	s.notBefore = time.Now().Add(max(took, 10*time.Millisecond))
	if holes || lost {
		s.since = time.Now()
		s.notBefore = s.since.Add(max(took, min(10*time.Millisecond<<min(s.attempts, 10), time.Second)))
		return
	}
	s.dirty = false
	if o.part != Links && !s.cheap {
		m.resyncs[o.part].Add(1)
		m.say("the kernel's "+o.part.String()+" were read anew", "reason", s.reason, "took", took.Round(time.Millisecond))
	}
}

// install puts what was read in place of what was known.
func (m *Mirror) install(o *outcome) {
	switch o.part {
	case Links:
		m.installLinks(o.links)
	case Routes:
		m.edit().SetRoutes(o.routes.table)
		m.decode = o.routes.decode
	case Neighbours:
		m.installNeighbours(o.neighbours)
	}
}

// sayEvery is how often the same may be logged.
const sayEvery = 10 * time.Second

// say logs something, at most every ten seconds.
func (m *Mirror) say(what string, args ...any) {
	if now := time.Now(); now.Sub(m.said[what]) > sayEvery {
		m.said[what] = now
		m.log.Warn(what, args...)
	}
}

// edit returns the Table to change.
func (m *Mirror) edit() *route.Table {
	if m.published {
		m.work, m.published = m.work.Clone(), false
	}
	return m.work
}

// publish lets everybody see what is known now.
func (m *Mirror) publish(now time.Time) {
	if m.published {
		return
	}
	m.published, m.lastPublish = true, now
	m.table.Store(m.work)
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// take takes what a subscription delivers.
func (m *Mirror) take(b batch) {
	parts := []Part{Links, Routes}
	if b.from == m.subs[1] {
		parts = []Part{Neighbours}
	}
	switch {
	case b.err == nil:
	case errors.Is(b.err, unix.ENOBUFS):
		m.overruns.Add(1)
		b.from.congested = true
		for _, p := range parts {
			m.dirty(p, "the kernel had more to tell than there was room for", false)
		}
	case b.sock != b.from.sock:
		return // it was closed, since it had ended
	case errors.Is(b.err, errDrained):
		b.from.congested = false
		for _, p := range parts { // a dump that began before may be older than what was dropped
			m.dirty(p, "the kernel had more to tell than there was room for", false)
		}
	default:
		m.restart(b.from, b.err)
		for _, p := range parts {
			m.dirty(p, "the subscription ended", false)
		}
		return
	}
	for _, p := range parts {
		if s := &m.parts[p]; s.running && p != Links {
			s.log = append(s.log, b.b)
			if s.bytes += len(b.b); s.bytes > maxLog {
				s.log, s.lost = nil, true
			}
		}
	}
	m.apply(b.b, numParts)
}

// restart makes a subscription again. If that cannot be, it is tried again later.
func (m *Mirror) restart(s *subscription, why error) {
	select {
	case <-m.stop:
		return
	default:
	}
	m.restarts.Add(1)
	m.say("a netlink subscription ended and is made again", "error", why)
	_ = s.sock.close()
	s.congested = false
	if err := m.cfg.InNamespace(func() error { return m.subscribe(s) }); err != nil {
		m.log.Error("the kernel's routes cannot be followed: what is known stays in force, and it is tried again", "error", err)
		m.running.Go(func() {
			select {
			case <-m.stop:
			case <-time.After(time.Second):
				s.give(batch{from: s, sock: s.sock, err: err}, m.stop)
			}
		})
	}
}

// apply applies messages to the state: of all kinds, or, if only is a part, of that.
func (m *Mirror) apply(b []byte, only Part) {
	for k, err := range messages(b) {
		if err != nil {
			m.dirty(Links, fmt.Sprint(err), false)
			m.dirty(Routes, fmt.Sprint(err), false)
			return
		}
		switch k.typ {
		case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
			if only == numParts || only == Routes {
				m.applyRoute(k, only == Routes)
			}
		case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
			if n, ok := decodeNeighbour(k); ok {
				m.applyNeighbour(n)
			}
		default:
			if only == numParts {
				m.notice(k)
			}
		}
	}
}

// applyRoute changes a route. again says that this is applied a second time, to what a
// dump has found meanwhile.
func (m *Mirror) applyRoute(k message, again bool) {
	dst, r, ok := m.decode.decode(k)
	if !ok {
		return
	}
	gone := k.typ == unix.RTM_DELROUTE
	if s := &m.parts[Routes]; s.running && gone && dst.Addr().Is6() {
		// A dump of IPv6 routes goes on by their count when the tree has changed.
		s.lost = true
	}
	switch {
	case !gone:
		where := route.First
		if k.flags&unix.NLM_F_REPLACE != 0 {
			where = route.Replace
		} else if k.flags&unix.NLM_F_APPEND != 0 {
			where = route.Last
		}
		m.edit().Put(dst, r, where)
	case !m.edit().Cut(dst, r) && !again && !m.parts[Routes].running && time.Since(m.parts[Routes].ended) > time.Second:
		// What a dump has seen go is told of a little later.
		m.dirty(Routes, "the kernel removed a route that was not known", false)
	}
}

// notice takes what is told of links, addresses, rules and next hop objects. Those are
// listed anew; what went meanwhile, and was back before they are, is noted here.
func (m *Mirror) notice(k message) {
	switch k.typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		l, ok := decodeLink(k)
		if !ok {
			return
		}
		up := l.up() && k.typ == unix.RTM_NEWLINK
		if was, known := m.up[l.index]; known && up != was {
			m.suspect(l.index, netip.Addr{})
		}
		m.up[l.index] = up
		if k.typ == unix.RTM_DELLINK {
			delete(m.up, l.index)
		}
	case unix.RTM_DELADDR:
		if index, p, ok := decodeAddr(k); ok {
			if !p.Addr().Is4() {
				index = 0
			}
			// With the last one of a link go all routes by it, in silence (fib_disable_ip);
			// whether it is the last one is not known in time.
			m.suspect(index, p.Addr())
		}
	case unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
		if m.decode.objects {
			m.suspects.all = true
			m.suspect(0, netip.Addr{})
		}
		return
	case unix.RTM_NEWNETCONF, unix.RTM_DELNETCONF:
		m.poll()
		return
	}
	m.dirty(Links, "links, addresses or rules changed", true)
}

// suspect notes that routes by a link or with an address may have gone.
func (m *Mirror) suspect(index int, a netip.Addr) {
	s := &m.suspects
	if s.last.IsZero() {
		*s = suspects{links: map[int]bool{}, addrs: map[netip.Addr]bool{}, first: time.Now(), all: s.all}
	}
	s.last = time.Now()
	if index != 0 {
		s.links[index] = true
	}
	if a.IsValid() {
		s.addrs[a] = true
	}
}

// poll looks at what nobody tells of.
func (m *Mirror) poll() {
	if !m.confBusy {
		m.confBusy = true
		m.pollConf()
	}
	if m.full {
		m.full = false
		m.dirty(Neighbours, "there were too many", true)
	}
}

// takeConf takes sysctls that were read.
func (m *Mirror) takeConf(o outcome) {
	m.confBusy = false
	if o.err != nil {
		m.say("sysctls cannot be read", "error", o.err)
		return
	}
	interfaces := slices.Clone(m.work.Interfaces)
	changed := false
	for n := range interfaces {
		before := interfaces[n]
		if c, ok := o.conf[before.Name]; ok {
			c.set(&interfaces[n])
		}
		changed = changed || !before.Equal(interfaces[n])
	}
	if changed {
		m.edit().SetInterfaces(interfaces)
	}
}

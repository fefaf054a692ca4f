package perf

import (
	"fmt"
	"math"
	oldrand "math/rand"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/rx"
	"github.com/xdpct/xdpct/shard"
)

const (
	// chunks is the UMEM of a port with a fill and a transmit ring.
	chunks    = 4096
	chunkSize = 2048
	// level is how full New and Lifecycle keep the table.
	level = 0.5
	// minRounds is the least number of rounds that a median is made of.
	minRounds = 5
)

// Engine measures shards under a load.
func Engine(load EngineLoad) (r EngineResult, err error) {
	if err := load.Validate(); err != nil {
		return r, err
	}
	runs := make([]*engineRun, load.Shards)
	defer func() {
		for _, e := range runs {
			e.close()
		}
	}()
	for i := range runs {
		part := load
		part.Flows = load.Flows / load.Shards
		if runs[i], err = newEngineRun(part, i); err != nil {
			return r, err
		}
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	if err := together(runs); err != nil {
		return r, err
	}
	runtime.ReadMemStats(&after)
	r = sumUp(load, runs)
	r.GC = GCResult{after.NumGC - before.NumGC, after.PauseTotalNs - before.PauseTotalNs}
	return r, nil
}

// together runs every run on a thread and a core of its own, round by round at
// the same time.
func together(runs []*engineRun) error {
	b := newBarrier(len(runs))
	failed := make(chan error, len(runs))
	for i, e := range runs {
		go func() {
			runtime.LockOSThread() // and never unlock: the thread dies
			if len(runs) > 1 {
				var set unix.CPUSet
				set.Set(i % runtime.NumCPU())
				_ = unix.SchedSetaffinity(0, &set)
			}
			failed <- e.measure(b)
		}()
	}
	var first error
	for range runs {
		if err := <-failed; first == nil {
			first = err
		}
	}
	return first
}

// engineRun is one shard under its part of a load.
type engineRun struct {
	load  EngineLoad
	shard *shard.Shard
	gen   *generator
	limit *limit
	umem  *rx.UMEM
	zipf  *oldrand.Zipf
	descs [chunks]rx.Desc // as a receive ring would hold them
	pkts  [maxBatch]packet.Packet
	out   [maxBatch]shard.Verdict
	now   float64 // milliseconds
	begun int     // connections begun, or packets sent in sequence
	lost  uint64  // ASSURED connections that were removed

	before              shard.Stats
	judged, parsed, lim []float64 // nanoseconds a packet, by round
	all                 []float64 // the same as judged, until the last shard was done
}

// newEngineRun makes shard number i with its connections set up.
func newEngineRun(load EngineLoad, i int) (e *engineRun, err error) {
	e = &engineRun{load: load, gen: newGenerator(&load, idsOf(&load))}
	defer func() {
		if err != nil {
			e.close()
			e = nil
		}
	}()
	secret := flow.Secret{}
	for k := range secret {
		secret[k] = rand.Uint64()
	}
	cfg := shard.Config{L4: l4.Linux(), MaxConns: load.Flows, Secret: secret, Forwards: load.forwards}
	if load.Work == Flood {
		cfg.Observe = e.observe
	}
	if load.controls > 0 {
		helping(&cfg)
	}
	if e.shard, err = shard.New(cfg, 0); err != nil {
		return e, err
	}
	if load.rules != nil {
		e.shard.SetForwarding(&shard.Forwarding{Rules: load.rules})
	}
	if e.umem, err = rx.NewUMEM(chunks, chunkSize); err != nil {
		return e, err
	}
	if e.limit, err = newLimit(load.Flows); err != nil {
		return e, err
	}
	// In the order in which a pool hands chunks out that come back in order.
	for k := range e.descs {
		e.descs[k].Addr = uint64(k)*chunkSize + rx.Headroom
	}
	if load.Flows > 1 {
		e.zipf = oldrand.NewZipf(oldrand.New(oldrand.NewSource(int64(i))), 1.1, 1, uint64(load.Flows-1))
	}
	return e, e.setUp()
}

func (e *engineRun) close() {
	if e == nil {
		return
	}
	if e.shard != nil {
		_ = e.shard.Close()
	}
	if e.umem != nil {
		_ = e.umem.Close()
	}
	if e.limit != nil {
		e.limit.close()
	}
}

func (e *engineRun) observe(k flow.EventKind, entry uint32) {
	if k == flow.EventDestroy && e.shard.Conn(entry).Status&flow.Assured != 0 {
		e.lost++
	}
}

// idsOf is how many connections a load tells apart: those that begin all the
// time come again only when they are long gone.
func idsOf(l *EngineLoad) int {
	switch l.Work {
	case New, Lifecycle:
		return 2*l.Flows + chunks
	case Flood:
		return 3*l.Flows + chunks
	}
	return l.Flows
}

// setUp brings the table into the state in which it is measured.
func (e *engineRun) setUp() error {
	switch e.load.Work {
	case Established:
		e.establish(e.load.Flows)
		if e.shard.Len() != e.load.Flows {
			return fmt.Errorf("%d of %d connections set up", e.shard.Len(), e.load.Flows)
		}
	case Flood:
		e.establish(e.load.Flows / 2)
		e.begun = e.load.Flows / 2
		for e.shard.Stats().Table.Evicted == 0 {
			e.judge(e.round())
		}
	default:
		for e.begun < e.load.Flows {
			e.judge(e.round())
		}
	}
	return nil
}

// establish makes the first n connections ASSURED: UDP in both directions and once more
// after two seconds, a handshake of TCP.
func (e *engineRun) establish(n int) {
	for i, s := range handshake {
		if i == len(handshake)-1 {
			e.now += 2500
		}
		for at := 0; at < n; {
			k := min(chunks, n-at)
			for j := range k {
				e.descs[j].Len = uint32(e.gen.bare(e.chunk(j), at+j, s.dir, s.flags))
			}
			e.judge(k)
			at += k
		}
	}
}

// round writes the frames of a round, which is what the card and the hosts would do,
// and returns how many they are.
func (e *engineRun) round() int {
	ids := len(e.gen.turn)
	switch e.load.Work {
	case Established:
		for i := range e.descs {
			e.descs[i].Len = uint32(e.gen.next(e.chunk(i), e.pick()))
		}
		e.now++
		return chunks
	case New:
		fresh := 0
		for i := range e.descs {
			n := e.begun
			if e.load.NewRate == 1 || rand.Float64() < e.load.NewRate {
				fresh++
				e.begun++
			} else if n -= 1 + rand.IntN(max(min(n, e.load.Flows/4), 1)); n < 0 {
				n = 0
			}
			e.descs[i].Len = uint32(e.begin(i, n%ids))
		}
		e.pass(fresh)
		return chunks
	case Lifecycle:
		conns := min(chunks/len(lifecycle), max(e.load.Flows/4, 1))
		for s, step := range lifecycle {
			for c := range conns {
				n := (e.begun + c) % ids
				if s == 0 {
					e.gen.restart(n)
				}
				i := s*conns + c
				e.descs[i].Len = uint32(e.gen.bare(e.chunk(i), n, step.dir, step.flags))
			}
		}
		e.begun += conns
		e.pass(conns)
		return conns * len(lifecycle)
	}
	half := e.load.Flows / 2
	for i := range e.descs { // Flood
		e.descs[i].Len = uint32(e.begin(i, half+(e.begun-half)%(ids-half)))
		e.begun++
	}
	return chunks
}

// begin writes the first packet of connection n as frame i.
func (e *engineRun) begin(i, n int) int {
	if e.gen.proto(n) == flow.TCP {
		e.gen.restart(n)
		return e.gen.bare(e.chunk(i), n, 0, packet.SYN)
	}
	e.gen.turn[n] = 0
	return e.gen.next(e.chunk(i), n)
}

// pass lets so much time pass that, at the rate at which connections begin,
// they fill the table to its level until they expire.
func (e *engineRun) pass(begun int) {
	timeout := 30_000.0
	if e.load.Proto == flow.TCP || e.load.Mix {
		timeout = 120_000
	}
	e.now += timeout * float64(begun) / (level * float64(e.load.Flows))
}

// pick chooses the connection of the next packet.
func (e *engineRun) pick() int {
	switch {
	case e.load.Flows == 1:
		return 0
	case e.load.Order == Zipf:
		return int(e.zipf.Uint64())
	case e.load.Order == Sequential:
		e.begun++
		return e.begun % e.load.Flows
	}
	return rand.IntN(e.load.Flows)
}

// chunk returns the room for frame i.
func (e *engineRun) chunk(i int) []byte {
	at := e.descs[i].Addr
	return e.umem.Memory()[at : at+chunkSize-rx.Headroom]
}

// judge runs the first n frames through the shard, as a worker does.
func (e *engineRun) judge(n int) {
	for at := 0; at < n; at += e.load.Batch {
		k := e.parse(at, n)
		e.shard.Tick(int64(e.now))
		e.shard.Process(e.pkts[:k], e.out[:k])
	}
}

// parse parses and hashes a batch of the frames from at to n-1 and returns its
// size.
func (e *engineRun) parse(at, n int) int {
	checks := packet.Checks{Transport: e.load.Checksum}
	k := min(e.load.Batch, n-at)
	for i, d := range e.descs[at : at+k] {
		p := &e.pkts[i]
		frame := e.umem.Frame(d)
		p.Parse(frame, len(frame), checks)
		e.shard.Hash(p)
		if i%shard.Group == shard.Group-1 {
			e.shard.Prefetch(e.pkts[i+1-shard.Group : i+1])
		}
	}
	return k
}

// measure alternates rounds of load and of limit.
func (e *engineRun) measure(b *barrier) error {
	e.before = e.shard.Stats()
	deadline := time.Now().Add(e.load.Duration)
	for b.wait(time.Now().Before(deadline) || len(e.judged) < minRounds) {
		n := e.round()
		b.wait(true)
		begin := time.Now()
		e.judge(n)
		e.judged = append(e.judged, float64(time.Since(begin))/float64(n))
		b.wait(true)
		e.all = append(e.all, float64(time.Since(begin))/float64(n))
		begin = time.Now()
		for at := 0; at < n; at += e.load.Batch {
			e.parse(at, n)
		}
		e.parsed = append(e.parsed, float64(time.Since(begin))/float64(n))
		e.limit.choose()
		b.wait(true)
		begin = time.Now()
		e.limit.touch()
		b.wait(true)
		e.lim = append(e.lim, float64(time.Since(begin))/chunks)
	}
	return nil
}

// barrier lets threads wait for each other. They spin: a round is shorter than
// a trip through the scheduler.
type barrier struct {
	n       int64
	arrived atomic.Int64
	yes     atomic.Int64
	turn    atomic.Int64
	answer  [2]atomic.Bool
}

func newBarrier(n int) *barrier { return &barrier{n: int64(n)} }

// wait waits for all threads and reports whether all said yes.
func (b *barrier) wait(yes bool) bool {
	turn := b.turn.Load()
	if yes {
		b.yes.Add(1)
	}
	if b.arrived.Add(1) == b.n {
		b.answer[turn&1].Store(b.yes.Load() == b.n)
		b.arrived.Store(0)
		b.yes.Store(0)
		b.turn.Add(1)
	}
	for spins := 0; b.turn.Load() == turn; spins++ {
		if spins > 1000 {
			runtime.Gosched()
		}
	}
	return b.answer[turn&1].Load()
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Clone(v)
	slices.Sort(s)
	return s[len(s)/2]
}

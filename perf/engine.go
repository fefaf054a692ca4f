package perf

import (
	"fmt"
	"math/rand/v2"
	"sort"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/rx"
	"github.com/xdpct/xdpct/shard"
)

// EngineLoad describes an engine measurement.
type EngineLoad struct {
	Flows    int        // connections, 1..16M
	Proto    flow.Proto // flow.UDP or flow.TCP
	IPv6     bool
	Size     int // frame length in bytes, without its checksum, up to 1514
	Batch    int // packets judged at once, 1..64
	Checksum bool
	Duration time.Duration
}

// Validate checks the load; an error names what is out of range.
func (l *EngineLoad) Validate() error {
	least := etherLen + ipv4Len
	if l.IPv6 {
		least = etherLen + ipv6Len
	}
	switch l.Proto {
	case flow.UDP:
		least += 8
	case flow.TCP:
		least += 20
	default:
		return fmt.Errorf("protocol %v: must be udp or tcp", l.Proto)
	}
	switch {
	case l.Flows < 1 || l.Flows > maxFlows:
		return fmt.Errorf("%d flows: must be 1..%d", l.Flows, maxFlows)
	case l.Batch < 1 || l.Batch > maxBatch:
		return fmt.Errorf("batches of %d: must be 1..%d", l.Batch, maxBatch)
	case l.Size < least || l.Size > 1514:
		return fmt.Errorf("frames of %d bytes: must be %d..1514", l.Size, least)
	}
	return nil
}

// EngineResult is what an engine measurement found. Rates are medians of rounds.
type EngineResult struct {
	Scenario     string  `json:"scenario"`
	PPS          float64 `json:"pps"`
	NSPerPacket  float64 `json:"ns_per_packet"`
	NSParse      float64 `json:"ns_parse"`
	NSJudge      float64 `json:"ns_judge"`
	LimitPPS     float64 `json:"limit_pps"`
	LimitRatio   float64 `json:"limit_ratio"`
	BytesPerFlow float64 `json:"bytes_per_flow"`
	Packets      uint64  `json:"packets"`
	Invalid      uint64  `json:"invalid"`
}

const (
	// chunks is the UMEM of a port with a fill and a transmit ring.
	chunks    = 4096
	chunkSize = 2048
	maxBatch  = 64
	maxFlows  = 16 << 20
)

// Engine measures one shard under a load.
func Engine(load EngineLoad) (EngineResult, error) {
	if err := load.Validate(); err != nil {
		return EngineResult{}, err
	}
	secret := flow.Secret{}
	for i := range secret {
		secret[i] = rand.Uint64()
	}
	s, err := shard.New(shard.Config{L4: l4.Linux(), MaxConns: load.Flows, Secret: secret}, 0)
	if err != nil {
		return EngineResult{}, err
	}
	defer s.Close()
	umem, err := rx.NewUMEM(chunks, chunkSize)
	if err != nil {
		return EngineResult{}, err
	}
	defer umem.Close()
	e := &engineRun{load: load, shard: s, gen: newGenerator(load.Proto, load.IPv6, load.Size, load.Flows)}
	for i := range e.frames {
		e.frames[i] = umem.Frame(rx.Desc{Addr: uint64(i) * chunkSize, Len: chunkSize})
	}
	e.setUp()
	if s.Len() != load.Flows {
		return EngineResult{}, fmt.Errorf("%d of %d connections set up", s.Len(), load.Flows)
	}
	return e.measure()
}

type engineRun struct {
	load   EngineLoad
	shard  *shard.Shard
	gen    *generator
	frames [chunks][]byte
	lens   [chunks]int
	pkts   [maxBatch]packet.Packet
	out    [maxBatch]shard.Verdict
	now    int64
}

// setUp makes the connections, ASSURED: UDP both ways and once more after two
// seconds, a handshake of TCP.
func (e *engineRun) setUp() {
	for i := range 3 {
		if i == 2 {
			e.now += 2500
		}
		for n := 0; n < e.load.Flows; {
			k := min(chunks, e.load.Flows-n)
			for j := range k {
				if e.load.Proto == flow.TCP {
					e.lens[j] = e.gen.open(e.frames[j], n+j, i)
				} else {
					e.lens[j] = e.gen.write(e.frames[j], n+j)
				}
			}
			e.judge(k)
			n += k
		}
	}
}

// judge runs the first n frames through the shard, as a worker does.
func (e *engineRun) judge(n int) {
	for at := 0; at < n; at += e.load.Batch {
		k := e.parse(at, n)
		e.shard.Tick(e.now)
		e.shard.Process(e.pkts[:k], e.out[:k])
	}
}

// parse parses and hashes a batch of the frames from at to n-1 and returns its
// size.
func (e *engineRun) parse(at, n int) int {
	checks := packet.Checks{Transport: e.load.Checksum}
	k := min(e.load.Batch, n-at)
	for i := range k {
		p := &e.pkts[i]
		p.Parse(e.frames[at+i][:e.lens[at+i]], e.lens[at+i], checks)
		e.shard.Hash(p)
	}
	return k
}

// measure alternates rounds of load and of limit.
func (e *engineRun) measure() (EngineResult, error) {
	limit, err := newLimit(e.load.Flows)
	if err != nil {
		return EngineResult{}, err
	}
	defer limit.close()
	var judge, parse, touch []float64
	before := e.shard.Stats()
	deadline := time.Now().Add(e.load.Duration)
	for time.Now().Before(deadline) || len(judge) < 5 {
		for i := range e.lens {
			e.lens[i] = e.gen.write(e.frames[i], rand.IntN(e.load.Flows))
		}
		e.now++
		begin := time.Now()
		e.judge(chunks)
		judge = append(judge, float64(time.Since(begin))/chunks)
		begin = time.Now()
		for at := 0; at < chunks; at += e.load.Batch {
			e.parse(at, chunks)
		}
		parse = append(parse, float64(time.Since(begin))/chunks)
		touch = append(touch, limit.round())
	}
	after := e.shard.Stats()
	ns, parsed, least := median(judge), median(parse), median(touch)
	name := fmt.Sprintf("engine/%v/flows=%d", e.load.Proto, e.load.Flows)
	return EngineResult{
		Scenario: name, PPS: 1e9 / ns, NSPerPacket: ns, NSParse: parsed, NSJudge: ns - parsed,
		LimitPPS: 1e9 / least, LimitRatio: least / ns,
		BytesPerFlow: float64(e.shard.Bytes()) / float64(e.load.Flows),
		Packets:      after.Packets - before.Packets,
		Invalid:      after.States[flow.Invalid] - before.States[flow.Invalid],
	}, nil
}

func median(v []float64) float64 {
	sort.Float64s(v)
	return v[len(v)/2]
}

package engine

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/frag"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/policy/syntax"
	"github.com/xdpct/xdpct/rx/capture"
	"github.com/xdpct/xdpct/shard"
)

// Replay runs captured frames through the tracker, with the capture's time as
// the clock. It is deterministic.
type Replay struct {
	shards []*shard.Shard
	checks packet.Checks
	now    int64 // milliseconds since 1970
	pkt    [1]packet.Packet
	out    [1]shard.Verdict
	frags  *frag.Table[*capture.Frame]
	expect *expect.Table
	whole  []byte // the datagram that the last fragment completed
	passed []*capture.Frame
	zone   flow.ZoneID

	partial uint64        // see Partial
	probe   packet.Packet // of what is asked besides
}

// ReplayOptions are what the packets of a replay pass besides the tracker. The zero
// ReplayOptions are nothing.
type ReplayOptions struct {
	// IPv4 and IPv6 are rules as a bridge has them, nil for none: all frames come in by an
	// interface "in" and would leave by one "out". Table nat is an error: a capture shows one
	// side of a translation.
	IPv4, IPv6 *syntax.Ruleset
	// Helpers give connections helpers by the port of their server, where there are no rules.
	Helpers []shard.Assignment
	// Expected, if not nil, is told of every expectation that comes or goes.
	Expected func(k flow.EventKind, e *expect.Expectation)
}

// NewReplay makes a tracker of n shards. Close it.
func NewReplay(s Settings, n int, z Zoning) (*Replay, error) {
	return NewReplayWith(s, n, z, ReplayOptions{})
}

// NewReplayWith is NewReplay with rules or helpers.
func NewReplayWith(s Settings, n int, z Zoning, o ReplayOptions) (*Replay, error) {
	if n < 1 || n > MaxShards {
		return nil, fmt.Errorf("%d shards: must be 1..%d", n, MaxShards)
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	r := &Replay{checks: packet.Checks{Transport: s.Checksum}}
	r.frags = frag.New(s.Fragments, func(*capture.Frame, flow.Reason) {})
	if err := z.validate(); err != nil {
		return nil, err
	}
	cfg := s.shardConfig(n, &replaySecret, &z)
	r.checks.Keys = cfg.Keys
	r.expect, cfg.Expect.Observe = cfg.Expect, o.Expected
	prog, err := o.program()
	if err != nil {
		return nil, err
	}
	cfg.Forwards, cfg.Assign = prog != nil, o.Helpers
	for range n {
		sh, err := shard.New(cfg, 0)
		if err != nil {
			r.Close()
			return nil, err
		}
		if prog != nil {
			sh.SetForwarding(&shard.Forwarding{Rules: prog})
		}
		r.shards = append(r.shards, sh)
	}
	return r, nil
}

// program compiles the rules, nil if there are none.
func (o *ReplayOptions) program() (*policy.Program, error) {
	if o.IPv4 == nil && o.IPv6 == nil {
		return nil, nil
	}
	for _, r := range []*syntax.Ruleset{o.IPv4, o.IPv6} {
		if r != nil && r.Table("nat") != nil {
			return nil, errors.New("table nat: a capture shows one side of a translation, and cannot be translated")
		}
	}
	return policy.Compile(o.IPv4, o.IPv6, []string{"in", "out"}, nat.Key{1}, nil)
}

// AcceptPartial accepts checksums that only cover the pseudo header, as captures
// taken on the sending host have them.
func (r *Replay) AcceptPartial() { r.checks.Partial = true }

// Partial returns how many frames were INVALID only because their checksums cover the
// pseudo header and no more: see AcceptPartial.
func (r *Replay) Partial() uint64 { return r.partial }

// notePartial counts a frame of that kind.
func (r *Replay) notePartial(p *packet.Packet, f *capture.Frame) {
	if p.Reason != flow.ReasonL4Checksum {
		return
	}
	checks := r.checks
	checks.Partial = true
	if f.Parse(&r.probe, checks); r.probe.Reason != flow.ReasonL4Checksum {
		r.partial++
	}
}

// Close frees the tracker's memory.
func (r *Replay) Close() {
	for _, s := range r.shards {
		s.Close()
	}
}

// replaySecret keys the hash of replays: fixed, so that they can be repeated. A
// capture made to collide with it slows its own replay down, no more.
var replaySecret = flow.Secret{
	0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b,
	0xa54ff53a5f1d36f1, 0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b,
}

// SetZone puts the frames to come into a zone.
func (r *Replay) SetZone(z flow.ZoneID) { r.zone = z }

// Frame judges a frame and returns the parsed packet, valid until the next call,
// and the verdict. A frame without a time, or with one before its predecessor's,
// counts as captured together with that.
//
// A fragment is held until its datagram is complete; the one that completes it gets
// the verdict on the datagram, and the packet is the datagram.
func (r *Replay) Frame(f *capture.Frame) (*packet.Packet, shard.Verdict) {
	if !f.Time.IsZero() {
		r.now = max(r.now, f.Time.UnixMilli())
	}
	r.frags.Expire(r.now)
	p := &r.pkt[0]
	f.Parse(p, r.checks)
	r.notePartial(p, f)
	r.prepare(p)
	r.passed = append(r.passed[:0], f)
	if p.Kind == packet.Fragmented {
		if v, held := r.fragment(p, f); held {
			r.passed = r.passed[:0]
			return p, v
		}
	}
	s := r.shards[shard.Home(p.Hash, len(r.shards))]
	for !s.Tick(r.now) {
	}
	p.In = 0
	s.Process(r.pkt[:], r.out[:])
	s.TakeOwn() // answers of a bridge are no frames of the capture
	if r.out[0].Action != shard.Accept {
		r.passed = r.passed[:0]
	}
	return p, r.out[0]
}

func (r *Replay) prepare(p *packet.Packet) {
	if r.zone != (flow.ZoneID{}) && p.Kind != packet.Malformed && p.Kind != packet.Untracked {
		p.SetZone(r.zone)
	}
	r.shards[0].Hash(p)
}

// Passed returns the frames that the last frame let pass: itself, all fragments of
// the datagram that it completed, or none. Valid until the next call of Frame.
func (r *Replay) Passed() []*capture.Frame { return r.passed }

// fragment takes a fragment. If that completes a datagram, it is what p is
// afterwards; otherwise held is true and v is the verdict on the fragment.
func (r *Replay) fragment(p *packet.Packet, f *capture.Frame) (v shard.Verdict, held bool) {
	kept := *f
	kept.Data = slices.Clone(f.Data)
	d, reason := r.frags.Add(p, &kept, r.now)
	switch {
	case reason == flow.ReasonFragmentHeld:
		return shard.Verdict{Action: shard.Hold, Reason: reason}, true
	case reason != flow.NoReason:
		return shard.Verdict{Action: shard.Drop, Reason: reason}, true
	}
	pieces := make([]packet.Piece, len(d.Frames))
	r.passed = r.passed[:0]
	for i, f := range d.Frames {
		pieces[i] = packet.Piece{Fragment: d.Fragments[i], Frame: f.Data}
		r.passed = append(r.passed, f)
	}
	l3, checks := int(pieces[0].L3), r.checks
	var cut bool
	r.whole, cut = packet.Assemble(r.whole[:0], pieces)
	checks.Transport = checks.Transport && !cut
	checks.Partial = false
	p.ParseWhole(r.whole, len(r.whole), l3, checks)
	r.prepare(p)
	return v, false
}

// Named returns the connection that the addresses and ports of the last frame
// name, whether or not the frame belongs to it: an INVALID one does not.
func (r *Replay) Named() (rec flow.Record, ok bool) {
	p := &r.pkt[0]
	if p.Key.L4 == 0 || p.Kind == packet.Error {
		return rec, false
	}
	r.shards[0].Hash(p)
	s := r.shards[shard.Home(p.Hash, len(r.shards))]
	i, ok := s.Find(p.Tuple())
	if !ok {
		return rec, false
	}
	return s.Record(i), true
}

// Timeout returns what is left, in whole seconds, of a connection that v left.
func (r *Replay) Timeout(v shard.Verdict) uint32 {
	return uint32(max(v.Expires.Until(flow.Millis(r.now)), 0)) / 1000
}

// SetTime moves the clock on to t, as if a frame had been captured then.
func (r *Replay) SetTime(t time.Time) { r.now = max(r.now, t.UnixMilli()) }

// Now returns the time of the last frame.
func (r *Replay) Now() time.Time { return time.UnixMilli(r.now).UTC() }

// Expectations returns the expectations that there are at Now, oldest first.
func (r *Replay) Expectations() []expect.Expectation { return r.expect.List(r.now) }

// Records returns the connections that are alive at Now, ordered by their
// original tuples.
func (r *Replay) Records() []flow.Record {
	var all []flow.Record
	for _, s := range r.shards {
		for !s.Tick(r.now) {
		}
		s.Walk(0, s.MaxConns(), func(i uint32, _ *flow.Conn) bool {
			all = append(all, s.Record(i))
			return false
		})
	}
	slices.SortFunc(all, func(a, b flow.Record) int { return a.Orig.Compare(&b.Orig) })
	return all
}

package shard

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/helper"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/table"
)

// helping is the part of a Shard that reads payload: connections with a helper, each with
// what that knows of it.
type helping struct {
	registry *helper.Registry // nil: there are no helpers
	budget   helper.Budget
	assign   []Assignment
	flows    map[uint32]*helped // by entry
	waiting  waiting
	picked   uint64
	rand     *nat.Rand // of ports

	hung *flow.Hangup // the last tunnel that has ended and was looked for

	env  helpEnv
	out  []byte        // a payload that was edited
	room []byte        // a packet that has outgrown its chunk
	seen packet.Packet // a segment as its connection's tracker is to see it
	head []byte        // its frame
}

// helped is a connection that a helper reads, or has edited.
type helped struct {
	*helper.Flow
	conn  helper.Conn
	id    flow.HelperID
	entry uint32
	keys  []flow.Tuple // of its tunnel
	told  []toldPort   // the last one last
	// next and before are its neighbours in helping.waiting. Valid iff nobody has answered.
	next, before *helped
	answered     bool
}

// Assignment gives new connections a helper where there are no rules to do that (replay).
type Assignment struct {
	Proto  flow.Proto
	Port   uint16 // of the server
	Helper flow.HelperID
}

// HelpStats are the counters of helpers.
type HelpStats struct {
	helper.Stats
	Picked     uint64 // connections with a helper whose first byte we did not see, or in a SYN: not read
	Now, Bytes int    // connections that are read at present, and bytes kept for them
}

// Add adds what o counted.
func (h *HelpStats) Add(o *HelpStats) {
	h.Stats.Add(&o.Stats)
	h.Picked += o.Picked
	h.Now += o.Now
	h.Bytes += o.Bytes
}

// HelpStats returns the counters of helpers.
func (s *Shard) HelpStats() HelpStats {
	h := HelpStats{Stats: s.help.budget.Stats, Picked: s.help.picked}
	h.Now, h.Bytes = s.help.budget.Used()
	return h
}

// openHelp makes the shard one that has helpers.
func (s *Shard) openHelp() {
	h := &s.help
	h.registry, h.assign = s.cfg.Helpers, s.cfg.Assign
	h.budget.Flows, h.budget.Bytes, h.budget.Source = s.cfg.HelpFlows, s.cfg.HelpBytes, s.cfg.HelpPerSource
	if s.cfg.Keys != nil {
		h.hung = s.cfg.Keys.Last()
	}
	h.flows, h.rand = map[uint32]*helped{}, nat.NewRand(s.cfg.Seed)
}

// assigned gives the connection in u, which begins with p, the helper that is configured for
// its port.
func (s *Shard) assigned(p *packet.Packet, u *unconfirmed) {
	port := p.Tuple().L4.Dst()
	for i := range s.help.assign {
		if a := &s.help.assign[i]; a.Proto == p.Proto && a.Port == port && u.conn.Status&flow.Expected == 0 {
			u.extend()
			u.extra.Helper = a.Helper
			u.conn.Status |= flow.Helper
			return
		}
	}
}

// unhelp gives back what the helper of an entry, which goes, has used.
func (s *Shard) unhelp(i uint32) {
	h := &s.help
	f := h.flows[i]
	if f == nil {
		return
	}
	h.waiting.remove(f)
	f.Close()
	s.dropKeys(f)
	delete(h.flows, i)
}

// helpedFlow returns what the helper of the connection in an entry knows; nil if none reads it.
func (s *Shard) helpedFlow(i uint32) *helped {
	if len(s.help.flows) == 0 || !s.table.Conn(i).Extended() { // a helper is kept in what few connections have
		return nil
	}
	return s.help.flows[i]
}

// nfHelp lets the helper of the packet's connection read it, makes what edits it asks for,
// and has the sequence numbers follow those of earlier packets (nf_confirm: nf_ct_helper,
// nf_ct_seq_adjust). began says that the packet has begun its connection.
func (s *Shard) nfHelp(t *transit, began bool) flow.Reason {
	if t.ref.at != inTable {
		return flow.NoReason
	}
	f := s.reader(t.ref.entry, t.p, t.v)
	if f == nil {
		return flow.NoReason
	}
	if t.p.Kind == packet.Error {
		s.adjustQuote(f, t)
		return flow.NoReason
	}
	if t.p.Kind != packet.Data {
		return flow.NoReason
	}
	r, seq := s.show(f, t.p, t.v)
	if r.Drop != flow.NoReason {
		if began { // it has confirmed nothing
			s.forgetPaths(t.ref.entry)
			t.end(table.Deleted)
			t.v.Conn = false
		}
		return r.Drop
	}
	if !r.Same() {
		if reason := s.edit(t, &r); reason != flow.NoReason {
			return reason
		}
	}
	if t.p.Proto == flow.TCP && (f.Adjusted() || seq != t.p.TCP.Seq) { // held bytes in front move it, too
		s.adjust(f, t, seq)
	}
	s.letGo(f)
	return s.sendEdited(t)
}

// letGo forgets a connection that is read no further, and of which nothing was changed: it
// is one like others from now on.
func (s *Shard) letGo(f *helped) {
	if f.Off() != nil && !f.Adjusted() && len(f.keys) == 0 {
		s.unhelp(f.entry)
	}
}

// overhear lets the helper of a connection read a packet that is not forwarded by us, or
// not translated. What it says of the packet does not matter.
func (s *Shard) overhear(p *packet.Packet, v *Verdict, ref connRef) {
	if ref.at != inTable || p.Kind != packet.Data {
		return
	}
	if f := s.reader(ref.entry, p, v); f != nil {
		s.show(f, p, v)
		s.letGo(f)
	}
}

// show shows a packet to the helper of its connection, as far as the tracker vouches for it:
// of what it let pass unjudged nothing is read (a SYN within a live connection, whose numbers
// nobody has looked at), and only what is in the window in every way acknowledges. seq is the
// sequence number of a TCP segment as its receiver is to read it.
func (s *Shard) show(f *helped, p *packet.Packet, v *Verdict) (r helper.Result, seq uint32) {
	data, whole := p.Payload()
	env := &s.help.env
	*env = helpEnv{s: s, f: f}
	if p.Proto != flow.TCP {
		if whole {
			r = f.Datagram(&f.conn, env, v.Dir, data)
		}
		return r, 0
	}
	flags, syn := p.TCP.Flags, uint32(0)
	if !inStep(v.Reason) || flags&packet.RST != 0 || flags&packet.ACK == 0 {
		return r, f.Seq(v.Dir, p.TCP.Seq)
	}
	if flags&packet.SYN != 0 {
		syn = 1
	}
	if v.Reason == flow.NoReason {
		f.Acked(v.Dir, p.TCP.Ack)
	}
	if !whole || len(data) == 0 && flags&packet.FIN == 0 {
		return r, f.Seq(v.Dir, p.TCP.Seq)
	}
	r = f.Segment(&f.conn, env, v.Dir, p.TCP.Seq+syn, data)
	return r, r.Seq - syn
}

// inStep reports whether the sequence number of a segment that was let pass for a reason is
// one that its sender has reached: it is in the window, or was, or runs ahead of that by less
// than another one.
func inStep(r flow.Reason) bool {
	switch r {
	case flow.NoReason, flow.ReasonTCPSeqBelow, flow.ReasonTCPSeqBeyond, flow.ReasonTCPAckBelow:
		return true
	}
	return false
}

package shard

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
)

// sources finds a connection by its source, so that a host's connections from one
// port look alike from outside where they can (nf_nat_bysource, and the kernel's part
// of RFC 4787, REQ-1). It forgets: each bucket remembers the entries that came last.
type sources [1 << 12][4]uint32 // entries, plus one; 0 is none

func sourceHash(t *flow.Tuple, secret *flow.Secret) uint64 {
	key := flow.Tuple{Src: t.Src, L4: t.L4 &^ (0xffff << 16)}
	return key.Hash(secret)
}

func (s *sources) add(hash uint64, entry uint32) {
	b := &s[hash>>52]
	copy(b[1:], b[:3])
	b[0] = entry + 1
}

// alike looks for a connection with the source of t whose mapping lies in r, and
// returns t mapped like it (find_appropriate_src).
func (s *Shard) alike(t flow.Tuple, r *nat.Range) (flow.Tuple, bool) {
	w := &s.forward
	for _, e := range w.sources[sourceHash(&t, &s.cfg.Secret)>>52] {
		if e == 0 {
			continue
		}
		c := s.table.Conn(e - 1)
		if c.Status&flow.Confirmed == 0 || c.Expires.Until(s.time()) <= 0 || c.Key.L4.Proto() != t.L4.Proto() {
			continue
		}
		x := s.table.Extra(e - 1)
		if o := c.Tuple(flow.Original, x); o.Src != t.Src || o.L4.Src() != t.L4.Src() || o.L4.Zone() != t.L4.Zone() {
			continue
		}
		m, ok := c.Tuple(flow.Reply, x).Invert()
		m.Dst, m.L4 = t.Dst, t.L4&^0xffff|m.L4&0xffff
		if ok && r.Has(&m) {
			return m, true
		}
	}
	return t, false
}

package flow

import "sync/atomic"

// GREKeys are the call ids of PPTP tunnels (struct nf_ct_gre_keymap). A packet of a tunnel
// names the id of its receiver only; this says which one its sender has, so that both
// directions are one connection. All shards share it. It changes with calls and is read for
// GRE packets: a change copies it, and reading takes no lock. The zero GREKeys is empty, and
// so is nil.
type GREKeys struct {
	all     atomic.Pointer[map[greEnds]uint16]
	changes atomic.Uint64
}

// greEnds is all that a packet says of a tunnel.
type greEnds struct {
	src, dst Addr
	key      uint16
}

func greEndsOf(t *Tuple) greEnds { return greEnds{t.Src, t.Dst, t.L4.Dst()} }

// Source returns the call id of the sender of a packet that names the receiver's, 0 if no
// tunnel is known (gre_keymap_lookup).
func (k *GREKeys) Source(src, dst Addr, key uint16) uint16 {
	if k == nil {
		return 0
	}
	all := k.all.Load()
	if all == nil {
		return 0
	}
	return (*all)[greEnds{src, dst, key}]
}

// Has reports whether a tunnel has packets with a tuple.
func (k *GREKeys) Has(t *Tuple) bool {
	all := k.all.Load()
	if all == nil {
		return false
	}
	_, ok := (*all)[greEndsOf(t)]
	return ok
}

// Add enters the tuples of the packets of a tunnel (nf_ct_gre_keymap_add). ok is false, and
// none is, if another tunnel has the same ends and id.
func (k *GREKeys) Add(tuples ...Tuple) (ok bool) {
	return k.change(func(all map[greEnds]uint16) bool {
		for i := range tuples {
			t := &tuples[i]
			if was, there := all[greEndsOf(t)]; there && was != t.L4.Src() {
				return false
			}
			all[greEndsOf(t)] = t.L4.Src()
		}
		return true
	})
}

// Remove takes tuples out (nf_ct_gre_keymap_destroy).
func (k *GREKeys) Remove(tuples ...Tuple) {
	if k.change(func(all map[greEnds]uint16) bool {
		for i := range tuples {
			delete(all, greEndsOf(&tuples[i]))
		}
		return true
	}) {
		k.changes.Add(1)
	}
}

// Removals counts the calls of Remove.
func (k *GREKeys) Removals() uint64 { return k.changes.Load() }

// change puts a copy in the place of what there is, unless with says no.
func (k *GREKeys) change(with func(all map[greEnds]uint16) bool) bool {
	for {
		was := k.all.Load()
		all := map[greEnds]uint16{}
		if was != nil {
			for e, src := range *was {
				all[e] = src
			}
		}
		if !with(all) {
			return false
		}
		next := &all
		if len(all) == 0 {
			next = nil
		}
		if k.all.CompareAndSwap(was, next) {
			return true
		}
	}
}

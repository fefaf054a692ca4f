package flow

import (
	"slices"
	"sync/atomic"
)

// GREKeys are the call ids of PPTP tunnels (struct nf_ct_gre_keymap). A packet of a tunnel
// names the id of its receiver only; this says which one its sender has, so that both
// directions are one connection. All shards share it. It changes with calls and is read for
// GRE packets: a change replaces one short list, and reading takes no lock. The zero GREKeys
// is empty, and so is nil; one that packets of others lead to is made with NewGREKeys.
//
// As in the kernel, zones do not count, since a packet has none yet when it is looked at:
// tunnels of two zones may have the same ends and ids, and then share a key. They cannot have
// the same ends and another id of the sender.
type GREKeys struct {
	secret Secret
	chains [1024]atomic.Pointer[[]greKey]
	last   atomic.Pointer[Hangup] // the newest one; they are linked by next
}

// greKey is all that a packet says of a tunnel, and what it does not.
type greKey struct {
	src, dst   Addr
	key, other uint16
	owners     int // tunnels that have added it
}

// Hangup is a tunnel that has ended. It is never changed once it can be seen.
type Hangup struct {
	// Master is the original tuple of its control connection.
	Master Tuple
	// Tuples are those with which its packets may have begun, with their zone.
	Tuples []Tuple

	next atomic.Pointer[Hangup]
}

// NewGREKeys makes one whose lists nobody can make long who does not know the secret.
func NewGREKeys(secret *Secret) *GREKeys { return &GREKeys{secret: *secret} }

func (k *GREKeys) chain(src, dst Addr, key uint16) *atomic.Pointer[[]greKey] {
	t := Tuple{Src: src, Dst: dst, L4: L4(key) << 16}
	return &k.chains[t.Hash(&k.secret)>>32%uint64(len(k.chains))]
}

// Source returns the call id of the sender of a packet that names the receiver's, 0 if no
// tunnel is known (gre_keymap_lookup).
func (k *GREKeys) Source(src, dst Addr, key uint16) uint16 {
	if k == nil {
		return 0
	}
	l := k.chain(src, dst, key).Load()
	if l == nil {
		return 0
	}
	for i := range *l {
		if e := &(*l)[i]; e.src == src && e.dst == dst && e.key == key {
			return e.other
		}
	}
	return 0
}

// Add enters the tuples of the packets of a tunnel (nf_ct_gre_keymap_add). ok is false, and
// none is, if another tunnel has the same ends and id of the receiver but not of the sender.
func (k *GREKeys) Add(tuples ...Tuple) (ok bool) {
	for i := range tuples {
		if !k.change(&tuples[i], 1) {
			k.Remove(tuples[:i]...)
			return false
		}
	}
	return true
}

// Remove takes out tuples that were added (nf_ct_gre_keymap_destroy).
func (k *GREKeys) Remove(tuples ...Tuple) {
	for i := range tuples {
		k.change(&tuples[i], -1)
	}
}

// change gives the key of a tuple n owners more. ok is false if it is that of another sender.
func (k *GREKeys) change(t *Tuple, n int) (ok bool) {
	at := k.chain(t.Src, t.Dst, t.L4.Dst())
	for {
		was := at.Load()
		var l []greKey
		if was != nil {
			l = slices.Clone(*was)
		}
		i := slices.IndexFunc(l, func(e greKey) bool { return e.src == t.Src && e.dst == t.Dst && e.key == t.L4.Dst() })
		switch {
		case i >= 0 && l[i].other != t.L4.Src():
			return false
		case i >= 0:
			if l[i].owners += n; l[i].owners <= 0 {
				l = slices.Delete(l, i, i+1)
			}
		case n > 0:
			l = append(l, greKey{t.Src, t.Dst, t.L4.Dst(), t.L4.Src(), n})
		}
		next := &l
		if len(l) == 0 {
			next = nil
		}
		if at.CompareAndSwap(was, next) {
			return true
		}
	}
}

// HangUp says that a tunnel of a master has ended, to all who ask Next.
func (k *GREKeys) HangUp(master Tuple, tuples []Tuple) {
	k.Last()
	h := &Hangup{Master: master, Tuples: tuples}
	k.last.Swap(h).next.Store(h)
}

// Last returns the newest one that was hung up, or one that stands for none: what comes from
// now on is behind it.
func (k *GREKeys) Last() *Hangup {
	for {
		if h := k.last.Load(); h != nil {
			return h
		}
		k.last.CompareAndSwap(nil, new(Hangup))
	}
}

// Next returns the one that was hung up after h, nil if there is none yet.
func (h *Hangup) Next() *Hangup { return h.next.Load() }

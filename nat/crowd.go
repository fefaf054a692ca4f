package nat

import (
	"sync/atomic"

	"github.com/xdpct/xdpct/flow"
)

// A crowd is a destination to which so many connections leave from one address that
// most ports are in use towards it, and the ports that were found in use. To look a
// port up costs a cache miss, and there are 65,536: without the crowd, each packet to a
// destination that is short of ports would cost milliseconds. With it a port is looked
// up once for each time that it is taken, and what is left of a search is reading 1024
// words. All shards share the crowds.
type crowd struct {
	id   atomic.Uint64 // of the destination: crowdID; 0: nobody's, making: not yet
	bits [1024]atomic.Uint64
}

const (
	numCrowds  = 256 // 2 MiB, where they are used
	crowdWays  = 4
	crowdFrom  = 64 // ports that are looked up before a crowd is made
	making     = 1
	crowdLimit = 65536 + 2*crowdFrom // ports that are looked up at all
)

// crowds is a cache of crowds by destination.
type crowds struct {
	key   Key
	used  atomic.Bool // there is one
	turn  atomic.Uint32
	slots [numCrowds]crowd
}

// crowdID names the connections that differ from one with this reply tuple in nothing
// but the port that is mapped.
func (c *crowds) crowdID(reply *flow.Tuple) uint64 {
	l4 := reply.L4
	if isICMP(l4.Proto()) {
		l4 &^= 0xffff
	} else {
		l4 &^= 0xffff << 16
	}
	return c.key.sum(domainCrowded, reply.Src.Hi, reply.Src.Lo, reply.Dst.Hi, reply.Dst.Lo, uint64(l4)) | 2
}

func crowdPort(reply *flow.Tuple) uint16 {
	if isICMP(reply.L4.Proto()) {
		return reply.L4.Src()
	}
	return reply.L4.Dst()
}

// set returns the slots in one of which a crowd with an id is.
func (c *crowds) set(id uint64) []crowd {
	return c.slots[id%(numCrowds/crowdWays)*crowdWays:][:crowdWays]
}

// find returns the crowd with an id, nil if there is none.
func (c *crowds) find(id uint64) *crowd {
	if !c.used.Load() {
		return nil
	}
	set := c.set(id)
	for i := range set {
		if set[i].id.Load() == id {
			return &set[i]
		}
	}
	return nil
}

// begin returns a crowd with an id, in place of another if need be; nil if somebody else
// takes the same slot. Shards that begin one at the same moment may make two: the second
// costs a slot, and is as true as the first, since gone tells both.
func (c *crowds) begin(id uint64) *crowd {
	if w := c.find(id); w != nil {
		return w
	}
	set := c.set(id)
	w := &set[c.turn.Add(1)%crowdWays]
	for i := range set {
		if set[i].id.Load() == 0 {
			w = &set[i]
			break
		}
	}
	old := w.id.Load()
	if old == making || !w.id.CompareAndSwap(old, making) {
		return nil
	}
	for i := range w.bits {
		w.bits[i].Store(0)
	}
	w.id.Store(id)
	c.used.Store(true)
	return w
}

// note says that a port was found taken. Whoever does has to look again afterwards:
// the port may have become free before it was noted, which nobody would note then.
func (w *crowd) note(id uint64, port uint16) {
	w.bits[port/64].Or(1 << (port % 64))
	if w.id.Load() != id { // another's by now
		w.free(port)
	}
}

func (w *crowd) free(port uint16) { w.bits[port/64].And(^(uint64(1) << (port % 64))) }

// gone says that a tuple is free again, to every crowd of its destination: to tell the
// first one only would leave the port taken for good in a second one.
func (c *crowds) gone(t *flow.Tuple) {
	if !c.used.Load() {
		return
	}
	id := c.crowdID(t)
	set := c.set(id)
	for i := range set {
		if set[i].id.Load() == id {
			set[i].free(crowdPort(t))
		}
	}
}

package engine

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/rx"
)

// workerPort is what a worker knows of a port.
type workerPort struct {
	queue    rx.Queue     // nil while the interface is gone
	segments *rx.Segments // nil: there are none, or another worker has them
	checks   packet.Checks
	noLink   bool       // packets begin with their IP header
	mtu      int        // of the interface
	zones    *portZones // nil: the default zone
	out      []rx.Desc
	past     rx.QueueStats // of queues that are gone
	tooLarge uint64        // by segments that are gone
}

// open takes an interface into use, or into use again, perhaps as another device.
func (p *workerPort) open(ifi *rx.Interface, q rx.Queue) {
	p.queue, p.noLink, p.mtu, p.checks.Partial = q, ifi.NoLink, ifi.MTU, ifi.Partial
}

// takes reports whether a frame that was bridged may leave by the port as it is: as long as the
// MTU allows (is_skb_forwardable, which leaves room for a tag; br_nf_dev_queue_xmit, which
// leaves none for what is IP).
func (p *workerPort) takes(k *packet.Packet) bool {
	over := len(k.Frame) - ethernetLen - p.mtu
	if over <= 0 {
		return true
	}
	tag := 0
	if t := packet.EtherType(binary.BigEndian.Uint16(k.Frame[12:])); t == packet.EtherVLAN || t == packet.EtherQinQ {
		tag = vlanLen
	}
	if k.Family != 0 && int(k.L3) <= ethernetLen+tag {
		return over <= tag
	}
	return over <= tag+vlanLen
}

// lose gives up the queue of an interface that is gone. What it has counted stays. It
// returns how many frames were to leave by it and did not.
func (p *workerPort) lose(put func(addr uint64)) (unsent int) {
	p.past, p.tooLarge = p.stats()
	q := p.queue
	p.queue, p.segments = nil, nil
	if q != nil {
		unsent, _ = q.Abandon(put)
	}
	return unsent
}

// stats returns the counters of the port's queues, and how many frames its segments had no
// room for, since the start.
func (p *workerPort) stats() (s rx.QueueStats, tooLarge uint64) {
	s, tooLarge = p.past, p.tooLarge
	if p.queue != nil {
		s.Add(p.queue.ReadStats())
	}
	if p.segments != nil {
		s.Received += p.segments.Received
		tooLarge += p.segments.TooLarge
	}
	return s, tooLarge
}

// parse reads a frame that came by the port.
func (p *workerPort) parse(k *packet.Packet, frame []byte, checks packet.Checks) {
	if p.noLink {
		k.ParseDatagram(frame, len(frame), checks)
	} else {
		k.Parse(frame, len(frame), checks)
	}
}

// portZones are the zones of packets that arrive by a port.
type portZones struct {
	port  flow.ZoneID
	vlans map[uint16]PortZone
}

func newPortZones(c *PortConfig) *portZones {
	if c.Zone.Zone == 0 && len(c.VLANs) == 0 {
		return nil
	}
	return &portZones{c.Zone.ZoneID, c.VLANs}
}

// of returns the zone of a packet.
func (z *portZones) of(p *packet.Packet) flow.ZoneID {
	if v, ok := z.vlans[p.VLAN]; ok && p.VLAN != 0 {
		return v.ZoneID
	}
	return z.port
}

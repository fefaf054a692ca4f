// Package dialogue makes up traffic for comparing trackers: many conversations
// at once, most of them sound, all of them damaged here and there, with
// segments lost, repeated, reordered, forged and cut off. The same seed makes
// the same traffic.
package dialogue

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// Step is one datagram.
type Step struct {
	Conversation int
	// FromB says on which side of the tracker the datagram enters.
	FromB    bool
	Datagram []byte
	// Pause asks for more than two seconds to pass before this step.
	Pause bool
	// Raw says that the datagram is a fragment, whose identification counts.
	Raw bool
}

// Network gives the addresses of hosts, numbered from 1, on side A and B.
type Network struct {
	Host  func(sideB bool, n int, f flow.Family) netip.Addr
	Hosts int
}

// conversation is two ends that talk.
type conversation interface {
	// next makes up the next datagram; fromB says from which side.
	next(r *rand.Rand) (fromB bool, d []byte)
}

// Make returns n steps of a family.
func Make(seed uint64, n int, f flow.Family, net Network) []Step {
	r := rand.New(rand.NewPCG(seed, uint64(f)))
	const atOnce = 60
	var open []conversation
	var ids []int
	var steps []Step
	started := 0
	for len(steps) < n {
		if len(open) < atOnce {
			started++
			open = append(open, start(r, started, f, net))
			ids = append(ids, started)
		}
		k := r.IntN(len(open))
		fromB, d := open[k].next(r)
		d = damage(r, d)
		s := Step{Conversation: ids[k], FromB: fromB, Datagram: d, Pause: len(steps) == n/2}
		steps = append(steps, s)
		if r.IntN(40) == 0 { // a duplicate on the wire
			s.Pause = false
			steps = append(steps, s)
		}
		if r.IntN(30) == 0 {
			open = append(open[:k], open[k+1:]...)
			ids = append(ids[:k], ids[k+1:]...)
		}
	}
	return steps[:n]
}

// pair is what every conversation has: two hosts, the first of which begins.
type pair struct {
	f      flow.Family
	net    Network
	firstB bool // the beginner is on side B
	addr   [2]netip.Addr
	id     uint16 // tells conversations apart: the beginner's port, or the ICMP id
}

func (p *pair) fromB(end int) bool { return p.firstB != (end == 1) }

func (p *pair) ip(end int) packet.IP { return packet.IP{Src: p.addr[end], Dst: p.addr[1-end]} }

func start(r *rand.Rand, n int, f flow.Family, net Network) conversation {
	p := pair{f: f, net: net, firstB: r.IntN(4) == 0, id: uint16(10000 + n)}
	p.addr[0] = net.Host(p.firstB, 1+r.IntN(net.Hosts), f)
	p.addr[1] = net.Host(!p.firstB, 1+r.IntN(net.Hosts), f)
	switch r.IntN(13) {
	case 12:
		return newTunnel(r, p)
	case 11:
		return newUDPLite(r, p)
	case 10:
		return newSCTP(r, p)
	case 0, 1:
		return newUDP(r, p)
	case 2:
		return newICMP(r, p)
	case 3:
		return newGeneric(r, p)
	}
	return newTCP(r, p)
}

// pick returns one of the choices.
func pick[T any](r *rand.Rand, choices ...T) T { return choices[r.IntN(len(choices))] }

func one(r *rand.Rand, in int) bool { return r.IntN(in) == 0 }

// damage changes a datagram now and then: a wrong byte, which the checksum
// tells, or a cut, which the IP length owns up to.
func damage(r *rand.Rand, d []byte) []byte {
	hdr := 20
	if d[0]>>4 == 6 {
		hdr = 40
	}
	if len(d) <= hdr || hasFragmentHeader(d) || !one(r, 50) {
		return d
	}
	d = append([]byte(nil), d...)
	if one(r, 2) {
		d[hdr+r.IntN(len(d)-hdr)] ^= byte(1 + r.IntN(255))
		return d
	}
	return setLength(d[:hdr+r.IntN(len(d)-hdr)])
}

// hasFragmentHeader tells the datagrams that damage might make fragments of,
// which would wait for others.
func hasFragmentHeader(d []byte) bool {
	if d[0]>>4 != 6 {
		return false
	}
	for proto, at := d[6], 40; len(d) > at+1; {
		size := 8 * (int(d[at+1]) + 1)
		switch proto {
		case 44:
			return true
		case 51:
			size = 4 * (int(d[at+1]) + 2)
		case 60:
		default:
			return false
		}
		proto, at = d[at], at+size
	}
	return false
}

// setLength makes the IP length that of d, and the header checksum right.
func setLength(d []byte) []byte {
	if d[0]>>4 == 6 {
		binary.BigEndian.PutUint16(d[4:], uint16(len(d)-40))
		return d
	}
	binary.BigEndian.PutUint16(d[2:], uint16(len(d)))
	binary.BigEndian.PutUint16(d[10:], 0)
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(d[i:]))
	}
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(d[10:], ^uint16(sum))
	return d
}

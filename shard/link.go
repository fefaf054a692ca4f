package shard

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/route"
)

// link says which frames of an interface are for this host, by their Ethernet destination
// (PACKET_HOST of eth_type_trans and vlan_do_receive): those to the interface itself, and,
// if it is a VLAN, those to the port that it is on. The addresses are as macWord has them.
type link struct {
	port, itself uint64
	any          bool // it has no link header, or no address that is known
}

// macWord returns an Ethernet address, as one word: the first eight bytes of a frame,
// little-endian and without those that are not its destination.
func macWord(a []byte) uint64 { return binary.LittleEndian.Uint64(a) << 16 }

// linksOf appends the link of each interface.
func linksOf(all []link, routes *route.Table) []link {
	word := func(i *route.Interface) uint64 {
		var frame [8]byte
		copy(frame[:], i.MAC[:])
		return macWord(frame[:])
	}
	for n := range routes.Interfaces {
		i := &routes.Interfaces[n]
		l := link{itself: word(i), any: i.MAC == [6]byte{}}
		l.port = l.itself
		for m := range routes.Interfaces {
			if j := &routes.Interfaces[m]; i.VLAN != 0 && j.VLAN == 0 && j.Port == i.Port && j.MAC != [6]byte{} {
				l.port = word(j)
			}
		}
		all = append(all, l)
	}
	return all
}

// own reports whether a packet came to the Ethernet address of this host, or by a link
// that has none.
func (l *link) own(p *packet.Packet) bool {
	if p.L3 < 14 {
		return true
	}
	w := macWord(p.Frame)
	return w == l.port || w == l.itself || l.any
}

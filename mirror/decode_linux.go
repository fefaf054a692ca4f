package mirror

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/route"
)

// link is an interface of the namespace (RTM_NEWLINK).
type link struct {
	index, parent, master int
	name, kind            string
	typ                   uint16 // ARPHRD_*
	flags                 uint32
	mtu, group            int
	mac                   []byte
	vlan                  uint16
	vlanProto             uint16 // as on the wire
	vrf                   int    // the table of a VRF
}

func (l *link) up() bool { return l.flags&unix.IFF_UP != 0 }

// What IFLA_INFO_DATA has for the kinds that matter (if_link.h).
const (
	iflaInfoKind  = 1
	iflaInfoData  = 2
	iflaVLANID    = 1
	iflaVLANProto = 5
	iflaVRFTable  = 1
)

func decodeLink(m message) (l link, ok bool) {
	if len(m.body) < unix.SizeofIfInfomsg || m.body[0] != unix.AF_UNSPEC {
		return l, false // AF_BRIDGE tells of a port of a bridge
	}
	l.typ = binary.NativeEndian.Uint16(m.body[2:])
	l.index = int(int32(binary.NativeEndian.Uint32(m.body[4:])))
	l.flags = binary.NativeEndian.Uint32(m.body[8:])
	for typ, v := range attributes(m.body[unix.SizeofIfInfomsg:]) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.name = text(v)
		case unix.IFLA_ADDRESS:
			l.mac = slices.Clone(v)
		case unix.IFLA_MTU:
			l.mtu = int(u32(v))
		case unix.IFLA_LINK:
			l.parent = int(u32(v))
		case unix.IFLA_MASTER:
			l.master = int(u32(v))
		case unix.IFLA_GROUP:
			l.group = int(u32(v))
		case unix.IFLA_LINKINFO:
			l.decodeInfo(v)
		}
	}
	return l, l.index > 0
}

// fixedNeighbour returns the Ethernet address that every neighbour on a link has,
// because its device resolves none (arp_constructor, ndisc_constructor): its own with
// IFF_NOARP, that of broadcast on a point-to-point link, and none where packets begin
// with their IP header. ok is false where neighbours are resolved.
func (l *link) fixedNeighbour() (mac [6]byte, ok bool) {
	switch l.typ {
	case unix.ARPHRD_NONE, unix.ARPHRD_PPP, unix.ARPHRD_TUNNEL, unix.ARPHRD_TUNNEL6, unix.ARPHRD_SIT, unix.ARPHRD_RAWIP:
		return mac, true
	}
	switch {
	case l.flags&(unix.IFF_NOARP|unix.IFF_LOOPBACK) != 0:
		copy(mac[:], l.mac)
		return mac, true
	case l.flags&unix.IFF_POINTOPOINT != 0:
		return [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, true
	}
	return mac, false
}

func (l *link) decodeInfo(b []byte) {
	var data []byte
	for typ, v := range attributes(b) {
		switch typ {
		case iflaInfoKind:
			l.kind = text(v)
		case iflaInfoData:
			data = v
		}
	}
	for typ, v := range attributes(data) {
		switch {
		case l.kind == "vlan" && typ == iflaVLANID:
			l.vlan = u16(v)
		case l.kind == "vlan" && typ == iflaVLANProto && len(v) >= 2:
			l.vlanProto = binary.BigEndian.Uint16(v)
		case l.kind == "vrf" && typ == iflaVRFTable:
			l.vrf = int(u32(v))
		}
	}
}

// decodeAddr returns an address of an interface (RTM_NEWADDR).
func decodeAddr(m message) (index int, p netip.Prefix, ok bool) {
	if len(m.body) < unix.SizeofIfAddrmsg {
		return 0, p, false
	}
	index = int(binary.NativeEndian.Uint32(m.body[4:]))
	var local, addr netip.Addr
	for typ, v := range attributes(m.body[unix.SizeofIfAddrmsg:]) {
		switch typ {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(v)
		case unix.IFA_ADDRESS:
			addr, _ = netip.AddrFromSlice(v)
		}
	}
	if !local.IsValid() {
		local = addr // IPv6, where IFA_LOCAL is only for addresses with a peer
	}
	p = netip.PrefixFrom(local, int(m.body[1]))
	return index, p, p.IsValid()
}

// neighbour is an entry of the neighbour table (RTM_NEWNEIGH).
type neighbour struct {
	index int
	addr  netip.Addr
	mac   [6]byte
	state uint16
	known bool // mac is
}

// The states in which an address can be used (NUD_VALID).
const nudValid = unix.NUD_PERMANENT | unix.NUD_NOARP | unix.NUD_REACHABLE | unix.NUD_PROBE | unix.NUD_STALE | unix.NUD_DELAY

func decodeNeighbour(m message) (n neighbour, ok bool) {
	if len(m.body) < unix.SizeofNdMsg || m.body[0] != unix.AF_INET && m.body[0] != unix.AF_INET6 {
		return n, false
	}
	n.index = int(binary.NativeEndian.Uint32(m.body[4:]))
	n.state = binary.NativeEndian.Uint16(m.body[8:])
	if m.body[10]&unix.NTF_PROXY != 0 {
		return n, false // answered for, not known
	}
	for typ, v := range attributes(m.body[unix.SizeofNdMsg:]) {
		switch typ {
		case unix.NDA_DST:
			n.addr, _ = netip.AddrFromSlice(v)
		case unix.NDA_LLADDR:
			if len(v) == len(n.mac) {
				n.mac, n.known = [6]byte(v), true
			}
		}
	}
	n.known = n.known && n.state&nudValid != 0 && m.typ == unix.RTM_NEWNEIGH
	return n, n.addr.IsValid() && !n.addr.IsMulticast() // those have no entry that anybody tells of
}

// routes decodes routes. Most routes of a large table differ in nothing but their
// destination: those share one route.Route, found by the bytes that describe it.
type routes struct {
	shared  map[string]*route.Route
	key     []byte
	objects bool // there were some with next hop objects (ip nexthop)
}

// maxShared bounds how many different routes are remembered for sharing.
const maxShared = 1 << 15

// decode returns the route of a message and its destination; ok is false if it is not
// one to look up packets in.
func (d *routes) decode(m message) (dst netip.Prefix, r *route.Route, ok bool) {
	if len(m.body) < unix.SizeofRtMsg {
		return dst, nil, false
	}
	h := m.body[:unix.SizeofRtMsg]
	family, bits, flags := h[0], int(h[1]), u32(h[8:])
	if family != unix.AF_INET && family != unix.AF_INET6 || flags&unix.RTM_F_CLONED != 0 {
		return dst, nil, false
	}
	addr := netip.IPv4Unspecified()
	if family == unix.AF_INET6 {
		addr = netip.IPv6Unspecified()
	}
	d.key = append(d.key[:0], h...)
	d.key[1] = 0
	for typ, v := range attributes(m.body[unix.SizeofRtMsg:]) {
		switch typ {
		case unix.RTA_DST:
			if a, ok := netip.AddrFromSlice(v); ok {
				addr = a
			}
		case unix.RTA_CACHEINFO: // how often it was used, and when it expires
		default:
			d.objects = d.objects || typ == rtaNHID
			d.key = appendAttribute(d.key, typ, v)
		}
	}
	dst = netip.PrefixFrom(addr, bits)
	if r, ok = d.shared[string(d.key)]; ok {
		return dst, r, dst.IsValid()
	}
	r = decodeRoute(d.key)
	if len(d.shared) >= maxShared || d.shared == nil {
		d.shared = map[string]*route.Route{}
	}
	d.shared[string(d.key)] = r
	return dst, r, dst.IsValid()
}

// decodeRoute decodes all of a route but its destination.
func decodeRoute(b []byte) *route.Route {
	h := b[:unix.SizeofRtMsg]
	r := &route.Route{Table: int(h[4]), TOS: h[3], Protocol: h[5], Scope: h[6], Kind: route.Kind(h[7])}
	only := route.NextHop{Out: -1, Weight: 1, Dead: h[8]&unix.RTNH_F_DEAD != 0}
	for typ, v := range attributes(b[unix.SizeofRtMsg:]) {
		switch typ {
		case unix.RTA_SRC:
			if a, ok := netip.AddrFromSlice(v); ok && h[2] > 0 {
				r.From = netip.PrefixFrom(a, int(h[2]))
			}
		case unix.RTA_TABLE:
			r.Table = int(u32(v))
		case unix.RTA_PRIORITY:
			r.Priority = int(u32(v))
		case unix.RTA_PREFSRC:
			r.Src, _ = netip.AddrFromSlice(v)
		case unix.RTA_METRICS:
			r.Metrics = string(v)
			for metric, v := range attributes(v) {
				if metric == unix.RTAX_MTU {
					r.MTU = int(u32(v))
				}
			}
		case unix.RTA_MULTIPATH:
			r.Hops = decodeHops(v)
		default:
			decodeHop(&only, typ, v)
		}
	}
	if r.Hops == nil {
		r.Hops = []route.NextHop{only}
	}
	return r
}

// decodeHops decodes the next hops of a route that has several (struct rtnexthop).
func decodeHops(b []byte) (hops []route.NextHop) {
	const size = unix.SizeofRtNexthop
	for len(b) >= size {
		n := int(binary.NativeEndian.Uint16(b))
		if n < size || n > len(b) {
			break
		}
		h := route.NextHop{
			Out: -1, Index: int(int32(u32(b[4:]))), Weight: int(b[3]) + 1, Dead: b[2]&unix.RTNH_F_DEAD != 0,
		}
		for typ, v := range attributes(b[size:n]) {
			decodeHop(&h, typ, v)
		}
		hops = append(hops, h)
		b = b[min(align(n), len(b)):]
	}
	return hops
}

func decodeHop(h *route.NextHop, typ uint16, v []byte) {
	switch typ {
	case unix.RTA_OIF:
		h.Index = int(u32(v))
	case unix.RTA_GATEWAY:
		h.Gateway = gateway(v)
	case unix.RTA_FLOW:
		h.Realms = u32(v)
	case unix.RTA_VIA: // of the other family
		if len(v) > 2 {
			h.Gateway = gateway(v[2:])
		}
	}
}

// gateway returns the zero Addr for a destination on the link.
func gateway(b []byte) netip.Addr {
	a, ok := netip.AddrFromSlice(b)
	if !ok || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// rtaNHID names a next hop object (rtnetlink.h).
const rtaNHID = 30

// What x/sys does not have yet (fib_rules.h).
const (
	fraDSCP          = 25
	fraFlowLabel     = 26
	fraFlowLabelMask = 27
	fraSportMask     = 28
	fraDportMask     = 29
	fraDSCPMask      = 30
)

// decodeRule decodes a routing rule (RTM_NEWRULE). A part of it that packets cannot be
// matched by here makes it one that matches none, and is named in unknown.
func decodeRule(m message) (r route.Rule, unknown []uint16, ok bool) {
	if len(m.body) < unix.SizeofRtMsg || m.body[0] != unix.AF_INET && m.body[0] != unix.AF_INET6 {
		return r, nil, false
	}
	h := m.body[:unix.SizeofRtMsg]
	r = route.NewRule(flow.Family(h[0]), 0, int(h[4]))
	r.Action, r.Invert = route.Action(h[7]), u32(h[8:])&unix.FIB_RULE_INVERT != 0
	if tos := h[3]; tos != 0 {
		r.TOS, r.TOSMask = tos, 0x1c
		if r.Family == flow.IPv6 {
			r.TOSMask = 0xfc
		}
	}
	masked := false
	for typ, v := range attributes(m.body[unix.SizeofRtMsg:]) {
		switch typ {
		case unix.FRA_DST:
			r.Dst = prefix(v, h[1])
		case unix.FRA_SRC:
			r.Src = prefix(v, h[2])
		case unix.FRA_IIFNAME:
			r.In = text(v)
		case unix.FRA_OIFNAME:
			r.Out = text(v)
		case unix.FRA_GOTO:
			r.Target = int(u32(v))
		case unix.FRA_PRIORITY:
			r.Priority = int(u32(v))
		case unix.FRA_FWMARK:
			r.Mark = u32(v)
		case unix.FRA_FWMASK:
			r.Mask, masked = u32(v), true
		case unix.FRA_TABLE:
			r.Table = int(u32(v))
		case unix.FRA_SUPPRESS_PREFIXLEN:
			r.SuppressLen = int(int32(u32(v)))
		case unix.FRA_SUPPRESS_IFGROUP:
			r.SuppressGroup = int(int32(u32(v)))
		case unix.FRA_L3MDEV:
			r.L3Mdev = u8(v) != 0
		case unix.FRA_TUN_ID:
			r.Never = true
		case unix.FRA_UID_RANGE:
			r.Never = r.Never || u32(v) > 0 // a forwarded packet is root's
		case unix.FRA_IP_PROTO:
			r.Proto = flow.Proto(u8(v))
		case unix.FRA_SPORT_RANGE:
			r.SrcPorts = portRange(v)
		case unix.FRA_DPORT_RANGE:
			r.DstPorts = portRange(v)
		case fraDSCP:
			r.TOS, r.TOSMask = u8(v)<<2, 0xfc
		case fraDSCPMask:
			r.TOSMask = u8(v) << 2
		case unix.FRA_FLOW:
			r.Realms = u32(v)
		case unix.FRA_PROTOCOL, unix.FRA_PAD:
		case fraSportMask, fraDportMask:
			if u16(v) != 0xffff {
				unknown = append(unknown, typ)
			}
		default: // fraFlowLabel, fraFlowLabelMask, and what comes yet
			unknown = append(unknown, typ)
		}
	}
	if r.Mark != 0 && !masked {
		r.Mask = 1<<32 - 1
	}
	r.Never = r.Never || len(unknown) > 0
	return r, unknown, true
}

func prefix(b []byte, bits uint8) netip.Prefix {
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, int(bits))
}

func portRange(b []byte) (r route.PortRange) {
	if len(b) >= 4 {
		r = route.PortRange{Lo: u16(b), Hi: u16(b[2:])}
	}
	return r
}

// resolution is how the kernel looks for neighbours on a link (struct ndt_parms).
type resolution struct {
	family uint8
	index  int // 0: the defaults
	wait   int64
	most   int // gc_thresh3, of the defaults
}

// What RTM_GETNEIGHTBL has (neighbour.h).
const (
	ndtaThresh3      = 4
	ndtaParms        = 6
	ndtpaIfindex     = 1
	ndtpaRetransTime = 5
	ndtpaMcastProbes = 11
)

func decodeResolution(m message) (r resolution, ok bool) {
	const header = 4 // struct ndtmsg
	if len(m.body) < header {
		return r, false
	}
	r.family = m.body[0]
	var retrans, probes uint64
	for typ, v := range attributes(m.body[header:]) {
		switch typ {
		case ndtaThresh3:
			r.most = int(u32(v))
		case ndtaParms:
			for typ, v := range attributes(v) {
				switch {
				case typ == ndtpaIfindex:
					r.index = int(u32(v))
				case typ == ndtpaRetransTime && len(v) >= 8:
					retrans = binary.NativeEndian.Uint64(v)
				case typ == ndtpaMcastProbes:
					probes = uint64(u32(v))
				}
			}
		}
	}
	r.wait = int64(retrans * probes)
	return r, r.family == unix.AF_INET || r.family == unix.AF_INET6
}

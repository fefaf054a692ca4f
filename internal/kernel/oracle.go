// Package kernel asks the running kernel's nf_conntrack what it makes of a
// packet, for tests that compare xdpct with it.
//
// A router namespace R sits between two address-less namespaces A and B. Raw
// frames go in at either side; an nftables chain after routing writes what
// conntrack said of the packet into the six DSCP bits of the forwarded frame:
//
//	bits 5..3 state   bit 2 direction   bit 1 seen-reply   bit 0 assured
//
// so each frame carries its own verdict and nothing has to be polled.
package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/perf/netlab"
)

// Side is where a packet enters the router.
type Side uint8

// The two sides.
const (
	A Side = iota
	B
)

// Hosts is the number of hosts on each side.
const Hosts = 4

// spareHosts are addresses of neighbours that translation may use.
var spareHosts = []int{60, 61, 62, 63}

// Host returns the address of host n, 1..Hosts, on a side.
func (s Side) Host(n int, f flow.Family) netip.Addr {
	if f == flow.IPv4 {
		return netip.AddrFrom4([4]byte{10, byte(s) + 1, byte(s) + 1, byte(n)})
	}
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, byte(s) + 1, 15: byte(n)})
}

// Verdict is what conntrack says of a packet that was forwarded.
type Verdict struct {
	State     flow.State
	Dir       flow.Direction
	SeenReply bool
	Assured   bool
}

// Oracle is the router and its two sides.
type Oracle struct {
	router, a, b *netlab.NS
	raw          [2]*netlab.Raw
	seq          uint16
	Own          int // multicast of the router's own accord, which Exchange does not return
}

var (
	routerMAC = [2]net.HardwareAddr{{2, 0, 0, 0, 0, 0x10}, {2, 0, 0, 0, 0, 0x11}}
	hostMAC   = net.HardwareAddr{2, 0, 0, 0, 1, 1}
)

// linkLocalHost is the link-local address of a host on either side.
const linkLocalHost = "fe80::1"

// linkLocal is the address that the kernel gives the router's interface on a side, by its
// Ethernet address (RFC 4291, appendix A).
func (s Side) linkLocal() netip.Addr {
	m := routerMAC[s]
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]})
}

// NewOracle builds the namespaces; sysctls are names below net/netfilter.
func NewOracle(sysctls map[string]string) (o *Oracle, err error) { return build(sysctls, true) }

func build(sysctls map[string]string, verdicts bool) (o *Oracle, err error) {
	o = &Oracle{}
	defer func() {
		if err != nil {
			o.Close()
			o = nil
		}
	}()
	for _, n := range []struct {
		ns   **netlab.NS
		name string
	}{{&o.router, "router"}, {&o.a, "a"}, {&o.b, "b"}} {
		if *n.ns, err = netlab.NewNS(n.name); err != nil {
			return o, err
		}
	}
	if err := o.wire(); err != nil {
		return o, fmt.Errorf("wiring the oracle: %w", err)
	}
	if verdicts {
		if err := o.rules(); err != nil {
			return o, fmt.Errorf("nftables rules of the oracle: %w", err)
		}
	}
	for name, value := range sysctls {
		if !strings.Contains(name, "/") {
			name = "net/netfilter/" + name
		}
		if err := o.router.Sysctl(name, value); err != nil {
			return o, err
		}
	}
	for s, ns := range []*netlab.NS{o.a, o.b} {
		if o.raw[s], err = ns.OpenRaw("eth0"); err != nil {
			return o, err
		}
	}
	return o, nil
}

// Close removes everything.
func (o *Oracle) Close() {
	for _, r := range o.raw {
		if r != nil {
			r.Close()
		}
	}
	for _, ns := range []*netlab.NS{o.router, o.a, o.b} {
		if ns != nil {
			ns.Close()
		}
	}
}

func (o *Oracle) wire() error {
	for _, s := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv6/conf/default/mldv2_unsolicited_report_interval"} { // reports come at once, or not at all
		if err := o.router.Sysctl(s, "1"); err != nil {
			return err
		}
	}
	for _, s := range []string{"net/ipv4/conf/all/rp_filter", "net/ipv4/conf/default/rp_filter"} {
		if err := o.router.Sysctl(s, "0"); err != nil {
			return err
		}
	}
	for s, ns := range []*netlab.NS{o.a, o.b} {
		side := Side(s)
		name := fmt.Sprintf("r%d", s)
		if err := ns.Sysctl("net/ipv6/conf/all/disable_ipv6", "1"); err != nil {
			return err
		}
		err := netlab.Join(
			netlab.Port{NS: o.router, Name: name, MAC: routerMAC[s], Addrs: []string{
				fmt.Sprintf("%v/24", side.Host(254, flow.IPv4)), fmt.Sprintf("%v/48", side.Host(254, flow.IPv6)),
			}},
			netlab.Port{NS: ns, Name: "eth0", MAC: hostMAC},
		)
		if err != nil {
			return err
		}
		link, err := o.router.Link(name)
		if err != nil {
			return err
		}
		hosts := []netip.Addr{netip.MustParseAddr(linkLocalHost)}
		for _, n := range append(hostNumbers(), spareHosts...) {
			hosts = append(hosts, side.Host(n, flow.IPv4), side.Host(n, flow.IPv6))
		}
		for _, a := range hosts {
			family := netlink.FAMILY_V6
			if a.Is4() {
				family = netlink.FAMILY_V4
			}
			err := o.router.Netlink().NeighAdd(&netlink.Neigh{
				LinkIndex: link.Attrs().Index, Family: family, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: hostMAC,
			})
			if err != nil {
				return fmt.Errorf("neighbour: %w", err)
			}
		}
	}
	return nil
}

// ctStates are the bits that the ct state expression loads, by flow.State.
var ctStates = [...]uint32{flow.Invalid: 1, flow.Established: 2, flow.Related: 4, flow.New: 8, flow.Untracked: 64}

func (v Verdict) dscp() byte {
	d := byte(v.State) << 3
	if v.Dir == flow.Reply {
		d |= 4
	}
	if v.SeenReply {
		d |= 2
	}
	if v.Assured {
		d |= 1
	}
	return d
}

// status is the part of the IPS_* bits that a Verdict tells.
func (v Verdict) status() (s flow.Status) {
	if v.SeenReply {
		s |= flow.SeenReply
	}
	if v.Assured {
		s |= flow.Assured
	}
	return s
}

func fromDSCP(d byte) Verdict {
	return Verdict{flow.State(d >> 3), flow.Direction(d >> 2 & 1), d&2 != 0, d&1 != 0}
}

// rules makes the chain that writes verdicts. DSCP 0 would be INVALID, so an
// untouched frame cannot be told from that; every packet matches some rule.
func (o *Oracle) rules() error {
	conn, err := nftables.New(nftables.WithNetNSFd(o.router.FD()))
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "oracle"})
	policy := nftables.ChainPolicyDrop
	chain := conn.AddChain(&nftables.Chain{
		Name: "verdict", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityRef(300), Policy: &policy,
	})
	for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
		for _, st := range []flow.State{flow.Invalid, flow.Untracked} {
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: verdictRule(f, Verdict{State: st}, false)})
		}
		for bits := range 24 {
			v := Verdict{flow.New + flow.State(bits/8), flow.Direction(bits >> 2 & 1), bits&2 != 0, bits&1 != 0}
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: verdictRule(f, v, true)})
		}
	}
	return conn.Flush()
}

// verdictRule matches packets of a family with verdict v and writes v to them.
func verdictRule(f flow.Family, v Verdict, entry bool) []expr.Any {
	native := binary.NativeEndian.AppendUint32
	nfproto := byte(unix.NFPROTO_IPV4)
	if f == flow.IPv6 {
		nfproto = unix.NFPROTO_IPV6
	}
	e := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{nfproto}},
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: native(nil, ctStates[v.State])},
	}
	if entry {
		e = append(e,
			&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(v.Dir)}},
			&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
			&expr.Bitwise{
				SourceRegister: 1, DestRegister: 1, Len: 4,
				Mask: native(nil, uint32(flow.SeenReply|flow.Assured)), Xor: native(nil, 0),
			},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: native(nil, uint32(v.status()))},
		)
	}
	tos := v.dscp() << 2
	if f == flow.IPv4 {
		e = append(e,
			&expr.Immediate{Register: 1, Data: []byte{tos}},
			&expr.Payload{
				OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseNetworkHeader,
				Offset: 1, Len: 1, CsumType: expr.CsumTypeInet, CsumOffset: 10,
			})
	} else {
		e = append(e,
			&expr.Immediate{Register: 1, Data: []byte{0x60 | tos>>4, tos << 4}},
			&expr.Payload{
				OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseNetworkHeader,
				Offset: 0, Len: 2,
			})
	}
	return append(e, &expr.Verdict{Kind: expr.VerdictAccept})
}

// patience is how long a forwarded frame may take.
const patience = 200 * time.Millisecond

// Send sends an IP datagram from a side and returns the kernel's verdict;
// forwarded is false if the router dropped it. The datagram's identification
// (IPv4) or the lower bits of its flow label (IPv6) tell it from others on the
// way; Send sets it.
func (o *Oracle) Send(from Side, datagram []byte) (v Verdict, forwarded bool, err error) {
	o.seq++
	d := Number(datagram, o.seq)
	frame := packet.AppendEthernet(nil, packet.MAC(routerMAC[from]), packet.MAC(hostMAC), d)
	if err := o.raw[from].Send(frame); err != nil {
		return v, false, fmt.Errorf("sending %d bytes: %w", len(frame), err)
	}
	for {
		f, err := o.raw[from^1].Recv(patience)
		if err != nil || f == nil {
			return v, false, err
		}
		ip := f[14:]
		if d[0]>>4 == 4 && len(ip) >= 20 && ip[0]>>4 == 4 && binary.BigEndian.Uint16(ip[4:]) == o.seq {
			return fromDSCP(ip[1] >> 2), true, nil
		}
		if d[0]>>4 == 6 && len(ip) >= 40 && ip[0]>>4 == 6 && binary.BigEndian.Uint16(ip[2:]) == o.seq {
			return fromDSCP((ip[0]<<4 | ip[1]>>4) >> 2), true, nil
		}
	}
}

// marker is the protocol of the datagrams that Probe sends after a frame.
const marker = 254

// Probe sends an IP datagram as it is, waits until the router is done with it, and
// returns how many frames it has forwarded since, and the verdict on the first.
// Fragments may make it forward none, one or several.
func (o *Oracle) Probe(from Side, datagram []byte) (v Verdict, frames int, err error) {
	frame := packet.AppendEthernet(nil, packet.MAC(routerMAC[from]), packet.MAC(hostMAC), datagram)
	if err := o.raw[from].Send(frame); err != nil {
		return v, 0, fmt.Errorf("sending %d bytes: %w", len(frame), err)
	}
	o.seq++
	mark := packet.AppendIP(nil, packet.IP{Src: from.Host(1, flow.IPv4), Dst: (from ^ 1).Host(1, flow.IPv4), ID: o.seq}, marker, nil)
	if err := o.raw[from].Send(packet.AppendEthernet(nil, packet.MAC(routerMAC[from]), packet.MAC(hostMAC), mark)); err != nil {
		return v, 0, err
	}
	addresses := datagram[12:20]
	if datagram[0]>>4 == 6 {
		addresses = datagram[8:40]
	}
	for {
		f, err := o.raw[from^1].Recv(patience)
		if err != nil || f == nil {
			return v, frames, err
		}
		ip := f[14:]
		if len(ip) >= 20 && ip[0]>>4 == 4 && ip[9] == marker && binary.BigEndian.Uint16(ip[4:]) == o.seq {
			return v, frames, nil
		}
		if len(ip) < 40 && (len(ip) < 20 || ip[0]>>4 == 6) || ip[0]>>4 != datagram[0]>>4 {
			continue
		}
		got, dscp := ip[12:20], ip[1]>>2
		if ip[0]>>4 == 6 {
			got, dscp = ip[8:40], (ip[0]<<4|ip[1]>>4)>>2
		}
		if bytes.Equal(got, addresses) {
			if frames++; frames == 1 {
				v = fromDSCP(dscp)
			}
		}
	}
}

// Number returns a copy of a datagram with the given identification, its header
// checksum kept as right or wrong as it was.
func Number(datagram []byte, id uint16) []byte {
	d := append([]byte(nil), datagram...)
	if d[0]>>4 == 6 {
		binary.BigEndian.PutUint16(d[2:], id)
		return d
	}
	old := binary.BigEndian.Uint16(d[4:])
	binary.BigEndian.PutUint16(d[4:], id)
	// RFC 1624: HC' = ~(~HC + ~m + m')
	c := uint32(^binary.BigEndian.Uint16(d[10:])) + uint32(^old) + uint32(id)
	c = c>>16 + c&0xffff
	c = c>>16 + c&0xffff
	binary.BigEndian.PutUint16(d[10:], ^uint16(c))
	return d
}

// SetZone puts packets that come from a side into a zone. It needs nft(8): the
// library cannot name the direction of a zone.
func (o *Oracle) SetZone(from Side, z flow.ZoneID) error {
	direction := ""
	switch {
	case !z.Directional():
	case z.Dirs == flow.ZoneOriginal:
		direction = "original "
	default:
		direction = "reply "
	}
	script := fmt.Sprintf(`add chain inet oracle zones { type filter hook prerouting priority raw; }
add rule inet oracle zones iifname "r%d" ct %szone set %d
`, from, direction, z.Zone)
	return o.Do(func() error {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		return nil
	})
}

// Flush empties the kernel's table.
func (o *Oracle) Flush() error {
	return o.router.Netlink().ConntrackTableFlush(netlink.ConntrackTable)
}

// Table returns the kernel's table as /proc/net/nf_conntrack prints it.
func (o *Oracle) Table() ([]byte, error) { return o.router.ReadFile("/proc/net/nf_conntrack") }

// Do runs f on a thread in the router's network namespace.
func (o *Oracle) Do(f func() error) error { return o.router.Do(f) }

func hostNumbers() (all []int) {
	for n := range Hosts {
		all = append(all, n+1)
	}
	return all
}

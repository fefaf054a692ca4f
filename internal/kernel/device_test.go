package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/frag"
	"github.com/xdpct/xdpct/helper"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/policy/syntax"
	"github.com/xdpct/xdpct/route"
	"github.com/xdpct/xdpct/shard"
)

// lab is what a router of these tests is made as. The zero lab has an MTU of 1500 on
// both sides, and no other routes than to its two nets.
type lab struct {
	mtu [2]int // of the interfaces, by side; 0: 1500
	// remote says that there is a default route, by host 1 of side B.
	remote    bool
	realms    bool // the routes to host narrowHost have realms: 5 on side A, 7/6 (of a source, of a destination) on side B
	redirects bool // the router sends redirects, those of IPv6 too
	narrow    int  // MTU of the routes to host narrowHost of either side; 0: that of the interface
}

// narrowHost is the host to which a route with an MTU of its own may lead.
const narrowHost = Hosts

func (l *lab) realmsOf(s Side) int {
	switch {
	case !l.realms:
		return 0
	case s == A:
		return 5
	}
	return 7<<16 | 6
}

func (l *lab) mtuOf(s Side) int {
	if l.mtu[s] == 0 {
		return 1500
	}
	return l.mtu[s]
}

// router forwards frames: the kernel's, or xdpct's.
type router interface {
	// exchange puts frames in from a side, and returns those that came out at each.
	exchange(from Side, frames ...[]byte) ([2][][]byte, error)
	// save returns its rules with their counters, as iptables-save -c does.
	save() (string, error)
	close()
}

// linux is the running kernel.
type linux struct {
	o      *Oracle
	f      flow.Family
	kind   string
	legacy bool // by ip_tables, whose tables stay until the namespace goes
}

// idle are kernel routers that may be used again, by what they are.
var idle = map[string]*Oracle{}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, o := range idle {
		o.Close()
	}
	os.Exit(code)
}

// newLinux makes a kernel router, or takes one that is idle. sysctls come on top of those
// that keep the router from holding errors back and from sending redirects of its own.
func newLinux(l *lab, f flow.Family, rules string, sysctls map[string]string, legacy bool) (*linux, error) {
	k := &linux{f: f, kind: fmt.Sprint(l, f, sysctls), legacy: legacy}
	k.o = idle[k.kind]
	delete(idle, k.kind)
	var err error
	if k.o == nil {
		if k.o, err = makeLinux(l, f, sysctls); err != nil {
			return nil, err
		}
	}
	if err := k.o.Clear(); err != nil {
		k.o.Close()
		return nil, err
	}
	if l.redirects {
		if err := k.o.Loud(); err != nil {
			k.close()
			return nil, err
		}
	}
	if rules != "" {
		if err := k.o.RestoreBy(k.program(), rules); err != nil {
			k.close()
			return nil, badRules(err, rules)
		}
	}
	return k, nil
}

func makeLinux(l *lab, f flow.Family, sysctls map[string]string) (*Oracle, error) {
	all := map[string]string{
		"net/ipv4/icmp_ratelimit": "0", "net/ipv4/icmp_msgs_per_sec": "1000000", "net/ipv4/icmp_msgs_burst": "1000000", "net/ipv6/icmp/ratelimit": "0",
		"net/ipv4/conf/all/send_redirects": "0", "net/ipv4/conf/r0/send_redirects": "0", "net/ipv4/conf/r1/send_redirects": "0",
	}
	for _, dev := range []string{"r0", "r1"} { // no neighbour is given up while a router is used: errors about it would come at any time
		all["net/ipv4/neigh/"+dev+"/retrans_time_ms"], all["net/ipv6/neigh/"+dev+"/retrans_time_ms"] = "3600000", "3600000"
	}
	if l.redirects {
		all["net/ipv4/conf/all/send_redirects"] = "1"
	}
	for k, v := range sysctls {
		all[k] = v
	}
	o, err := NewRouter(all)
	if err != nil {
		return nil, err
	}
	for s := range Side(2) {
		if l.mtu[s] != 0 {
			err = errors.Join(err, o.SetMTU(s, l.mtu[s]))
		}
		if l.narrow != 0 {
			err = errors.Join(err, o.AddRoute(s, netip.PrefixFrom(s.Host(narrowHost, f), s.Host(narrowHost, f).BitLen()), l.narrow, l.realmsOf(s)))
		}
	}
	if l.remote {
		err = errors.Join(err, o.AddGateway(B, B.Host(1, flow.IPv4)), o.AddGateway(B, B.Host(1, flow.IPv6)))
	}
	if err != nil {
		o.Close()
		return nil, err
	}
	o.Settle()
	return o, nil
}

var nameOption = regexp.MustCompile(`(--(?:hashlimit-)?name \w+)`)

// renamed returns rules whose tables of recent and hashlimit have names that no rules had
// before: the kernel may keep those of rules that are gone for a while.
func renamed(rules string) string {
	generation++
	return nameOption.ReplaceAllString(rules, fmt.Sprintf("${1}_%d", generation))
}

var generation int

// rulesError is that of a program that does not take the rules.
type rulesError struct {
	err  error
	line string
}

func (e *rulesError) Error() string { return fmt.Sprintf("%v: %s", e.err, e.line) }

// badRules names the line that an error is about.
func badRules(err error, rules string) error {
	var n int
	if i := strings.Index(err.Error(), "line "); i >= 0 {
		fmt.Sscanf(err.Error()[i:], "line %d", &n)
	}
	lines := strings.Split(rules, "\n")
	if n < 1 || n > len(lines) {
		return &rulesError{err, ""}
	}
	return &rulesError{err, lines[n-1]}
}

func (k *linux) exchange(from Side, frames ...[]byte) ([2][][]byte, error) {
	return k.o.ExchangeFrames(from, frames...)
}

// program is the iptables that the rules go through.
func (k *linux) program() string {
	if k.legacy {
		return tool(k.f) + "-legacy"
	}
	return tool(k.f)
}

func (k *linux) save() (string, error) {
	b, err := k.o.SaveBy(k.program())
	return string(b), err
}

func (k *linux) close() {
	if k.legacy || idle[k.kind] != nil {
		k.o.Close()
		return
	}
	idle[k.kind] = k.o
}

// device is an xdpct router of some shards, with the interfaces and routes of the
// kernel's: what an engine's workers do, one frame after the other.
type device struct {
	shards []*shard.Shard
	prog   *policy.Program
	family flow.Family
	frags  *frag.Table[[]byte]
	expect *expect.Table
	checks packet.Checks
	start  time.Time
	last   shard.Verdict // on the last packet that was judged
	loud   bool          // redirects of IPv6 are sent
}

func newDevice(n int, l *lab, f flow.Family, rules string) (*device, error) {
	parsed, err := syntax.Parse(strings.NewReader(rules), "rules", f)
	if err != nil {
		return nil, badRules(err, rules)
	}
	v4, v6 := parsed, (*syntax.Ruleset)(nil)
	if f == flow.IPv6 {
		v4, v6 = nil, parsed
	}
	prog, err := policy.Compile(v4, v6, []string{"r0", "r1"}, nat.Key{1, 2}, nil)
	if err != nil {
		return nil, badRules(err, rules)
	}
	const conns = 1 << 13
	d := &device{prog: prog, family: f, start: time.Now(), loud: l.redirects}
	routes, shared := labRoutes(l), nat.NewShared(n, n*conns, nat.Key{7, uint64(n)})
	concern(shared, routes, parsed)
	d.frags = frag.New(frag.Linux(), func([]byte, flow.Reason) {})
	secret := flow.Secret{0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb, 0xd6e8feb86659fd93, 0xa0761d6478bd642f, 0xe7037ed1a0b428db, 0x8ebc6af09c88c6e3}
	d.expect, d.checks = expect.New(4096, &secret), packet.Checks{Transport: true, Keys: new(flow.GREKeys)}
	for i := range n {
		s, err := shard.New(shard.Config{
			L4: l4.Linux(), Checks: d.checks, Keys: d.checks.Keys, MaxConns: conns, Forwards: true, Translates: true,
			Seed: 7 + uint64(i), Number: i, Shards: n, NAT: shared, Epoch: time.Now().UnixNano(),
			Secret: secret, Expect: d.expect, Helpers: helper.All(), HelpFlows: 100, HelpBytes: 1 << 20,
		}, 0)
		if err != nil {
			d.close()
			return nil, err
		}
		s.SetForwarding(&shard.Forwarding{Rules: prog, Routes: routes})
		d.shards = append(d.shards, s)
	}
	return d, nil
}

// concern names the addresses that rules map to, as an engine does (mappable).
func concern(shared *nat.Shared, routes *route.Table, rules *syntax.Ruleset) {
	if shared.Directory == nil {
		return
	}
	ranges, own, all := policy.NATAddrs(rules)
	for i := range routes.Interfaces {
		for _, p := range routes.Interfaces[i].Addrs {
			if a := flow.AddrFrom(p.Addr()); own {
				ranges = append(ranges, nat.AddrRange{Lo: a, Hi: a})
			}
		}
	}
	shared.Directory.SetFilter(nat.NewAddrSet(ranges, all))
}

func (d *device) close() {
	for _, s := range d.shards {
		s.Close()
	}
}

// save takes the counts out of the shards.
func (d *device) save() (string, error) {
	for _, s := range d.shards {
		counts := s.Counts()
		d.prog.AddCounts(counts)
		clear(counts)
	}
	var b bytes.Buffer
	err := d.prog.Ruleset(d.family).WriteTo(&b, true)
	return b.String(), err
}

// labRoutes are the routes of a lab's router.
func labRoutes(l *lab) *route.Table {
	var ifs []route.Interface
	for s := range Side(2) {
		ifs = append(ifs, route.Interface{Name: fmt.Sprintf("r%d", s), Up: true, MTU: l.mtuOf(s), MAC: RouterMAC(s), SendRedirects: l.redirects, SharedMedia: true, Addrs: []netip.Prefix{
			netip.PrefixFrom(s.Host(254, flow.IPv4), 24), netip.PrefixFrom(s.Host(254, flow.IPv6), 48),
			netip.PrefixFrom(s.linkLocal(), 64),
		}})
	}
	t := route.New(ifs)
	for _, lo := range []string{"127.0.0.0/8", "127.0.0.1/32", "::1/128"} {
		t.Add(&route.Route{Table: route.TableLocal, Dst: netip.MustParsePrefix(lo), Kind: route.Local, Hops: []route.NextHop{{Out: -1, Weight: 1}}})
	}
	both := []route.NextHop{{Out: 0, Weight: 1}, {Out: 1, Weight: 1}}
	t.Add(&route.Route{Table: route.TableMain, Dst: netip.MustParsePrefix("fe80::/64"), Kind: route.Unicast, Hops: both})
	t.Add(&route.Route{Table: route.TableLocal, Dst: netip.MustParsePrefix("ff00::/8"), Kind: route.Multicast, Hops: both})
	for s := range Side(2) {
		hop := []route.NextHop{{Out: int(s), Weight: 1}}
		for _, p := range ifs[s].Addrs {
			a := p.Addr()
			if !a.IsLinkLocalUnicast() {
				t.Add(&route.Route{Table: route.TableMain, Dst: p.Masked(), Kind: route.Unicast, Hops: hop, Src: a})
			}
			t.Add(&route.Route{Table: route.TableLocal, Dst: netip.PrefixFrom(a, a.BitLen()), Kind: route.Local, Hops: hop})
			if l.narrow != 0 {
				n := s.Host(narrowHost, flow.IPv4)
				if a.Is6() {
					n = s.Host(narrowHost, flow.IPv6)
				}
				narrow := []route.NextHop{{Out: int(s), Weight: 1, Realms: uint32(l.realmsOf(s))}}
				t.Add(&route.Route{Table: route.TableMain, Dst: netip.PrefixFrom(n, n.BitLen()), Kind: route.Unicast, Hops: narrow, MTU: l.narrow})
			}
		}
		t.Add(&route.Route{Table: route.TableLocal, Dst: netip.PrefixFrom(s.Host(255, flow.IPv4), 32), Kind: route.Broadcast, Hops: hop})
		t.Add(&route.Route{Table: route.TableLocal, Dst: netip.PrefixFrom(s.Host(0, flow.IPv6), 128), Kind: route.Anycast, Hops: hop})
		if l.remote && s == B {
			for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
				all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
				if f == flow.IPv6 {
					all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
				}
				t.Add(&route.Route{Table: route.TableMain, Dst: all, Kind: route.Unicast, Hops: []route.NextHop{{Out: int(s), Weight: 1, Gateway: B.Host(1, f)}}})
			}
		}
		for _, n := range append(hostNumbers(), spareHosts...) {
			for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
				t.PutNeighbour(int(s), s.Host(n, f), route.Neighbour{MAC: HostMAC()})
			}
		}
		t.PutNeighbour(int(s), netip.MustParseAddr(linkLocalHost), route.Neighbour{MAC: HostMAC()})
	}
	return t
}

func (d *device) exchange(from Side, frames ...[]byte) (out [2][][]byte, err error) {
	now := time.Since(d.start).Milliseconds() + 1
	for _, s := range d.shards {
		for !s.Tick(now) {
		}
	}
	d.frags.Expire(now)
	for _, f := range frames {
		frame := append(make([]byte, 0, len(f)+64), f...) // rules may make it longer
		var p [1]packet.Packet
		p[0].Parse(frame, len(frame), d.checks)
		p[0].In, p[0].Largest = int(from), 0
		if p[0].VLAN != 0 { // no interface is for it
			continue
		}
		p[0].Trim()
		if p[0].Kind == packet.Fragmented {
			d.fragment(&p[0], now, &out)
			continue
		}
		d.judge(p[:], &out)
		if d.last.Action == shard.Accept {
			d.emit(p[0].Frame[p[0].L3:], &out)
		}
	}
	return out, nil
}

// judge lets the owner of a packet judge it.
func (d *device) judge(p []packet.Packet, out *[2][][]byte) {
	var v [1]shard.Verdict
	d.shards[0].Hash(&p[0])
	s := d.shards[d.shards[0].OwnerOf(&p[0])]
	s.Process(p, v[:])
	d.take(s, out)
	if v[0].Action == shard.HandOver {
		r := s.TakeRaw()
		s = d.shards[v[0].Out]
		s.Resume(&p[0], r[0], &v[0])
		d.take(s, out)
	}
	d.last = v[0]
}

// take sends what a shard itself has to say, but for redirects of IPv6 (see Oracle.Clear).
func (d *device) take(s *shard.Shard, out *[2][][]byte) {
	for _, o := range s.TakeOwn() {
		if redirect := o.Datagram[0]>>4 == 6 && o.Datagram[6] == 58 && o.Datagram[40] == 137; o.Hop.Known && (d.loud || !redirect) {
			out[o.Out] = append(out[o.Out], packet.AppendEthernet(nil, packet.MAC(o.Hop.DstMAC), packet.MAC(o.Hop.SrcMAC), bytes.Clone(o.Datagram)))
		}
	}
}

// emit sends what was accepted.
func (d *device) emit(datagram []byte, out *[2][][]byte) {
	if h := d.last.Hop; h != nil && h.Known {
		out[d.last.Out] = append(out[d.last.Out], packet.AppendEthernet(nil, packet.MAC(h.DstMAC), packet.MAC(h.SrcMAC), datagram))
	}
}

// fragment takes a fragment, and judges the datagram that it completes.
func (d *device) fragment(p *packet.Packet, now int64, out *[2][][]byte) {
	in := p.In
	d.shards[0].Hash(p)
	if r := d.shards[0].Screen(p); r != flow.NoReason {
		d.last = shard.Verdict{Reason: r}
		d.take(d.shards[0], out)
		return
	}
	whole, r := d.frags.Add(p, p.Frame, now)
	if whole == nil {
		d.last = shard.Verdict{Reason: r}
		return
	}
	pieces := make([]packet.Piece, len(whole.Frames))
	for i, f := range whole.Frames {
		pieces[i] = packet.Piece{Fragment: whole.Fragments[i], Frame: f}
	}
	var q [1]packet.Packet
	frame, _ := packet.Assemble(nil, pieces)
	q[0].ParseWhole(frame, len(frame), int(pieces[0].L3), d.checks)
	q[0].In = in
	q[0].Largest, _ = packet.Largest(pieces)
	d.judge(q[:], out)
	if d.last.Action != shard.Accept {
		return
	}
	p, mtu := &q[0], packet.MaxDatagram
	if d.last.Hop != nil {
		mtu = d.last.Hop.MTU
	}
	switch {
	case !p.Divided(mtu):
		d.emit(p.Frame[p.L3:int(p.L3)+int(p.Len)], out)
	case p.Keeps(pieces, mtu) && p.InPlace(pieces):
		p.Scatter(pieces)
		for _, piece := range pieces {
			d.emit(piece.Frame[piece.L3:], out)
		}
	default:
		p.Fragments(mtu, pieces, make([]byte, 0, packet.MaxDatagram), func(b []byte) { d.emit(b, out) })
	}
}

// routers makes a kernel router and a device of one shard, until the end of a test.
func routers(t *testing.T, l *lab, f flow.Family, rules string) (*linux, *device) {
	t.Helper()
	k, err := newLinux(l, f, rules, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.close)
	d, err := newDevice(1, l, f, rules)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.close)
	return k, d
}

package kernel

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/policy/syntax"
	"github.com/xdpct/xdpct/route"
	"github.com/xdpct/xdpct/shard"
)

var (
	everyPacket = flag.Bool("every-packet", false, "compare counters after every packet, to find the one")
	onlyRound   = flag.Int("round", -1, "only this ruleset of the seed's")
)

const (
	rulesRounds  = 20
	rulesPackets = 1100 // a round
)

// TestRulesAgree puts random rules into a kernel router and into a shard, and lets
// hosts on both sides talk through each. What comes out must be the same, byte for
// byte, ports that translation chose left aside, and rules must have counted the same.
func TestRulesAgree(t *testing.T) {
	testenv.Root(t)
	for _, p := range []string{"iptables-restore", "ip6tables-restore"} {
		testenv.Program(t, p)
	}
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d (repeat with: go test ./internal/kernel -run %s -seed %d)", s, t.Name(), s)
	for round := range rulesRounds {
		if *onlyRound >= 0 && round != *onlyRound {
			continue
		}
		f := flow.IPv4
		if round%3 == 2 {
			f = flow.IPv6
		}
		r := rand.New(rand.NewPCG(s, uint64(round)))
		g := &rulesets{r: r, f: f}
		text := g.text()
		o, err := NewRouter(map[string]string{
			"net/ipv4/icmp_ratelimit": "0", "net/ipv4/icmp_msgs_per_sec": "1000000", "net/ipv4/icmp_msgs_burst": "1000000", "net/ipv6/icmp/ratelimit": "0",
			"net/ipv4/conf/all/send_redirects": "0", "net/ipv4/conf/r0/send_redirects": "0", "net/ipv4/conf/r1/send_redirects": "0",
		})
		if err != nil {
			t.Fatal(err)
		}
		diff := compareRules(t, o, text, f, r, rulesPackets)
		o.Close()
		if diff != "" {
			t.Fatalf("round %d: %s\nrules:\n%s", round, diff, text)
		}
	}
}

// world is a router: the kernel's, or a shard.
type world interface {
	exchange(from Side, datagram []byte) ([2][][]byte, error)
}

type kernelWorld struct{ o *Oracle }

func (k kernelWorld) exchange(from Side, d []byte) ([2][][]byte, error) { return k.o.Exchange(from, d) }

// shardWorld is a router of one shard, with the interfaces and routes of the kernel's.
type shardWorld struct {
	s     *shard.Shard
	start time.Time
	last  shard.Verdict
}

func newShardWorld(p *policy.Program) (*shardWorld, error) {
	s, err := shard.New(shard.Config{
		L4: l4.Linux(), Checks: packet.Checks{Transport: true}, MaxConns: 1 << 14, Forwards: true, Translates: true, Seed: 7,
		Secret: flow.Secret{0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb, 0xd6e8feb86659fd93, 0xa0761d6478bd642f, 0xe7037ed1a0b428db, 0x8ebc6af09c88c6e3},
	}, 0)
	if err != nil {
		return nil, err
	}
	s.SetForwarding(&shard.Forwarding{Rules: p, Routes: labRoutes()})
	return &shardWorld{s: s, start: time.Now()}, nil
}

// labRoutes are the routes of the lab's router.
func labRoutes() *route.Table {
	var ifs []route.Interface
	for s := range Side(2) {
		ifs = append(ifs, route.Interface{Name: fmt.Sprintf("r%d", s), Up: true, MTU: 1500, MAC: RouterMAC(s), Addrs: []netip.Prefix{
			netip.PrefixFrom(s.Host(254, flow.IPv4), 24), netip.PrefixFrom(s.Host(254, flow.IPv6), 48),
		}})
	}
	t := route.New(ifs)
	for s := range Side(2) {
		hop := []route.NextHop{{Out: int(s), Weight: 1}}
		for _, a := range ifs[s].Addrs {
			t.Add(&route.Route{Table: route.TableMain, Dst: a.Masked(), Kind: route.Unicast, Hops: hop, Src: a.Addr()})
			t.Add(&route.Route{Table: route.TableLocal, Dst: netip.PrefixFrom(a.Addr(), a.Addr().BitLen()), Kind: route.Local, Hops: hop})
		}
		t.Add(&route.Route{Table: route.TableLocal, Dst: netip.PrefixFrom(s.Host(255, flow.IPv4), 32), Kind: route.Broadcast, Hops: hop})
		for _, n := range append(hostNumbers(), 60, 61, 62, 63) {
			for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
				t.SetNeighbour(int(s), s.Host(n, f), HostMAC(), true)
			}
		}
	}
	return t
}

func (w *shardWorld) exchange(from Side, d []byte) (out [2][][]byte, err error) {
	var p [1]packet.Packet
	var v [1]shard.Verdict
	frame := packet.AppendEthernet(make([]byte, 0, len(d)+64), RouterMAC(from), HostMAC(), d)
	p[0].Parse(frame, len(frame), packet.Checks{Transport: true})
	p[0].In = int(from)
	w.s.Hash(&p[0])
	for !w.s.Tick(time.Since(w.start).Milliseconds() + 1) {
	}
	w.s.Process(p[:], v[:])
	w.last = v[0]
	if v[0].Action == shard.Accept {
		q := &p[0]
		f := packet.AppendEthernet(nil, packet.MAC(v[0].Hop.DstMAC), packet.MAC(v[0].Hop.SrcMAC), q.Frame[q.L3:int(q.L3)+int(q.Len)])
		if v[0].Hop.Known {
			out[v[0].Out] = append(out[v[0].Out], f)
		}
	}
	for _, o := range w.s.TakeOwn() {
		if o.Hop.Known {
			out[o.Out] = append(out[o.Out], packet.AppendEthernet(nil, packet.MAC(o.Hop.DstMAC), packet.MAC(o.Hop.SrcMAC), o.Datagram))
		}
	}
	return out, nil
}

func compareRules(t *testing.T, o *Oracle, text string, f flow.Family, r *rand.Rand, n int) string {
	t.Helper()
	rules, err := syntax.Parse(strings.NewReader(text), "random", f)
	if err != nil {
		return fmt.Sprintf("xdpct does not take the rules: %v", err)
	}
	o.Settle()
	if err := o.Restore(f, text); err != nil {
		var line int
		if i := strings.Index(err.Error(), "line "); i >= 0 {
			fmt.Sscanf(err.Error()[i:], "line %d", &line)
		}
		return fmt.Sprintf("iptables does not take the rules: %v: %s", err, strings.Split(text+strings.Repeat("\n", 200), "\n")[max(line-1, 0)])
	}
	v4, v6 := rules, (*syntax.Ruleset)(nil)
	if f == flow.IPv6 {
		v4, v6 = nil, rules
	}
	prog, err := policy.Compile(v4, v6, []string{"r0", "r1"}, nil)
	if err != nil {
		return err.Error()
	}
	w, err := newShardWorld(prog)
	if err != nil {
		return err.Error()
	}
	defer w.s.Close()
	worlds := [2]world{kernelWorld{o}, w}
	var talks []*talk
	moved := 0
	for i := range n {
		if len(talks) < 12 || r.IntN(12) == 0 {
			talks = append(talks, newTalk(r, f))
		}
		if len(talks) > 25 {
			talks = talks[1:]
		}
		a := talks[r.IntN(len(talks))].next(r)
		var out [2][2][][]byte
		var sent [2][]byte
		for k, w := range worlds {
			if sent[k] = a.make(k); sent[k] == nil {
				continue
			}
			if out[k], err = w.exchange(a.from, sent[k]); err != nil {
				return err.Error()
			}
		}
		if (sent[0] == nil) != (sent[1] == nil) {
			return "only one world has seen a packet to answer" // cannot be: the outputs were the same
		}
		if o.Redirects > 0 { // they pass rules, too, and xdpct sends none: the rest is not to be compared
			t.Logf("the kernel sent a redirect at packet %d of %d", i, n)
			return ""
		}
		if *everyPacket {
			if d := compareCounts(o, prog, w.s, f); d != "" {
				return fmt.Sprintf("packet %d of %v, side %d: %s\nsent to kernel %x\nsent to xdpct  %x\nxdpct: %v %v %v", i, a.talk.proto, a.from, d, sent[0], sent[1], w.last.Action, w.last.State, w.last.Reason)
			}
		}
		for side := range 2 {
			if d := compareFrames(out[0][side], out[1][side], sent, &moved); d != "" {
				if table, err := o.Table(); err == nil && testing.Verbose() {
					t.Logf("the kernel's table:\n%s", table)
					w.s.Walk(0, 1<<20, func(i uint32, _ *flow.Conn) bool { t.Logf("xdpct: %+v", w.s.Record(i)); return false })
				}
				return fmt.Sprintf("packet %d of %v, side %d to %d: %s\nsent to kernel %x\nsent to xdpct  %x\nxdpct: %v %v %v", i, a.talk.proto, a.from, side, d, sent[0], sent[1], w.last.Action, w.last.State, w.last.Reason)
			}
		}
		if a.plain {
			for k := range worlds {
				for _, frame := range out[k][a.from^1] {
					if seen(frame).proto != a.talk.proto {
						continue // an error
					}
					if a.client {
						a.talk.far[k] = seen(frame)
					} else {
						a.talk.near[k] = seen(frame)
					}
				}
			}
		}
	}
	// A port may be free in one world and taken at random in the other, now and then.
	if moved > n/10 {
		return fmt.Sprintf("%d of %d packets left from another port, where the kernel's kept theirs", moved, n)
	}
	return compareCounts(o, prog, w.s, f)
}

// compareCounts compares what the rules of both worlds have counted.
func compareCounts(o *Oracle, prog *policy.Program, s *shard.Shard, f flow.Family) string {
	saved, err := o.Save(f)
	if err != nil {
		return err.Error()
	}
	k, err := syntax.Parse(bytes.NewReader(saved), "saved", f)
	if err != nil {
		return err.Error()
	}
	counts := s.Counts()
	prog.AddCounts(counts)
	clear(counts)
	rules := prog.Ruleset(f)
	for _, kt := range k.Tables {
		xt := rules.Table(kt.Name)
		if xt == nil {
			continue
		}
		for _, kc := range kt.Chains {
			xc := xt.Chain(kc.Name)
			if syntax.Dormant(kt.Name, kc.Name) || xc == nil {
				continue
			}
			if kc.Policy != "-" && kc.Count != xc.Count {
				return fmt.Sprintf("policy of %s %s: kernel %v, xdpct %v", kt.Name, kc.Name, kc.Count, xc.Count)
			}
			for i, kr := range kc.Rules {
				if xr := xc.Rules[i]; kr.Count != xr.Count {
					return fmt.Sprintf("%s, rule %d: %s: kernel %v, xdpct %v", kt.Name, i+1, kr.Text(kc.Name), kr.Count, xr.Count)
				}
			}
		}
	}
	return ""
}

// compareFrames compares what came out of both for what each was sent; what it
// says is empty if that is the same.
func compareFrames(kernel, xdpct [][]byte, sent [2][]byte, moved *int) string {
	if len(kernel) != len(xdpct) {
		return fmt.Sprintf("the kernel sent %d frames, xdpct %d\nkernel %s\nxdpct  %s", len(kernel), len(xdpct), dump(kernel), dump(xdpct))
	}
	for i := range kernel {
		k, x := plain(kernel[i]), plain(xdpct[i])
		if !bytes.Equal(k, x) && !mend(k, x, sent, moved) {
			return fmt.Sprintf("different frames\nkernel %x\nxdpct  %x", k, x)
		}
	}
	return ""
}

func dump(frames [][]byte) string {
	var s []string
	for _, f := range frames {
		s = append(s, hex.EncodeToString(f))
	}
	return strings.Join(s, " ")
}

// plain returns a frame without what a router's own packets have by chance: the
// identification of an IPv4 one, the flow label of an IPv6 one.
func plain(frame []byte) []byte {
	f := bytes.Clone(frame)
	d := f[14:]
	own := false
	switch d[0] >> 4 {
	case 4:
		own = d[9] == 1 && (d[20] == 3 || d[20] == 11) || d[9] == 6 && d[33]&4 != 0
		if own {
			copy(d, Number(d, 0))
		}
	default:
		own = d[6] == 58 && d[40] < 128 || d[6] == 6 && d[53]&4 != 0
		if own {
			d[1], d[2], d[3] = d[1]&0xf0, 0, 0
		}
	}
	return f
}

// mend makes the ports of x those of k where translation chose both, and reports
// whether the frames are the same then. moved counts ports that the kernel kept. (That
// each mapping is kept, and is nobody else's, shows when answers come back.)
func mend(k, x []byte, sent [2][]byte, moved *int) bool {
	if len(k) != len(x) {
		return false
	}
	var p, q packet.Packet
	p.Parse(k, len(k), packet.Checks{})
	q.Parse(x, len(x), packet.Checks{})
	heads := [][2]packet.Header{{p.Header(), q.Header()}}
	if p.Kind == packet.Error && q.Kind == packet.Error {
		heads = append(heads, [2]packet.Header{p.Quote(), q.Quote()})
	}
	for _, h := range heads {
		if h[0].Proto != h[1].Proto || h[0].L4 != h[1].L4 {
			return false
		}
		for _, source := range []bool{true, false} {
			at := h[0].L4
			if h[0].Proto == flow.ICMP || h[0].Proto == flow.ICMPv6 {
				at += 4
			} else if !source {
				at += 2
			}
			if at+2 > len(k) {
				continue
			}
			kp, xp := binary.BigEndian.Uint16(k[at:]), binary.BigEndian.Uint16(x[at:])
			if kp == xp {
				continue
			}
			if p.Kind == packet.Data && hasPort(sent[0], kp) && !hasPort(sent[1], xp) {
				*moved++
			}
			h[1].SetPort(source, kp)
		}
	}
	if q.Kind == packet.Error {
		q.SumICMP()
	}
	return bytes.Equal(k, x)
}

// hasPort reports whether a datagram is from or to a port.
func hasPort(datagram []byte, port uint16) bool {
	e := seen(append(make([]byte, 14), datagram...))
	return e.sport == port || e.dport == port
}

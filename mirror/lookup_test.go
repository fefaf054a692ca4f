package mirror

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/route"
)

// question is a packet that came in by p0, and is to be forwarded.
type question struct {
	src, dst     netip.Addr
	tos          uint8
	mark         uint32
	proto        flow.Proto
	sport, dport uint16
}

// rtaSport and what follows are of route lookups (rtnetlink.h).
const (
	rtaMark    = 16
	rtaIPProto = 27
	rtaSport   = 28
	rtaDport   = 29
)

// ask asks the kernel where a packet goes (RTM_GETROUTE), and says it in words.
func (q *question) ask(s *socket, iif int) (string, error) {
	b := make([]byte, unix.SizeofRtMsg)
	b[0], b[1], b[2], b[3] = unix.AF_INET, 32, 32, q.tos
	if q.dst.Is6() {
		b[0], b[1], b[2] = unix.AF_INET6, 128, 128
	}
	b32 := func(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
	b16 := func(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
	b = appendAttribute(b, unix.RTA_DST, q.dst.AsSlice())
	b = appendAttribute(b, unix.RTA_SRC, q.src.AsSlice())
	b = appendAttribute(b, unix.RTA_IIF, b32(uint32(iif)))
	b = appendAttribute(b, rtaMark, b32(q.mark))
	b = appendAttribute(b, rtaIPProto, []byte{byte(q.proto)})
	b = appendAttribute(b, rtaSport, b16(q.sport))
	b = appendAttribute(b, rtaDport, b16(q.dport))
	if err := s.send(unix.RTM_GETROUTE, 0, b); err != nil {
		return "", err
	}
	in, err := s.receive(nil, 1)
	if err != nil {
		return "", err
	}
	for m, err := range messages(in) {
		if err != nil || m.typ == unix.NLMSG_ERROR {
			switch e := unix.Errno(-int32(u32(m.body))); e {
			case unix.ENETUNREACH:
				return "none", nil
			case unix.EHOSTUNREACH:
				return "unreachable", nil
			case unix.EACCES:
				return "prohibit", nil
			case unix.EINVAL:
				return "blackhole", nil
			default:
				return e.Error(), nil
			}
		}
		var out int
		var gw netip.Addr
		for typ, v := range attributes(m.body[unix.SizeofRtMsg:]) {
			switch typ {
			case unix.RTA_OIF:
				out = int(u32(v))
			case unix.RTA_GATEWAY:
				if gw = gateway(v); gw == q.dst {
					gw = netip.Addr{} // the next hop is the destination, whoever says so
				}
			}
		}
		if k := route.Kind(m.body[7]); k != route.Unicast {
			return fmt.Sprint("kind ", k), nil
		}
		return fmt.Sprint(out, gw), nil
	}
	return "", errors.New("no answer")
}

// look says the same of what the mirror knows.
func (q *question) look(t *route.Table) string {
	f := flow.IPv4
	if q.dst.Is6() {
		f = flow.IPv6
	}
	h := t.Lookup(route.Key{
		Family: f, Src: flow.AddrFrom(q.src), Dst: flow.AddrFrom(q.dst), In: 0, Mark: q.mark, TOS: q.tos,
		Proto: q.proto, SrcPort: q.sport, DstPort: q.dport,
	})
	switch h.Kind {
	case route.Unicast:
		if h.Next == q.dst {
			h.Next = netip.Addr{}
		}
		return fmt.Sprint(t.Interfaces[h.Out].Index, h.Next)
	case route.None, route.Throw:
		return "none"
	case route.Unreachable:
		if f == flow.IPv6 {
			return "none or unreachable"
		}
		return "unreachable"
	case route.Prohibit:
		return "prohibit"
	case route.Blackhole:
		return "blackhole"
	}
	return fmt.Sprint("kind ", h.Kind)
}

func (q *question) same(kernel, mirror string) bool {
	return kernel == mirror || mirror == "none or unreachable" && (kernel == "none" || kernel == "unreachable")
}

// randomRouting is routes and rules of all kinds, by which packets are told apart.
func randomRouting(r *rand.Rand) (lines []string) {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	for range 30 {
		verb := pick("add", "append")
		table := pick("", " table 77", " table 78")
		metric := pick("", " metric 5")
		if r.IntN(3) > 0 {
			dst := pick("default", "20.0.0.0/8", "20.1.0.0/16", "20.1.1.0/24", "20.2.0.0/16", "20.1.1.1")
			kind := pick("", "", "", "", "blackhole ", "unreachable ", "prohibit ", "throw ")
			via := " via 10.1.1." + pick("2", "3", "4")
			if kind != "" {
				via = ""
			}
			lines = append(lines, fmt.Sprintf("route %s %s%s%s%s%s%s", verb, kind, dst, pick("", "", " tos 0x10", " tos 0x8"), via, metric, table))
			continue
		}
		dst := pick("default", "2001:db8:a::/48", "2001:db8:a:1::/64", "2001:db8:b::/48")
		kind := pick("", "", "", "", "blackhole ", "unreachable ", "prohibit ", "throw ")
		via := " via 2001:db8:1::" + pick("2", "3")
		if kind != "" {
			via = ""
		}
		lines = append(lines, fmt.Sprintf("-6 route add %s%s%s metric %d%s", kind, dst, via, 10+r.IntN(1000), table))
	}
	for i := range 12 {
		family, from, to := "", pick("", " from 10.1.0.2", " from 10.1.0.0/28"), pick("", " to 20.1.0.0/16", " to 20.2.0.0/16")
		if r.IntN(3) == 0 {
			family, from, to = "-6 ", pick("", " from 2001:db8:0::2", " from 2001:db8:0::/64"), pick("", " to 2001:db8:a::/48")
		}
		what := pick("", " iif p0", " iif p1", " iif lo", " iif other", " oif p1", " fwmark 1", " fwmark 2/3", " fwmark 0/1", " ipproto udp",
			" ipproto tcp dport 80", " ipproto udp sport 1000-2000", " uidrange 0-0", " uidrange 1000-2000")
		if family == "" && what == "" {
			what = pick("", " tos 0x10", " tos 0x8", " dscp 0x0a")
		}
		action := pick(" table 77", " table 78", " table 78", " table main suppress_prefixlength 0", " table 77 suppress_prefixlength 8",
			" blackhole", " unreachable", " prohibit", " nop", fmt.Sprintf(" goto %d", 100+i+1+r.IntN(3)))
		lines = append(lines, fmt.Sprintf("%srule add %s%s%s%s pref %d%s", family, pick("", "", "", "not"), from, to, what, 100+i, action))
	}
	return lines
}

// TestLookup asks the kernel, by tables and rules of all kinds, where packets that are to
// be forwarded go, and the mirror the same.
func TestLookup(t *testing.T) {
	rounds, seed := 12, uint64(1)
	if *soak {
		rounds, seed = 300, uint64(time.Now().UnixNano())
	}
	r := rand.New(rand.NewPCG(seed, 0))
	answers := map[string]int{}
	for round := range rounds {
		l := newLab(t, nil)
		for _, k := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
			if err := l.router.Sysctl(k, "1"); err != nil {
				t.Fatal(err)
			}
		}
		lines := randomRouting(r)
		l.batch(lines)
		l.agrees(strings.Join(lines, "\n"))
		var s *socket
		if err := l.router.Do(func() (err error) { s, err = openSocket(unix.NETLINK_ROUTE); return err }); err != nil {
			t.Fatal(err)
		}
		table := l.m.Table()
		for range 400 {
			q := randomQuestion(r)
			kernel, err := q.ask(s, table.Interfaces[0].Index)
			if err != nil {
				t.Fatal(err)
			}
			answers[kernel]++
			if mirror := q.look(table); !q.same(kernel, mirror) {
				t.Fatalf("round %d of seed %d: %v to %v, tos %#x mark %d %v %d %d: kernel %s, mirror %s\n%s", round, seed,
					q.src, q.dst, q.tos, q.mark, q.proto, q.sport, q.dport, kernel, mirror, strings.Join(lines, "\n"))
			}
		}
		_ = s.close()
	}
	for _, a := range []string{"none", "unreachable", "prohibit", "blackhole"} {
		if answers[a] == 0 {
			t.Errorf("the kernel never said %s: %v", a, answers)
		}
	}
	t.Log(answers)
}

func randomQuestion(r *rand.Rand) (q question) {
	pick := func(s ...string) netip.Addr { return netip.MustParseAddr(s[r.IntN(len(s))]) }
	if r.IntN(3) > 0 {
		q.src, q.dst = pick("10.1.0.2", "10.1.0.7", "10.1.0.99"), pick("20.0.0.1", "20.1.0.1", "20.1.1.1", "20.1.1.2", "20.2.3.4", "21.0.0.1", "10.1.1.2")
	} else {
		q.src, q.dst = pick("2001:db8:0::2", "2001:db8:0::7"), pick("2001:db8:a::1", "2001:db8:a:1::1", "2001:db8:b::1", "2001:db8:c::1", "2001:db8:1::2")
	}
	q.tos = []uint8{0, 0, 0x10, 0x8, 0x28, 0x18}[r.IntN(6)]
	q.mark = uint32(r.IntN(4))
	q.proto = []flow.Proto{flow.UDP, flow.TCP}[r.IntN(2)]
	q.sport, q.dport = []uint16{1500, 3000}[r.IntN(2)], []uint16{80, 81}[r.IntN(2)]
	return q
}

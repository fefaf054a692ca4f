package mirror

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/route"
)

// placed is a mirror that is told of links, without a kernel.
func placed(t *testing.T, most int, ports ...string) (*Mirror, *logBuffer) {
	t.Helper()
	log := &logBuffer{}
	m := &Mirror{log: slog.New(slog.NewTextHandler(log, nil)), changed: make(chan struct{}, 1), stop: make(chan struct{})}
	m.cfg.MaxInterfaces = most
	for _, name := range ports {
		m.cfg.Ports = append(m.cfg.Ports, Port{Name: name})
	}
	m.begin(nil)
	return m, log
}

// install tells of links: "2 eth0", "5 eth0.10 of 2 vlan 10", "6 s of 2 qinq 10".
func install(t *testing.T, m *Mirror, links ...string) string {
	t.Helper()
	s := &linkState{links: map[int]link{}, resolution: map[resolutionKey]resolution{}}
	for _, text := range links {
		l := link{flags: unix.IFF_UP, mtu: 1500, typ: unix.ARPHRD_ETHER}
		f := strings.Fields(text)
		_, _ = fmt.Sscan(f[0], &l.index)
		l.name = f[1]
		if len(f) > 2 {
			l.kind, l.vlanProto = "vlan", unix.ETH_P_8021Q
			if f[4] == "qinq" {
				l.vlanProto = unix.ETH_P_8021AD
			}
			_, _ = fmt.Sscan(f[3], &l.parent)
			_, _ = fmt.Sscan(f[5], &l.vlan)
		}
		s.links[l.index] = l
	}
	m.installLinks(s)
	var all []string
	for n, i := range m.work.Interfaces {
		all = append(all, fmt.Sprintf("%d:%s/%d@%d.%d", n, i.Name, i.Index, i.Port, i.VLAN))
	}
	return strings.Join(all, " ")
}

// TestVLANs: VLANs of ports are interfaces from when they are made, also later than the
// mirror (F29), and have their numbers for good.
func TestVLANs(t *testing.T) {
	m, log := placed(t, 4, "eth0", "eth1")
	for _, step := range []struct {
		links []string
		want  string
	}{
		{[]string{"1 lo", "2 eth0", "3 eth1"}, "0:eth0/2@0.0 1:eth1/3@1.0"},
		{[]string{"2 eth0", "3 eth1", "5 eth1.7 of 3 vlan 7"}, "0:eth0/2@0.0 1:eth1/3@1.0 2:eth1.7/5@1.7"},
		{[]string{"2 eth0", "3 eth1"}, "0:eth0/2@0.0 1:eth1/3@1.0 2:eth1.7/0@1.7"},
		{[]string{"2 eth0", "3 eth1", "6 v7 of 3 vlan 7", "7 v of 2 vlan 7"}, "0:eth0/2@0.0 1:eth1/3@1.0 2:v7/6@1.7 3:v/7@0.7"},
		{[]string{"2 eth0", "3 eth1", "6 v7 of 3 vlan 7", "7 v of 2 vlan 7", "8 one of 2 vlan 8", "9 s of 2 qinq 9", "10 other of 4 vlan 3"}, "0:eth0/2@0.0 1:eth1/3@1.0 2:v7/6@1.7 3:v/7@0.7"},
		{[]string{"12 eth0", "3 eth1", "6 v7 of 3 vlan 7", "13 v of 12 vlan 7"}, "0:eth0/12@0.0 1:eth1/3@1.0 2:v7/6@1.7 3:v/13@0.7"},
		{[]string{"12 renamed", "3 eth1", "14 eth0"}, "0:renamed/12@0.0 1:eth1/3@1.0 2:v7/0@1.7 3:v/0@0.7"},
		{[]string{"3 eth1", "14 eth0"}, "0:eth0/14@0.0 1:eth1/3@1.0 2:v7/0@1.7 3:v/0@0.7"},
	} {
		if got := install(t, m, step.links...); got != step.want {
			t.Errorf("after %q:\n%s, want\n%s", step.links, got, step.want)
		}
	}
	for _, want := range []string{"too many interfaces", "not of 802.1Q", "has a new name"} {
		if n := strings.Count(log.String(), want); n != 1 {
			t.Errorf("%q is said %d times:\n%s", want, n, log)
		}
	}
}

// TestRuleOfVRF: a rule with l3mdev sends packets of a VRF's members to its table, and
// no others.
func TestRuleOfVRF(t *testing.T) {
	table := route.New([]route.Interface{{Name: "a", Index: 2, Up: true, VRF: 10}, {Name: "b", Index: 3, Up: true}})
	r := route.NewRule(flow.IPv4, 1, 0)
	r.L3Mdev = true
	table.SetRules([]route.Rule{r, route.NewRule(flow.IPv4, 2, route.TableMain)})
	table.Add(&route.Route{Table: 10, Kind: route.Blackhole, Dst: prefix([]byte{0, 0, 0, 0}, 0)})
	table.Add(&route.Route{Table: route.TableMain, Kind: route.Prohibit, Dst: prefix([]byte{0, 0, 0, 0}, 0)})
	for in, want := range map[int]route.Kind{0: route.Blackhole, 1: route.Prohibit, -1: route.Prohibit} {
		if h := table.Lookup(route.Key{Family: flow.IPv4, In: in}); h.Kind != want {
			t.Errorf("from %d: %d, want %d", in, h.Kind, want)
		}
	}
}

// FuzzMessages: whatever comes, decoding ends and stays within its bytes.
func FuzzMessages(f *testing.F) {
	body := make([]byte, unix.SizeofRtMsg)
	body[0] = unix.AF_INET
	for _, typ := range []uint16{unix.RTM_NEWROUTE, unix.RTM_NEWLINK, unix.RTM_NEWADDR, unix.RTM_NEWNEIGH, unix.RTM_NEWRULE, unix.RTM_NEWNEIGHTBL} {
		b := appendAttribute(append([]byte{}, body...), unix.RTA_DST, []byte{10, 0, 0, 1})
		b = appendAttribute(b, unix.RTA_MULTIPATH, []byte{8, 0, 0, 0, 1, 0, 0, 0})
		head := []byte{byte(16 + len(b)), 0, 0, 0, byte(typ), byte(typ >> 8), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		f.Add(append(head, b...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var d routes
		n := 0
		for m, err := range messages(b) {
			if err != nil {
				break
			}
			n++
			d.decode(m)
			decodeLink(m)
			decodeAddr(m)
			decodeNeighbour(m)
			decodeRule(m)
			decodeResolution(m)
		}
		if n > len(b)/unix.NLMSG_HDRLEN {
			t.Errorf("%d messages of %d bytes", n, len(b))
		}
	})
}

// TestRealms: routes, each of several next hops, and rules have the realms that the kernel
// gives them; what a packet has is told by both, and by the way back to its source.
func TestRealms(t *testing.T) {
	l := newLab(t, nil)
	for _, line := range []string{
		"route add 20.0.0.0/8 via 10.1.0.2 realms 7/6", "route add 21.0.0.0/8 via 10.1.0.2 realm 9", "route add 22.0.0.0/8 via 10.1.0.2",
		"rule add to 22.0.0.0/8 realms 3/4 table main", "route add 23.0.0.0/8 nexthop via 10.1.0.2 realm 11 nexthop via 10.1.1.2 realm 11",
	} {
		l.must(line)
	}
	address := func(s string) flow.Addr { return flow.AddrFrom(netip.MustParseAddr(s)) }
	for _, c := range []struct {
		src, dst string
		want     uint32
	}{
		{"24.0.0.1", "20.0.0.1", 7<<16 | 6}, {"24.0.0.1", "21.0.0.1", 9}, {"21.0.0.1", "23.0.0.1", 9<<16 | 11}, {"24.0.0.1", "22.0.0.1", 3<<16 | 4},
		{"22.0.0.1", "21.0.0.1", 4<<16 | 9}, {"20.0.0.1", "24.0.0.1", 6 << 16}, {"21.0.0.1", "20.0.0.1", 7<<16 | 6},
	} {
		testenv.Until(t, c.src+" to "+c.dst, func() bool {
			table, k := l.m.Table(), route.Key{Family: flow.IPv4, Src: address(c.src), Dst: address(c.dst), In: 0}
			h := table.Lookup(k)
			return table.Realms(&h, k) == c.want
		})
	}
	l.agrees("realms")
}

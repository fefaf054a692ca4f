package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/xdpct/xdpct/engine"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/perf/netlab"
	"github.com/xdpct/xdpct/policy/syntax"
	"github.com/xdpct/xdpct/shard"
)

// bridge is a box with two ports, r0 and r1, and a host without a stack at each: frames go
// in and come out by hand. What joins the ports is the kernel's bridge, or an engine.
type bridge struct {
	box   *netlab.NS
	hosts [2]*netlab.NS
	raw   [2]*netlab.Raw
	seq   uint32
}

// jumbo is the MTU of all links but that of port r1 and its host's, which have 1500: a frame
// may be longer than the port out takes.
const jumbo = 2000

func (b *bridge) build() (err error) {
	if b.box, err = netlab.NewNS("box"); err != nil {
		return err
	}
	for s := range b.hosts {
		if b.hosts[s], err = netlab.NewNS(fmt.Sprint("host", s)); err != nil {
			return err
		}
		for _, ns := range []*netlab.NS{b.box, b.hosts[s]} {
			if err := ns.Sysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil {
				return err
			}
		}
		port := fmt.Sprintf("r%d", s)
		if err := netlab.Join(netlab.Port{NS: b.box, Name: port, MAC: routerMAC[s]}, netlab.Port{NS: b.hosts[s], Name: "eth0"}); err != nil {
			return err
		}
		for _, l := range []struct {
			ns   *netlab.NS
			name string
		}{{b.box, port}, {b.hosts[s], "eth0"}} {
			link, err := l.ns.Link(l.name)
			if err != nil {
				return err
			}
			if l.name == "r1" {
				continue
			}
			if err := l.ns.Netlink().LinkSetMTU(link, jumbo); err != nil {
				return err
			}
		}
		if b.raw[s], err = b.hosts[s].OpenRaw("eth0"); err != nil {
			return err
		}
	}
	return nil
}

func (b *bridge) close() {
	for _, r := range b.raw {
		if r != nil {
			r.Close()
		}
	}
	for _, ns := range append(b.hosts[:], b.box) {
		if ns != nil {
			ns.Close()
		}
	}
}

// markerType is the EtherType of the frames by which exchange sees that all is done
// (IEEE 802 local experimental 1). Others do not have it.
const markerType = 0x88b5

func (b *bridge) marker() []byte {
	b.seq++
	f := append([]byte{2, 0, 0, 0, 0xf, 0xe, 2, 0, 0, 0, 0xf, 0xf}, markerType>>8, markerType&0xff)
	return append(binary.BigEndian.AppendUint32(f, b.seq), make([]byte, 42)...)
}

// exchange puts frames in from a side, and returns those that came out at each. The box
// keeps the order of what it forwards, and its answers leave in the turn in which what they
// answer is judged: so a marker follows the frames, and another comes back.
func (b *bridge) exchange(from Side, frames ...[]byte) (out [2][][]byte, err error) {
	for _, f := range frames {
		if err := b.raw[from].Send(f); err != nil {
			return out, fmt.Errorf("sending %d bytes: %w", len(f), err)
		}
	}
	for _, s := range []Side{from, from ^ 1} {
		m := b.marker()
		if err := b.raw[s].Send(m); err != nil {
			return out, err
		}
		for {
			f, err := b.raw[s^1].Recv(answerTime)
			if err != nil {
				return out, err
			}
			if f == nil {
				return out, fmt.Errorf("the box does not forward any more")
			}
			if bytes.Equal(f, m) {
				break
			}
			out[s^1] = append(out[s^1], bytes.Clone(f))
		}
	}
	return out, nil
}

// linuxBridge is the kernel's bridge: no spanning tree, no learning, every group forwarded,
// nothing taken for the host; iptables sees what passes, under a VLAN tag, too.
type linuxBridge struct{ bridge }

const bridgeScript = `set -e
ip link add br0 address 02:00:00:00:00:20 type bridge forward_delay 0 mcast_snooping 0 group_fwd_mask 0xfff8
for p in r0 r1; do
	ip link set $p master br0
	bridge link set dev $p learning off flood on mcast_flood on bcast_flood on
done
ip link set br0 mtu 1500 up
echo 1 >/proc/sys/net/bridge/bridge-nf-filter-vlan-tagged
`

// earless keeps the bridge from taking what it forwards for its host, too, which would
// put connections of frames that FORWARD drops into the table.
const earless = "add table bridge earless\nadd chain bridge earless in { type filter hook input priority -200; policy drop; }\n"

func newLinuxBridge() (*linuxBridge, error) {
	k := &linuxBridge{}
	err := k.build()
	if err == nil {
		err = k.shell("sh", bridgeScript)
	}
	if err != nil {
		k.close()
		return nil, fmt.Errorf("the kernel's bridge: %w", err)
	}
	return k, nil
}

// shell runs a program with a script in the box.
func (b *bridge) shell(program, script string, args ...string) error {
	return b.box.Do(func() error {
		cmd := exec.Command(program, args...)
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", program, err, out)
		}
		return nil
	})
}

// emptyTables are those that rules may leave out.
const emptyTables = "*raw\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n" +
	"*mangle\n:PREROUTING ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n" +
	"*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"

// load puts rules of both families into force, and forgets all connections. They are for
// ip_tables, whose matches xdpct's are.
func (k *linuxBridge) load(rules [2]string) error {
	conn, err := nftables.New(nftables.WithNetNSFd(k.box.FD()))
	if err != nil {
		return err
	}
	conn.FlushRuleset()
	if err := conn.Flush(); err != nil {
		return err
	}
	if err := k.shell("nft", earless, "-f", "-"); err != nil {
		return err
	}
	for i, program := range []string{"iptables-legacy-restore", "ip6tables-legacy-restore"} {
		if err := k.shell(program, emptyTables+physical(rules[i])); err != nil {
			return badRules(err, rules[i])
		}
	}
	return k.box.Netlink().ConntrackTableFlush(netlink.ConntrackTable)
}

var portOption = regexp.MustCompile(`(! )?-([io]) (r[01+])`)

// physical returns rules in which the ports of a bridge have the names that they have for
// iptables, to which -i and -o are the bridge.
func physical(rules string) string {
	return portOption.ReplaceAllStringFunc(rules, func(s string) string {
		m := portOption.FindStringSubmatch(s)
		return "-m physdev " + m[1] + "--physdev-" + map[string]string{"i": "in", "o": "out"}[m[2]] + " " + m[3]
	})
}

func (k *linuxBridge) save() (all [2]string, err error) {
	err = k.box.Do(func() error {
		for i, program := range []string{"iptables-legacy-save", "ip6tables-legacy-save"} {
			out, err := exec.Command(program, "-c").Output()
			if err != nil {
				return err
			}
			all[i] = string(out)
		}
		return nil
	})
	return all, err
}

// xdpctBridge is an engine in bridge mode.
type xdpctBridge struct {
	bridge
	e *engine.Engine
}

// newXdpctBridge starts an engine, with rules if it is to take any.
func newXdpctBridge(ruled bool) (*xdpctBridge, error) {
	x := &xdpctBridge{}
	err := x.build()
	if err == nil {
		cfg := engine.DefaultConfig()
		cfg.Mode, cfg.Settings.Max = engine.Bridge, 1<<14
		cfg.Ports = []engine.PortConfig{{Interface: "r0"}, {Interface: "r1"}}
		if ruled {
			cfg.Rules.IPv4 = "/dev/null"
		}
		err = x.box.Do(func() (err error) {
			x.e, err = engine.Open(cfg, slog.New(slog.DiscardHandler))
			return err
		})
	}
	if err != nil {
		x.close()
		return nil, fmt.Errorf("xdpct: %w", err)
	}
	x.e.Start()
	return x, nil
}

func (x *xdpctBridge) close() {
	if x.e != nil {
		_ = x.e.Stop() // the namespace goes with all that it might have left
	}
	x.bridge.close()
}

// load puts rules of both families into force, and forgets all connections.
func (x *xdpctBridge) load(rules [2]string) error {
	var r engine.Rules
	for i, to := range []**syntax.Ruleset{&r.IPv4, &r.IPv6} {
		parsed, err := syntax.Parse(strings.NewReader(rules[i]), "rules", []flow.Family{flow.IPv4, flow.IPv6}[i])
		if err != nil {
			return badRules(err, rules[i])
		}
		*to = parsed
	}
	if err := x.e.SetRules(engine.Rules{}); err != nil { // counters of rules that stay would be kept
		return err
	}
	if err := x.e.SetRules(r); err != nil {
		return err
	}
	return x.forget()
}

func (x *xdpctBridge) forget() error {
	_, err := x.e.Flush(context.Background(), flow.Filter{})
	return err
}

func (x *xdpctBridge) save() (all [2]string, err error) {
	for i, f := range []flow.Family{flow.IPv4, flow.IPv6} {
		var b bytes.Buffer
		if err := x.e.WriteRules(context.Background(), &b, f, true); err != nil {
			return all, err
		}
		all[i] = b.String()
	}
	return all, nil
}

// records are the connections of the engine.
func (x *xdpctBridge) records() (all []flow.Record, err error) {
	err = x.e.List(context.Background(), flow.Filter{}, func(r *flow.Record) error {
		all = append(all, *r)
		return nil
	})
	return all, err
}

// stats are the counters of the engine, those of its ports among them.
func (x *xdpctBridge) stats() (shard.Stats, error) {
	s, err := x.e.Stats(context.Background())
	return s.Total(), err
}

// reasons says what was counted between two readings.
func reasons(before, after *shard.Stats) string {
	var all []string
	for r := range after.Reasons {
		if n := after.Reasons[r] - before.Reasons[r]; n > 0 {
			all = append(all, fmt.Sprintf("%v %d", flow.Reason(r), n))
		}
	}
	slices.Sort(all)
	return fmt.Sprintf("judged %d, dropped %d: %s", after.Packets-before.Packets, after.Dropped-before.Dropped, strings.Join(all, ", "))
}

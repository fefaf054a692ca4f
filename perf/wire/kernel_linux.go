package wire

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/engine"
)

// kernel is the kernel as a router between the two ports.
type kernel struct {
	setup Setup
	track bool // with nf_conntrack
	lab   *Lab
}

// limits are what kernels have raised for all of the machine: how each was
// before, by name.
var limits struct {
	sync.Mutex
	before map[string][]byte
}

const limitsDir = "/proc/sys/net/netfilter"

// Restore puts back what measurements that are not finished have changed outside
// of their namespaces: for a program that is told to end. Any goroutine may
// call it.
func Restore() (err error) {
	limits.Lock()
	defer limits.Unlock()
	for name, text := range limits.before {
		err = errors.Join(err, os.WriteFile(filepath.Join(limitsDir, name), text, 0o644))
		delete(limits.before, name)
	}
	return err
}

// start makes the box route, and tunes conntrack as its operator would: room for
// the connections, and a bucket for each.
func (k *kernel) start(l *Lab) error {
	k.lab = l
	if err := errors.Join(
		l.box.Sysctl("net/ipv4/ip_forward", "1"),
		l.box.Sysctl("net/ipv4/conf/all/rp_filter", "0"),
		l.box.Sysctl("net/ipv4/conf/default/rp_filter", "0"),
		l.routes(), l.enableNAPI(),
	); err != nil {
		return err
	}
	if !k.track {
		return nil
	}
	room := k.setup.Flows + k.setup.Flows/4
	for name, least := range map[string]int{"nf_conntrack_max": room, "nf_conntrack_buckets": k.setup.Flows} {
		if err := k.raise(name, least); err != nil {
			return err
		}
	}
	if err := k.rule(nftables.ChainHookForward, expr.VerdictAccept); err != nil {
		return err
	}
	if k.setup.SNAT {
		if err := k.translate(); err != nil {
			return err
		}
	}
	return l.box.Sysctl("net/netfilter/nf_conntrack_udp_timeout", strconv.Itoa(udpTimeout))
}

// raise raises a limit of conntrack that all namespaces share, until stop.
func (k *kernel) raise(name string, least int) error {
	limits.Lock()
	defer limits.Unlock()
	path := filepath.Join(limitsDir, name)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	old, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if old >= least {
		return nil
	}
	if limits.before == nil {
		limits.before = map[string][]byte{}
	}
	limits.before[name] = text
	return os.WriteFile(path, strconv.AppendInt(nil, int64(least), 10), 0o644)
}

// rule adds a chain with one rule that looks at the state, so that conntrack is
// there, and gives the verdict.
func (k *kernel) rule(hook *nftables.ChainHook, verdict expr.VerdictKind) error {
	c, err := nftables.New(nftables.WithNetNSFd(k.lab.box.FD()))
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "bench"})
	chain := c.AddChain(&nftables.Chain{
		Name: fmt.Sprintf("hook%d", *hook), Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: hook, Priority: nftables.ChainPriorityFilter,
	})
	const newOrEstablished = 1<<1 | 1<<3 // NF_CT_STATE_BIT
	c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{newOrEstablished, 0, 0, 0}, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
		&expr.Counter{},
		&expr.Verdict{Kind: verdict},
	}})
	return c.Flush()
}

// translate maps sources to the pool.
func (k *kernel) translate() error {
	c, err := nftables.New(nftables.WithNetNSFd(k.lab.box.FD()))
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "translate"})
	chain := c.AddChain(&nftables.Chain{
		Name: "postrouting", Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: []expr.Any{
		&expr.Immediate{Register: 1, Data: poolFirst.AsSlice()},
		&expr.Immediate{Register: 2, Data: poolLast.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegAddrMax: 2},
	}})
	return c.Flush()
}

// ready makes a tap of it, if it is to be one. The drop comes before routing and
// after the lookup; earlier, an entry would never be confirmed.
func (k *kernel) ready() error {
	if k.track && k.setup.Mode == engine.Tap {
		return k.rule(nftables.ChainHookPrerouting, expr.VerdictDrop)
	}
	return nil
}

func (k *kernel) flows() (n int, ok bool, err error) {
	if !k.track {
		return 0, false, nil
	}
	err = k.lab.box.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		if err == nil {
			n, err = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		return err
	})
	return n, true, err
}

// taken reads the counter of the dropping rule.
func (k *kernel) taken() (n uint64, err error) {
	c, err := nftables.New(nftables.WithNetNSFd(k.lab.box.FD()))
	if err != nil {
		return 0, err
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return 0, err
	}
	for _, chain := range chains {
		if *chain.Hooknum != *nftables.ChainHookPrerouting {
			continue
		}
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil {
			return 0, err
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if count, ok := e.(*expr.Counter); ok {
					n += count.Packets
				}
			}
		}
	}
	return n, nil
}

func (k *kernel) flush() error {
	return k.lab.box.Netlink().ConntrackTableFlush(netlink.ConntrackTable)
}

func (k *kernel) detail() (Detail, error) { return Detail{Mode: "kernel"}, nil }

func (k *kernel) stop() error { return Restore() }

package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// NewRouter is NewOracle without the chain that writes verdicts: a router that
// forwards between its sides as rules and routes say.
func NewRouter(sysctls map[string]string) (*Oracle, error) {
	return build(sysctls, false)
}

// RouterMAC is the router's Ethernet address on a side, HostMAC that of all hosts.
func RouterMAC(s Side) packet.MAC { return packet.MAC(routerMAC[s]) }

// HostMAC is the Ethernet address of all hosts.
func HostMAC() packet.MAC { return packet.MAC(hostMAC) }

// Restore loads rules with iptables-restore (or ip6tables-restore).
func (o *Oracle) Restore(f flow.Family, rules string) error { return o.RestoreBy(tool(f), rules) }

// RestoreBy loads rules with a program (iptables, ip6tables-legacy).
func (o *Oracle) RestoreBy(program, rules string) error {
	return o.Do(func() error {
		cmd := exec.Command(program + "-restore")
		cmd.Stdin = bytes.NewReader([]byte(rules))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// SaveBy returns what iptables-save -c, or that of another program, prints.
func (o *Oracle) SaveBy(program string) (out []byte, err error) {
	err = o.Do(func() error {
		out, err = exec.Command(program+"-save", "-c").Output()
		return err
	})
	return out, err
}

func tool(f flow.Family) string {
	if f == flow.IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

// SetMTU sets the MTU of the router's interface on a side.
func (o *Oracle) SetMTU(s Side, mtu int) error {
	link, err := o.router.Link(fmt.Sprintf("r%d", s))
	if err != nil {
		return err
	}
	return o.router.Netlink().LinkSetMTU(link, mtu)
}

// AddRoute adds a route that leads to neighbours on a side, with an MTU of its own and,
// unless they are 0, with realms.
func (o *Oracle) AddRoute(s Side, dst netip.Prefix, mtu, realms int) error {
	link, err := o.router.Link(fmt.Sprintf("r%d", s))
	if err != nil {
		return err
	}
	return o.router.Netlink().RouteAdd(&netlink.Route{
		LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, MTU: mtu, Realm: realms,
		Dst: &net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), dst.Addr().BitLen())},
	})
}

// AddGateway adds a default route by a host on a side.
func (o *Oracle) AddGateway(s Side, gateway netip.Addr) error {
	link, err := o.router.Link(fmt.Sprintf("r%d", s))
	if err != nil {
		return err
	}
	return o.router.Netlink().RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()})
}

// Frame makes the frame in which hosts on a side send a datagram to the router.
func Frame(from Side, datagram []byte) []byte {
	return packet.AppendEthernet(nil, packet.MAC(routerMAC[from]), packet.MAC(hostMAC), datagram)
}

// answerTime is how long the answer to an ARP request may take: as long as a busy
// machine may keep a thread waiting.
const answerTime = 5 * time.Second

// ExchangeFrames sends frames from a side, waits until the router is done with them, and
// returns the frames that came out at each side.
//
// Frames of one CPU pass a veth pair in their order, so the answer to an ARP request
// comes behind all that came before: the thread should stay on one CPU (Pin).
func (o *Oracle) ExchangeFrames(from Side, frames ...[]byte) (out [2][][]byte, err error) {
	for _, f := range frames {
		if err := o.raw[from].Send(f); err != nil {
			return out, fmt.Errorf("sending %d bytes: %w", len(f), err)
		}
	}
	if err := o.raw[from].Send(arpRequest(from)); err != nil {
		return out, err
	}
	for {
		f, err := o.raw[from].Recv(answerTime)
		if err != nil {
			return out, err
		}
		if f == nil {
			return out, fmt.Errorf("the router does not answer")
		}
		if isARPReply(f) {
			break
		}
		if !o.ownFrame(f) {
			out[from] = append(out[from], bytes.Clone(f))
		}
	}
	for {
		f, err := o.raw[from^1].Recv(0)
		if err != nil || f == nil {
			return out, err
		}
		if !o.ownFrame(f) {
			out[from^1] = append(out[from^1], bytes.Clone(f))
		}
	}
}

// Exchange is ExchangeFrames for IP datagrams.
func (o *Oracle) Exchange(from Side, datagrams ...[]byte) (out [2][][]byte, err error) {
	var frames [][]byte
	for _, d := range datagrams {
		frames = append(frames, Frame(from, d))
	}
	return o.ExchangeFrames(from, frames...)
}

// Pin keeps the calling goroutine on a thread, and that on one CPU, until what it
// returns is called.
func Pin() (unpin func(), err error) {
	runtime.LockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	cpu := 0
	for !before.IsSet(cpu) {
		cpu++
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	return func() {
		_ = unix.SchedSetaffinity(0, &before) // it was so before
		runtime.UnlockOSThread()
	}, nil
}

func arpRequest(from Side) []byte {
	me, router := from.Host(1, flow.IPv4).As4(), from.Host(254, flow.IPv4).As4()
	b := append(bytes.Repeat([]byte{0xff}, 6), hostMAC...)
	b = binary.BigEndian.AppendUint16(b, 0x0806)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, 1)
	b = append(append(b, hostMAC...), me[:]...)
	b = append(append(b, make(net.HardwareAddr, 6)...), router[:]...)
	return b
}

func isARPReply(f []byte) bool {
	return len(f) >= 22 && binary.BigEndian.Uint16(f[12:]) == 0x0806 && f[21] == 2
}

// ownFrame reports whether a frame is of the router's own accord: multicast listener
// reports and the like.
func (o *Oracle) ownFrame(f []byte) bool {
	if len(f) >= 55 && f[12] == 0x86 && f[0] == 0x33 {
		o.Own++
		return true
	}
	return f[12] == 0x08 && f[13] == 0x06
}

// Clear removes all rules and connections. ICMPv6 redirects, which Linux cannot be told not
// to send and limits by the clock, are dropped from then on before any rule sees them.
func (o *Oracle) Clear() error {
	conn, err := nftables.New(nftables.WithNetNSFd(o.router.FD()))
	if err != nil {
		return err
	}
	conn.FlushRuleset()
	const redirect = 137 // NDISC_REDIRECT
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "quiet"})
	chain := conn.AddChain(&nftables.Chain{
		Name: "redirects", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityRef(-500),
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_ICMPV6}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{redirect}},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("removing rules: %w", err)
	}
	return o.Flush()
}

// Loud undoes what Clear does about ICMPv6 redirects, until it is called again.
func (o *Oracle) Loud() error {
	conn, err := nftables.New(nftables.WithNetNSFd(o.router.FD()))
	if err != nil {
		return err
	}
	conn.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "quiet"})
	return conn.Flush()
}

// Settle waits until the router sends nothing of its own any more.
func (o *Oracle) Settle() {
	for quiet := 0; quiet < 3; {
		quiet++
		for s := range o.raw {
			for f, _ := o.raw[s].Recv(20 * time.Millisecond); f != nil; f, _ = o.raw[s].Recv(20 * time.Millisecond) {
				quiet = 0
			}
		}
	}
}

// ReadFile reads a file of /proc as the router has it.
func (o *Oracle) ReadFile(path string) ([]byte, error) { return o.router.ReadFile(path) }

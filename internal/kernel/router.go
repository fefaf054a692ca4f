package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os/exec"
	"time"

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
func (o *Oracle) Restore(f flow.Family, rules string) error {
	return o.Do(func() error {
		cmd := exec.Command(tool(f) + "-restore")
		cmd.Stdin = bytes.NewReader([]byte(rules))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// Save returns what iptables-save -c prints.
func (o *Oracle) Save(f flow.Family) (out []byte, err error) {
	err = o.Do(func() error {
		out, err = exec.Command(tool(f)+"-save", "-c").Output()
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

// Exchange sends IP datagrams from a side, waits until the router is done with them, and
// returns the frames that came out at each side.
func (o *Oracle) Exchange(from Side, datagrams ...[]byte) (out [2][][]byte, err error) {
	for _, d := range datagrams {
		frame := packet.AppendEthernet(nil, packet.MAC(routerMAC[from]), packet.MAC(hostMAC), d)
		if err := o.raw[from].Send(frame); err != nil {
			return out, fmt.Errorf("sending %d bytes: %w", len(frame), err)
		}
	}
	// The answer to an ARP request comes behind whatever came before.
	if err := o.raw[from].Send(arpRequest(from)); err != nil {
		return out, err
	}
	for {
		f, err := o.raw[from].Recv(patience)
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
// reports, redirects (which IPv6 cannot turn off) and the like.
func (o *Oracle) ownFrame(f []byte) bool {
	if len(f) >= 55 && f[12] == 0x86 && f[20] == 58 && f[54] == 137 {
		o.Redirects++
		return true
	}
	return len(f) >= 55 && f[12] == 0x86 && f[0] == 0x33 || f[12] == 0x08 && f[13] == 0x06
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

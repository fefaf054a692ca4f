package syntax

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// Base is what every rule may ask for by itself (struct ipt_ip).
type Base struct {
	Src, Dst AddrMask
	In, Out  IfName
	Proto    Protocol
	Frag     Flag // -f: second and later fragments
}

func newBase(f flow.Family) Base {
	return Base{Src: AddrMask{Family: f}, Dst: AddrMask{Family: f}}
}

func (b *Base) options() []option {
	return []option{
		{name: "-s", value: &b.Src, aliases: []string{"--source", "--src"}},
		{name: "-d", value: &b.Dst, aliases: []string{"--destination", "--dst"}},
		{name: "-i", value: &b.In, aliases: []string{"--in-interface"}},
		{name: "-o", value: &b.Out, aliases: []string{"--out-interface"}},
		{name: "-p", value: &b.Proto, aliases: []string{"--protocol", "--proto"}},
		{name: "-f", value: &b.Frag, aliases: []string{"--fragments", "--fragment"}},
	}
}

func (b *Base) write(w *strings.Builder) {
	for _, o := range b.options() {
		if a, ok := o.value.(*AddrMask); ok && !a.Not {
			if n, ok := PrefixLen(a.Mask, a.Family); ok && n == 0 {
				continue // 0.0.0.0/0 says nothing
			}
		}
		writeOptions(w, []option{o})
	}
}

// IfName is the name of an interface; a "+" at its end stands for any rest.
type IfName struct {
	Given
	Name string
}

func (i *IfName) read(args []string) error {
	i.Name = args[0]
	switch {
	case i.Name == "":
		return errors.New("an interface is expected")
	case len(i.Name) > 15:
		return errors.New("longer than 15 bytes, as no interface is")
	case strings.ContainsAny(i.Name, "/ "):
		return errors.New("no interface has such a name")
	}
	return nil
}

// text is the name as it is: iptables-save never quotes it.
func (i *IfName) text() string { return i.Name }

// Is reports whether an interface of that name is meant, "!" left aside.
func (i *IfName) Is(name string) bool {
	if prefix, ok := strings.CutSuffix(i.Name, "+"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return name == i.Name
}

// Protocol is -p: a number, or a name of /etc/protocols.
type Protocol struct {
	Given
	N flow.Proto
}

// protocolNames are the names of /etc/protocols (netbase), as iptables-save prints
// them for the numbers.
var protocolNames = map[flow.Proto]string{
	0: "ip", 1: "icmp", 2: "igmp", 3: "ggp", 4: "ipencap", 5: "st", 6: "tcp", 8: "egp", 9: "igp", 12: "pup",
	17: "udp", 20: "hmp", 22: "xns-idp", 27: "rdp", 29: "iso-tp4", 33: "dccp", 36: "xtp", 37: "ddp",
	38: "idpr-cmtp", 41: "ipv6", 43: "ipv6-route", 44: "ipv6-frag", 45: "idrp", 46: "rsvp", 47: "gre",
	50: "esp", 51: "ah", 57: "skip", 58: "ipv6-icmp", 59: "ipv6-nonxt", 60: "ipv6-opts", 73: "rspf", 81: "vmtp",
	88: "eigrp", 89: "ospf", 93: "ax.25", 94: "ipip", 97: "etherip", 98: "encap", 103: "pim", 108: "ipcomp",
	112: "vrrp", 115: "l2tp", 124: "isis", 132: "sctp", 133: "fc", 135: "mobility-header", 136: "udplite",
	137: "mpls-in-ip", 138: "manet", 139: "hip", 140: "shim6", 141: "wesp", 142: "rohc", 143: "ethernet",
}

// protocols are the numbers by name. Behind the names above come those that iptables
// has of its own (xtables_chain_protos).
var protocols = func() map[string]flow.Proto {
	all := map[string]flow.Proto{
		"hopopt": 0, "all": 0, "icmpv6": flow.ICMPv6, "mh": 135, "ipv6-mh": 135, "udplite": flow.UDPLite, "sctp": flow.SCTP,
	}
	for p, name := range protocolNames {
		all[name] = p
	}
	return all
}()

// parseProto reads a protocol by number or name.
func parseProto(s string) (p flow.Proto, err error) {
	if n, err := strconv.ParseUint(s, 0, 8); err == nil {
		return flow.Proto(n), nil
	}
	if p, ok := protocols[strings.ToLower(s)]; ok {
		return p, nil
	}
	return 0, errors.New("a protocol is expected, by number or name")
}

func (p *Protocol) read(args []string) (err error) {
	if p.N, err = parseProto(args[0]); err != nil || p.N != 0 {
		return err
	}
	if p.Not {
		return errors.New("no protocol at all would match")
	}
	p.Set = false // any protocol, which is not printed
	return nil
}

func (p *Protocol) text() string {
	if name, ok := protocolNames[p.N]; ok {
		return name
	}
	return strconv.Itoa(int(p.N))
}

// Only reports whether the rule is for one protocol, and which.
func (p *Protocol) Only() (flow.Proto, bool) { return p.N, p.Set && !p.Not }

// servicePort reads a port by number or by the name of a service.
func servicePort(s string) (uint16, error) {
	if n, err := strconv.ParseUint(s, 0, 64); err == nil {
		if n > 65535 {
			return 0, errors.New("a port is 0..65535")
		}
		return uint16(n), nil
	}
	for _, network := range []string{"tcp", "udp"} {
		if p, err := net.LookupPort(network, s); err == nil && s != "" {
			return uint16(p), nil
		}
	}
	return 0, fmt.Errorf("neither a port nor a service")
}

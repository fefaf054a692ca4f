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
	N    flow.Proto
	Any  bool   // "all", or 0
	name string // as it was given
}

var protocols = map[string]flow.Proto{
	"tcp": flow.TCP, "udp": flow.UDP, "udplite": flow.UDPLite, "icmp": flow.ICMP, "sctp": flow.SCTP,
	"icmpv6": flow.ICMPv6, "ipv6-icmp": flow.ICMPv6, "esp": 50, "ah": 51, "mh": 135, "ipv6-mh": 135,
	"gre": flow.GRE, "igmp": 2, "ospf": 89, "vrrp": 112, "ipencap": 4, "ipv6": 41, "dccp": flow.DCCP,
	"pim": 103, "ipip": 94, "l2tp": 115, "eigrp": 88, "rsvp": 46,
}

// parseProto reads a protocol by number or name.
func parseProto(s string) (p flow.Proto, err error) {
	if n, err := strconv.ParseUint(s, 0, 8); err == nil {
		return flow.Proto(n), nil
	}
	name := strings.ToLower(s)
	if p, ok := protocols[name]; ok {
		return p, nil
	}
	if name == "all" {
		return 0, nil
	}
	return 0, errors.New("a protocol is expected, by number or name")
}

func (p *Protocol) read(args []string) (err error) {
	p.name = strings.ToLower(args[0])
	p.N, err = parseProto(args[0])
	if err == nil && p.N == 0 {
		if p.Not {
			return errors.New("no protocol at all would match")
		}
		p.Any = true
	}
	return err
}

func (p *Protocol) text() string {
	if p.name == "icmpv6" {
		return "ipv6-icmp"
	}
	if n, err := strconv.ParseUint(p.name, 0, 8); err == nil {
		for _, name := range []string{"tcp", "udp", "icmp", "ipv6-icmp", "sctp", "udplite", "esp", "ah", "gre"} {
			if protocols[name] == flow.Proto(n) {
				return name
			}
		}
	}
	return p.name
}

// Only reports whether the rule is for one protocol, and which.
func (p *Protocol) Only() (flow.Proto, bool) { return p.N, p.Set && !p.Not && !p.Any }

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

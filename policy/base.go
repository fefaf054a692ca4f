package policy

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// base is what every rule may ask for by itself (struct ipt_ip).
type base struct {
	src, dst addrMask
	in, out  ifName
	proto    protocol
	frag     flagOption // -f: second and later fragments, which tracking never leaves
}

func newBase(f flow.Family) base {
	return base{src: addrMask{family: f}, dst: addrMask{family: f}}
}

func (b *base) options() []option {
	return []option{
		{name: "-s", value: &b.src, aliases: []string{"--source", "--src"}},
		{name: "-d", value: &b.dst, aliases: []string{"--destination", "--dst"}},
		{name: "-i", value: &b.in, aliases: []string{"--in-interface"}},
		{name: "-o", value: &b.out, aliases: []string{"--out-interface"}},
		{name: "-p", value: &b.proto, aliases: []string{"--protocol", "--proto"}},
		{name: "-f", value: &b.frag, aliases: []string{"--fragments", "--fragment"}},
	}
}

func (b *base) write(w *strings.Builder) {
	for _, o := range b.options() {
		if a, ok := o.value.(*addrMask); ok && !a.not {
			if n, ok := prefixLen(a.mask, a.family); ok && n == 0 {
				continue // 0.0.0.0/0 says nothing
			}
		}
		writeOptions(w, []option{o})
	}
}

// ifName is the name of an interface; a "+" at its end stands for any rest.
type ifName struct {
	given
	name string
}

func (i *ifName) read(args []string) error {
	i.name = args[0]
	switch {
	case i.name == "":
		return errors.New("an interface is expected")
	case len(i.name) > 15:
		return errors.New("longer than 15 bytes, as no interface is")
	case strings.ContainsAny(i.name, "/ "):
		return errors.New("no interface has such a name")
	}
	return nil
}

// text is the name as it is: iptables-save never quotes it.
func (i *ifName) text() string { return i.name }

// is reports whether an interface of that name is meant, "!" left aside.
func (i *ifName) is(name string) bool {
	if prefix, ok := strings.CutSuffix(i.name, "+"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return name == i.name
}

// protocol is -p: a number, or a name of /etc/protocols.
type protocol struct {
	given
	n    flow.Proto
	any  bool   // "all", or 0
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

func (p *protocol) read(args []string) (err error) {
	p.name = strings.ToLower(args[0])
	p.n, err = parseProto(args[0])
	if err == nil && p.n == 0 {
		if p.not {
			return errors.New("no protocol at all would match")
		}
		p.any = true
	}
	return err
}

func (p *protocol) text() string {
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

// is reports whether the rule is for one protocol, and which.
func (p *protocol) only() (flow.Proto, bool) { return p.n, p.set && !p.not && !p.any }

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

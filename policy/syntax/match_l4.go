package syntax

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// Ports is xt_udp, and the ports of xt_tcp and xt_sctp.
type Ports struct {
	module       string
	Proto        flow.Proto
	Sport, Dport Span
}

func newPorts(module string, p flow.Proto) *Ports {
	return &Ports{module, p, Span{port: true}, Span{port: true}}
}

// Name returns the name of the match.
func (m *Ports) Name() string { return m.module }

func (m *Ports) options() []option {
	return []option{
		{name: "--sport", value: &m.Sport, aliases: []string{"--source-port"}},
		{name: "--dport", value: &m.Dport, aliases: []string{"--destination-port"}},
	}
}

func (m *Ports) check(r *Rule, _ place) error { return needsProto(r, m.Proto) }

// TCP is xt_tcp.
type TCP struct {
	Ports
	Flags  TCPFlags
	Option Number // --tcp-option
}

// TCPFlags is "mask comp", both lists of flags: of those in Mask, those in Comp and no
// others are set.
type TCPFlags struct {
	Given
	Mask, Comp packet.TCPFlags
}

var tcpFlagNames = []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG"}

func (*TCPFlags) want() int { return 2 }

func (f *TCPFlags) read(args []string) (err error) {
	if f.Mask, err = parseFlags(args[0]); err == nil {
		f.Comp, err = parseFlags(args[1])
	}
	return err
}

func parseFlags(s string) (f packet.TCPFlags, err error) {
	for name := range strings.SplitSeq(s, ",") {
		switch name {
		case "ALL":
			f |= 0x3f
			continue
		case "NONE":
			continue
		}
		i := slices.Index(tcpFlagNames, name)
		if i < 0 {
			return 0, fmt.Errorf("there is no TCP flag %s: %s, ALL, NONE", name, strings.Join(tcpFlagNames, ", "))
		}
		f |= 1 << i
	}
	return f, nil
}

func (f *TCPFlags) text() string { return flagsText(f.Mask) + " " + flagsText(f.Comp) }

func flagsText(f packet.TCPFlags) string {
	if f == 0 {
		return "NONE"
	}
	var names []string
	for i, n := range tcpFlagNames {
		if f>>i&1 != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, ",")
}

func newTCP() *TCP {
	m := &TCP{Ports: *newPorts("tcp", flow.TCP)}
	m.Option.max = 255
	return m
}

func (m *TCP) check(r *Rule, at place) error {
	if m.Option.Set && m.Option.N == 0 {
		return errors.New("--tcp-option is 1..255")
	}
	return m.Ports.check(r, at)
}

func (m *TCP) options() []option {
	syn := &setBy{}
	syn.apply = func([]string) error {
		m.Flags = TCPFlags{Given{true, syn.Not}, packet.SYN | packet.RST | packet.ACK | packet.FIN, packet.SYN}
		return nil
	}
	return append(m.Ports.options(),
		option{name: "--tcp-option", value: &m.Option},
		option{name: "--tcp-flags", value: &m.Flags},
		option{name: "--syn", value: syn})
}

// MultiPort is xt_multiport: one of its lists is given.
type MultiPort struct{ Src, Dst, Both PortList }

// PortList is up to 15 ports, a range counting for two.
type PortList struct {
	Given
	Ranges [][2]uint16
}

func (l *PortList) read(args []string) error {
	slots := 0
	for part := range strings.SplitSeq(args[0], ",") {
		lo, hi, ranged := strings.Cut(part, ":")
		a, err := servicePort(lo)
		if err != nil {
			return err
		}
		b := a
		slots++
		if ranged {
			if b, err = servicePort(hi); err != nil {
				return err
			}
			slots++
		}
		if a > b {
			return errors.New("a range is backwards")
		}
		l.Ranges = append(l.Ranges, [2]uint16{a, b})
	}
	if slots > 15 {
		return errors.New("more than 15 ports (a range counts for two)")
	}
	return nil
}

func (l *PortList) text() string {
	parts := make([]string, len(l.Ranges))
	for i, r := range l.Ranges {
		parts[i] = strconv.Itoa(int(r[0]))
		if r[1] != r[0] {
			parts[i] += ":" + strconv.Itoa(int(r[1]))
		}
	}
	return strings.Join(parts, ",")
}

// Has reports whether a packet between two ports is meant.
func (m *MultiPort) Has(src, dst uint16) bool {
	switch {
	case m.Src.Set:
		return m.Src.has(src) != m.Src.Not
	case m.Dst.Set:
		return m.Dst.has(dst) != m.Dst.Not
	}
	return (m.Both.has(src) || m.Both.has(dst)) != m.Both.Not
}

// has reports whether p is in the list, "!" left aside.
func (l *PortList) has(p uint16) bool {
	for _, r := range l.Ranges {
		if p >= r[0] && p <= r[1] {
			return true
		}
	}
	return false
}

// Name returns the name of the match.
func (m *MultiPort) Name() string { return "multiport" }

func (m *MultiPort) options() []option {
	return []option{
		{name: "--sports", value: &m.Src, aliases: []string{"--source-ports"}},
		{name: "--dports", value: &m.Dst, aliases: []string{"--destination-ports"}},
		{name: "--ports", value: &m.Both},
	}
}

func (m *MultiPort) check(r *Rule, _ place) error {
	if p, ok := r.Base.Proto.Only(); !ok || !p.HasPorts() {
		return errors.New("needs -p tcp, udp, udplite, sctp or dccp")
	}
	return exactlyOne(m.options())
}

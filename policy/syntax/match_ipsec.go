package syntax

import (
	"errors"
	"fmt"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

const (
	protoESP    flow.Proto = 50
	protoAH     flow.Proto = 51
	protoIPComp flow.Proto = 108
	protoMH     flow.Proto = 135
)

// spiSpan is a range of SPIs; all of them is not printed.
func spiSpan() Span { return Span{Hi: 1<<32 - 1, max: 1<<32 - 1, whole: true} }

// AH is xt_ah, and ip6t_ah, which looks at the extension header.
type AH struct {
	V6       bool
	SPI      Span
	Len      Number // bytes; IPv6
	Reserved Flag   // --ahres: the reserved bits are zero; IPv6
}

func newAH(f flow.Family) *AH { return &AH{V6: f == flow.IPv6, SPI: spiSpan()} }

// Name returns the name of the match.
func (m *AH) Name() string { return "ah" }

func (m *AH) options() []option {
	o := []option{{name: "--ahspi", value: &m.SPI}}
	if m.V6 {
		o = append(o, option{name: "--ahlen", value: &m.Len}, option{name: "--ahres", value: &m.Reserved, noNot: true})
	}
	return o
}

func (m *AH) check(r *Rule, _ place) error {
	if m.V6 {
		return nil
	}
	return needsProto(r, protoAH)
}

// ESP is xt_esp.
type ESP struct{ SPI Span }

func newESP() *ESP { return &ESP{spiSpan()} }

// Name returns the name of the match.
func (m *ESP) Name() string { return "esp" }

func (m *ESP) options() []option { return []option{{name: "--espspi", value: &m.SPI}} }

func (m *ESP) check(r *Rule, _ place) error { return needsProto(r, protoESP) }

// IPComp is xt_ipcomp. --compres says nothing that Linux would ask.
type IPComp struct {
	CPI      Span
	Reserved Flag
}

func newIPComp() *IPComp { return &IPComp{CPI: Span{max: 1<<32 - 1}} }

// Name returns the name of the match.
func (m *IPComp) Name() string { return "ipcomp" }

func (m *IPComp) options() []option {
	return []option{{name: "--ipcompspi", value: &m.CPI}, {name: "--compres", value: &m.Reserved, noNot: true}}
}

func (m *IPComp) check(r *Rule, _ place) error {
	m.CPI.Set = true // 0 if it was not given, as iptables has it
	return needsProto(r, protoIPComp)
}

// Policy is xt_policy. Forwarded packets have passed no IPsec here, so that it only
// matters whether it asks for none.
type Policy struct {
	Dir      Word // in or out
	Pol      Word // none or ipsec
	Strict   Flag
	elements []policyElement
}

// policyElement is one transformation of --pol ipsec.
type policyElement struct {
	reqid                Number
	spi                  Number
	proto                Word
	mode                 Word
	tunnelDst, tunnelSrc AddrMask
}

func newPolicy(f flow.Family) *Policy {
	m := &Policy{Dir: Word{oneOf: []string{"in", "out"}}, Pol: Word{oneOf: []string{"none", "ipsec"}}}
	m.elements = []policyElement{newPolicyElement(f)}
	return m
}

func newPolicyElement(f flow.Family) policyElement {
	a := AddrMask{Family: f}
	return policyElement{
		spi: Number{plainHex: true}, proto: Word{oneOf: []string{"esp", "ah", "ipcomp"}},
		mode: Word{oneOf: []string{"transport", "tunnel"}}, tunnelDst: a, tunnelSrc: a,
	}
}

// Name returns the name of the match.
func (m *Policy) Name() string { return "policy" }

func (m *Policy) options() []option {
	return append(m.head(), m.elements[len(m.elements)-1].options(m)...)
}

func (m *Policy) head() []option {
	return []option{
		{name: "--dir", value: &m.Dir, noNot: true}, {name: "--pol", value: &m.Pol, noNot: true},
		{name: "--strict", value: &m.Strict, noNot: true},
	}
}

func (e *policyElement) options(m *Policy) []option {
	next := &setBy{apply: func([]string) error {
		m.elements = append(m.elements, newPolicyElement(e.tunnelDst.Family))
		return nil
	}}
	return []option{
		{name: "--reqid", value: &e.reqid}, {name: "--spi", value: &e.spi}, {name: "--proto", value: &e.proto},
		{name: "--mode", value: &e.mode},
		{name: "--tunnel-dst", value: (*tunnelEnd)(&e.tunnelDst)}, {name: "--tunnel-src", value: (*tunnelEnd)(&e.tunnelSrc)},
		{name: "--next", value: next, noNot: true},
	}
}

// tunnelEnd is an AddrMask that is printed without the length of a single host.
type tunnelEnd AddrMask

// read keeps the bits behind the mask, as iptables does here.
func (t *tunnelEnd) read(args []string) (err error) {
	if err = (*AddrMask)(t).read(args); err != nil {
		return err
	}
	addr, _, _ := strings.Cut(args[0], "/")
	t.Addr, err = parseAddr(addr, t.Family)
	return err
}

func (t *tunnelEnd) text() string { return (&HostMask{AddrMask(*t)}).text() }

// write prints the elements one after the other.
func (m *Policy) write(b *strings.Builder) {
	writeOptions(b, m.head())
	for i := range m.elements {
		if i > 0 {
			b.WriteString(" --next")
		}
		writeOptions(b, m.elements[i].options(m))
	}
}

func (m *Policy) check(_ *Rule, at place) error {
	bare := len(m.elements) == 1
	for _, o := range m.elements[0].options(m) {
		bare = bare && !o.value.state().Set
	}
	switch {
	case !m.Dir.Set || !m.Pol.Set:
		return errors.New("needs --dir and --pol")
	case m.Dir.S == "in" && (at.chain == "POSTROUTING" || at.chain == "OUTPUT"),
		m.Dir.S == "out" && (at.chain == "PREROUTING" || at.chain == "INPUT"):
		return fmt.Errorf("--dir %s has no meaning in %s", m.Dir.S, at.chain)
	case m.Pol.S == "none" && (m.Strict.Set || !bare):
		return errors.New("--pol none goes without --strict and what tells transformations apart")
	case len(m.elements) > 4:
		return errors.New("at most 4 transformations")
	case len(m.elements) > 1 && !m.Strict.Set:
		return errors.New("--next needs --strict")
	}
	for i := range m.elements {
		e := &m.elements[i]
		if (e.tunnelDst.Set || e.tunnelSrc.Set) && (!e.mode.Set || e.mode.S != "tunnel") && e.mode.Set {
			return errors.New("--tunnel-src and --tunnel-dst go with --mode tunnel")
		}
	}
	return nil
}

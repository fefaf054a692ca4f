package syntax

import (
	"errors"
	"fmt"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// HMark is HMARK: the mark is a hash of what the options name. What is not given does
// not count: its mask is 0.
type HMark struct {
	SrcLen, DstLen       Number // of prefixes
	SPIMask              Number
	SPI                  Number
	SportMask, DportMask hex4
	Sport, Dport         hex4
	ProtoMask            Number
	Seed, Mod, Offset    Number
	CT                   hmarkCT // by the tuples of the connection
	family               flow.Family
}

// hmarkCT is printed as the one word of --hmark-tuple that is no mask.
type hmarkCT struct{ Given }

func (*hmarkCT) read([]string) error { return nil }
func (*hmarkCT) text() string        { return "ct" }

func newHMark(f flow.Family) *HMark {
	port := hex4{Number{max: 65535}}
	return &HMark{
		SrcLen: prefixLen(f), DstLen: prefixLen(f), SPIMask: Number{wide: true}, SPI: Number{wide: true}, SportMask: port, DportMask: port,
		Sport: port, Dport: port, ProtoMask: Number{max: 65535, hex: true}, Seed: Number{wide: true}, family: f,
	}
}

// Name returns the name of the target.
func (t *HMark) Name() string { return "HMARK" }

// tuple reads --hmark-tuple, which stands for whole masks.
func (t *HMark) tuple(args []string) error {
	t.CT.Set = false // until it is among the words
	for word := range strings.SplitSeq(args[0], ",") {
		n, all := (*Number)(nil), uint64(1<<16-1)
		switch word {
		case "src":
			n, all = &t.SrcLen, t.SrcLen.max
		case "dst":
			n, all = &t.DstLen, t.DstLen.max
		case "sport":
			n = &t.SportMask.Number
		case "dport":
			n = &t.DportMask.Number
		case "spi":
			n, all = &t.SPIMask, 1<<32-1
		case "proto":
			n = &t.ProtoMask
		case "ct":
			t.CT.Set = true
			continue
		default:
			return fmt.Errorf("%q is none of src, dst, sport, dport, spi, proto, ct", word)
		}
		n.N, n.Set = all, true
	}
	return nil
}

func (t *HMark) options() []option {
	all := []option{
		{name: "--hmark-src-prefix", value: &t.SrcLen}, {name: "--hmark-dst-prefix", value: &t.DstLen},
		{name: "--hmark-sport-mask", value: &t.SportMask}, {name: "--hmark-dport-mask", value: &t.DportMask}, {name: "--hmark-spi-mask", value: &t.SPIMask},
		{name: "--hmark-sport", value: &t.Sport}, {name: "--hmark-dport", value: &t.Dport}, {name: "--hmark-spi", value: &t.SPI},
		{name: "--hmark-proto-mask", value: &t.ProtoMask}, {name: "--hmark-rnd", value: &t.Seed}, {name: "--hmark-mod", value: &t.Mod},
		{name: "--hmark-offset", value: &t.Offset}, {name: "--hmark-tuple", value: &hmarkTuple{&t.CT, t}},
	}
	for i := range all {
		all[i].noNot = true
	}
	return all
}

// hmarkTuple is --hmark-tuple as it is read; of what it stands for "ct" alone is printed
// under its name.
type hmarkTuple struct {
	*hmarkCT
	t *HMark
}

func (h *hmarkTuple) read(args []string) error { return h.t.tuple(args) }

func (t *HMark) check(*Rule, place) error {
	switch {
	case !t.Mod.Set || t.Mod.N == 0:
		return errors.New("needs --hmark-mod, of at least 1")
	case !t.Seed.Set:
		return errors.New("needs --hmark-rnd")
	case t.SPIMask.Set && (t.SportMask.Set || t.DportMask.Set):
		return errors.New("--hmark-spi-mask excludes masks of ports")
	case t.SPI.Set && (t.Sport.Set || t.Dport.Set):
		return errors.New("--hmark-spi excludes --hmark-sport and --hmark-dport")
	case !t.SrcLen.Set && !t.DstLen.Set && !t.SPIMask.Set && !t.SPI.Set && !t.SportMask.Set && !t.DportMask.Set && !t.Sport.Set && !t.Dport.Set && !t.ProtoMask.Set && !t.CT.Set:
		return errors.New("needs --hmark-tuple, or one of the options that it stands for")
	}
	return nil
}

// Masks returns the masks of the addresses, and of the ports (or the SPI: its halves),
// and the bits that are set in these.
func (t *HMark) Masks() (src, dst flow.Addr, ports, set uint32) {
	ports = uint32(t.SportMask.N)<<16 | uint32(t.DportMask.N) | uint32(t.SPIMask.N)
	set = uint32(t.Sport.N)<<16 | uint32(t.Dport.N) | uint32(t.SPI.N)
	return PrefixMask(int(t.SrcLen.N), t.family), PrefixMask(int(t.DstLen.N), t.family), ports, set
}

// prefixLen is the length of a prefix, 0 to that of an address of the family.
func prefixLen(f flow.Family) Number {
	if f == flow.IPv4 {
		return Number{max: 32}
	}
	return Number{max: 128}
}

// hex4 is a Number of 16 bits, printed with four digits.
type hex4 struct{ Number }

func (n *hex4) text() string { return fmt.Sprintf("0x%04x", n.N) }

package syntax

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// SCTP is xt_sctp.
type SCTP struct {
	Ports
	Chunks Chunks
}

func newSCTP() *SCTP { return &SCTP{Ports: *newPorts("sctp", flow.SCTP)} }

func (m *SCTP) options() []option {
	return append(m.Ports.options(), option{name: "--chunk-types", value: &m.Chunks})
}

// Chunks are types of chunks of which all or any are there, or only those.
type Chunks struct {
	Given
	Match string // all, any or only
	Types [256]bool
	Flags []ChunkFlags // at most one of a type
}

// ChunkFlags are what flags of a type of chunks are to be.
type ChunkFlags struct{ Type, Flags, Mask uint8 }

var chunkTypes = []struct {
	name  string
	typ   uint8
	flags string // by bit from the highest on
}{
	{"DATA", 0, "----IUBE"}, {"INIT", 1, ""}, {"INIT_ACK", 2, ""}, {"SACK", 3, ""}, {"HEARTBEAT", 4, ""},
	{"HEARTBEAT_ACK", 5, ""}, {"ABORT", 6, "-------T"}, {"SHUTDOWN", 7, ""}, {"SHUTDOWN_ACK", 8, ""}, {"ERROR", 9, ""},
	{"COOKIE_ECHO", 10, ""}, {"COOKIE_ACK", 11, ""}, {"ECN_ECNE", 12, ""}, {"ECN_CWR", 13, ""},
	{"SHUTDOWN_COMPLETE", 14, "-------T"}, {"I_DATA", 64, "----IUBE"}, {"RE_CONFIG", 130, ""}, {"PAD", 132, ""},
	{"ASCONF", 193, ""}, {"ASCONF_ACK", 128, ""}, {"FORWARD_TSN", 192, ""}, {"I_FORWARD_TSN", 194, ""},
}

func (*Chunks) want() int { return 2 }

func (c *Chunks) read(args []string) error {
	if c.Match = args[0]; c.Match != "all" && c.Match != "any" && c.Match != "only" {
		return errors.New("must be one of all, any, only")
	}
	switch args[1] {
	case "ALL":
		for i := range c.Types {
			c.Types[i] = true
		}
		return nil
	case "NONE":
		return nil
	}
next:
	for s := range strings.SplitSeq(args[1], ",") {
		name, flags, has := strings.Cut(s, ":")
		for _, k := range chunkTypes {
			if strings.EqualFold(name, k.name) {
				c.Types[k.typ] = true
				if has {
					if err := c.readFlags(k.typ, k.flags, flags); err != nil {
						return err
					}
				}
				continue next
			}
		}
		return fmt.Errorf("there is no chunk type %q", name)
	}
	return nil
}

// readFlags reads the flags of a type: a capital letter is a flag that is set, a small
// one a flag that is not.
func (c *Chunks) readFlags(typ uint8, known, flags string) error {
	f := ChunkFlags{Type: typ}
	for _, l := range []byte(flags) {
		upper := strings.ToUpper(string(l))
		i := strings.Index(known, upper)
		if i < 0 || l == '-' {
			return fmt.Errorf("%q is no flag of such chunks", string(l))
		}
		f.Mask |= 0x80 >> i
		if upper == string(l) {
			f.Flags |= 0x80 >> i
		}
	}
	if len(c.Flags) == 4 { // XT_NUM_SCTP_FLAGS
		return errors.New("flags of at most four types")
	}
	c.Flags = append(c.Flags, f)
	return nil
}

func (c *Chunks) text() string {
	n := 0
	for _, on := range c.Types {
		if on {
			n++
		}
	}
	switch n {
	case 0:
		return c.Match + " NONE"
	case 256:
		return c.Match + " ALL"
	}
	known := slices.Clone(chunkTypes)
	slices.SortFunc(known, func(a, b struct {
		name  string
		typ   uint8
		flags string
	}) int {
		return int(a.typ) - int(b.typ)
	})
	var all []string
	for _, k := range known {
		if c.Types[k.typ] {
			all = append(all, k.name+c.flagsText(k.typ, k.flags))
		}
	}
	return c.Match + " " + strings.Join(all, ",")
}

func (c *Chunks) flagsText(typ uint8, known string) string {
	for _, f := range c.Flags {
		if f.Type != typ || f.Mask == 0 {
			continue
		}
		s := ":"
		for i := range known {
			switch l := known[i : i+1]; {
			case f.Mask&(0x80>>i) == 0:
			case f.Flags&(0x80>>i) != 0:
				s += l
			default:
				s += strings.ToLower(l)
			}
		}
		return s
	}
	return ""
}

// DCCP is xt_dccp.
type DCCP struct {
	Ports
	Types  DCCPTypes
	Option Number
}

func newDCCP() *DCCP { return &DCCP{Ports: *newPorts("dccp", flow.DCCP), Option: Number{max: 255}} }

// DCCPTypes is a list of packet types, a bit each.
type DCCPTypes struct {
	Given
	Bits uint16
}

var dccpTypes = []string{"REQUEST", "RESPONSE", "DATA", "ACK", "DATAACK", "CLOSEREQ", "CLOSE", "RESET", "SYNC", "SYNCACK", "INVALID"}

func (t *DCCPTypes) read(args []string) error {
	for s := range strings.SplitSeq(args[0], ",") {
		i := slices.IndexFunc(dccpTypes, func(name string) bool { return strings.EqualFold(name, s) })
		if i < 0 {
			return fmt.Errorf("there is no type %q: %s", s, strings.Join(dccpTypes, ", "))
		}
		t.Bits |= 1 << i
	}
	return nil
}

func (t *DCCPTypes) text() string {
	var all []string
	for i, name := range dccpTypes {
		if t.Bits>>i&1 != 0 {
			all = append(all, name)
		}
	}
	return strings.Join(all, ",")
}

func (m *DCCP) options() []option {
	return append(m.Ports.options(),
		option{name: "--dccp-types", value: &m.Types, aliases: []string{"--dccp-type"}},
		option{name: "--dccp-option", value: &m.Option})
}

func (m *DCCP) check(r *Rule, at place) error {
	if m.Option.Set && m.Option.N == 0 {
		return errors.New("--dccp-option is 1..255")
	}
	return m.Ports.check(r, at)
}

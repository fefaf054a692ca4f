package conntrack

import (
	"bufio"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/control"
	"github.com/xdpct/xdpct/flow"
)

// protocol returns the protocol that was named with -p.
func (c *command) protocol() (p flow.Proto, named bool, err error) {
	s := c.value("protonum")
	if s == "" {
		return 0, false, nil
	}
	if s == "ipv6-icmp" {
		s = "icmpv6"
	}
	if p, err = control.ParseProto(s); err != nil {
		return 0, false, usagef("`%s' unsupported protocol", s)
	}
	return p, true, nil
}

// number reads the value of an option, decimal, 0x hexadecimal or 0 octal.
func number[T uint8 | uint16 | uint32](c *command, name string) (*T, error) {
	if !c.has(name) {
		return nil, nil
	}
	s := c.value(name)
	bits := 8
	switch any(T(0)).(type) {
	case uint16:
		bits = 16
	case uint32:
		bits = 32
	}
	n, err := strconv.ParseUint(s, 0, bits)
	if err != nil {
		return nil, usagef("`%s' is not a number from 0 to %d, in `--%s'", s, uint64(1)<<bits-1, name)
	}
	v := T(n)
	return &v, nil
}

// first returns the first value that is there.
func first[T any](values ...*T) *T {
	for _, v := range values {
		if v != nil {
			return v
		}
	}
	return nil
}

// address reads an address, and with it the prefix that it may have.
func (c *command) address(name string) (*netip.Prefix, error) {
	if !c.has(name) {
		return nil, nil
	}
	s := c.value(name)
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, usagef("Invalid CIDR notation `%s', in `--%s'", s, name)
		}
		return &p, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return nil, usagef("Invalid IP address `%s', in `--%s'", s, name)
	}
	p := netip.PrefixFrom(a, a.BitLen())
	return &p, nil
}

// masked narrows an address by the value of a mask option.
func (c *command) masked(p *netip.Prefix, name string) (*netip.Prefix, error) {
	m, err := c.address(name)
	if err != nil || m == nil || p == nil {
		return p, err
	}
	bits, ones := 0, true
	for _, b := range m.Addr().AsSlice() {
		for i := 7; i >= 0; i-- {
			switch set := b>>i&1 == 1; {
			case set && !ones:
				return nil, usagef("`%s' is not a mask of leading ones, in `--%s'", c.value(name), name)
			case set:
				bits++
			default:
				ones = false
			}
		}
	}
	q := netip.PrefixFrom(p.Addr(), bits).Masked()
	return &q, nil
}

// family returns the family that -f or an address names, 0 if none does.
func (c *command) family() (f flow.Family, err error) {
	switch s := c.value("family"); s {
	case "":
	case "ipv4":
		f = flow.IPv4
	case "ipv6":
		f = flow.IPv6
	default:
		return 0, usagef("`%s' unsupported protocol", s)
	}
	for _, name := range []string{"src", "dst", "reply-src", "reply-dst", "tuple-src", "tuple-dst", "mask-src", "mask-dst"} {
		p, err := c.address(name)
		if err != nil {
			return 0, err
		}
		if p == nil {
			continue
		}
		g := flow.IPv6
		if p.Addr().Is4() {
			g = flow.IPv4
		}
		if f != 0 && f != g {
			return 0, usagef("mismatched address family")
		}
		f = g
	}
	return f, nil
}

// mark reads MARK[/MASK].
func (c *command) mark() (mark, mask *flow.Mark, err error) {
	if !c.has("mark") {
		return nil, nil, nil
	}
	read := func(s string) *flow.Mark {
		n, e := strconv.ParseUint(s, 0, 32)
		if e != nil && err == nil {
			err = usagef("`%s' is not a mark, in `--mark'", c.value("mark"))
		}
		m := flow.Mark(n)
		return &m
	}
	value, of, masked := strings.Cut(c.value("mark"), "/")
	mark = read(value)
	if masked {
		mask = read(of)
	}
	return mark, mask, err
}

// status reads the words of -u: those to be set and, after a !, those not to be.
func (c *command) status() (set, unset flow.Status, err error) {
	for _, words := range c.values["status"] {
		for _, w := range strings.Split(words, ",") {
			into := &set
			word, not := strings.CutPrefix(w, "!")
			if not {
				into = &unset
			}
			switch word {
			case "UNSET", "SRC_NAT", "DST_NAT": // the last two are for -n and -g to say
				continue
			case "UNREPLIED":
				unset |= flow.SeenReply
				continue
			}
			s, err := flow.ParseStatus(word)
			if err != nil {
				return 0, 0, usagef("Bad parameter `%s'", w)
			}
			*into |= s
		}
	}
	return set, unset, nil
}

// ignoredStatus returns the words of -u that count for nothing.
func (c *command) ignoredStatus() (words []string) {
	for _, v := range c.values["status"] {
		for _, w := range strings.Split(v, ",") {
			if w == "SRC_NAT" || w == "DST_NAT" {
				words = append(words, w)
			}
		}
	}
	return words
}

// state reads --state of the protocol named.
func (c *command) state() (string, error) {
	s := c.value("state")
	p, _, err := c.protocol()
	if err != nil || s == "" {
		return "", err
	}
	if _, ok := flow.StateByName(p, s); !ok {
		return "", usagef("unknown %s state `%s'", strings.ToUpper(p.String()), s)
	}
	return s, nil
}

// zone returns the zone that -w, --orig-zone or --reply-zone name.
func (c *command) zone() (z flow.ZoneID, err error) {
	for name, dirs := range map[string]flow.ZoneDirs{"zone": 0, "orig-zone": flow.ZoneOriginal, "reply-zone": flow.ZoneReply} {
		n, err := number[uint16](c, name)
		if err != nil {
			return z, err
		}
		if n == nil {
			continue
		}
		if z.Zone != 0 && z.Zone != flow.Zone(*n) {
			return z, usagef("one zone only can be made of `--zone', `--orig-zone' and `--reply-zone'")
		}
		z.Zone, z.Dirs = flow.Zone(*n), z.Dirs|dirs
	}
	return z, nil
}

const defaultLabelMap = "/etc/xtables/connlabel.conf"

// labelMap reads the file that gives labels names: a number and a name a line.
func (c *command) labelMap() (byNumber map[int]string, err error) {
	path := c.value("labelmap")
	if path == "" {
		path = defaultLabelMap
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	byNumber = map[int]string{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		fields := strings.Fields(sc.Text())
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		n, err := strconv.ParseUint(fields[0], 0, 7)
		if err != nil {
			return nil, usagef("%s: `%s' is not a label from 0 to 127", path, fields[0])
		}
		byNumber[int(n)] = fields[1]
	}
	return byNumber, nil
}

// labels reads the names that an option lists.
func (c *command) labels(name string) (l flow.Labels, err error) {
	if !c.has(name) {
		return l, nil
	}
	names, err := c.labelMap()
	if err != nil {
		return l, usagef("unknown label '%s': %v", c.value(name), err)
	}
	for _, v := range c.values[name] {
		for _, want := range strings.Split(v, ",") {
			found := false
			for n, have := range names {
				if have == want {
					l.Set(n)
					found = true
				}
			}
			if !found && want != "" {
				return l, usagef("unknown label '%s'", want)
			}
		}
	}
	return l, nil
}

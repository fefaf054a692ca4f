package conntrack

import (
	"fmt"
	"slices"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// argument says whether an option takes one.
type argument uint8

const (
	none     argument = iota
	required          // the next word, if it is not attached
	optional          // attached, or the next word if that is no option
)

// option is an option of conntrack(8).
type option struct {
	name  string // the first of the long names, which errors use
	short byte
	arg   argument
	also  []string     // further long names
	only  []flow.Proto // protocols that have it; nil: it is not of a protocol
}

// verbs are the options that say what to do.
const verbs = "LGDIAUEFCSRVh"

var (
	ports = []flow.Proto{flow.TCP, flow.UDP, flow.UDPLite, flow.SCTP, flow.DCCP}
	gre   = []flow.Proto{flow.GRE}
	icmp4 = []flow.Proto{flow.ICMP}
	icmp6 = []flow.Proto{flow.ICMPv6}
)

// options are all of them. Those that xdpct cannot honour are here to be refused by
// their name.
var options = []option{
	{name: "dump", short: 'L', arg: optional}, {name: "get", short: 'G', arg: optional},
	{name: "delete", short: 'D', arg: optional}, {name: "create", short: 'I', arg: optional},
	{name: "add", short: 'A', arg: optional}, {name: "update", short: 'U', arg: optional},
	{name: "event", short: 'E', arg: optional}, {name: "flush", short: 'F', arg: optional},
	{name: "count", short: 'C', arg: optional}, {name: "stats", short: 'S', arg: optional},
	{name: "load-file", short: 'R', arg: required},
	{name: "version", short: 'V'}, {name: "help", short: 'h'},

	{name: "src", short: 's', arg: required, also: []string{"orig-src"}},
	{name: "dst", short: 'd', arg: required, also: []string{"orig-dst"}},
	{name: "reply-src", short: 'r', arg: required}, {name: "reply-dst", short: 'q', arg: required},
	{name: "protonum", short: 'p', arg: required, also: []string{"proto"}},
	{name: "timeout", short: 't', arg: required}, {name: "status", short: 'u', arg: required},
	{name: "zero", short: 'z'}, {name: "event-mask", short: 'e', arg: required},
	{name: "family", short: 'f', arg: required}, {name: "output", short: 'o', arg: required},
	{name: "mark", short: 'm', arg: required}, {name: "secmark", short: 'c', arg: required},
	{name: "id", short: 'i', arg: required}, {name: "buffer-size", short: 'b', arg: required},
	{name: "src-nat", short: 'n', arg: optional}, {name: "dst-nat", short: 'g', arg: optional},
	{name: "any-nat", short: 'j', arg: optional},
	{name: "zone", short: 'w', arg: required}, {name: "orig-zone", arg: required}, {name: "reply-zone", arg: required},
	{name: "label", short: 'l', arg: required}, {name: "label-add", arg: required},
	{name: "label-del", arg: optional}, {name: "labelmap", arg: required},
	{name: "tuple-src", arg: required}, {name: "tuple-dst", arg: required},
	{name: "mask-src", arg: required}, {name: "mask-dst", arg: required},
	{name: "helper", arg: required},

	{name: "sport", arg: required, also: []string{"orig-port-src"}, only: ports},
	{name: "dport", arg: required, also: []string{"orig-port-dst"}, only: ports},
	{name: "reply-port-src", arg: required, only: ports}, {name: "reply-port-dst", arg: required, only: ports},
	{name: "mask-port-src", arg: required, only: ports}, {name: "mask-port-dst", arg: required, only: ports},
	{name: "tuple-port-src", arg: required, only: ports}, {name: "tuple-port-dst", arg: required, only: ports},
	{name: "state", arg: required, only: []flow.Proto{flow.TCP, flow.SCTP}},
	{name: "orig-vtag", arg: required, only: []flow.Proto{flow.SCTP}},
	{name: "reply-vtag", arg: required, only: []flow.Proto{flow.SCTP}},
	{name: "srckey", arg: required, also: []string{"orig-key-src"}, only: gre},
	{name: "dstkey", arg: required, also: []string{"orig-key-dst"}, only: gre},
	{name: "reply-key-src", arg: required, only: gre}, {name: "reply-key-dst", arg: required, only: gre},
	{name: "icmp-type", arg: required, only: icmp4}, {name: "icmp-code", arg: required, only: icmp4},
	{name: "icmp-id", arg: required, only: icmp4},
	{name: "icmpv6-type", arg: required, only: icmp6}, {name: "icmpv6-code", arg: required, only: icmp6},
	{name: "icmpv6-id", arg: required, only: icmp6},
}

// command is a command line that was read.
type command struct {
	verb   byte // one of verbs
	table  string
	values map[string][]string // of options, by name
}

func (c *command) has(name string) bool { return c.values[name] != nil }

// value returns the last value of an option, "" if it was not given.
func (c *command) value(name string) string {
	if v := c.values[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

// usageError is a mistake in the command line: exit code 2.
type usageError string

func (e usageError) Error() string { return string(e) }

func usagef(format string, args ...any) error { return usageError(fmt.Sprintf(format, args...)) }

// parse reads a command line, as getopt_long does.
func parse(args []string) (*command, error) {
	c := &command{table: "conntrack", values: map[string][]string{}}
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		var err error
		switch {
		case strings.HasPrefix(word, "--") && len(word) > 2:
			err = c.long(word[2:], &args)
		case len(word) > 1 && word[0] == '-':
			err = c.short(word[1:], &args)
		default:
			err = usagef("unknown argument `%s'", word)
		}
		if err != nil {
			return nil, err
		}
	}
	return c, c.checkProtocol()
}

func (c *command) long(word string, rest *[]string) error {
	name, value, attached := strings.Cut(word, "=")
	o, err := longOption(name)
	if err != nil {
		return err
	}
	return c.take(o, value, attached, rest)
}

// longOption finds an option by its name or the beginning of one.
func longOption(name string) (*option, error) {
	var found *option
	for i := range options {
		for _, n := range append([]string{options[i].name}, options[i].also...) {
			if n == name {
				return &options[i], nil
			}
			if strings.HasPrefix(n, name) {
				if found != nil && found != &options[i] {
					return nil, usagef("option `--%s' is ambiguous", name)
				}
				found = &options[i]
			}
		}
	}
	if found == nil {
		return nil, usagef("unknown option `--%s'", name)
	}
	return found, nil
}

// short reads a word of short options: the first that takes an argument takes the
// rest of the word.
func (c *command) short(word string, rest *[]string) error {
	for i := range len(word) {
		k := slices.IndexFunc(options, func(o option) bool { return o.short == word[i] })
		if k < 0 {
			return usagef("unknown option `-%c'", word[i])
		}
		o := &options[k]
		if o.arg == none {
			if err := c.take(o, "", false, rest); err != nil {
				return err
			}
			continue
		}
		return c.take(o, word[i+1:], len(word) > i+1, rest)
	}
	return nil
}

// take notes an option and its argument.
func (c *command) take(o *option, value string, attached bool, rest *[]string) error {
	switch {
	case o.arg == none && attached:
		return usagef("option `--%s' takes no argument", o.name)
	case o.arg == required && !attached:
		if len(*rest) == 0 {
			return usagef("option `-%s' requires an argument", o.letter())
		}
		value, *rest = (*rest)[0], (*rest)[1:]
	case o.arg == optional && !attached && len(*rest) > 0 && !strings.HasPrefix((*rest)[0], "-"):
		value, *rest = (*rest)[0], (*rest)[1:]
	}
	if o.short != 0 && strings.IndexByte(verbs, o.short) >= 0 {
		return c.command(o, value)
	}
	c.values[o.name] = append(c.values[o.name], value)
	return nil
}

func (o *option) letter() string {
	if o.short != 0 {
		return string(o.short)
	}
	return "-" + o.name
}

func (c *command) command(o *option, table string) error {
	if c.verb != 0 {
		return usagef("Invalid commands combination")
	}
	c.verb = o.short
	if c.verb == 'R' {
		c.values["load-file"] = []string{table}
		return nil
	}
	switch table {
	case "":
	case "conntrack", "expect", "dying", "unconfirmed":
		c.table = table
	default:
		return usagef("unknown type `%s'", table)
	}
	return nil
}

// checkProtocol refuses options of a protocol that is not the one named.
func (c *command) checkProtocol() error {
	p, named, err := c.protocol()
	if err != nil {
		return err
	}
	for i := range options {
		o := &options[i]
		if o.only != nil && c.has(o.name) && (!named || !slices.Contains(o.only, p)) {
			return usagef("unknown option `--%s'", o.name)
		}
	}
	return nil
}

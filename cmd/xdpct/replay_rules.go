package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/engine"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/policy/syntax"
	"github.com/xdpct/xdpct/shard"
)

// helperFlag is --helper of replay: tcp/21=ftp.
type helperFlag struct{ all *[]shard.Assignment }

func (f helperFlag) String() string {
	var s []string
	if f.all != nil {
		for _, a := range *f.all {
			s = append(s, fmt.Sprintf("%v/%d=%v", a.Proto, a.Port, a.Helper))
		}
	}
	return strings.Join(s, ",")
}

func (helperFlag) Type() string { return "PROTO/PORT=NAME" }

func (f helperFlag) Set(text string) error {
	where, name, ok1 := strings.Cut(text, "=")
	proto, port, ok2 := strings.Cut(where, "/")
	n, err := strconv.ParseUint(port, 10, 16)
	if !ok1 || !ok2 || err != nil || n == 0 || proto != "tcp" && proto != "udp" {
		return fmt.Errorf("%q: must be as tcp/21=ftp or udp/69=tftp", text)
	}
	helper, err := syntax.HelperByName(name)
	if err != nil {
		return err
	}
	a := shard.Assignment{Proto: flow.TCP, Port: uint16(n), Helper: helper}
	if proto == "udp" {
		a.Proto = flow.UDP
	}
	if !helper.Reads(a.Proto, flow.IPv4) {
		return fmt.Errorf("helper %v does not read %v", helper, a.Proto)
	}
	*f.all = append(*f.all, a)
	return nil
}

// rules reads what the packets of a replay are to pass. Where there are rules, --helper is
// one more of them, in front of all others.
func (o *replayOptions) readRules() (r engine.ReplayOptions, err error) {
	r.Helpers = o.helpers
	for _, f := range []struct {
		name string
		in   **syntax.Ruleset
		of   flow.Family
	}{{o.rules, &r.IPv4, flow.IPv4}, {o.rules6, &r.IPv6, flow.IPv6}} {
		text := []byte{}
		if f.name != "" {
			if text, err = os.ReadFile(f.name); err != nil {
				return r, err
			}
		} else if o.rules+o.rules6 == "" {
			continue
		}
		if *f.in, err = syntax.Parse(bytes.NewReader(text), f.name, f.of); err != nil {
			return r, err
		}
		if err := o.assign(*f.in, f.of); err != nil {
			return r, err
		}
	}
	return r, nil
}

// assign puts rules that name helpers in front of table raw.
func (o *replayOptions) assign(r *syntax.Ruleset, f flow.Family) error {
	if len(o.helpers) == 0 {
		return nil
	}
	var text strings.Builder
	text.WriteString("*raw\n:PREROUTING ACCEPT [0:0]\n")
	for _, a := range o.helpers {
		if !a.Helper.Reads(a.Proto, f) {
			continue // it is for IPv4 only
		}
		fmt.Fprintf(&text, "-A PREROUTING -p %v --dport %d -j CT --helper %v\n", a.Proto, a.Port, a.Helper)
	}
	text.WriteString("COMMIT\n")
	own, err := syntax.Parse(strings.NewReader(text.String()), "--helper", f)
	if err != nil {
		return err
	}
	raw := r.Table("raw")
	switch {
	case raw == nil:
		r.Tables = append(r.Tables, own.Tables[0])
	case raw.Chain("PREROUTING") == nil:
		return fmt.Errorf("--helper: table raw of the rules has no chain PREROUTING")
	default:
		c := raw.Chain("PREROUTING")
		c.Rules = append(own.Tables[0].Chain("PREROUTING").Rules, c.Rules...)
	}
	return nil
}

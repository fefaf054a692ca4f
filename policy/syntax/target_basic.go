package syntax

import (
	"errors"
	"fmt"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// Verdict is ACCEPT, DROP or RETURN.
type Verdict struct{ name string }

// Name returns which of them it is.
func (t *Verdict) Name() string { return t.name }

func (t *Verdict) options() []option { return nil }

func (t *Verdict) check(*Rule, place) error { return nil }

// Reject is REJECT.
type Reject struct{ With RejectWith }

// RejectType is what REJECT answers with: by a RST, or by an ICMP error.
type RejectType struct {
	Name  string
	Reset bool
	Type  uint8 // ICMP
	Code  uint8
}

var rejects4 = []RejectType{
	{"icmp-net-unreachable", false, 3, 0}, {"icmp-host-unreachable", false, 3, 1}, {"icmp-proto-unreachable", false, 3, 2},
	{"icmp-port-unreachable", false, 3, 3}, {"icmp-net-prohibited", false, 3, 9}, {"icmp-host-prohibited", false, 3, 10},
	{"icmp-admin-prohibited", false, 3, 13}, {"tcp-reset", true, 0, 0},
}

var rejects6 = []RejectType{
	{"icmp6-no-route", false, 1, 0}, {"icmp6-adm-prohibited", false, 1, 1}, {"icmp6-addr-unreachable", false, 1, 3},
	{"icmp6-port-unreachable", false, 1, 4}, {"icmp6-policy-fail", false, 1, 5}, {"icmp6-reject-route", false, 1, 6},
	{"tcp-reset", true, 0, 0},
}

// rejectAliases are the short names that iptables takes.
var rejectAliases = map[string]string{
	"net-unreach": "icmp-net-unreachable", "host-unreach": "icmp-host-unreachable", "proto-unreach": "icmp-proto-unreachable",
	"port-unreach": "icmp-port-unreachable", "net-prohib": "icmp-net-prohibited", "host-prohib": "icmp-host-prohibited",
	"admin-prohib": "icmp-admin-prohibited", "tcp-rst": "tcp-reset", "no-route": "icmp6-no-route",
	"adm-prohibited": "icmp6-adm-prohibited", "addr-unreach": "icmp6-addr-unreachable",
	"policy-fail": "icmp6-policy-fail", "reject-route": "icmp6-reject-route",
}

// RejectWith is --reject-with.
type RejectWith struct {
	Given
	v6   bool
	With RejectType
}

func (w *RejectWith) read(args []string) error {
	all, s := rejects4, args[0]
	if w.v6 {
		all = rejects6
	}
	if full, ok := rejectAliases[s]; ok {
		s = full
		if w.v6 && s == "icmp-port-unreachable" {
			s = "icmp6-port-unreachable"
		}
	}
	var names []string
	for _, r := range all {
		if r.Name == s {
			w.With = r
			return nil
		}
		names = append(names, r.Name)
	}
	return fmt.Errorf("must be one of %s", strings.Join(names, ", "))
}

func (w *RejectWith) text() string { return w.With.Name }

func newReject(f flow.Family) *Reject {
	w := RejectWith{v6: f == flow.IPv6, With: rejects4[3]}
	if w.v6 {
		w.With = rejects6[3]
	}
	return &Reject{w}
}

// Name returns the name of the target.
func (t *Reject) Name() string { return "REJECT" }

func (t *Reject) options() []option {
	return []option{{name: "--reject-with", value: &t.With, noNot: true}}
}

func (t *Reject) check(r *Rule, at place) error {
	t.With.Set = true // printed, as iptables-save does
	if t.With.With.Reset && needsProto(r, flow.TCP) != nil {
		return errors.New("--reject-with tcp-reset needs -p tcp")
	}
	return needsTable(at, "filter")
}

// logLevels are the syslog levels by name.
var logLevels = []string{"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"}

// LogLevel is --log-level, printed as a number.
type LogLevel struct{ Number }

func (l *LogLevel) read(args []string) error {
	for i, n := range logLevels {
		if args[0] == n || args[0] == "error" && n == "err" || args[0] == "warn" && n == "warning" || args[0] == "panic" && i == 0 {
			l.N = uint64(i)
			return nil
		}
	}
	l.max = 7
	return l.Number.read(args)
}

// Log is LOG.
type Log struct {
	Prefix                                       Word
	Level                                        LogLevel
	TCPSequence, TCPOptions, IPOptions, UID, MAC Flag
}

func newLog() *Log { return &Log{Prefix: Word{most: 29}, Level: LogLevel{Number{N: 4}}} }

// Name returns the name of the target.
func (t *Log) Name() string { return "LOG" }

func (t *Log) options() []option {
	return []option{
		{name: "--log-prefix", value: &t.Prefix}, {name: "--log-level", value: &t.Level},
		{name: "--log-tcp-sequence", value: &t.TCPSequence}, {name: "--log-tcp-options", value: &t.TCPOptions},
		{name: "--log-ip-options", value: &t.IPOptions}, {name: "--log-uid", value: &t.UID}, {name: "--log-macdecode", value: &t.MAC},
	}
}

func (t *Log) check(*Rule, place) error {
	if t.Level.N == 4 {
		t.Level.Set = false
	}
	return nil
}

// NFLog is NFLOG.
type NFLog struct {
	Prefix                 Word
	Group                  Number
	Range, Size, Threshold Number
}

func newNFLog() *NFLog {
	return &NFLog{Prefix: Word{most: 63}, Group: Number{max: 65535}, Threshold: Number{max: 65535}}
}

// Name returns the name of the target.
func (t *NFLog) Name() string { return "NFLOG" }

func (t *NFLog) options() []option {
	return []option{
		{name: "--nflog-prefix", value: &t.Prefix}, {name: "--nflog-group", value: &t.Group},
		{name: "--nflog-range", value: &t.Range}, {name: "--nflog-size", value: &t.Size}, {name: "--nflog-threshold", value: &t.Threshold},
	}
}

func (t *NFLog) check(*Rule, place) error { return nil }

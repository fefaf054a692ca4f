package engine

import (
	"fmt"
	"strconv"
	"strings"
)

// PortRange is ports from Lo to Hi.
type PortRange struct{ Lo, Hi uint16 }

// PortRanges are ranges of ports; as text "1024-32767,61000-65535".
type PortRanges []PortRange

// parsePortRanges reads ranges of ports.
func parsePortRanges(s string) (r PortRanges, err error) {
	for part := range strings.SplitSeq(strings.ReplaceAll(s, " ", ""), ",") {
		a, b, ranged := strings.Cut(part, "-")
		if !ranged {
			b = a
		}
		lo, err1 := strconv.ParseUint(a, 10, 16)
		hi, err2 := strconv.ParseUint(b, 10, 16)
		if err1 != nil || err2 != nil || lo > hi || lo == 0 {
			return nil, fmt.Errorf("%q is no range of ports", part)
		}
		r = append(r, PortRange{uint16(lo), uint16(hi)})
	}
	return r, nil
}

// forwards reports whether there are rules or routes. A bridge without rules has no
// room for them, and pays nothing for them.
func (c *Config) forwards() bool { return c.Mode == Router || c.Rules != RuleFiles{} }

// openForwarding puts the rules and the kernel's routes into force. No port is open yet:
// no frame passes before there are rules for it.
func (e *Engine) openForwarding(rules Rules) (err error) {
	if !e.cfg.forwards() {
		return nil
	}
	if e.cfg.Mode == Router {
		if e.router, err = e.openRouter(); err != nil {
			return err
		}
		for _, w := range e.workers {
			w.routing = routing{
				waiting: newWaitingHops(), resolve: e.router.mirror.Resolve, used: e.router.mirror.Used, inject: e.router.inject,
			}
		}
		if err := e.setPorts(e.router.host.mappings); err != nil { // nobody else has the router yet
			return err
		}
		if _, err := e.setRoutes(e.router.mirror.Table()); err != nil {
			return err
		}
	}
	return e.SetRules(rules)
}

// Reload reads the rules of the configuration again and puts them into force. If the
// error is not nil the rules before stay.
func (e *Engine) Reload() error {
	if e.cfg.Rules == (RuleFiles{}) {
		return fmt.Errorf("the configuration names no rules")
	}
	return e.tidily(func() error {
		rules, err := e.cfg.Rules.Read()
		if err != nil {
			return err
		}
		return e.SetRules(rules)
	})
}

// say logs an error, but not the same one again and again.
func (e *Engine) say(what string, err error) {
	text := what + err.Error()
	if last := e.said.Swap(&text); last == nil || *last != text {
		e.log.Error(what, "error", err)
	}
}

package syntax

// DevGroup is xt_devgroup: the groups of the interfaces (ip link set DEV group N).
type DevGroup struct{ Src, Dst GroupMask }

// GroupMask is a group of interfaces, or the one that has a name everywhere, and a mask.
type GroupMask struct{ Masked }

func (g *GroupMask) read(args []string) error {
	if args[0] == "default" {
		g.V, g.Mask = 0, 1<<32-1
		return nil
	}
	return g.Masked.read(args)
}

func (g *GroupMask) text() string {
	if g.V == 0 && g.Mask == 1<<32-1 {
		return "default"
	}
	return g.Masked.text()
}

// Name returns the name of the match.
func (m *DevGroup) Name() string { return "devgroup" }

func (m *DevGroup) options() []option {
	return []option{{name: "--src-group", value: &m.Src}, {name: "--dst-group", value: &m.Dst}}
}

// Hooks returns the chains that it may be reached from.
func (m *DevGroup) Hooks() []string {
	switch {
	case m.Src.Set && m.Dst.Set:
		return []string{"FORWARD"}
	case m.Src.Set:
		return []string{"PREROUTING", "INPUT", "FORWARD"}
	}
	return []string{"FORWARD", "OUTPUT", "POSTROUTING"}
}

func (m *DevGroup) check(*Rule, place) error { return atLeastOne(m.options()) }

// Realm is xt_realm: the realms of the routes that a packet takes.
type Realm struct{ Realm Masked }

// Name returns the name of the match.
func (m *Realm) Name() string { return "realm" }

func (m *Realm) options() []option { return []option{{name: "--realm", value: &m.Realm}} }

// Hooks returns the chains that it may be reached from.
func (m *Realm) Hooks() []string { return []string{"INPUT", "FORWARD", "OUTPUT", "POSTROUTING"} }

func (m *Realm) check(*Rule, place) error { return atLeastOne(m.options()) }

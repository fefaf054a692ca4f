package syntax

// Audit is AUDIT. Type is accept, drop or reject.
type Audit struct{ Type Word }

func newAudit() *Audit { return &Audit{Word{oneOf: []string{"accept", "drop", "reject"}}} }

// Name returns the name of the target.
func (t *Audit) Name() string { return "AUDIT" }

func (t *Audit) options() []option { return []option{{name: "--type", value: &t.Type, noNot: true}} }

func (t *Audit) check(*Rule, place) error { return exactlyOne(t.options()) }

// Trace is TRACE: each rule that the packet meets from then on is logged.
type Trace struct{}

// Name returns the name of the target.
func (t *Trace) Name() string { return "TRACE" }

func (t *Trace) options() []option { return nil }

func (t *Trace) check(*Rule, place) error { return nil }

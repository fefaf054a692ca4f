package mirror

import (
	"slices"
	"time"

	"github.com/xdpct/xdpct/route"
)

// Compare reads everything from the kernel anew, on sockets of its own, and returns in
// words what differs from the Table that was published last, at most limit lines.
// Nothing is changed. What the kernel changes meanwhile shows as a difference.
func (m *Mirror) Compare(limit int) ([]string, error) {
	var fresh *route.Table
	err := m.cfg.InNamespace(func() error {
		d, err := openDumper()
		if err != nil {
			return err
		}
		defer func() { _ = d.close() }()
		o := &Mirror{cfg: m.cfg, log: m.log, dumper: d, changed: make(chan struct{}, 1), stop: m.stop}
		o.cfg.InNamespace = func(f func() error) error { return f() }
		o.cfg.Ports = slices.Clone(m.cfg.Ports)
		var vlans []slot
		for n, i := range m.Table().Interfaces { // the same numbers
			if n < len(o.cfg.Ports) {
				o.cfg.Ports[n].Index = i.Index
			} else {
				vlans = append(vlans, slot{i.Index, i.Port, i.VLAN})
			}
		}
		if err := o.readAll(vlans...); err != nil {
			return err
		}
		fresh = o.Table()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return m.Table().Diff(fresh, limit), nil
}

// Agree calls Compare until nothing differs, or for no longer than patience. It returns
// what still differs then.
func (m *Mirror) Agree(patience time.Duration) (diff []string, err error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		diff, err = m.Compare(5)
		if err == nil && len(diff) == 0 || time.Now().After(deadline) {
			return diff, err
		}
	}
}

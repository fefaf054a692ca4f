package mirror

import (
	"slices"

	"github.com/xdpct/xdpct/route"
)

// Compare reads everything from the kernel anew, on sockets of its own, and returns in
// words what differs from the Table that was published last, at most limit lines.
// Nothing is changed. What the kernel changes meanwhile shows as a difference. Tests hold
// the mirror to it.
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

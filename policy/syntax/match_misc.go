package syntax

import (
	"errors"
	"fmt"
	"math"
	"math/bits"

	"github.com/xdpct/xdpct/flow"
)

// ECN is xt_ecn.
type ECN struct {
	ECE, CWR Flag
	ECT      Number // of the IP header, 0..3
}

func newECN() *ECN { return &ECN{ECT: Number{max: 3}} }

// Name returns the name of the match.
func (m *ECN) Name() string { return "ecn" }

func (m *ECN) options() []option {
	return []option{{name: "--ecn-tcp-ece", value: &m.ECE}, {name: "--ecn-tcp-cwr", value: &m.CWR}, {name: "--ecn-ip-ect", value: &m.ECT}}
}

func (m *ECN) check(r *Rule, _ place) error {
	if m.ECE.Set || m.CWR.Set {
		if err := needsProto(r, flow.TCP); err != nil {
			return err
		}
	}
	return atLeastOne(m.options())
}

// Helper is xt_helper: the helper of the connection that the packet's was expected by.
type Helper struct{ Helper Word }

// Name returns the name of the match.
func (m *Helper) Name() string { return "helper" }

func (m *Helper) options() []option { return []option{{name: "--helper", value: &m.Helper}} }

func (m *Helper) check(*Rule, place) error { return atLeastOne(m.options()) }

// Quota is xt_quota: bytes.
type Quota struct{ Quota Number }

func newQuota() *Quota { return &Quota{Number{max: math.MaxUint64}} }

// Name returns the name of the match.
func (m *Quota) Name() string { return "quota" }

func (m *Quota) options() []option { return []option{{name: "--quota", value: &m.Quota}} }

func (m *Quota) check(*Rule, place) error { return atLeastOne(m.options()) }

// ConnLabel is xt_connlabel.
type ConnLabel struct {
	Label Label
	Do    Flag // --set: the connection gets the label
}

// Label is the number of a label, 0..127.
type Label struct{ Number }

func (l *Label) text() string { return quoted(l.Number.text()) }

func newConnLabel() *ConnLabel { return &ConnLabel{Label: Label{Number{max: 127}}} }

// Name returns the name of the match.
func (m *ConnLabel) Name() string { return "connlabel" }

func (m *ConnLabel) options() []option {
	return []option{{name: "--label", value: &m.Label}, {name: "--set", value: &m.Do, noNot: true}}
}

func (m *ConnLabel) check(*Rule, place) error {
	if !m.Label.Set {
		return errors.New("needs --label, by its number")
	}
	return nil
}

// CPU is xt_cpu: the worker that judges the packet.
type CPU struct{ CPU Number }

// Name returns the name of the match.
func (m *CPU) Name() string { return "cpu" }

func (m *CPU) options() []option { return []option{{name: "--cpu", value: &m.CPU}} }

func (m *CPU) check(*Rule, place) error { return atLeastOne(m.options()) }

// Cluster is xt_cluster: which of some nodes is to have the connection.
type Cluster struct {
	NodeMask Number // a bit for each of this node's numbers
	Total    Number
	Seed     Number
}

func newCluster() *Cluster {
	return &Cluster{NodeMask: Number{wide: true}, Total: Number{max: 32}, Seed: Number{wide: true}}
}

// Name returns the name of the match.
func (m *Cluster) Name() string { return "cluster" }

func (m *Cluster) options() []option {
	node := &setBy{n: 1}
	node.apply = func(args []string) error {
		n, err := parseNumber(args[0], 32)
		if err != nil || n == 0 {
			return errors.New("a node is 1..32")
		}
		if m.NodeMask.Set {
			return errors.New("--cluster-local-node and --cluster-local-nodemask exclude each other")
		}
		m.NodeMask.N, m.NodeMask.Given = 1<<(n-1), Given{true, node.Not}
		return nil
	}
	return []option{
		{name: "--cluster-local-nodemask", value: &m.NodeMask}, {name: "--cluster-local-node", value: node},
		{name: "--cluster-total-nodes", value: &m.Total, noNot: true}, {name: "--cluster-hash-seed", value: &m.Seed, noNot: true},
	}
}

func (m *Cluster) check(*Rule, place) error {
	switch {
	case !m.Total.Set || !m.NodeMask.Set || !m.Seed.Set:
		return errors.New("needs --cluster-total-nodes, --cluster-local-node (or -nodemask) and --cluster-hash-seed")
	case m.Total.N < 2:
		return errors.New("a cluster has 2..32 nodes")
	case m.NodeMask.N == 0 || bits.Len64(m.NodeMask.N) > int(m.Total.N):
		return fmt.Errorf("this node is none of the %d", m.Total.N)
	}
	return nil
}

// EUI64 is ip6t_eui64: the source address is made of the frame's.
type EUI64 struct{}

// Name returns the name of the match.
func (m *EUI64) Name() string { return "eui64" }

func (m *EUI64) options() []option { return nil }

func (m *EUI64) check(_ *Rule, at place) error { return comesIn(at) }

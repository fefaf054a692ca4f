package wire

import (
	"fmt"

	"github.com/xdpct/xdpct/engine"
	"github.com/xdpct/xdpct/rx"
)

// Subject names what is measured.
type Subject string

// The subjects. Each forwards from port0 to port1, or, measured in tap mode,
// drops what has come in when its work on it is done.
const (
	XDPCT       Subject = "xdpct"        // xdpct itself
	Asavie      Subject = "xdpct_asavie" // xdpct with the driver asavie
	NFConntrack Subject = "nf_conntrack" // the kernel's forwarding, tracked
	Forwarding  Subject = "forwarding"   // the kernel's forwarding, untracked
	AFXDP       Subject = "af_xdp"       // AF_XDP sockets, and nothing done with the frames
	XDPDrop     Subject = "xdp_drop"     // an XDP program that drops; tap mode only
)

// Subjects lists them all.
func Subjects() []Subject { return []Subject{XDPCT, Asavie, NFConntrack, Forwarding, AFXDP, XDPDrop} }

// Setup says how a subject is to work.
type Setup struct {
	Mode engine.Mode // engine.Bridge, Tap or Router
	SNAT bool        // sources are translated; of a Router
	XDP  rx.XDPMode  // of what uses AF_XDP sockets
	// Flows is the number of connections that there must be room for.
	Flows int
	// CPU is the one that those work on.
	CPU int
}

// udpTimeout is how long connections live without a packet, in seconds: longer
// than any measurement takes, or the first would be gone before the last is there.
const udpTimeout = 600

// system is a subject at work.
type system interface {
	// start makes it work in the box of a Lab.
	start(l *Lab) error
	// ready is called once all connections are there.
	ready() error
	// flows counts the connections; ok is false if the system knows none.
	flows() (n int, ok bool, err error)
	// taken counts the frames that it has worked on, for systems that drop them.
	taken() (uint64, error)
	// flush ends all connections.
	flush() error
	// detail says how it did its work since it was started.
	detail() (Detail, error)
	stop() error
}

// newSystem makes a subject.
func newSystem(name Subject, s Setup) (system, error) {
	tap, router := s.Mode == engine.Tap, s.Mode == engine.Router
	switch {
	case router && (name == Asavie || name == AFXDP), s.SNAT && name == Forwarding:
		return nil, fmt.Errorf("%s cannot be measured in %s mode", name, s.Mode)
	case name == XDPCT:
		return &tracker{setup: s, driver: rx.DriverXSK}, nil
	case name == Asavie:
		return &tracker{setup: s, driver: rx.DriverAsavie}, nil
	case name == NFConntrack:
		return &kernel{setup: s, track: true}, nil
	case name == Forwarding && !tap:
		return &kernel{setup: s}, nil
	case name == AFXDP:
		return &sockets{setup: s}, nil
	case name == XDPDrop && tap:
		return &dropper{}, nil
	case name == Forwarding || name == XDPDrop:
		return nil, fmt.Errorf("%s cannot be measured in %s mode", name, s.Mode)
	}
	return nil, fmt.Errorf("nothing called %q can be measured: there is %v", name, Subjects())
}

// Check reports whether a subject can be measured so.
func Check(name Subject, s Setup) error {
	_, err := newSystem(name, s)
	return err
}

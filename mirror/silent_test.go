package mirror

import "testing"

// TestLastAddressGoes: with the last IPv4 address of an interface the kernel removes all
// routes by it, and tells of those alone that came with the address (fib_disable_ip).
func TestLastAddressGoes(t *testing.T) {
	l := newLab(t, nil)
	l.must("route add 20.0.0.0/8 via 10.1.0.2")
	l.agrees("a route")
	l.must("addr del 10.1.0.1/24 dev p0")
	l.agrees("the last address")
	l.must("addr add 10.1.0.1/24 dev p0")
	l.agrees("another address")
}

package engine

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestRouterForwardsClassE reaches a host in 240.0.0.0/4 through the router. Linux forwards
// to all of that net but 255.255.255.255 (ip_route_input_slow, ipv4_is_lbcast).
func TestRouterForwardsClassE(t *testing.T) {
	s := newSite(t, masqueradeRules4, "", nil)
	const reserved = "250.1.2.3"
	link, err := s.server.Netlink().LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(reserved + "/32")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.server.Netlink().AddrAdd(link, addr); err != nil {
		t.Fatal(err)
	}
	_, net240, _ := net.ParseCIDR("240.0.0.0/4")
	if err := s.router.Netlink().RouteAdd(&netlink.Route{Dst: net240, Gw: net.ParseIP(serverIP)}); err != nil {
		t.Fatal(err)
	}
	serveTCP(t, s.server, reserved+":80")
	s.agrees(t)
	c, seen := dial(t, s.client, reserved+":80")
	if a := host(t, seen); a.String() != wanIP {
		t.Errorf("the server saw %s, not the router's %s", seen, wanIP)
	}
	echo(t, c, 100_000)
}

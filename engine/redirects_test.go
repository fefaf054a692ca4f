package engine

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/perf/netlab"
)

// TestRedirectsHeeded: by which sysctls a host heeds ICMP redirects, asked of the running
// kernel: a gateway tells it to go by another, once for each setting.
func TestRedirectsHeeded(t *testing.T) {
	testenv.Root(t)
	testenv.Program(t, "ip")
	self, other := packet.MAC{2, 0, 0, 0, 0, 1}, packet.MAC{2, 0, 0, 0, 0, 2}
	router, peer := redirectLab(t, self, other)
	raw, err := peer.OpenRaw("eth0")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	addr := netip.MustParseAddr
	type world struct {
		name                       string
		me, gateway, better, probe netip.Addr
		dst                        string
	}
	v4 := world{"ipv4", addr("10.9.0.1"), addr("10.9.0.2"), addr("10.9.0.3"), addr("10.9.0.9"), "10.99.0.%d"}
	v6 := world{"ipv6", addr("2001:db8:9::1"), addr("fe80::2"), addr("fe80::3"), addr("2001:db8:9::9"), "2001:db8:99::%d"}
	for n := range 8 {
		for _, w := range []world{v4, v6} {
			bit := func(i int) string { return fmt.Sprint(n >> i & 1) }
			t.Run(fmt.Sprintf("%s/forwarding %s, all %s, port %s", w.name, bit(0), bit(1), bit(2)), func(t *testing.T) {
				conf := "net/" + w.name + "/conf/"
				if err := errors.Join(router.Sysctl(conf+"r.0/forwarding", bit(0)), router.Sysctl(conf+"all/accept_redirects", bit(1)), router.Sysctl(conf+"r.0/accept_redirects", bit(2))); err != nil {
					t.Fatal(err)
				}
				dst := addr(fmt.Sprintf(w.dst, n+1))
				var redirect, ping []byte
				if dst.Is4() {
					gw, quote := w.better.As4(), packet.AppendICMP(nil, packet.IP{Src: w.me, Dst: dst}, 0, 0, 1, nil) // an answer: of a ping only its socket hears
					redirect = packet.AppendICMP(nil, packet.IP{Src: w.gateway, Dst: w.me}, 5, 1, uint32(gw[0])<<24|uint32(gw[1])<<16|uint32(gw[2])<<8|uint32(gw[3]), quote)
					ping = packet.AppendICMP(nil, packet.IP{Src: w.probe, Dst: w.me}, 8, 0, 1, nil)
				} else {
					quote := packet.AppendICMP(nil, packet.IP{Src: w.me, Dst: dst}, 128, 0, 1, nil)
					redirect = packet.AppendRedirect(nil, w.gateway, w.me, w.better, dst, (*[6]byte)(&other), quote)
					ping = packet.AppendICMP(nil, packet.IP{Src: w.probe, Dst: w.me}, 128, 0, 1, nil)
				}
				if err := errors.Join(raw.Send(packet.AppendEthernet(nil, self, other, redirect)), raw.Send(packet.AppendEthernet(nil, self, other, ping))); err != nil {
					t.Fatal(err)
				}
				testenv.Until(t, "the answer to what came behind it", func() bool {
					f, err := raw.Recv(testenv.Patience)
					return err == nil && (len(f) > 34 && f[23] == 1 && f[34] == 0 || len(f) > 54 && f[20] == 58 && f[54] == 129)
				})
				var kernel, mine bool
				if err := router.Do(func() error {
					out, err := exec.Command("ip", "route", "get", dst.String()).CombinedOutput()
					kernel = strings.Contains(string(out), "via "+w.better.String())
					for _, remedy := range redirectsHeeded("r.0", switchedOn) {
						mine = mine || strings.Contains(remedy, w.name)
					}
					return err
				}); err != nil {
					t.Fatal(err)
				}
				if kernel != mine {
					t.Errorf("heeded by the kernel: %v, as xdpct has it: %v", kernel, mine)
				}
			})
		}
	}
}

// redirectLab makes a namespace whose interface r.0 has a gateway and a better one on its
// link, and the namespace of these.
func redirectLab(t *testing.T, self, other packet.MAC) (router, peer *netlab.NS) {
	t.Helper()
	for _, ns := range []**netlab.NS{&router, &peer} {
		var err error
		if *ns, err = netlab.NewNS("redirect"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup((*ns).Close)
	}
	if err := peer.Sysctl("net/ipv6/conf/all/disable_ipv6", "1"); err != nil {
		t.Fatal(err)
	}
	if err := netlab.Join(netlab.Port{NS: router, Name: "r.0", MAC: self[:], Addrs: []string{"10.9.0.1/24", "2001:db8:9::1/64"}},
		netlab.Port{NS: peer, Name: "eth0", MAC: other[:]}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"10.9.0.2", "10.9.0.3", "10.9.0.9", "fe80::2", "fe80::3", "2001:db8:9::9"} {
		ip(t, router, "neigh replace "+n+" lladdr "+net.HardwareAddr(other[:]).String()+" dev r.0 nud permanent")
	}
	ip(t, router, "route add 10.99.0.0/16 via 10.9.0.2 dev r.0")
	ip(t, router, "-6 route add 2001:db8:99::/64 via fe80::2 dev r.0")
	return router, peer
}

// TestRedirectsWarned: the warning names the port and what to do, which silences it; the
// device by which the host gets packets heeds no redirects and no router advertisements.
func TestRedirectsWarned(t *testing.T) {
	s := newSite(t, "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n", "", nil)
	for _, f := range []string{"ipv4", "ipv6"} {
		for _, i := range []string{"all", "lan", "wan"} {
			if err := s.router.Sysctl("net/"+f+"/conf/"+i+"/accept_redirects", map[bool]string{true: "1", false: "0"}[i == "lan"]); err != nil {
				t.Fatal(err)
			}
		}
	}
	warnings := func() string {
		var said logText
		r := router{e: &Engine{ports: s.e.ports, log: newTextLog(&said)}}
		if err := s.router.Do(func() error { r.warn(); return nil }); err != nil {
			t.Fatal(err)
		}
		return said.String()
	}
	said := warnings()
	for _, remedy := range []string{"net.ipv4.conf.all.accept_redirects=0 net.ipv4.conf.lan.accept_redirects=0", "net.ipv6.conf.lan.accept_redirects=0"} {
		if !strings.Contains(said, remedy) {
			t.Errorf("no word of %s in:\n%s", remedy, said)
		}
		if err := command(s.router, "sysctl", "-w "+remedy); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Contains(said, "wan") {
		t.Errorf("warned of a port by which nothing is heeded:\n%s", said)
	}
	if said := warnings(); strings.Contains(said, "redirects") {
		t.Errorf("warned after what was to do was done:\n%s", said)
	}
	for _, key := range []string{"ipv4/conf/%s/accept_redirects", "ipv6/conf/%s/accept_redirects", "ipv6/conf/%s/accept_ra"} {
		name := "net." + strings.ReplaceAll(fmt.Sprintf(key, s.e.router.tun.name), "/", ".")
		if err := s.router.Do(func() error {
			if _, err := os.Stat("/proc/sys/" + strings.ReplaceAll(name, ".", "/")); err != nil || switchedOn(name) {
				return fmt.Errorf("%s is on: %w", name, err)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
}

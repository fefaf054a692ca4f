package engine

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
)

// start runs a program in a namespace until the test ends. Its output is logged if the
// test fails.
func start(t *testing.T, ns *netlab.NS, name string, args ...string) *exec.Cmd {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(name, args...)
	c.Stdout, c.Stderr = out, out
	if err := ns.Do(c.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		if b, err := os.ReadFile(out.Name()); err == nil && t.Failed() {
			t.Logf("%s:\n%s", name, b)
		}
		out.Close()
	})
	return c
}

// TestDHCPClientOnPort has ISC's client get a lease for a port of a router from dnsmasq:
// its answers are sent to the address that they offer, which the router does not have
// yet. The router then masquerades with it.
func TestDHCPClientOnPort(t *testing.T) {
	testenv.Root(t)
	testenv.Program(t, "dhclient")
	testenv.Program(t, "dnsmasq")
	for name, kind := range map[string]netlab.Kind{"veth": netlab.Veth, "bridge": netlab.LinuxBridge} {
		t.Run(name, func(t *testing.T) {
			h, _ := newHosts(t, netlab.HostsOptions{Right: kind, Routed: true, Bare: true}, portRules4, "", nil)
			dir := t.TempDir()
			start(t, h.Right, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--interface=eth0", "--bind-interfaces",
				"--dhcp-range=192.0.2.50,192.0.2.60,1h", "--no-ping", "--dhcp-leasefile="+filepath.Join(dir, "leases"), "--pid-file="+filepath.Join(dir, "dnsmasq.pid"))
			script := filepath.Join(dir, "script")
			configure := "#!/bin/sh\n[ -z \"$new_ip_address\" ] || ip addr replace $new_ip_address/24 dev $interface\n"
			if err := os.WriteFile(script, []byte(configure), 0o700); err != nil {
				t.Fatal(err)
			}
			conf := filepath.Join(dir, "dhclient.conf")
			if err := os.WriteFile(conf, []byte("timeout 60; initial-interval 1; backoff-cutoff 1;\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			start(t, h.Box, "dhclient", "-d", "-4", "-1", "-cf", conf, "-sf", script, "-lf", filepath.Join(dir, "dhclient.leases"), "-pf", filepath.Join(dir, "dhclient.pid"), "right")

			serveTCP(t, h.Right, netlab.RightIP+":80")
			var leased netip.Addr
			testenv.Until(t, "a lease", func() bool {
				link, err := h.Box.Link("right")
				if err != nil {
					t.Fatal(err)
				}
				addrs, err := h.Box.Netlink().AddrList(link, 2)
				if err != nil || len(addrs) == 0 {
					return false
				}
				leased, _ = netip.AddrFromSlice(addrs[0].IP.To4())
				return true
			})
			var seen string
			testenv.Until(t, "a connection by the leased address", func() bool {
				var c net.Conn
				if err := h.Left.Do(func() (err error) {
					c, err = net.DialTimeout("tcp", netlab.RightIP+":80", time.Second)
					return err
				}); err != nil {
					return false
				}
				defer c.Close()
				_, err := fmt.Fscanln(c, &seen)
				return err == nil
			})
			if a := host(t, seen); a != leased {
				t.Errorf("the server saw %s, not the leased %v", seen, leased)
			}
		})
	}
}

// TestDHCPForOthersIsRouted sends a DHCP server's answer to a client in another net, as
// servers do when a lease is renewed: it is not for the router.
func TestDHCPForOthersIsRouted(t *testing.T) {
	h, _ := newHosts(t, netlab.HostsOptions{Routed: true}, "", "", nil)
	var client, server net.PacketConn
	if err := h.Left.Do(func() (err error) { client, err = net.ListenPacket("udp4", netlab.LeftIP+":68"); return err }); err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := h.Right.Do(func() (err error) { server, err = net.ListenPacket("udp4", netlab.RightIP+":67"); return err }); err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	answer := make([]byte, 300)
	answer[0], answer[1], answer[2] = 2, 1, 6
	copy(answer[28:], []byte{2, 0, 0, 0, 0, 7})
	testenv.Until(t, "the answer", func() bool {
		if _, err := server.WriteTo(answer, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(netlab.LeftIP+":68"))); err != nil {
			t.Fatal(err)
		}
		_ = client.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		n, _, err := client.ReadFrom(make([]byte, 1500))
		return err == nil && n == len(answer)
	})
}

package programs

import (
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/xdpct/xdpct/internal/testenv"
)

// TestPrograms runs every program through the router that -router names.
func TestPrograms(t *testing.T) {
	testenv.Root(t)
	testenv.Program(t, "iptables-restore")
	testenv.Program(t, "ip6tables-restore")
	all := []string{*routers}
	if *routers == "both" {
		all = []string{"kernel", "xdpct"}
	}
	bin := ""
	if all[len(all)-1] == "xdpct" {
		bin = build(t)
	}
	for _, who := range all {
		t.Run(who, func(t *testing.T) {
			for _, c := range []struct {
				name string
				test func(*testing.T, *lab)
			}{{"ftp", testFTP}, {"tftp", testTFTP}, {"irc", testIRC}, {"sip", testSIP}, {"pptp", testPPTP}} {
				t.Run(c.name, func(t *testing.T) { c.test(t, newLab(t, who, bin)) })
			}
		})
	}
}

// needs skips a test whose program is not installed. .ci/programs installs all of them and
// sets PROGRAMS: then none may be missing in CI.
func needs(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if os.Getenv("PROGRAMS") != "" {
		testenv.Missing(t, program)
	}
	t.Skipf("%s is not installed", program)
}

// listening waits until a server of the server's namespace takes connections.
func listening(t *testing.T, l *lab, addr string) {
	t.Helper()
	testenv.Until(t, addr+" is served", func() bool {
		return l.server.Do(func() error {
			c, err := net.DialTimeout("tcp", addr, time.Second)
			if err == nil {
				err = c.Close()
			}
			return err
		}) == nil
	})
}

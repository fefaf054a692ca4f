package soak

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// disturb changes and asks everything that may be changed and asked while traffic flows.
func (s *soak) disturb() {
	for _, x := range []*tracker{s.router, s.bridge} {
		s.reload(x)
		s.hangUp(x)
		s.ask(x)
		s.listenToEvents(x)
	}
	s.changeRoutes()
	s.flap()
}

// reload loads other rules every second; one in three files is refused.
func (s *soak) reload(x *tracker) {
	s.begin(x.name+": rules load", false, func(l *load) {
		turn := 0
		s.every(time.Second, func() {
			began := time.Now()
			turn++
			family, n := turn%2, turn%(variants+1)
			args := []string{"rules", "load", filepath.Join(x.dir, "loaded")}
			if family == 1 {
				args = append(args, "-6")
			}
			err := os.WriteFile(args[2], []byte(x.rules[family].variant(n)), 0o600)
			if err == nil {
				_, err = x.cli(args...)
				if n == broken {
					if err == nil {
						err = errors.New("broken rules are in force")
					} else if strings.Contains(err.Error(), "NOSUCHSTATE") {
						err = nil
					}
				}
			}
			l.outcome(began, 0, err)
		})
	})
}

// What the log says after SIGHUP.
const (
	reloaded = "rules reloaded"
	refused  = "the rules stay as they are"
)

// hangUp sends SIGHUP every five seconds, of three times once with a broken file.
func (s *soak) hangUp(x *tracker) {
	s.begin(x.name+": SIGHUP", false, func(l *load) {
		said := map[string]int{}
		turn := 0
		s.every(5*time.Second, func() {
			began := time.Now()
			turn++
			family, n := turn%2, turn%(variants+1)
			want := reloaded
			if n == broken {
				want = refused
			}
			said[want]++
			err := x.writeRules(family, x.rules[family].variant(n))
			if err == nil {
				err = x.Process.Signal(unix.SIGHUP)
			}
			for deadline := time.Now().Add(patience); err == nil && x.logged(want) < said[want]; time.Sleep(20 * time.Millisecond) {
				if time.Now().After(deadline) {
					err = fmt.Errorf("%q is not in the log", want)
				}
			}
			if n == broken { // the other family would be refused for it
				err = errors.Join(err, x.writeRules(family, x.rules[family].variant(0)))
			}
			l.outcome(began, 0, err)
		})
	})
}

// logged returns how often the log says something.
func (x *tracker) logged(what string) int {
	b, err := os.ReadFile(x.log)
	if err != nil {
		return 0
	}
	return strings.Count(string(b), what)
}

// ask lists the connections, and reads the counters and the metrics, every second.
func (s *soak) ask(x *tracker) {
	for _, args := range [][]string{{"conntrack", "-L"}, {"conntrack", "-S"}, {"rules", "show"}} {
		s.begin(x.name+": "+strings.Join(args, " "), false, func(l *load) {
			s.every(time.Second, func() {
				began := time.Now()
				out, err := x.cli(args...)
				l.outcome(began, int64(len(out)), err)
			})
		})
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(_ context.Context, _, addr string) (net.Conn, error) { return dial(x.ns, addr) },
	}}
	s.begin(x.name+": metrics", false, func(l *load) {
		s.every(time.Second, func() {
			began := time.Now()
			n, err := scrape(client)
			l.outcome(began, n, err)
		})
	})
}

func scrape(client *http.Client) (int64, error) {
	resp, err := client.Get("http://" + hostport("127.0.0.1", metricsPort) + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && !strings.Contains(string(text), "xdpct_packets_total") {
		err = fmt.Errorf("%s: %d bytes without the metrics", resp.Status, len(text))
	}
	return int64(len(text)), err
}

// listenToEvents reads the events from beginning to end.
func (s *soak) listenToEvents(x *tracker) {
	s.begin(x.name+": events", false, func(l *load) {
		l.try()
		cmd := exec.Command(x.bin, "events", "--control", x.socket)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			l.fail(time.Now(), time.Now(), err)
			return
		}
		go func() {
			<-s.sending.Done()
			_ = cmd.Process.Signal(unix.SIGTERM)
		}()
		n := int64(0)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			n += int64(len(lines.Text()) + 1)
		}
		err = cmd.Wait()
		if err == nil && (s.sending.Err() == nil || n == 0) {
			err = fmt.Errorf("they ended after %d bytes", n)
		}
		if err != nil {
			l.fail(time.Now(), time.Now(), err)
			return
		}
		l.ok(n)
	})
}

// changeRoutes adds and removes routes that no packet goes by.
func (s *soak) changeRoutes() {
	nl := s.router.ns.Netlink()
	s.begin("routes added and removed", false, func(l *load) {
		turn := 0
		s.every(100*time.Millisecond, func() {
			began := time.Now()
			turn++
			for _, r := range []struct{ dst, via string }{
				{fmt.Sprintf("100.64.%d.0/24", turn%256), h4IP}, {fmt.Sprintf("2001:db8:ff00:%x::/64", turn%65536), h4IP6},
			} {
				_, dst, err := net.ParseCIDR(r.dst)
				route := &netlink.Route{Dst: dst, Gw: net.ParseIP(r.via)}
				if err == nil {
					err = nl.RouteAdd(route)
				}
				if err == nil {
					err = nl.RouteDel(route)
				}
				l.outcome(began, 0, err)
			}
		})
	})
}

// flap takes the spare port down and up, and every fifth time away.
func (s *soak) flap() {
	s.begin("spare port down, up, away", false, func(l *load) {
		turn := 0
		s.every(2*time.Second, func() {
			began := time.Now()
			turn++
			var err error
			if turn%5 != 0 {
				err = s.router.ns.SetUp("spare", turn%2 == 0)
			} else if err = s.router.ns.Delete("spare"); err == nil {
				err = s.joinSpare()
			}
			l.outcome(began, 0, err)
		})
	})
}

// readdress makes the DHCP server give the router another address, and waits for it.
func (s *soak) readdress(t *testing.T, from, to string) {
	before, began := s.wanAddr(), time.Now()
	s.offerLeases(t, from, to)
	await(t, 40*time.Second, "another address on the WAN", func() bool {
		now := s.wanAddr()
		return now.IsValid() && now != before
	})
	// What comes now begins with the new address. A connection that began just before may
	// have sent its first packet with the old one.
	s.changed(window{began, time.Now().Add(time.Second)})
	t.Logf("the router's address on the WAN is %v, after %v: %v", s.wanAddr(), before, time.Since(began).Round(time.Millisecond))
}

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/control"
	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/policy/syntax"
)

// metricsServer serves the metrics, within control.MetricsLimits.
type metricsServer struct{ guard *control.Guard }

// listenMetrics opens the port of the metrics; a bare port is one of loopback.
func listenMetrics(address string) (*metricsServer, error) {
	if host, port, err := net.SplitHostPort(address); err == nil && host == "" {
		address = net.JoinHostPort("127.0.0.1", port)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	g := control.NewGuard(l, control.MetricsLimits)
	g.Owner = metricsOwner
	return &metricsServer{g}, nil
}

func (m *metricsServer) listener() listener { return listener{"metrics", m.guard.Stats} }

func (m *metricsServer) server(t *tracker) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		s, err := t.Stats(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if s.Rules, s.MoreRules, err = t.ruleStats(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_ = s.WriteMetrics(w)
	})
	s := &http.Server{Handler: mux}
	m.guard.Protect(s)
	return s
}

// ruleStats returns the counters of the rules in force, of so many as have metrics, and how
// many more there are.
func (t *tracker) ruleStats(ctx context.Context) (all []export.RuleStats, more uint64, err error) {
	n := 0 // rules in all
	for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
		r, err := t.Ruleset(ctx, f)
		if err != nil {
			return nil, 0, err
		}
		if r == nil {
			continue
		}
		r.Each(func(table *syntax.Table, c *syntax.Chain, policy syntax.Count, rules []syntax.Count) bool {
			s := export.RuleStats{Family: f.String(), Table: table.Name, Chain: c.Name, Packets: policy.Packets, Bytes: policy.Bytes}
			if c.Policy != "-" {
				all = append(all, s)
			}
			shown := rules[:min(len(rules), export.MaxRuleMetrics-n)]
			for i, count := range shown {
				s.Rule, s.Packets, s.Bytes = i+1, count.Packets, count.Bytes
				all = append(all, s)
			}
			n += len(shown)
			more += uint64(len(rules) - len(shown))
			return true
		})
	}
	return all, more, nil
}

// metricsOwner names who is at the other end: the user, if that is on this host, so
// that no user can take the places of all others; else the address.
func metricsOwner(c net.Conn) string {
	local, ok1 := c.LocalAddr().(*net.TCPAddr)
	remote, ok2 := c.RemoteAddr().(*net.TCPAddr)
	if !ok1 || !ok2 {
		return ""
	}
	if uid, err := ownerOf(remote, local); err == nil {
		return fmt.Sprint("uid ", uid)
	}
	return remote.IP.String()
}

// ownerOf asks the kernel for the user of this host whose TCP socket has these ends
// (inet_diag_req_v2, inet_diag_msg of linux/inet_diag.h).
func ownerOf(local, remote *net.TCPAddr) (uid uint32, err error) {
	const (
		requestLen = 56
		uidAt      = 64
		noCookie   = 0xff
	)
	req := make([]byte, requestLen)
	req[0], req[1] = unix.AF_INET6, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(req[4:], ^uint32(0)) // any state
	binary.BigEndian.PutUint16(req[8:], uint16(local.Port))
	binary.BigEndian.PutUint16(req[10:], uint16(remote.Port))
	l, r := local.IP.To16(), remote.IP.To16()
	if l4, r4 := local.IP.To4(), remote.IP.To4(); l4 != nil && r4 != nil {
		req[0], l, r = unix.AF_INET, l4, r4
	}
	copy(req[12:28], l)
	copy(req[28:44], r)
	for i := 48; i < 56; i++ {
		req[i] = noCookie
	}
	q := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, 0)
	q.AddRawData(req)
	msgs, err := q.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	if err != nil {
		return 0, err
	}
	if len(msgs) == 0 || len(msgs[0]) < uidAt+4 {
		return 0, fmt.Errorf("no answer about the socket %v", local)
	}
	return binary.NativeEndian.Uint32(msgs[0][uidAt:]), nil
}

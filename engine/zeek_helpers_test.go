package engine

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/policy/syntax"
	"github.com/xdpct/xdpct/rx/capture"
	"github.com/xdpct/xdpct/shard"
)

// announcedIn is a capture of a protocol that announces connections, and what is known of it.
type announcedIn struct {
	pcap   string
	proto  flow.Proto
	port   uint16
	helper string
	// log is Zeek's log of the protocol, in which data_channel fields say what was announced,
	// and conns that of the connections; both may be missing.
	log, conns string
	// expected is what Zeek has no log of, as tcpdump shows it: "proto source > destination",
	// port 0 for any, of each expectation once; related the connections that came of them.
	expected []string
	related  int
}

var announcedInCaptures = []announcedIn{
	{pcap: "zeek__ftp_ipv4.pcap", proto: flow.TCP, port: 21, helper: "ftp", log: "scripts.base.protocols.ftp.ftp-ipv4_ftp.log", conns: "scripts.base.protocols.ftp.ftp-ipv4_conn.log"},
	{pcap: "zeek__ftp_ipv6.pcap", proto: flow.TCP, port: 21, helper: "ftp", log: "scripts.base.protocols.ftp.ftp-ipv6_ftp.log", conns: "scripts.base.protocols.ftp.ftp-ipv6_conn.log"},
	{pcap: "zeek__ftp_ftp-auth-tls.pcap", proto: flow.TCP, port: 21, helper: "ftp", log: "scripts.base.protocols.ftp.ftp-auth-tls_ftp.log", conns: "scripts.base.protocols.ftp.ftp-auth-tls_conn.log"},
	{
		pcap: "zeek__irc-dcc-send.pcapng", proto: flow.TCP, port: 6667, helper: "irc", conns: "scripts.base.protocols.irc.basic_conn.log",
		expected: []string{"tcp 0.0.0.0:0 > 10.0.0.7:59130", "tcp 0.0.0.0:0 > 10.0.0.7:59214"}, related: 2,
	},
	{
		pcap: "nDPI__tftp.pcap", proto: flow.UDP, port: 69, helper: "tftp", related: 3, // the requests of port 54626 and 54632 are no requests
		expected: []string{
			"udp 172.16.5.170:0 > 172.28.4.53:54627", "udp 172.28.5.170:0 > 172.28.5.91:44618",
			"udp 192.168.0.10:0 > 192.168.0.253:50618", "udp 192.168.2.200:0 > 192.168.2.45:35840",
		},
	},
	{
		pcap: "suricata-verify__output-eve-tftp-01_input.pcap", proto: flow.UDP, port: 69, helper: "tftp", related: 1,
		expected: []string{"udp 192.168.0.10:0 > 192.168.0.253:50618"},
	},
	{
		pcap: "zeek__sip_wireshark.pcap", proto: flow.UDP, port: 5060, helper: "sip", // and no medium was captured
		expected: []string{
			"udp 200.68.120.81:0 > 192.168.1.2:30000", "udp 200.68.120.81:0 > 192.168.1.2:30001",
			"udp 212.242.33.35:0 > 192.168.1.2:30000", "udp 212.242.33.35:0 > 192.168.1.2:30001", "udp 212.242.33.35:0 > 192.168.1.2:5060",
		},
	},
	{
		pcap: "nDPI__h323.pcap", proto: flow.TCP, port: 1720, helper: "Q.931", related: 1, // H.245; and no medium was captured
		expected: []string{
			"tcp 10.1.3.143:0 > 10.1.6.18:1232", "udp 10.1.3.143:0 > 10.1.6.18:2006", "udp 10.1.3.143:0 > 10.1.6.18:2007",
			"udp 10.1.6.18:0 > 10.1.3.143:5000", "udp 10.1.6.18:0 > 10.1.3.143:5001",
		},
	},
	{
		pcap: "tcpdump__pptp.pcap", proto: flow.TCP, port: 1723, helper: "pptp", related: 1,
		expected: []string{"gre 10.1.1.10:0 > 10.1.1.11:0", "gre 10.1.1.11:0 > 10.1.1.10:0"},
	},
	{
		pcap: "nDPI__pptp.pcap", proto: flow.TCP, port: 1723, helper: "pptp", // and no tunnel was captured
		expected: []string{"gre 191.101.61.1:11755 > 192.168.43.22:0", "gre 192.168.43.22:0 > 191.101.61.1:11755"},
	},
}

// TestZeekHelpers replays captures of protocols that announce connections, with a helper at
// the port of their server: what is expected is what Zeek's log of the protocol says was
// announced, and what is RELATED are the connections that its log of connections has besides.
// It is so with 1 and 4 shards, and whether --helper assigns the helper or a rule of table
// raw, behind which nothing but the servers' own connections may begin.
func TestZeekHelpers(t *testing.T) {
	for i := range announcedInCaptures {
		a := &announcedInCaptures[i]
		for _, shards := range []int{1, 4} {
			for _, byRule := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%d/%v", a.pcap, shards, byRule), func(t *testing.T) { a.replay(t, shards, byRule) })
			}
		}
	}
}

func (a *announcedIn) replay(t *testing.T, shards int, byRule bool) {
	want, wantRelated := a.expected, a.related
	if a.log != "" {
		want = zeekChannels(t, testenv.Shared(t, "pcaps/zeek_baselines/"+a.log))
		wantRelated = len(want)
	}
	var got []string
	o := ReplayOptions{Expected: func(k flow.EventKind, e *expect.Expectation) {
		if k == flow.EventNew {
			f := e.Tuple.L4.Family()
			got = append(got, fmt.Sprintf("%v %v > %v", e.Tuple.L4.Proto(),
				netip.AddrPortFrom(e.Tuple.Src.Netip(f), e.Tuple.L4.Src()), netip.AddrPortFrom(e.Tuple.Dst.Netip(f), e.Tuple.L4.Dst())))
		}
	}}
	if id, ok := flow.HelperByName(a.helper); !byRule && ok {
		o.Helpers = []shard.Assignment{{Proto: a.proto, Port: a.port, Helper: id}}
	}
	if byRule {
		o.IPv4, o.IPv6 = a.rules(t, flow.IPv4), a.rules(t, flow.IPv6)
	}
	s := DefaultSettings()
	s.Checksum = false // some captures were taken on the sending host
	r, err := NewReplayWith(s, shards, Zoning{}, o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	related := a.related1(t, r, testenv.Shared(t, "pcaps/"+a.pcap))
	r.Expectations()
	slices.Sort(got)
	if got = slices.Compact(got); !slices.Equal(got, want) {
		t.Errorf("expected are\n%s\nannounced were\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(related) != wantRelated {
		t.Errorf("%d connections are RELATED, %d are to be:\n%s", len(related), wantRelated, strings.Join(related, "\n"))
	}
	if a.conns == "" {
		return
	}
	conns := slices.DeleteFunc(zeekConns(t, testenv.Shared(t, "pcaps/zeek_baselines/"+a.conns)), func(c string) bool {
		return strings.HasPrefix(c, a.proto.String()) && strings.Contains(c+" ", fmt.Sprintf(" %d ", a.port))
	})
	if slices.Sort(related); !slices.Equal(related, conns) {
		t.Errorf("RELATED are\n%s\nZeek has\n%s", strings.Join(related, "\n"), strings.Join(conns, "\n"))
	}
}

// rules let nothing begin but connections to the server's port, which the helper reads.
func (a *announcedIn) rules(t *testing.T, f flow.Family) *syntax.Ruleset {
	t.Helper()
	to := fmt.Sprintf("-p %v --dport %d", a.proto, a.port)
	raw := "*raw\n-A PREROUTING " + to + " -j CT --helper " + a.helper + "\nCOMMIT\n"
	if id, _ := flow.HelperByName(a.helper); !id.Reads(a.proto, f) {
		raw = ""
	}
	r, err := syntax.Parse(strings.NewReader(raw+
		"*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n-A FORWARD "+to+" -j ACCEPT\nCOMMIT\n"), "rules", f)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// related1 replays a capture and returns the connections that began RELATED.
func (a *announcedIn) related1(t *testing.T, r *Replay, path string) (related []string) {
	t.Helper()
	in, err := capture.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for {
		var f capture.Frame
		if err := in.Next(&f); errors.Is(err, io.EOF) {
			return related
		} else if err != nil {
			t.Fatal(err)
		}
		p, v := r.Frame(&f)
		if v.State != flow.Related || !v.Conn {
			continue
		}
		tuple := p.Tuple()
		l, fam := tuple.L4, tuple.L4.Family()
		related = append(related, between(l.Proto().String(), tuple.Src.Netip(fam).String(), fmt.Sprint(l.Src()), tuple.Dst.Netip(fam).String(), fmt.Sprint(l.Dst())))
		slices.Sort(related)
		related = slices.Compact(related) // a SYN again
	}
}

// zeekChannels reads the data_channel fields of a log of Zeek's.
func zeekChannels(t *testing.T, path string) (all []string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := map[string]int{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		w := strings.Split(sc.Text(), "\t")
		if w[0] == "#fields" {
			for i, name := range w[1:] {
				at[name] = i
			}
			continue
		}
		if strings.HasPrefix(w[0], "#") || len(w) <= at["data_channel.resp_p"] || w[at["data_channel.resp_p"]] == "-" {
			continue
		}
		from, err1 := netip.ParseAddr(w[at["data_channel.orig_h"]])
		to, err2 := netip.ParseAddrPort(net6(w[at["data_channel.resp_h"]]) + ":" + w[at["data_channel.resp_p"]])
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("tcp %v > %v", netip.AddrPortFrom(from, 0), to))
	}
	if len(at) == 0 {
		t.Fatalf("%s has no fields", path)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// net6 puts an IPv6 address into brackets.
func net6(a string) string {
	if strings.Contains(a, ":") {
		return "[" + a + "]"
	}
	return a
}

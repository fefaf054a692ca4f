package engine

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/rx/capture"
)

// zeekLogs are the captures that have a connection log of Zeek's, and the log.
var zeekLogs = map[string]string{
	"zeek__ftp_ipv4.pcap":                   "scripts.base.protocols.ftp.ftp-ipv4_conn.log",
	"zeek__ftp_ipv6.pcap":                   "scripts.base.protocols.ftp.ftp-ipv6_conn.log",
	"zeek__ftp_ftp-auth-tls.pcap":           "scripts.base.protocols.ftp.ftp-auth-tls_conn.log",
	"zeek__ftp_ftp-invalid-reply-code.pcap": "scripts.base.protocols.ftp.ftp-invalid-reply-code_conn.log",
	"zeek__ftp_fake-long-commands.pcap":     "scripts.base.protocols.ftp.ftp-max-command-length_conn.log",
	"zeek__irc-dcc-send.pcapng":             "scripts.base.protocols.irc.basic_conn.log",
	"zeek__tls_irc-starttls.pcap":           "scripts.base.protocols.irc.starttls_conn.log",
	"zeek__tcp_miss_end_data.pcap":          "core.tcp.miss-end-data_conn.log",
	"zeek__tcp_missing-syn.pcap":            "core.tcp.missing-syn_conn.log",
	"zeek__mixed-vlan-mpls.pcap":            "core.vlan-mpls_conn.log",
}

// zeekOnly are connections that Zeek logs and Linux does not track either: under
// MPLS, and with IP header checksums that an anonymiser has broken.
var zeekOnly = []string{"tcp 10.1.2.1 11001 10.34.0.1 23", "tcp 125.190.109.199 80 141.42.64.125 56730"}

// TestZeekLogs replays captures and compares the connections that begin in them
// with what Zeek logs: how many, and between which addresses and ports.
func TestZeekLogs(t *testing.T) {
	for pcap, log := range zeekLogs {
		t.Run(pcap, func(t *testing.T) {
			want := zeekConns(t, testenv.Shared(t, "pcaps/zeek_baselines/"+log))
			got := connsOf(t, testenv.Shared(t, "pcaps/"+pcap))
			if pcap == "zeek__mixed-vlan-mpls.pcap" {
				want = slices.DeleteFunc(want, func(c string) bool { return slices.Contains(zeekOnly, c) })
			}
			if !slices.Equal(got, want) {
				t.Errorf("connections\n%s\nZeek has\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// between names a connection by its two ends, in either order: Zeek guesses who
// began one whose beginning is not in the capture.
func between(proto, a, aPort, b, bPort string) string {
	ends := []string{a + " " + aPort, b + " " + bPort}
	slices.Sort(ends)
	return proto + " " + ends[0] + " " + ends[1]
}

func zeekConns(t *testing.T, path string) (conns []string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if c := strings.Split(sc.Text(), "\t"); len(c) > 6 && !strings.HasPrefix(c[0], "#") {
			conns = append(conns, between(c[6], c[2], c[3], c[4], c[5]))
		}
	}
	slices.Sort(conns)
	return conns
}

// connsOf returns the connections that begin in a capture.
func connsOf(t *testing.T, path string) (conns []string) {
	t.Helper()
	s := DefaultSettings()
	s.Checksum = false // some captures were taken on the sending host
	r, err := NewReplay(s, 1, Zoning{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	in, err := capture.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for {
		var f capture.Frame
		if err := in.Next(&f); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		_, v := r.Frame(&f)
		rec, ok := r.Named()
		if !ok || !v.Conn || v.Dir != flow.Original || rec.Counters[flow.Original].Packets != 1 || rec.Counters[flow.Reply].Packets != 0 {
			continue
		}
		l, fam := rec.Orig.L4, rec.Orig.L4.Family()
		conns = append(conns, between(l.Proto().String(),
			rec.Orig.Src.Netip(fam).String(), fmt.Sprint(l.Src()), rec.Orig.Dst.Netip(fam).String(), fmt.Sprint(l.Dst())))
	}
	slices.Sort(conns)
	return slices.Compact(conns)
}

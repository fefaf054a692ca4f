package helper

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
)

// zeekLog returns the rows of a log of Zeek, by the names of their fields.
func zeekLog(t *testing.T, name string) (rows []map[string]string) {
	t.Helper()
	b, err := os.ReadFile(testenv.Shared(t, "pcaps/zeek_baselines/"+name))
	if err != nil {
		t.Fatal(err)
	}
	var fields []string
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		switch {
		case cells[0] == "#fields":
			fields = cells[1:]
		case !strings.HasPrefix(line, "#") && len(cells) == len(fields):
			row := map[string]string{}
			for i, c := range cells {
				row[fields[i]] = c
			}
			rows = append(rows, row)
		}
	}
	if len(rows) == 0 {
		t.Fatalf("%s: no rows", name)
	}
	return rows
}

// endpoint makes an address and port of two fields.
func endpoint(t *testing.T, addr, port string) netip.AddrPort {
	t.Helper()
	a, err := netip.ParseAddrPort("[" + addr + "]:" + port)
	if err != nil {
		if a, err = netip.ParseAddrPort(addr + ":" + port); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// toFrom writes an expectation as fakeEnv does.
func toFrom(p flow.Proto, from netip.Addr, to netip.AddrPort) string {
	return fmt.Sprintf("0/%v %v>%v", p, netip.AddrPortFrom(from, 0), to)
}

// checkRelated compares the connections of a capture beside those of the helper with what was
// expected: each has to be, by exactly the addresses that it has.
func checkRelated(t *testing.T, name string, log []string, rest []captured, anybody bool) {
	t.Helper()
	for _, p := range rest {
		line := func(from, to netip.AddrPort) string {
			if anybody {
				return fmt.Sprintf("0/%v %v>%v", p.proto, netip.AddrPort{}, to)
			}
			return toFrom(p.proto, from.Addr(), to)
		}
		if !slices.Contains(log, line(p.src, p.dst)) && !slices.Contains(log, line(p.dst, p.src)) {
			t.Errorf("%s: nobody expected %v to %v", name, p.src, p.dst)
		}
	}
}

// TestZeekFTP: the expectations of a capture are the data channels that Zeek's log has, in the
// same order, and the connections that Zeek calls ftp-data are among them.
func TestZeekFTP(t *testing.T) {
	for _, tc := range []struct{ pcap, log string }{
		{"zeek__ftp_ipv4.pcap", "ftp-ipv4"},
		{"zeek__ftp_ipv6.pcap", "ftp-ipv6"},
		{"zeek__ftp_ipv6-multiline-reply.pcap", "ftp-multiline-reply"},
		{"zeek__ftp_ftp-auth-tls.pcap", "ftp-auth-tls"},
		{"zeek__ftp_ftp-invalid-reply-code.pcap", "ftp-invalid-reply-code"},
	} {
		sessions, rest := hear(t, tc.pcap, ftp(), flow.TCP, 21)
		var got, want []string
		for _, g := range sessions {
			got = append(got, g.env.log...)
		}
		for _, row := range zeekLog(t, "scripts.base.protocols.ftp."+tc.log+"_ftp.log") {
			if row["data_channel.resp_p"] != "-" {
				to := endpoint(t, row["data_channel.resp_h"], row["data_channel.resp_p"])
				want = append(want, toFrom(flow.TCP, netip.MustParseAddr(row["data_channel.orig_h"]), to))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: expected %q, Zeek has %q", tc.pcap, got, want)
		}
		checkRelated(t, tc.pcap, got, rest, false)
		if tc.log != "ftp-ipv4" && tc.log != "ftp-ipv6" {
			continue
		}
		n := 0
		for _, row := range zeekLog(t, "scripts.base.protocols.ftp."+tc.log+"_conn.log") {
			if row["service"] != "ftp-data" {
				continue
			}
			n++
			if x := toFrom(flow.TCP, netip.MustParseAddr(row["id.orig_h"]), endpoint(t, row["id.resp_h"], row["id.resp_p"])); !slices.Contains(got, x) {
				t.Errorf("%s: nobody expected %s", tc.pcap, x)
			}
		}
		if n != len(want) {
			t.Errorf("%s: %d data connections and %d channels", tc.pcap, n, len(want))
		}
	}
}

// TestCapturedFTP: what else there is of FTP, how often a data connection is expected in each
// of its sessions, and why one is read no further.
func TestCapturedFTP(t *testing.T) {
	for _, tc := range []struct {
		pcap  string
		count []int // of each session
		err   error
	}{
		{"nDPI__ftp.pcap", []int{2}, nil},
		{"nDPI__ftp-start-tls.pcap", []int{0}, ErrEncrypted},
		{"suricata-verify__firewall_ruletype-firewall-117-ftp-all-data-ipv6_input.pcap", []int{7, 7}, nil},
		{"suricata-verify__firewall_ruletype-firewall-118-ftp-stou-no-filename-active_input.pcap", []int{1}, nil},
		{"suricata-verify__ftp-epsv_input.pcap", []int{4}, nil},
		{"suricata-verify__ftp_ftp-upload-passive_input.pcap", []int{3}, nil},
		{"suricata-verify__ftp_ftp-too-long-command-first_ftp-too-long-command.pcap", []int{1}, nil},
		{"suricata-verify__detect-ftp_ftp-passive-dynamic_port-02_ftp-passive-dynamic_port.pcap", []int{1}, nil},
		{"zeek__ftp_retr.pcap", []int{1}, nil},
		{"zeek__ftp_fake-long-commands.pcap", []int{0}, nil},
		{"zeek__ftp_ipv6-violation.pcap", []int{0}, nil},
	} {
		sessions, rest := hear(t, tc.pcap, ftp(), flow.TCP, 21)
		var count []int
		var log []string
		for _, g := range sessions {
			count = append(count, len(g.env.log))
			log = append(log, g.env.log...)
			if !errors.Is(g.err, tc.err) {
				t.Errorf("%s: %v, want %v", tc.pcap, g.err, tc.err)
			}
		}
		if !slices.Equal(count, tc.count) {
			t.Errorf("%s: expected %q, want %d", tc.pcap, log, tc.count)
		}
		checkRelated(t, tc.pcap, log, rest, false)
	}
	// The second session of this one names another host, whose port is 80.
	sessions, _ := hear(t, "suricata-verify__ftp_ftp-bounce_test.pcap", ftp(), flow.TCP, 21)
	if n := len(sessions); n != 2 {
		t.Fatalf("%d sessions", n)
	}
	if got := sessions[1].env.log; !slices.Equal(got, []string{"0/tcp 2.2.2.1:0>2.2.2.3:80: an address that is not the sender's own"}) {
		t.Errorf("a bounce: expected %q", got)
	}
}

// TestZeekIRC: the DCC connections that Zeek's log has, and no other, are expected.
func TestZeekIRC(t *testing.T) {
	const pcap = "zeek__irc-dcc-send.pcapng"
	sessions, rest := hear(t, pcap, irc(), flow.TCP, 6667)
	if len(sessions) != 1 || sessions[0].err != nil {
		t.Fatalf("%s: %d sessions", pcap, len(sessions))
	}
	var want []string
	for _, row := range zeekLog(t, "scripts.base.protocols.irc.basic_conn.log") {
		if row["service"] != "irc" {
			want = append(want, fmt.Sprintf("0/tcp %v>%v", netip.AddrPort{}, endpoint(t, row["id.resp_h"], row["id.resp_p"])))
		}
	}
	if got := sessions[0].env.log; len(want) != 2 || !slices.Equal(got, want) {
		t.Errorf("%s: expected %q, Zeek has %q", pcap, got, want)
	}
	checkRelated(t, pcap, sessions[0].env.log, rest, true)
}

// TestCapturedIRC: in others nothing is offered.
func TestCapturedIRC(t *testing.T) {
	for _, tc := range []struct {
		pcap string
		err  error
	}{
		{"zeek__irc-basic.pcap", nil},
		{"zeek__irc-whitespace.pcap", nil},
		{"suricata-verify__irc_input.pcap", nil},
		{"zeek__tls_irc-starttls.pcap", ErrEncrypted},
	} {
		sessions, _ := hear(t, tc.pcap, irc(), flow.TCP, 6667)
		if len(sessions) == 0 {
			t.Errorf("%s: no session", tc.pcap)
		}
		for _, g := range sessions {
			if len(g.env.log) != 0 || !errors.Is(g.err, tc.err) {
				t.Errorf("%s: expected %q, %v, want %v", tc.pcap, g.env.log, g.err, tc.err)
			}
		}
	}
}

// TestCapturedTFTP: every transfer is expected by the request before it.
func TestCapturedTFTP(t *testing.T) {
	for _, tc := range []struct {
		pcap      string
		asked     int // connections that ask for a file
		transfers int // connections to where it was asked for
	}{
		{"nDPI__tftp.pcap", 4, 3},
		{"suricata-verify__output-eve-tftp-01_input.pcap", 1, 1},
	} {
		sessions, rest := hear(t, tc.pcap, tftp(), flow.UDP, 69)
		var log []string
		asked := 0
		for _, g := range sessions {
			log = append(log, g.env.log...)
			// One capture has requests without a file's name, too.
			if (len(g.env.log) == 0) != errors.Is(g.err, ErrProtocol) {
				t.Errorf("%s: %v expected %q, %v", tc.pcap, g.client, g.env.log, g.err)
			}
			if len(g.env.log) > 0 {
				asked++
			}
		}
		checkRelated(t, tc.pcap, log, rest, false)
		transfers := map[[2]netip.AddrPort]bool{}
		for _, p := range rest {
			if slices.Contains(log, toFrom(flow.UDP, p.src.Addr(), p.dst)) {
				transfers[[2]netip.AddrPort{p.src, p.dst}] = true
			}
		}
		if asked != tc.asked || len(transfers) != tc.transfers {
			t.Errorf("%s: %d asked and %d transfers, want %d and %d", tc.pcap, asked, len(transfers), tc.asked, tc.transfers)
		}
	}
}

// capturedSeeds adds the dialogues of captures, up to 2000 bytes each, to the seeds of fuzzText;
// none where there are no captures.
func capturedSeeds(f *testing.F, proto flow.Proto, port uint16, names ...string) {
	f.Helper()
	for _, name := range names {
		if _, err := os.Stat("../../shared/pcaps/" + name); err != nil {
			continue
		}
		all := map[netip.AddrPort]string{} // by client
		for _, p := range packets(f, name) {
			client, side := p.src, "\xff"
			if p.src.Port() == port {
				client, side = p.dst, "\xfe"
			} else if p.dst.Port() != port {
				continue
			}
			if p.proto == proto && len(all[client])+len(p.payload) < 2000 {
				all[client] += side + string(p.payload)
			}
		}
		for _, input := range all {
			f.Add(input, uint16(100), uint8(snat))
		}
	}
}

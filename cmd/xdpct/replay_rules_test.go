package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/rx/capture"
)

// ftpCapture writes a capture of a client that asks an FTP server for a port (PASV) and
// connects there, and returns its name.
func ftpCapture(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "ftp.pcap")
	w, err := capture.Create(name, capture.LinkEthernet)
	if err != nil {
		t.Fatal(err)
	}
	client, server := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	at := time.Unix(1_700_000_000, 0)
	send := func(fromClient bool, sport, dport uint16, s packet.Segment) {
		ip := packet.IP{Src: client, Dst: server}
		if !fromClient {
			ip.Src, ip.Dst = server, client
		}
		s.Window = 60000
		f := packet.AppendEthernet(nil, packet.MAC{2, 1}, packet.MAC{2, 2}, packet.AppendTCP(nil, ip, sport, dport, s))
		if err := w.Write(&capture.Frame{Data: f, Wire: len(f), Link: capture.LinkEthernet, Time: at}); err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Millisecond)
	}
	open := func(sport, dport uint16) {
		send(true, sport, dport, packet.Segment{Seq: 100, Flags: packet.SYN})
		send(false, dport, sport, packet.Segment{Seq: 500, Ack: 101, Flags: packet.SYN | packet.ACK})
		send(true, sport, dport, packet.Segment{Seq: 101, Ack: 501, Flags: packet.ACK})
	}
	open(1000, 21)
	for _, m := range []struct {
		client   bool
		seq, ack uint32
		text     string
	}{
		{false, 501, 101, "220 ready\r\n"}, {true, 101, 512, "PASV\r\n"},
		{false, 512, 107, "227 Entering Passive Mode (10,0,0,2,200,0).\r\n"},
	} {
		sport, dport := uint16(21), uint16(1000)
		if m.client {
			sport, dport = dport, sport
		}
		send(m.client, sport, dport, packet.Segment{Seq: m.seq, Ack: m.ack, Flags: packet.ACK | packet.PSH, Payload: []byte(m.text)})
	}
	open(2000, 200<<8)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestReplayHelper: --helper has a helper read a capture, --expect prints what it expects,
// and --rules lets only that pass what the rules let.
func TestReplayHelper(t *testing.T) {
	pcap := ftpCapture(t)
	dir := t.TempDir()
	rules := filepath.Join(dir, "rules")
	const filter = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n-A FORWARD -p tcp --dport 21 -j ACCEPT\nCOMMIT\n"
	if err := os.WriteFile(rules, []byte(filter), 0o600); err != nil {
		t.Fatal(err)
	}
	ctstates := func(args ...string) (all string) {
		for _, v := range replayVerdicts(t, append(args, pcap)...)[6:] {
			all += v.CTState + " " + v.Verdict + ","
		}
		return all
	}
	const newAccept, related, dropped = "NEW accept,ESTABLISHED accept,ESTABLISHED accept,", "RELATED accept,ESTABLISHED accept,ESTABLISHED accept,", "NEW drop,INVALID drop,NEW drop,"
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, newAccept}, {[]string{"--helper", "tcp/21=ftp"}, related}, {[]string{"--shards", "3", "--helper", "tcp/21=ftp"}, related},
		{[]string{"--helper", "tcp/2121=ftp"}, newAccept}, {[]string{"--rules", rules, "--helper", "tcp/21=ftp"}, related}, {[]string{"--rules6", rules}, newAccept},
	} {
		if got := ctstates(c.args...); got != c.want {
			t.Errorf("%v: %s, want %s", c.args, got, c.want)
		}
	}
	if got := ctstates("--rules", rules); got != dropped {
		t.Errorf("without a helper: %s", got)
	}
	out, errOut, code := runCLI(t, "replay", "--helper", "tcp/21=ftp", "--expect", pcap)
	const want = "proto=6 src=10.0.0.1 dst=10.0.0.2 sport=0 dport=51200 mask-src=255.255.255.255 mask-dst=255.255.255.255 sport=0 dport=65535 master-src=10.0.0.1 master-dst=10.0.0.2 sport=1000 dport=21 class=0 helper=ftp\n"
	if lines := strings.SplitAfter(out, "\n"); code != 0 || len(lines) != 3 || lines[0] != "    [NEW] 300 "+want || !strings.HasPrefix(lines[1], "[DESTROY] ") || !strings.HasSuffix(lines[1], want) {
		t.Errorf("--expect prints %q %q", out, errOut)
	}
}

// TestReplayHelperBad: what --helper and --rules do not take is an error that says why.
func TestReplayHelperBad(t *testing.T) {
	pcap := ftpCapture(t)
	nat := filepath.Join(t.TempDir(), "nat")
	if err := os.WriteFile(nat, []byte("*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--helper", "ftp"}, "tcp/21=ftp"}, {[]string{"--helper", "sctp/21=ftp"}, "tcp/21=ftp"}, {[]string{"--helper", "tcp/0=ftp"}, "tcp/21=ftp"},
		{[]string{"--helper", "tcp/21=gopher"}, `no helper "gopher"`}, {[]string{"--helper", "udp/21=ftp"}, "does not read udp"},
		{[]string{"--helper", "tcp/21=FTP"}, "but ftp: case counts"}, {[]string{"--rules", nat}, "table nat"}, {[]string{"--rules", nat + "x"}, "no such file"},
	} {
		if _, errOut, code := runCLI(t, append([]string{"replay", pcap}, c.args...)...); code == 0 || !strings.Contains(errOut, c.want) {
			t.Errorf("%v: exit code %d, %q", c.args, code, errOut)
		}
	}
}

package programs

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
)

// testTFTP is tftpd-hpa with tftp: it answers from a port of its own, and each file is a
// connection.
func testTFTP(t *testing.T, l *lab) {
	needs(t, "in.tftpd")
	needs(t, "tftp")
	want := l.file("tftp/file", 100_000)
	must(t, os.Chmod(filepath.Join(l.dir, "tftp"), 0o777))
	must(t, os.WriteFile(filepath.Join(l.dir, "tftp", "new"), nil, 0o666))
	must(t, os.Chmod(filepath.Join(l.dir, "tftp", "new"), 0o666))
	l.spawn(l.server, "in.tftpd", "-L", "-c", "-u", "root", "-s", filepath.Join(l.dir, "tftp"))
	testenv.Until(t, "in.tftpd is there", func() bool {
		b, err := l.server.ReadFile("/proc/net/udp6")
		return err == nil && bytes.Contains(b, []byte(":0045 "))
	})
	for family, server := range map[string]string{"-4": serverIP, "-6": serverIP6} {
		got := filepath.Join(l.dir, "got"+family)
		for _, c := range []struct{ name, from, command, in string }{
			{"get", filepath.Join(l.dir, "tftp", "file"), "get file " + got, got},
			{"put", filepath.Join(l.dir, "tftp", "file"), "put " + filepath.Join(l.dir, "tftp", "file") + " new", filepath.Join(l.dir, "tftp", "new")},
		} {
			t.Run("tftp "+family+" "+c.name, func(t *testing.T) {
				_, err := l.does(l.client, time.Minute, "tftp", append([]string{family, "-m", "binary", server, "-c"}, strings.Fields(c.command)...)...)
				must(t, err)
				b, err := os.ReadFile(c.in)
				must(t, err)
				if !bytes.Equal(b, want) {
					t.Fatalf("%d bytes came, not the %d that were sent", len(b), len(want))
				}
			})
		}
	}
}

const ngircdConf = `[Global]
Name = irc.example.net
Info = test
Listen = %s
MotdPhrase = hello
[Options]
DNS = no
Ident = no
PAM = no
SyslogFacility = local1
`

// dial connects from a namespace.
func dial(t *testing.T, ns *netlab.NS, addr string) net.Conn {
	t.Helper()
	var c net.Conn
	must(t, ns.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", addr, 20*time.Second)
		return err
	}))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// ircClient is somebody on an IRC server.
type ircClient struct {
	net.Conn
	lines *bufio.Reader
}

func newIRCClient(t *testing.T, ns *netlab.NS, addr, nick string) *ircClient {
	t.Helper()
	c := &ircClient{Conn: dial(t, ns, addr)}
	c.lines = bufio.NewReader(c)
	_, err := fmt.Fprintf(c, "NICK %s\r\nUSER %s 0 * :%s\r\n", nick, nick, nick)
	must(t, err)
	c.await(t, " 001 ")
	return c
}

// await returns the next line with a text in it.
func (c *ircClient) await(t *testing.T, text string) string {
	t.Helper()
	must(t, c.SetReadDeadline(testenv.Deadline()))
	for {
		line, err := c.lines.ReadString('\n')
		must(t, err)
		if strings.HasPrefix(line, "PING") {
			_, err := fmt.Fprint(c, strings.Replace(line, "PING", "PONG", 1))
			must(t, err)
		}
		if strings.Contains(line, text) {
			return line
		}
	}
}

// testIRC is ngircd, and two clients of which the inner one offers a file by DCC SEND.
func testIRC(t *testing.T, l *lab) {
	needs(t, "ngircd")
	conf := filepath.Join(l.dir, "ngircd.conf")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, ngircdConf, serverIP), 0o644))
	l.spawn(l.server, "ngircd", "-n", "-f", conf)
	listening(t, l, serverIP+":6667")
	for _, verb := range []string{"SEND", "TSEND"} {
		t.Run("DCC "+verb+" between two clients", func(t *testing.T) { dccSend(t, l, verb) })
	}
}

var offered = regexp.MustCompile(`\x01DCC T?SEND \S+ (\d+) (\d+) (\d+)\x01`)

func dccSend(t *testing.T, l *lab, verb string) {
	alice, bob := newIRCClient(t, l.client, serverIP+":6667", "al"+verb), newIRCClient(t, l.server, serverIP+":6667", "bo"+verb)
	want := l.file("dcc", 1<<20)
	var lis net.Listener
	must(t, l.client.Do(func() (err error) { lis, err = net.Listen("tcp", clientIP+":0"); return err }))
	defer lis.Close()
	sent := make(chan error, 1)
	go func() {
		c, err := lis.Accept()
		if err != nil {
			sent <- err
			return
		}
		defer c.Close()
		_ = c.SetDeadline(testenv.Deadline())
		if _, err = c.Write(want); err == nil && verb == "SEND" { // DCC SEND acknowledges by the number of bytes so far
			for n := [4]byte{}; err == nil && binary.BigEndian.Uint32(n[:]) < uint32(len(want)); {
				_, err = io.ReadFull(c, n[:])
			}
		}
		sent <- err
	}()
	ip, port := binary.BigEndian.Uint32(net.ParseIP(clientIP).To4()), lis.Addr().(*net.TCPAddr).Port
	_, err := fmt.Fprintf(alice, "PRIVMSG bo%s :\x01DCC %s file.bin %d %d %d\x01\r\n", verb, verb, ip, port, len(want))
	must(t, err)
	m := offered.FindStringSubmatch(bob.await(t, "\x01DCC"))
	if m == nil {
		t.Fatal("the offer cannot be read")
	}
	var addr uint32
	var to uint16
	fmt.Sscan(m[1], &addr)
	fmt.Sscan(m[2], &to)
	host := net.IP(binary.BigEndian.AppendUint32(nil, addr)).String()
	if host != wanIP {
		t.Errorf("bob is told of %s, which is not the router", host)
	}
	c := dial(t, l.server, fmt.Sprintf("%s:%d", host, to))
	must(t, c.SetDeadline(testenv.Deadline()))
	got := make([]byte, 0, len(want))
	for buf := make([]byte, 8192); len(got) < len(want); {
		n, err := c.Read(buf)
		got = append(got, buf[:n]...)
		if verb == "SEND" && n > 0 {
			_, err2 := c.Write(binary.BigEndian.AppendUint32(nil, uint32(len(got))))
			err = errors.Join(err, err2)
		}
		if err != nil {
			break
		}
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%d bytes came, not the %d that were sent", len(got), len(want))
	}
	must(t, <-sent)
}

// Scenarios of SIPp: both ends send what a capture has to where the other says that it is
// to go, as soon as they know.
const (
	sippClient = `<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="client">
<send retrans="500"><![CDATA[
INVITE sip:bob@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/UDP [local_ip]:[local_port];branch=[branch]
From: alice <sip:alice@[local_ip]:[local_port]>;tag=[pid]a[call_number]
To: bob <sip:bob@[remote_ip]:[remote_port]>
Call-ID: [call_id]
CSeq: 1 INVITE
Contact: <sip:alice@[local_ip]:[local_port]>
Max-Forwards: 70
Content-Type: application/sdp
Content-Length: [len]

v=0
o=alice 1 1 IN IP[local_ip_type] [local_ip]
s=-
c=IN IP[media_ip_type] [media_ip]
t=0 0
m=audio [media_port] RTP/AVP 8
a=rtpmap:8 PCMA/8000
]]></send>
<recv response="100" optional="true"></recv>
<recv response="180" optional="true"></recv>
<recv response="200" rrs="true"></recv>
<send><![CDATA[
ACK sip:bob@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/UDP [local_ip]:[local_port];branch=[branch]
From: alice <sip:alice@[local_ip]:[local_port]>;tag=[pid]a[call_number]
To: bob <sip:bob@[remote_ip]:[remote_port]>[peer_tag_param]
Call-ID: [call_id]
CSeq: 1 ACK
Contact: <sip:alice@[local_ip]:[local_port]>
Max-Forwards: 70
Content-Length: 0

]]></send>
<nop><action><exec play_pcap_audio="PCAP"/></action></nop>
<pause milliseconds="1500"/>
<send retrans="500"><![CDATA[
BYE sip:bob@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/UDP [local_ip]:[local_port];branch=[branch]
From: alice <sip:alice@[local_ip]:[local_port]>;tag=[pid]a[call_number]
To: bob <sip:bob@[remote_ip]:[remote_port]>[peer_tag_param]
Call-ID: [call_id]
CSeq: 2 BYE
Max-Forwards: 70
Content-Length: 0

]]></send>
<recv response="200"></recv>
</scenario>
`
	sippServer = `<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="server">
<recv request="INVITE"></recv>
<send><![CDATA[
SIP/2.0 180 Ringing
[last_Via:]
[last_From:]
[last_To:];tag=[pid]b[call_number]
[last_Call-ID:]
[last_CSeq:]
Contact: <sip:[local_ip]:[local_port];transport=[transport]>
Content-Length: 0

]]></send>
<send retrans="500"><![CDATA[
SIP/2.0 200 OK
[last_Via:]
[last_From:]
[last_To:];tag=[pid]b[call_number]
[last_Call-ID:]
[last_CSeq:]
Contact: <sip:[local_ip]:[local_port];transport=[transport]>
Content-Type: application/sdp
Content-Length: [len]

v=0
o=bob 1 1 IN IP[local_ip_type] [local_ip]
s=-
c=IN IP[media_ip_type] [media_ip]
t=0 0
m=audio [media_port] RTP/AVP 8
a=rtpmap:8 PCMA/8000
]]></send>
<recv request="ACK"></recv>
<nop><action><exec play_pcap_audio="PCAP"/></action></nop>
<recv request="BYE"></recv>
<send><![CDATA[
SIP/2.0 200 OK
[last_Via:]
[last_From:]
[last_To:]
[last_Call-ID:]
[last_CSeq:]
Contact: <sip:[local_ip]:[local_port];transport=[transport]>
Content-Length: 0

]]></send>
</scenario>
`
)

const (
	clientMedia, serverMedia = 6000, 7000
	sippPackets              = 40 // each end sends
)

// speech is a capture of RTP (RFC 3550) in the classic pcap format, a packet each 20 ms.
func speech() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	b = append(b, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0)
	for n := range sippPackets {
		rtp := binary.BigEndian.AppendUint16([]byte{0x80, 8}, uint16(n))
		rtp = binary.BigEndian.AppendUint32(rtp, uint32(160*n))
		rtp = append(append(rtp, 1, 2, 3, 4), make([]byte, 160)...)
		udp := binary.BigEndian.AppendUint16([]byte{0x1f, 0x40, 0x1f, 0x40}, uint16(8+len(rtp)))
		udp = append(append(udp, 0, 0), rtp...)
		ip := binary.BigEndian.AppendUint16([]byte{0x45, 0}, uint16(20+len(udp)))
		ip = append(append(ip, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2), udp...)
		frame := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}, ip...)
		for _, v := range []int{n / 50, n % 50 * 20000, len(frame), len(frame)} {
			b = binary.LittleEndian.AppendUint32(b, uint32(v))
		}
		b = append(b, frame...)
	}
	return b
}

// counted counts UDP datagrams to a port that come to an interface.
func counted(t *testing.T, ns *netlab.NS, port uint16) *atomic.Int64 {
	t.Helper()
	raw, err := ns.OpenRaw("eth0")
	must(t, err)
	n, stop, stopped := &atomic.Int64{}, make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop); <-stopped; raw.Close() })
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			f, err := raw.Recv(20 * time.Millisecond)
			if err != nil {
				return
			}
			if len(f) >= 42 && f[12] == 8 && f[13] == 0 && f[23] == 17 && binary.BigEndian.Uint16(f[36:]) == port {
				n.Add(1)
			}
		}
	}()
	return n
}

// testSIP is SIPp at both ends, with RTP in both directions.
func testSIP(t *testing.T, l *lab) {
	needs(t, "sipp")
	pcap := filepath.Join(l.dir, "speech.pcap")
	must(t, os.WriteFile(pcap, speech(), 0o644))
	for name, text := range map[string]string{"client.xml": sippClient, "server.xml": sippServer} {
		must(t, os.WriteFile(filepath.Join(l.dir, name), []byte(strings.ReplaceAll(text, "PCAP", pcap)), 0o644))
	}
	t.Run("SIPp with RTP both ways", func(t *testing.T) {
		atServer, atClient := counted(t, l.server, serverMedia), counted(t, l.client, clientMedia)
		end := l.spawn(l.server, "sipp", "-sf", "server.xml", "-i", serverIP, "-mi", serverIP, "-p", "5060", "-mp", fmt.Sprint(serverMedia), "-nostdin", "-m", "1", "-trace_err")
		testenv.Until(t, "SIPp is there", func() bool {
			b, err := l.server.ReadFile("/proc/net/udp")
			return err == nil && bytes.Contains(b, []byte(":13C4 "))
		})
		_, err := l.does(l.client, time.Minute, "sipp", "-sf", "client.xml", "-i", clientIP, "-mi", clientIP, "-p", "5060", "-mp", fmt.Sprint(clientMedia), "-nostdin", "-m", "1", "-timeout", "30s", serverIP+":5060")
		must(t, err)
		<-end.done
		if !end.ProcessState.Success() {
			t.Errorf("the server's SIPp ends with %v", end.ProcessState)
		}
		if a, b := atServer.Load(), atClient.Load(); a != sippPackets || b != sippPackets {
			t.Errorf("of %d packets of RTP %d come to the server and %d to the client", sippPackets, a, b)
		}
	})
}

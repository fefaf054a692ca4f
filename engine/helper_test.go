package engine

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
)

// helperRules let nothing in that was not asked for or announced.
const helperRules = `*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -o wan -j MASQUERADE
COMMIT
*filter
:FORWARD DROP [0:0]
-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A FORWARD -i lan -j ACCEPT
-A FORWARD -i wan -m conntrack --ctstate RELATED -m helper --helper ftp -j ACCEPT
COMMIT
`

// serveActive is a server of FTP that knows PORT: it connects from its namespace to where it
// is told, sends the bytes of a file, and says so. What it reads it keeps.
func serveActive(t *testing.T, ns *netlab.NS, file []byte) (read chan string) {
	t.Helper()
	var l net.Listener
	if err := ns.Do(func() (err error) { l, err = net.Listen("tcp", serverIP+":21"); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	read = make(chan string, 1000)
	serve := func(c net.Conn) {
		defer c.Close()
		fmt.Fprint(c, "220 ready\r\n")
		for lines := bufio.NewScanner(c); lines.Scan(); {
			read <- lines.Text()
			var h [6]int
			if n, _ := fmt.Sscanf(lines.Text(), "PORT %d,%d,%d,%d,%d,%d", &h[0], &h[1], &h[2], &h[3], &h[4], &h[5]); n != 6 {
				fmt.Fprint(c, "200 yes\r\n")
				continue
			}
			to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(h[0]), byte(h[1]), byte(h[2]), byte(h[3])}), uint16(h[4]<<8|h[5]))
			var data net.Conn
			if err := ns.Do(func() (err error) { data, err = net.DialTimeout("tcp", to.String(), testenv.Patience); return err }); err != nil {
				fmt.Fprintf(c, "425 %v\r\n", err)
				continue
			}
			_, err := data.Write(file)
			data.Close()
			fmt.Fprintf(c, "226 done %v\r\n", err)
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return read
}

// TestRouterHelper: active FTP of a masqueraded client, by real stacks, with 1, 2 and 4
// shards: what the server reads leads back to the client, through ports that come to
// translation and not to the host, as often as it is asked for.
func TestRouterHelper(t *testing.T) {
	for _, queues := range []int{1, 2, 4} {
		t.Run(fmt.Sprint(queues), func(t *testing.T) { testRouterHelper(t, queues) })
	}
}

func testRouterHelper(t *testing.T, queues int) {
	// Neither port is one that translation may use at the router's address, so the command is
	// another one there: of 61000, which has a digit more than the first and one less than the
	// other.
	port := 32768
	if queues == 2 {
		port = 33001
	}
	s := newSiteOf(t, queues, helperRules, "", nil)
	file := bytes.Repeat([]byte("a file "), 20000)
	read := serveActive(t, s.server, file)
	var c net.Conn
	var l net.Listener
	if err := s.client.Do(func() (err error) {
		if l, err = net.Listen("tcp4", fmt.Sprintf("%s:%d", clientIP, port)); err == nil {
			c, err = net.DialTimeout("tcp", serverIP+":21", testenv.Patience)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	defer c.Close()
	_ = c.SetDeadline(testenv.Deadline())
	_ = l.(*net.TCPListener).SetDeadline(testenv.Deadline())
	replies := bufio.NewScanner(c)
	expectReply := func(code string) {
		t.Helper()
		if !replies.Scan() || !strings.HasPrefix(replies.Text(), code) {
			t.Fatalf("the reply is %q, not %s: %v", replies.Text(), code, replies.Err())
		}
	}
	expectReply("220")
	for i := range 8 {
		fmt.Fprintf(c, "PORT 10,50,0,2,%d,%d\r\n", port>>8, port&255)
		data, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = data.SetDeadline(testenv.Deadline())
		got, err := io.ReadAll(data)
		if err != nil || !bytes.Equal(got, file) {
			t.Fatalf("transfer %d: %d bytes, %v", i, len(got), err)
		}
		data.Close()
		expectReply("226 done <nil>")
		if line := <-read; !strings.HasPrefix(line, "PORT 192,0,2,1,") {
			t.Fatalf("the server reads %q", line)
		}
		fmt.Fprint(c, "NOOP\r\n")
		expectReply("200")
		if line := <-read; line != "NOOP" {
			t.Fatalf("the server reads %q", line)
		}
	}
	children := 0
	if err := s.e.List(context.Background(), flow.Filter{}, func(r *flow.Record) error {
		if r.Status&(flow.Expected|flow.DstNAT) == flow.Expected|flow.DstNAT {
			children++
		}
		if r.Orig.L4.Dst() == 21 && r.Status&flow.SeqAdjust == 0 {
			t.Errorf("the control connection is %v", r.Status)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if children != 8 {
		t.Errorf("%d connections were expected, not 8", children)
	}
	st, err := s.e.Stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if sum := st.Total(); sum.Help.Edits != 8 || sum.Help.Now != 1 {
		t.Errorf("%+v", sum.Help)
	}
}

// TestRouterHelperFragments: a message in a datagram that comes in fragments is rewritten as a
// whole, and leaves in fragments.
func TestRouterHelperFragments(t *testing.T) {
	const rules = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p udp -m udp --dport 5060 -j CT --helper sip\nCOMMIT\n" +
		"*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o wan -j MASQUERADE\nCOMMIT\n"
	s := newSiteOf(t, 2, rules, "", nil)
	var c, l net.PacketConn
	if err := s.server.Do(func() (err error) { l, err = net.ListenPacket("udp4", serverIP+":5060"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := s.client.Do(func() (err error) { c, err = net.ListenPacket("udp4", clientIP+":5060"); return err }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = l.SetDeadline(testenv.Deadline())
	sdp := "v=0\r\no=a 1 1 IN IP4 10.50.0.2\r\ns=-\r\nc=IN IP4 10.50.0.2\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\na=x:" + strings.Repeat("y", 2500) + "\r\n"
	invite := "INVITE sip:b@192.0.2.2 SIP/2.0\r\nVia: SIP/2.0/UDP 10.50.0.2:5060;branch=z9hG4bK1\r\nFrom: <sip:a@10.50.0.2>;tag=1\r\n" +
		"To: <sip:b@192.0.2.2>\r\nCall-ID: 1@a\r\nCSeq: 1 INVITE\r\nContact: <sip:a@10.50.0.2:5060>\r\nContent-Type: application/sdp\r\n" +
		fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(sdp), sdp)
	to := &net.UDPAddr{IP: net.ParseIP(serverIP), Port: 5060}
	if _, err := c.WriteTo([]byte(invite), to); err != nil {
		t.Fatal(err)
	}
	var b [8000]byte
	n, from, err := l.ReadFrom(b[:])
	if err != nil {
		t.Fatal(err)
	}
	got := string(b[:n])
	if host(t, from.String()).String() != wanIP || strings.Contains(got, clientIP) || !strings.Contains(got, "c=IN IP4 "+wanIP) || !strings.Contains(got, strings.Repeat("y", 2500)) {
		t.Fatalf("from %v the server reads %q", from, got)
	}
	if xs, _ := s.e.Expectations(context.Background()); len(xs) < 2 {
		t.Errorf("%d are expected", len(xs))
	}
}

package helper

import (
	"errors"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// ftpBegin is how a session begins.
var ftpBegin = []string{"<220 ready\r\n", ">USER anonymous\r\n"}

// What is expected of a client, and of a server, that announces port 51210, which is 200,10.
const (
	toFTPClient = "0/tcp 192.0.2.2:0>10.0.1.2:51210"
	toFTPServer = "0/tcp 10.0.1.2:0>192.0.2.2:51210"
	// The same of a server that knows the client as 203.0.113.1.
	toFTPServerSNAT = "0/tcp 203.0.113.1:0>192.0.2.2:51210"
)

// TestFTPCommands: what is taken for an announcement of the client. Linux 6.18 was asked with the
// same bytes; where it takes them otherwise a remark says so. What begins like an announcement
// and cannot be read Linux drops; here it goes on.
func TestFTPCommands(t *testing.T) {
	textCases(t, ftp(), textConn(flow.TCP, "21", plain), ftpBegin, []textCase{
		{say: ">PORT 10,0,1,2,200,10\r\n", expect: toFTPClient},
		{say: ">port 10,0,1,2,200,10\r\n", expect: toFTPClient},
		{say: ">PORT 010,000,001,002,200,010\r\n", expect: toFTPClient},
		{say: ">PORT 10,0,1,2,200,10\r\nPORT 10,0,1,2,200,11\r\n", expect: toFTPClient + "; 0/tcp 192.0.2.2:0>10.0.1.2:51211"}, // not Linux: the first only
		{say: ">NOOP\r\nPORT 10,0,1,2,200,10\r\n", expect: toFTPClient},                                                        // not Linux
		{say: ">PORT 10,0,1,2,200,10\r\n" + strings.Repeat("NOOP\r\n", 40), expect: toFTPClient},
		{say: ">PORT 10,0,1,2,200,10\n"},
		{say: ">PORT  10,0,1,2,200,10\r\n"},
		{say: ">PORT 10,0,1,2,200,10 \r\n"},
		{say: ">PORT 10,0,1,2,200,010 ,\r\n"},
		{say: ">PORT 10,0,1,2,200\r\n"},
		{say: ">PORT 10,0,1,2,200,\r\n"},
		{say: ">PORT abc\r\n"},
		{say: ">PORT\r\n"},
		{say: ">PORT \r\n"},
		{say: "> PORT 10,0,1,2,200,10\r\n"},
		{say: ">PORTX 10,0,1,2,200,10\r\n"},   // not Linux: expected
		{say: ">PORT 10,,1,2,200,10\r\n"},     // not Linux: 0
		{say: ">PORT 10,0,1,258,199,266\r\n"}, // not Linux: carried over
		{say: ">PORT 10,0,1,2,0,80\r\n", expect: "0/tcp 192.0.2.2:0>10.0.1.2:80: a port below 1024"},
		{say: ">PORT 10,0,1,2,0,0\r\n", expect: "0/tcp 192.0.2.2:0>10.0.1.2:0: a port below 1024"},
		{say: ">EPRT |1|10.0.1.2|51210|\r\n", expect: toFTPClient},
		{say: ">eprt |1|10.0.1.2|51210|\r\n", expect: toFTPClient},
		{say: ">EPRT !1!10.0.1.2!51210!\r\n", expect: toFTPClient},
		{say: ">EPRT a1a10.0.1.2a51210a\r\n", expect: toFTPClient},
		{say: ">EPRT |1|010.0.1.2|051210|\r\n", expect: toFTPClient},
		{say: ">EPRT |1|10.0.1.2|51210|x\r\n", expect: toFTPClient},
		{say: ">EPRT |1|10.0.1.2|51210\r\n"},
		{say: ">EPRT |2|10.0.1.2|51210|\r\n"},
		{say: ">EPRT |2|fd00::1|51210|\r\n"},
		{say: ">EPRT ||10.0.1.2|51210|\r\n"},
		{say: ">EPRT |1|10.0.1|51210|\r\n"},
		{say: ">EPRT |1|10.0.1.2.3|51210|\r\n"},
		{say: ">EPRT |1|10.0.1.256|51210|\r\n"},
		{say: ">EPRT |1|10.0.1.2|0|\r\n"},
		{say: ">EPRT |1|10.0.1.2||\r\n"},
		{say: ">EPRT 11110.0.1.2151210|\r\n"},
		{say: ">EPRT |\r\n"},
		{say: ">EPRT |1|" + strings.Repeat("1", 400) + "|1|\r\n"},
		// What the client has to tell is not for it to say.
		{say: ">227 Entering Passive Mode (10,0,1,2,200,10)\r\n"},
		{say: "<PORT 192,0,2,2,200,10\r\n"},
	})
}

// TestFTPReplies is TestFTPCommands of the server.
func TestFTPReplies(t *testing.T) {
	textCases(t, ftp(), textConn(flow.TCP, "21", plain), ftpBegin, []textCase{
		{say: "<227 Entering Passive Mode (192,0,2,2,200,10)\r\n", expect: toFTPServer},
		{say: "<227 Entering Passive Mode (192,0,2,2,200,10).\r\n", expect: toFTPServer},
		{say: "<227 Entering Passive Mode 192,0,2,2,200,10\r\n", expect: toFTPServer},
		{say: "<227 Entering Passive Mode ( 192,0,2,2,200,10 )\r\n", expect: toFTPServer},
		{say: "<227 =192,0,2,2,200,10\r\n", expect: toFTPServer},
		{say: "<227 192,0,2,2,200,10\n", expect: toFTPServer},
		{say: "<227 Mode 2 (192,0,2,2,200,10)\r\n"},
		{say: "<227 Entering Passive Mode (192, 0, 2, 2, 200, 10)\r\n"},
		{say: "<227 192,0,2,2,200,10,11\r\n"},
		{say: "<227 nothing\r\n"},
		{say: "<227 \n"},
		{say: "<227-(192,0,2,2,200,10)\r\n"},
		{say: "<227\t(192,0,2,2,200,10)\r\n"},
		{say: "<227 (192,0,2,2,200,300)\r\n"},                                                       // not Linux: carried over
		{say: "<227-so\r\n 227 (192,0,2,2,1,1)\r\n227 (192,0,2,2,200,10)\r\n", expect: toFTPServer}, // not Linux: not seen
		{say: "<200 one\r\n227 (192,0,2,2,200,10)\r\n", expect: toFTPServer},                        // not Linux: not seen
		{say: "<229 Entering Extended Passive Mode (|||51210|)\r\n", expect: toFTPServer},
		{say: "<229 (!!!51210!)\r\n", expect: toFTPServer},
		{say: "<229 (aaa51210a)\r\n", expect: toFTPServer},
		{say: "<229 (|||51210|x\r\n", expect: toFTPServer},
		{say: "<229 |||51210|\r\n"},
		{say: "<229 (|1|192.0.2.2|51210|)\r\n"},
		{say: "<229 (||51210|)\r\n"},
		{say: "<229 (|||51210)\r\n"},
		{say: "<229 ( |||51210|)\r\n"},
		{say: "<229 (|||0|)\r\n"},
		{say: "<229 (|||)\r\n"},
		{say: "<229 a (b (|||51210|)\r\n"},
		{say: "<229 (\r\n"},
		{say: "<229 (|||80|)\r\n", expect: "0/tcp 10.0.1.2:0>192.0.2.2:80: a port below 1024"}, // not Linux
		{say: "<229 (|||116746|)\r\n"},                                                         // not Linux: 51210
	})
}

// TestFTPText: the text of a reply of several lines is no reply (RFC 959 4.2), whoever wrote it.
func TestFTPText(t *testing.T) {
	c := textConn(flow.TCP, "21", plain)
	textCases(t, ftp(), c, ftpBegin, []textCase{
		{say: "<250-Read this:\r\n227 Entering Passive Mode (192,0,2,2,200,10)\r\n250 done\r\n"},
		{say: "<250-Read this:\r\n229 (|||51210|)\r\n234 now\r\n250-so\r\n229 (|||51210|)\r\n250 done\r\n229 (|||51210|)\r\n", expect: toFTPServer},
		{say: "<211-Features:\r\n EPSV\r\n211 End\r\n229 (|||51210|)\r\n", expect: toFTPServer},
		{say: "<500 '227 (192,0,2,2,200,10)' not understood\r\n"},
	})
	textCases(t, ftp(), c, nil, []textCase{
		{say: "<220-Welcome\r\n227 (192,0,2,2,200,10)\r\n220 ready\r\n227 (192,0,2,2,200,10)\r\n", expect: toFTPServer},
		{say: "<120 wait\r\n220 ready\r\n227 (192,0,2,2,200,10)\r\n", expect: toFTPServer},
	})
}

// TestFTPv6 is both of IPv6, for which PORT and 227 have no form.
func TestFTPv6(t *testing.T) {
	const toClient, toServer = "0/tcp [fd00:2::2]:0>[fd00:1::2]:51210", "0/tcp [fd00:1::2]:0>[fd00:2::2]:51210"
	textCases(t, ftp(), textConn6(flow.TCP, "21", plain), ftpBegin, []textCase{
		{say: ">EPRT |2|fd00:1::2|51210|\r\n", expect: toClient},
		{say: ">EPRT |2|fd00:0001:0:0:0:0:0:2|51210|\r\n", expect: toClient},
		{say: ">EPRT |1|10.0.1.2|51210|\r\n"},
		{say: ">EPRT |2|fd00:1::2%0|51210|\r\n"},
		{say: ">EPRT |2|10.0.1.2|51210|\r\n"},
		{say: ">EPRT |2|fd00:1::3|51210|\r\n", expect: "0/tcp [fd00:2::2]:0>[fd00:1::3]:51210: an address that is not the sender's own"},
		{say: ">PORT 10,0,1,2,200,10\r\n"},
		{say: "<229 (|||51210|)\r\n", expect: toServer},
		{say: "<227 (253,0,0,1,200,10)\r\n"},
	})
	textCases(t, ftp(), textConn6(flow.TCP, "21", snat), ftpBegin, []textCase{
		{say: ">EPRT |2|fd00:1::2|51210|\r\n", expect: toClient, read: "EPRT |2|2001:0db8:0000:0000:0000:0000:0000:0001|51210|\r\n"},
	})
}

// TestFTPTranslated: what the other side reads, in the form in which Linux writes it.
func TestFTPTranslated(t *testing.T) {
	textCases(t, ftp(), textConn(flow.TCP, "21", snat), ftpBegin, []textCase{
		{say: ">PORT 10,0,1,2,200,10\r\n", expect: toFTPClient, read: "PORT 203,0,113,1,200,10\r\n"},
		{say: ">PORT 010,0,1,2,200,10\r\nNOOP\r\n", expect: toFTPClient, read: "PORT 203,0,113,1,200,10\r\nNOOP\r\n"},
		{say: ">EPRT !1!10.0.1.2!51210!\r\n", expect: toFTPClient, read: "EPRT |1|203.0.113.1|51210|\r\n"},
		{say: ">EPRT |1|10.0.1.2|51210|x\r\n", expect: toFTPClient, read: "EPRT |1|203.0.113.1|51210|x\r\n"},
		{say: ">PORT abc\r\n"},
		{say: "<227 so (192,000,2,2,200,10)\r\n", expect: toFTPServerSNAT, read: "227 so (192,0,2,2,200,10)\r\n"},
		{say: "<229 so (!!!051210!)\r\n", expect: toFTPServerSNAT, read: "229 so (|||51210|)\r\n"},
	})
	textCases(t, ftp(), textConn(flow.TCP, "21", dnat), ftpBegin, []textCase{
		{say: "<227 so (192,0,2,2,200,10)\r\n", expect: toFTPServer, read: "227 so (198,51,100,9,200,10)\r\n"},
		{say: "<229 so (!!!051210!)\r\n", expect: toFTPServer, read: "229 so (|||51210|)\r\n"},
		{say: ">PORT 010,0,1,2,200,010\r\n", expect: "0/tcp 198.51.100.9:0>10.0.1.2:51210", read: "PORT 10,0,1,2,200,10\r\n"},
	})
	g := newDialogue(t, ftp(), textConn(flow.TCP, "21", snat))
	g.env.shift = 15000
	g.say(flow.Reply, "220 ready\r\n")
	if got := g.say(flow.Original, "PORT 10,0,1,2,4,1\r\n"); got != "PORT 203,0,113,1,62,153\r\n" {
		t.Errorf("read as %q", got)
	}
}

// TestBounceFTP (H2): an address that is not the sender's own is not expected, and not rewritten
// either, even if it is the one by which the other side knows the sender.
func TestBounceFTP(t *testing.T) {
	const foreign = ": an address that is not the sender's own"
	for nat := range 3 {
		peer := []string{plain: "192.0.2.2:0", snat: "192.0.2.2:0", dnat: "198.51.100.9:0"}[nat]
		client := []string{plain: "10.0.1.2:0", snat: "203.0.113.1:0", dnat: "10.0.1.2:0"}[nat]
		textCases(t, ftp(), textConn(flow.TCP, "21", nat), ftpBegin, []textCase{
			{say: ">PORT 10,0,1,3,200,10\r\n", expect: "0/tcp " + peer + ">10.0.1.3:51210" + foreign},
			{say: ">PORT 203,0,113,1,200,10\r\n", expect: "0/tcp " + peer + ">203.0.113.1:51210" + foreign},
			{say: ">EPRT |1|192.0.2.2|51210|\r\n", expect: "0/tcp " + peer + ">192.0.2.2:51210" + foreign},
			{say: "<227 (192,0,2,3,200,10)\r\n", expect: "0/tcp " + client + ">192.0.2.3:51210" + foreign},
			{say: "<227 (198,51,100,9,200,10)\r\n", expect: "0/tcp " + client + ">198.51.100.9:51210" + foreign},
			{say: "<227 (10,0,1,2,200,10)\r\n", expect: "0/tcp " + client + ">10.0.1.2:51210" + foreign},
		})
	}
}

// TestSlipstreamFTP (H1): a connection that begins with another protocol is not read, wherever
// in it there are commands.
func TestSlipstreamFTP(t *testing.T) {
	for _, begin := range []string{
		">POST / HTTP/1.1\r\nHost: a\r\n\r\n", ">GET / HTTP/1.1\r\n", ">\x16\x03\x01\x02\x00\x01", ">\r\n", ">PORTER\r\n", ">AAAAAAAAAAAAAAAAAAAA",
		"<HTTP/1.1 200 OK\r\n", "<2200 x\r\n", "<SSH-2.0-x\r\n", "<230 x\r\n", "<22\r\n", "<\n", "<421 busy\r\n",
	} {
		out, log, err := everyCut(t, ftp(), textConn(flow.TCP, "21", snat), []string{begin, ">PORT 10,0,1,2,200,10\r\n", "<227 (192,0,2,2,200,10)\r\n"})
		if !errors.Is(err, ErrProtocol) || len(log) != 0 || !strings.HasSuffix(out[0], "PORT 10,0,1,2,200,10\r\n") {
			t.Errorf("%q: %v, expected %q, read as %q", begin, err, log, out[0])
		}
	}
	// A client may be first.
	_, log, err := everyCut(t, ftp(), textConn(flow.TCP, "21", snat), []string{">PORT 10,0,1,2,200,10\r\n"})
	if err != nil || len(log) != 1 {
		t.Errorf("a client that does not wait: %v, %q", err, log)
	}
}

// TestSplitCommandsFTP (H7): a line that comes in pieces is one line, and one that is of no
// interest is not waited for.
func TestSplitCommandsFTP(t *testing.T) {
	g := newDialogue(t, ftp(), textConn(flow.TCP, "21", snat))
	g.say(flow.Reply, "220 ready\r\n")
	g.say(flow.Original, "USER x\r\n")
	for i, piece := range []struct{ say, read string }{
		{"P", ""}, {"ASS", "PASS"}, {" secret", " secret"}, {"\r", "\r"}, {"\nPO", "\n"}, {"RT 10,0,1,", ""}, {"2,200,10\r", ""}, {"\n", "PORT 203,0,113,1,200,10\r\n"},
		{"STOR name PORT 10,0,1,2,1,1", "STOR name PORT 10,0,1,2,1,1"}, {"\r\nEPRT |1|10.0.1.2|51210|", "\r\n"}, {"\r\n", "EPRT |1|203.0.113.1|51210|\r\n"},
	} {
		if got := g.say(flow.Original, piece.say); got != piece.read {
			t.Errorf("%d: %q is read as %q", i, piece.say, got)
		}
	}
	if len(g.env.log) != 2 {
		t.Errorf("expected %q", g.env.log)
	}
}

// TestHugeNumbersFTP (H4): numbers that do not fit, lines that do not end and payloads of more
// than 255 bytes, which a length of one byte cannot count (CVE-2026-34956).
func TestHugeNumbersFTP(t *testing.T) {
	textCases(t, ftp(), textConn(flow.TCP, "21", snat), ftpBegin, []textCase{
		{say: ">PORT 10,0,1,2,4294967496,10\r\n"}, // not Linux: 200
		{say: ">PORT 18446744073709551626,0,1,2,200,10\r\n"},
		{say: ">EPRT |1|10.0.1.2|70000|\r\n"}, // not Linux: 4464
		{say: ">EPRT |1|10.0.1.2|18446744073709602826|\r\n"},
		{say: "<229 (|||4294967297|)\r\n"},
		// 261 bytes, three times.
		{say: ">PORT 10,0,1,2,200,10\r\n" + strings.Repeat("NOOP\r\n", 39) + "SYST\r", expect: toFTPClient,
			read: "PORT 203,0,113,1,200,10\r\n" + strings.Repeat("NOOP\r\n", 39) + "SYST\r"},
		{say: ">PORT " + strings.Repeat("0", 239) + "10,0,1,2,200,10\r\n", expect: toFTPClient, read: "PORT 203,0,113,1,200,10\r\n"},
		{say: ">PORT 10,0,1,2,200,10" + strings.Repeat(" ", 238) + "\r\n"},
		// A line that is longer than any is passed over, and what follows is read.
		{say: ">PORT " + strings.Repeat("0", 600) + "10,0,1,2,200,10\r\nPORT 10,0,1,2,200,10\r\n", expect: toFTPClient,
			read: "PORT " + strings.Repeat("0", 600) + "10,0,1,2,200,10\r\nPORT 203,0,113,1,200,10\r\n"},
		{say: "<227 " + strings.Repeat("a", 600) + "(192,0,2,2,200,10)\r\n229 (|||51210|)\r\n", expect: toFTPServerSNAT},
	})
	if n := len("PORT 10,0,1,2,200,10\r\n" + strings.Repeat("NOOP\r\n", 39) + "SYST\r"); n != 261 {
		t.Errorf("%d bytes, not 261", n)
	}
	// The longest line that is read, and one byte more.
	for _, n := range []int{ftpLine, ftpLine + 1} {
		g := newDialogue(t, ftp(), textConn(flow.TCP, "21", plain))
		g.say(flow.Original, "USER x\r\n")
		line := "PORT " + strings.Repeat("0", n-len("PORT 10,0,1,2,200,10\r")) + "10,0,1,2,200,10\r"
		g.say(flow.Original, line)
		g.say(flow.Original, "\n")
		if want := 1 - n%ftpLine; g.err != nil || len(g.env.log) != want {
			t.Errorf("of %d bytes: %v, %q", n, g.err, g.env.log)
		}
	}
	// One that never ends is not one of FTP.
	for _, n := range []int{1, 1000, endlessLine} {
		for _, d := range []flow.Direction{flow.Original, flow.Reply} {
			g := newDialogue(t, ftp(), textConn(flow.TCP, "21", snat))
			g.say(flow.Reply, "220 ready\r\n220 ")
			g.say(flow.Original, "STOR ")
			sent, read := 0, 0
			for sent <= endlessLine {
				read += len(g.say(d, strings.Repeat("a", n)))
				sent += n
			}
			if !errors.Is(g.err, ErrTooLong) || read != sent {
				t.Errorf("in pieces of %d: %v, %d of %d bytes", n, g.err, read, sent)
			}
		}
	}
}

// TestEncryptedFTP (H7): where TLS or another wrapping begins nothing more is read.
func TestEncryptedFTP(t *testing.T) {
	for _, code := range []string{"234", "334"} {
		_, log, err := everyCut(t, ftp(), textConn(flow.TCP, "21", snat), []string{
			"<220 ready\r\n", ">AUTH TLS\r\n", "<" + code + " go on\r\n", ">PORT 10,0,1,2,200,10\r\n", "<227 (192,0,2,2,200,10)\r\n",
		})
		if !errors.Is(err, ErrEncrypted) || len(log) != 0 {
			t.Errorf("%s: %v, expected %q", code, err, log)
		}
	}
	// Refused, it goes on.
	_, log, err := everyCut(t, ftp(), textConn(flow.TCP, "21", snat), []string{
		"<220 ready\r\n", ">AUTH TLS\r\n", "<534 no\r\n", ">PORT 10,0,1,2,200,10\r\n",
	})
	if err != nil || len(log) != 1 {
		t.Errorf("refused: %v, expected %q", err, log)
	}
}

// TestRefusedFTP: what is not expected is not rewritten.
func TestRefusedFTP(t *testing.T) {
	for _, err := range []error{ErrLimit, ErrClash, ErrNoPort} {
		g := newDialogue(t, ftp(), textConn(flow.TCP, "21", snat))
		g.env.err = err
		g.say(flow.Reply, "220 ready\r\n")
		if got := g.say(flow.Original, "PORT 10,0,1,2,200,10\r\n"); got != "PORT 10,0,1,2,200,10\r\n" || g.err != nil {
			t.Errorf("%v: %q, %v", err, got, g.err)
		}
	}
}

func FuzzFTP(f *testing.F) {
	seeds(f,
		append(ftpBegin[:2:2], ">PORT 10,0,1,2,200,10\r\n", "<200 PORT command successful.\r\n"),
		append(ftpBegin[:2:2], ">EPRT |1|10.0.1.2|51210|\r\n"),
		append(ftpBegin[:2:2], ">PASV\r\n", "<227 Entering Passive Mode (192,0,2,2,200,10)\r\n"),
		append(ftpBegin[:2:2], ">EPSV\r\n", "<229 Entering Extended Passive Mode (|||51210|)\r\n"),
		append(ftpBegin[:2:2], "<250-x\r\n227 (192,0,2,2,1,1)\r\n250 x\r\n", ">AUTH TLS\r\n", "<234 ok\r\n", ">\x16\x03"),
		[]string{"<220-x\r\n220 x\r\n", ">POST / HTTP/1.1\r\n"},
	)
	capturedSeeds(f, flow.TCP, 21, "zeek__ftp_ipv4.pcap", "zeek__ftp_ftp-auth-tls.pcap", "zeek__ftp_fake-long-commands.pcap", "suricata-verify__ftp-epsv_input.pcap", "suricata-verify__ftp_ftp-bounce_test.pcap")
	f.Fuzz(func(t *testing.T, input string, at uint16, nat uint8) {
		fuzzText(t, ftp(), textConn(flow.TCP, "21", int(nat%3)), input, int(at))
	})
}

package helper

import (
	"errors"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// ircBegin is how a session begins.
var ircBegin = []string{"<:server NOTICE * :hello\r\n", ">NICK a\r\nUSER a 0 * :A\r\n"}

// 167772418 is 10.0.1.2, and 3405803777 is 203.0.113.1.
const toIRCClient = "0/tcp invalid AddrPort>10.0.1.2:51210"

// dccOffer is a client's offer, in the words of DCC.
func dccOffer(words string) string { return ">PRIVMSG b :\x01DCC " + words + "\x01\r\n" }

// TestIRC: what is taken for an offer. Linux 6.18 was asked with the same bytes; where it takes
// them otherwise a remark says so.
func TestIRC(t *testing.T) {
	const offer = "PRIVMSG b :\x01DCC SEND f 167772418 51210 100\x01\r\n"
	textCases(t, irc(), textConn(flow.TCP, "6667", plain), ircBegin, []textCase{
		{say: dccOffer("SEND f 167772418 51210 100"), expect: toIRCClient},
		{say: dccOffer("CHAT chat 167772418 51210"), expect: toIRCClient},
		{say: dccOffer("MOVE f 167772418 51210"), expect: toIRCClient},
		{say: dccOffer("TSEND f 167772418 51210 1"), expect: toIRCClient},
		{say: dccOffer("SCHAT chat 167772418 51210"), expect: toIRCClient},
		{say: dccOffer("SEND f 0167772418  051210 100"), expect: toIRCClient},
		{say: dccOffer(`SEND "f g" 167772418 51210 100`), expect: toIRCClient}, // not Linux: no quotation marks
		{say: dccOffer(`SEND "f g 167772418 51210 100`)},
		{say: dccOffer("RESUME f 51210 10")},
		{say: dccOffer("send f 167772418 51210 100")},
		{say: dccOffer("SEND f 10.0.1.2 51210 100")},
		{say: dccOffer("SEND  167772418 51210 100")},
		{say: dccOffer("SEND 167772418 51210")},
		{say: dccOffer("SEND f 167772418")},
		{say: dccOffer("SEND f")},
		{say: dccOffer("SEND")},
		{say: dccOffer("SEND f 167772418 51210x")}, // not Linux: expected
		{say: dccOffer("SEND f 167772418x51210")},
		{say: dccOffer("SEND f 167772418 0 100 7")},                                                                 // the other side is to listen
		{say: dccOffer("SEND f 167772418 80 100"), expect: "0/tcp invalid AddrPort>10.0.1.2:80: a port below 1024"}, // not Linux
		{say: ">privmsg b :\x01DCC SEND f 167772418 51210 100\x01\r\n", expect: toIRCClient},
		{say: ">PRIVMSG b c :\x01DCC SEND f 167772418 51210 100\x01\r\n", expect: toIRCClient},
		{say: ">PRIVMSG b :\x01DCC SEND f 167772418 51210 100\x01\n", expect: toIRCClient},
		{say: ">PRIVMSG b :\x01DCC SEND f 167772418 51210 100\r\n", expect: toIRCClient},
		{say: ">\r\n " + offer, expect: toIRCClient},
		{say: ">NICK c\r\n" + offer, expect: toIRCClient},                                                                                   // not Linux: not seen
		{say: ">" + offer + strings.Replace(offer, "10 100", "11 100", 1), expect: toIRCClient + "; 0/tcp invalid AddrPort>10.0.1.2:51211"}, // not Linux: the first
		{say: ">PRIVMSG b :\x01dcc SEND f 167772418 51210 100\x01\r\n"},
		{say: ">PRIVMSG b \x01DCC SEND f 167772418 51210 100\x01\r\n"},
		{say: ">PRIVMSG b :x \x01DCC SEND f 167772418 51210 100\x01\r\n"},
		{say: ">PRIVMSG :\x01DCC SEND f 167772418 51210 100\x01\r\n"},
		{say: ">PRIVMSG\r\n"},
		{say: ">NOTICE b :\x01DCC SEND f 167772418 51210 100\x01\r\n"},
		{say: ">:x " + offer},
		{say: ">USER " + offer},
		{say: ">" + strings.Repeat(" ", 70) + offer},
		{say: "<" + offer},
		{say: "<:b!b@b " + offer},
	})
}

// TestIRCTranslated: what the server reads. A client may offer either of its addresses.
func TestIRCTranslated(t *testing.T) {
	const read = "PRIVMSG b :\x01DCC SEND f 3405803777 51210 100\x01\r\n"
	textCases(t, irc(), textConn(flow.TCP, "6667", snat), ircBegin, []textCase{
		{say: dccOffer("SEND f 167772418  051210 100"), expect: toIRCClient, read: read},
		{say: dccOffer("SEND f 3405803777 51210 100"), expect: toIRCClient, read: read},
		{say: dccOffer("SEND f 167772418x 51210 100")},
	})
	textCases(t, irc(), textConn(flow.TCP, "6667", dnat), ircBegin, []textCase{
		{say: dccOffer("SEND f 167772418  051210 100"), expect: toIRCClient, read: "PRIVMSG b :\x01DCC SEND f 167772418 51210 100\x01\r\n"},
	})
}

// TestBounceIRC (H2, H3): an offer of another's address is not expected, and what is expected
// goes to one port of one address.
func TestBounceIRC(t *testing.T) {
	for _, nat := range []int{plain, snat} {
		textCases(t, irc(), textConn(flow.TCP, "6667", nat), ircBegin, []textCase{
			{say: dccOffer("SEND f 167772419 51210 100"), expect: "0/tcp invalid AddrPort>10.0.1.3:51210: an address that is not the sender's own"},
			{say: dccOffer("SEND f 3221225986 51210 100"), expect: "0/tcp invalid AddrPort>192.0.2.2:51210: an address that is not the sender's own"},
			{say: dccOffer("SEND f 0 51210 100"), expect: "0/tcp invalid AddrPort>0.0.0.0:51210: an address that is not the sender's own"},
		})
	}
}

// TestSlipstreamIRC (H1): what begins with another protocol is not read.
func TestSlipstreamIRC(t *testing.T) {
	offer := dccOffer("SEND f 167772418 51210 100")
	for _, begin := range []string{
		">POST / HTTP/1.1\r\n", ">GET / HTTP/1.1\r\n", ">\x16\x03\x01\x02\x00\x01", ">PRIVMSGS a\r\n", ">AAAAAAAAAAAAAAAAAAAA", ">:a PRIVMSG\r\n",
		"<HTTP/1.1 200 OK\r\n", "<220 x\r\n", "<SSH-2.0-x\r\n",
	} {
		out, log, err := everyCut(t, irc(), textConn(flow.TCP, "6667", snat), []string{begin, offer})
		if !errors.Is(err, ErrProtocol) || len(log) != 0 || !strings.HasSuffix(out[0], offer[1:]) {
			t.Errorf("%q: %v, expected %q, read as %q", begin, err, log, out[0])
		}
	}
	for _, begin := range []string{">CAP LS 302\r\n", ">\r\n  PASS x\r\n", ">@a=b PING x\r\n", "<NOTICE AUTH :*** x\r\n", "<:a 020 * :x\r\n", "<020 * :x\r\n", "<@time=1 PING :x\r\n"} {
		_, log, err := everyCut(t, irc(), textConn(flow.TCP, "6667", snat), []string{begin, offer})
		if err != nil || len(log) != 1 {
			t.Errorf("%q: %v, expected %q", begin, err, log)
		}
	}
}

// TestSplitCommandsIRC (H7): an offer in pieces is one, and what cannot be one is not waited for.
func TestSplitCommandsIRC(t *testing.T) {
	g := newDialogue(t, irc(), textConn(flow.TCP, "6667", snat))
	g.say(flow.Original, "NICK x\r\n")
	for i, piece := range []struct{ say, read string }{
		{"PRIV", ""}, {"MSG b :\x01DCC SEND f 16777", ""}, {"2418 512", ""}, {"10 1\x01\r\n", "PRIVMSG b :\x01DCC SEND f 3405803777 51210 1\x01\r\n"},
		{"P", ""}, {"ONG x\r", "PONG x\r"}, {"\n", "\n"},
	} {
		if got := g.say(flow.Original, piece.say); got != piece.read {
			t.Errorf("%d: %q is read as %q", i, piece.say, got)
		}
	}
	if len(g.env.log) != 1 {
		t.Errorf("expected %q", g.env.log)
	}
}

// TestHugeNumbersIRC (H4): numbers that do not fit, and lines that do not end.
func TestHugeNumbersIRC(t *testing.T) {
	long := strings.Repeat("0", 600)
	textCases(t, irc(), textConn(flow.TCP, "6667", snat), ircBegin, []textCase{
		{say: dccOffer("SEND f 4462739714 51210 100")}, // not Linux: modulo 2^32
		{say: dccOffer("SEND f 18446744073877324034 51210 100")},
		{say: dccOffer("SEND f 167772418 116746 100")}, // not Linux: modulo 2^16
		{say: dccOffer("SEND f "+long+"167772418 51210 100") + dccOffer("SEND f 167772418 51210 1")[1:], expect: toIRCClient,
			read: dccOffer("SEND f " + long + "167772418 51210 100")[1:] + "PRIVMSG b :\x01DCC SEND f 3405803777 51210 1\x01\r\n"},
	})
	for _, d := range []flow.Direction{flow.Original, flow.Reply} {
		g := newDialogue(t, irc(), textConn(flow.TCP, "6667", snat))
		g.say(flow.Reply, "PING x\r\n:")
		g.say(flow.Original, "PRIVMSG ")
		sent := strings.Repeat("a", endlessLine+1)
		if got := g.say(d, sent); !errors.Is(g.err, ErrTooLong) || !strings.HasSuffix(got, sent) {
			t.Errorf("a line without an end: %v", g.err)
		}
	}
}

// TestEncryptedIRC (H7): when the server agrees to STARTTLS nothing more is read.
func TestEncryptedIRC(t *testing.T) {
	offer := dccOffer("SEND f 167772418 51210 100")
	for _, tc := range []struct {
		ask, answer string
		err         error
	}{
		{">STARTTLS\r\n", "<:server 670 a :go on\r\n", ErrEncrypted},
		{">starttls\n", "<:server NOTICE a :x\r\n670 a :go on\r\n", ErrEncrypted},
		{">STARTTLS\r\n", "<@time=1 :server 670 a :go on\r\n", ErrEncrypted},
		{">STARTTLS\r\n", "<:server 691 a :no\r\n", nil},
		{">STARTTLS\r\n", "<:server\r\n", nil},
		{">STARTTLSX\r\n", "<:server 670 a :go on\r\n", nil},
		{">PING a\r\n", "<:server 670 a :go on\r\n", nil},
	} {
		_, log, err := everyCut(t, irc(), textConn(flow.TCP, "6667", snat), append(ircBegin[:2:2], tc.ask, tc.answer, offer))
		if !errors.Is(err, tc.err) || len(log) != map[bool]int{true: 1}[err == nil] {
			t.Errorf("%q, %q: %v, expected %q", tc.ask, tc.answer, err, log)
		}
	}
}

func FuzzIRC(f *testing.F) {
	seeds(f,
		append(ircBegin[:2:2], dccOffer("SEND f 167772418 51210 100"), "<:server NOTICE a :sent\r\n"),
		append(ircBegin[:2:2], dccOffer("CHAT chat 167772418 51210"), dccOffer(`SEND "f g" 3405803777 51210 1`)),
		append(ircBegin[:2:2], ">STARTTLS\r\n", "<:server 670 a :go on\r\n", ">\x16\x03"),
		[]string{"<NOTICE AUTH :x\r\n", ">POST / HTTP/1.1\r\n"},
	)
	capturedSeeds(f, flow.TCP, 6667, "zeek__irc-dcc-send.pcapng", "zeek__tls_irc-starttls.pcap", "suricata-verify__irc_input.pcap")
	f.Fuzz(func(t *testing.T, input string, at uint16, nat uint8) {
		fuzzText(t, irc(), textConn(flow.TCP, "6667", int(nat%3)), input, int(at))
	})
}

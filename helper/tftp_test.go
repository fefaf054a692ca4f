package helper

import (
	"errors"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

const toTFTPClient = "0/udp 192.0.2.2:0>10.0.1.2:40000"

// TestTFTP: what is taken for a request (RFC 1350 5, RFC 2347). Linux 6.18 was asked with the
// same bytes; where it takes them otherwise a remark says so.
func TestTFTP(t *testing.T) {
	c := textConn(flow.UDP, "69", plain)
	textCases(t, tftp(), c, nil, []textCase{
		{say: ">\x00\x01f\x00octet\x00", expect: toTFTPClient},
		{say: ">\x00\x02f\x00NetASCII\x00", expect: toTFTPClient},
		{say: ">\x00\x01f\x00octet\x00blksize\x001432\x00", expect: toTFTPClient},
		{say: ">\x00\x01f\x00xyzzy\x00", expect: toTFTPClient},
		{say: ">\x00\x01", err: ErrProtocol},  // not Linux: expected
		{say: ">\x00\x01f", err: ErrProtocol}, // not Linux
		{say: ">\x00\x01f\x00octet", err: ErrProtocol},
		{say: ">\x00\x01\x00octet\x00", err: ErrProtocol}, // not Linux
		{say: ">\x00\x01f\x00\x00", err: ErrProtocol},
		{say: ">\x00\x01f\x00a b\x00", err: ErrProtocol},
		{say: ">\x00\x03\x00\x01f", err: ErrProtocol},
		{say: ">\x01", err: ErrProtocol},
		{say: "<\x00\x01f\x00octet\x00"}, // not Linux: of either side
	})
	// A server may answer from the port it was asked at; the client goes on, and may ask again.
	_, log, err := everyCut(t, tftp(), c, []string{
		">\x00\x01f\x00octet\x00", "<\x00\x03\x00\x01data", ">\x00\x04\x00\x01", ">\x00\x05\x00\x00no\x00", ">\x00\x01", ">\x00\x02g\x00octet\x00",
	})
	if err != nil || len(log) != 2 {
		t.Errorf("%v, expected %q", err, log)
	}
	for nat, want := range []string{plain: toTFTPClient, snat: toTFTPClient, dnat: "0/udp 198.51.100.9:0>10.0.1.2:40000"} {
		textCases(t, tftp(), textConn(flow.UDP, "69", nat), nil, []textCase{{say: ">\x00\x01f\x00octet\x00", expect: want}})
	}
	textCases(t, tftp(), textConn6(flow.UDP, "69", snat), nil, []textCase{
		{say: ">\x00\x01f\x00octet\x00", expect: "0/udp [fd00:2::2]:0>[fd00:1::2]:40000"},
	})
}

// TestSlipstreamTFTP (H1): a client that begins with something else is not read.
func TestSlipstreamTFTP(t *testing.T) {
	for _, begin := range []string{">REGISTER sip:a SIP/2.0\r\n", ">\x00\x07", ">\x00\x00", ">\x00\x04\x00\x01"} {
		_, log, err := everyCut(t, tftp(), textConn(flow.UDP, "69", snat), []string{begin, ">\x00\x01f\x00octet\x00"})
		if !errors.Is(err, ErrProtocol) || len(log) != 0 {
			t.Errorf("%q: %v, expected %q", begin, err, log)
		}
	}
	m := &Message{Conn: textConn(flow.UDP, "69", plain), Env: &fakeEnv{}}
	if _, err := tftp().New().Message(m); !errors.Is(err, ErrProtocol) {
		t.Errorf("an empty datagram: %v", err)
	}
}

const amandaAsk = ">Amanda 2.6 REQ HANDLE 000-1 SEQ 1\nSERVICE sendbackup\n"

// amandaAnswer is an answer with a line CONNECT.
func amandaAnswer(connect string) string {
	return "<Amanda 2.6 REP HANDLE 000-1 SEQ 1\nCONNECT " + connect
}

// amandaTo is what is expected for ports, after the refresh of the master.
func amandaTo(from string, ports ...string) string {
	all := []string{"refresh 300"}
	for _, p := range ports {
		all = append(all, "0/tcp "+from+":0>192.0.2.2:"+p)
	}
	return strings.Join(all, "; ")
}

// TestAmanda: what is taken for an announcement. Linux 6.18 was asked with the same bytes.
func TestAmanda(t *testing.T) {
	const from = "10.0.1.2"
	textCases(t, amanda(), textConn(flow.UDP, "10080", plain), []string{amandaAsk}, []textCase{
		{say: amandaAnswer("DATA 5001 MESG 5002 INDEX 5003\nOPTIONS ;\n"), expect: amandaTo(from, "5001", "5002", "5003")},
		{say: amandaAnswer("DATA 5001 MESG 5002 INDEX 5003 STATE 5004\n"), expect: amandaTo(from, "5001", "5002", "5003", "5004")},
		{say: amandaAnswer("MESG 5002 DATA 5001\n"), expect: amandaTo(from, "5001", "5002")},
		{say: amandaAnswer("DATA 5001\n"), expect: amandaTo(from, "5001")},
		{say: amandaAnswer("DATA 05001\n"), expect: amandaTo(from, "5001")},
		{say: amandaAnswer("DATA 5001 MESG 0 INDEX 5003\n"), expect: amandaTo(from, "5001", "5003")},  // not Linux: DATA only
		{say: amandaAnswer("DATA 5001 MESG -1 INDEX 5003\n"), expect: amandaTo(from, "5001", "5003")}, // not Linux: DATA only
		{say: amandaAnswer("DATA 5001 OTHER 5009\n"), expect: amandaTo(from, "5001")},
		{say: amandaAnswer("DATA 5001 MESG 70000\n"), expect: amandaTo(from)},  // not Linux: 5001 and 4464
		{say: amandaAnswer("DATA 5001 MESG 005002\n"), expect: amandaTo(from)}, // not Linux: 5001 and 500
		{say: amandaAnswer("DATA 5001 DATA 5005\n"), expect: amandaTo(from)},   // not Linux: 5001
		{say: amandaAnswer("XDATA 5001\n"), expect: amandaTo(from)},            // not Linux: 5001
		{say: amandaAnswer("DATA 5001x\n"), expect: amandaTo(from)},            // not Linux: 5001
		{say: amandaAnswer("DATA\n"), expect: amandaTo(from)},
		{say: amandaAnswer("DATA -2\n"), expect: amandaTo(from)},
		{say: amandaAnswer("\n"), expect: amandaTo(from)},
		{say: amandaAnswer("DATA 5001"), expect: amandaTo(from)},
		{say: "<Amanda 2.6 REP HANDLE 000-1 SEQ 1\nxCONNECT DATA 5001\n", expect: amandaTo(from)}, // not Linux: 5001
		{say: "<Amanda 2.6 REP HANDLE 000-1 SEQ 1\nconnect data 5001\n", expect: amandaTo(from)},
		{say: "<Amanda 2.6 ACK HANDLE 000-1 SEQ 1\n", expect: amandaTo(from)},
		{say: amandaAnswer("DATA 80\n"), expect: amandaTo(from, "80: a port below 1024")}, // not Linux: expected
		{say: ">Amanda 2.6 REP HANDLE 000-1 SEQ 1\nCONNECT DATA 5001\n"},                  // the other side
		{say: "<CONNECT DATA 5001\n", err: ErrProtocol},                                   // not Linux: 5001
		{say: "<HTTP/1.1 200 OK\r\nCONNECT DATA 5001\n", err: ErrProtocol},
	})
	_, log, err := everyCut(t, amanda(), textConn(flow.UDP, "10080", plain), []string{">REGISTER sip:a SIP/2.0\r\n", amandaAnswer("DATA 5001\n")})
	if !errors.Is(err, ErrProtocol) || len(log) != 0 {
		t.Errorf("%v, expected %q", err, log)
	}
}

// TestAmandaTranslated: ports move with the server that is translated.
func TestAmandaTranslated(t *testing.T) {
	c := textConn(flow.UDP, "10080", dnat)
	textCases(t, amanda(), c, []string{amandaAsk}, []textCase{
		{say: amandaAnswer("DATA 05001 MESG 5002\n"), expect: amandaTo("10.0.1.2", "5001", "5002"), read: amandaAnswer("DATA 5001 MESG 5002\n")[1:]},
	})
	g := newDialogue(t, amanda(), c)
	g.env.shift = 5000
	g.say(flow.Original, amandaAsk[1:])
	if got, want := g.say(flow.Reply, amandaAnswer("MESG 5002 DATA 5001 INDEX 0\n")[1:]), amandaAnswer("MESG 10002 DATA 10001 INDEX 0\n")[1:]; got != want {
		t.Errorf("read as %q, want %q", got, want)
	}
}

func FuzzTFTP(f *testing.F) {
	seeds(f, []string{">\x00\x01f\x00octet\x00", "<\x00\x03\x00\x01data", ">\x00\x04\x00\x01"}, []string{">\x00\x02f\x00octet\x00blksize\x001432\x00"})
	capturedSeeds(f, flow.UDP, 69, "nDPI__tftp.pcap")
	f.Fuzz(func(t *testing.T, input string, at uint16, nat uint8) {
		fuzzText(t, tftp(), textConn(flow.UDP, "69", int(nat%3)), input, int(at))
	})
}

func FuzzAmanda(f *testing.F) {
	seeds(f,
		[]string{amandaAsk, amandaAnswer("DATA 5001 MESG 5002 INDEX 5003\nOPTIONS ;\n")},
		[]string{amandaAsk, amandaAnswer("STATE 5004 MESG -1 DATA 5001\n")})
	f.Fuzz(func(t *testing.T, input string, at uint16, nat uint8) {
		fuzzText(t, amanda(), textConn(flow.UDP, "10080", int(nat%3)), input, int(at))
	})
}

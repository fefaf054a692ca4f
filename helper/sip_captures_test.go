package helper

import (
	"bufio"
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

// sipCaptured is a connection of a capture with what a helper has expected of it.
type sipCaptured struct {
	h    sipHeard
	s    Session
	conn *Conn
}

// sipRead has the helper read the SIP of a capture. rows is everything that was expected at any
// time, and then what is off; said is every message that was read.
func sipRead(t *testing.T, name string, said func(c *Conn, d flow.Direction, m *sipMessage)) (rows []string) {
	t.Helper()
	conns := map[[2]netip.AddrPort]*sipCaptured{}
	for _, p := range packets(t, name) {
		if p.proto != flow.UDP && p.proto != flow.TCP {
			continue
		}
		d := flow.Original
		c := conns[[2]netip.AddrPort{p.src, p.dst}]
		if c == nil {
			if c = conns[[2]netip.AddrPort{p.dst, p.src}]; c != nil {
				d = flow.Reply
			} else {
				c = &sipCaptured{s: sip().New(), conn: fakeConn(p.proto, p.src.String(), p.dst.String(), "")}
				conns[[2]netip.AddrPort{p.src, p.dst}] = c
			}
		}
		c.h.reads(t, c.s, c.conn, d, p.payload)
		if m, ok := parseSIP(p.payload, p.proto == flow.TCP); ok && c.h.err == nil {
			said(c.conn, d, &m)
		}
		for _, r := range c.h.env.rows {
			row := fmt.Sprintf("%s %v>%v %d s", sip().Classes[r.class].Name, r.from, r.to, r.timeout)
			if r.inactive {
				row += " inactive"
			}
			if !slices.Contains(rows, row) {
				rows = append(rows, row)
			}
		}
		if c.h.out != [2]string{} && c.h.err == nil && string(p.payload) != c.h.out[d] && p.proto == flow.UDP {
			t.Errorf("%s: %q is read as %q", name, p.payload, c.h.out[d])
		}
		c.h.out = [2]string{}
	}
	var off []string
	for k, c := range conns {
		if c.h.err != nil {
			off = append(off, fmt.Sprintf("%v>%v off: %v", k[0], k[1], c.h.err))
		}
	}
	slices.Sort(off)
	return append(rows, off...)
}

// TestSIPCaptures: what is expected of the calls and registrations of captures. None of them
// has the media.
func TestSIPCaptures(t *testing.T) {
	for name, want := range map[string][]string{
		"zeek__sip_wireshark.pcap": {
			"signalling 212.242.33.35>192.168.1.2:5060 180 s inactive",
			"signalling 212.242.33.35>192.168.1.2:5060 300 s", // of 1,200
			"audio 200.68.120.81>192.168.1.2:30000 180 s",
			"audio 200.68.120.81>192.168.1.2:30001 180 s",
			"audio 212.242.33.35>192.168.1.2:30000 180 s",
			"audio 212.242.33.35>192.168.1.2:30001 180 s",
		},
		// The caller's media are at another machine (200.57.7.196).
		"suricata-verify__sip-body-frames_public-cloudshark-sip-s0.pcap": {
			"audio 200.57.7.195>200.57.7.204:8000 180 s",
			"audio 200.57.7.195>200.57.7.204:8001 180 s",
			"signalling 200.57.7.195>200.57.7.204:5061 180 s inactive",
			"signalling 200.57.7.195>200.57.7.204:5061 20 s",
		},
		// Addresses were changed on the way, but not those of the payload.
		"suricata-verify__sip-sdp_sdp.pcap":              nil,
		"suricata-verify__sip-tcp-method_sip-tcp.pcap":   nil,
		"zeek__sip_sip-long-request-response-paths.pcap": nil,
		"zeek__sip_sip-junk-before-request.pcap":         nil,
		"nDPI__sip_hello.pcapng":                         nil,
		// RTP alone.
		"nDPI__rtp.pcapng": {
			"10.140.67.167:55402>148.153.85.97:6008 off: not the protocol",
			"150.219.118.19:54234>192.113.193.227:50003 off: not the protocol",
			"172.16.168.24:40252>172.16.168.64:5000 off: not the protocol",
		},
	} {
		n := 0
		got := sipRead(t, name, func(*Conn, flow.Direction, *sipMessage) { n++ })
		if !slices.Equal(got, want) {
			t.Errorf("%s: %d messages, expected is\n%s", name, n, strings.Join(got, "\n"))
		}
	}
}

// TestSIPZeek compares the messages that were read of a capture with Zeek's log of it.
func TestSIPZeek(t *testing.T) {
	got := map[string]bool{}
	sipRead(t, "zeek__sip_wireshark.pcap", func(c *Conn, d flow.Direction, m *sipMessage) {
		ends := fmt.Sprint(c.Self(flow.Original), c.Self(flow.Reply))
		if m.request {
			uri := strings.Fields(string(m.data))[1]
			got[fmt.Sprintf("%s %s %s body %d", ends, m.method, uri, m.body.len())] = true
		} else {
			got[fmt.Sprintf("%s %d %d %s body %d", ends, m.code, m.cseq, m.method, m.body.len())] = true
		}
	})
	want := map[string]bool{}
	for _, row := range zeekRows(t, "scripts.base.protocols.sip.wireshark_sip.log") {
		ends := row["id.orig_h"] + ":" + row["id.orig_p"] + " " + row["id.resp_h"] + ":" + row["id.resp_p"]
		want[fmt.Sprintf("%s %s %s body %s", ends, row["method"], row["uri"], row["request_body_len"])] = true
		if row["status_code"] != "-" {
			want[fmt.Sprintf("%s %s %s body %s", ends, row["status_code"], row["seq"], row["response_body_len"])] = true
		}
	}
	for k := range want {
		if !got[k] {
			t.Errorf("Zeek has %s", k)
		}
	}
	// Zeek writes a row for each transaction, not for each message: the ACK of what is not 2xx
	// belongs to its INVITE's, and two 408 to two requests of one number share one.
	for _, k := range []string{
		"192.168.1.2:5060 212.242.33.35:5060 ACK sip:35104724@sip.cybercity.dk body 0",
		"192.168.1.2:5060 200.68.120.81:5060 ACK sip:97239287044@voip.brujula.net body 0",
		"192.168.1.2:5060 200.68.120.81:5060 408 1 INVITE body 0",
	} {
		want[k] = true
	}
	for k := range got {
		if !want[k] {
			t.Errorf("Zeek does not have %s", k)
		}
	}
}

// zeekRows reads a log of Zeek's.
func zeekRows(t *testing.T, name string) (rows []map[string]string) {
	t.Helper()
	f, err := os.Open(testenv.Shared(t, "pcaps/zeek_baselines/"+name))
	if errors.Is(err, os.ErrNotExist) {
		testenv.Missing(t, name)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var fields []string
	for s := bufio.NewScanner(f); s.Scan(); {
		words := strings.Split(s.Text(), "\t")
		switch {
		case words[0] == "#fields":
			fields = words[1:]
		case !strings.HasPrefix(words[0], "#"):
			row := map[string]string{}
			for i, w := range words {
				row[fields[i]] = w
			}
			rows = append(rows, row)
		}
	}
	return rows
}

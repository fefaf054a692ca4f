package shard

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// TestFTPForwarded: a server behind a router that forwards port 21 to it announces its own
// address; clients read the router's, and their data comes through. Active data of such a
// server comes from the address that the client knows.
func TestFTPForwarded(t *testing.T) {
	const rules = ftpRules + "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -i outside -d 192.0.2.1 -p tcp --dport 21 -j DNAT --to-destination 10.1.0.1\nCOMMIT\n"
	for _, shards := range []int{1, 2, 4} {
		for n := range 6 {
			b := newHelpBox(t, shards, rules)
			k := b.dial(t, outside, fmt.Sprintf("10.2.0.1:%d", 4000+n), "192.0.2.1:21", "10.1.0.1:21")
			k.hear("220 ready\r\n")
			k.say("PASV\r\n")
			if got := k.hear("227 Entering Passive Mode (10,1,0,1,200,10)\r\n"); !strings.Contains(got, "192,0,2,1,200,10") {
				t.Fatalf("it reads %q", got)
			}
			data := b.dial(t, outside, "10.2.0.1:6000", "192.0.2.1:51210", "10.1.0.1:51210")
			if data.say("hello") != "hello" || data.to.peer.String() != "10.2.0.1:6000" {
				t.Errorf("it comes from %v", data.to.peer)
			}
			data.close()
			const port = "PORT 10,2,0,1,19,137\r\n"
			if got := k.say(port); got != port {
				t.Errorf("it reads %q", got)
			}
			data = b.dial(t, inside, "10.1.0.1:20", "10.2.0.1:5001", "10.2.0.1:5001")
			if data.say("hello") != "hello" || data.to.peer.Addr() != publicIP {
				t.Errorf("active data comes from %v", data.to.peer)
			}
			data.close()
			k.hear("226 done\r\n")
			k.close()
		}
	}
}

// TestSIPCall: the media of a call come to where the router has told, RTP at an even port
// and RTCP at the next one (RFC 3550, 11), though another client has asked for the same.
func TestSIPCall(t *testing.T) {
	const rules = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p udp --dport 5060 -j CT --helper sip\nCOMMIT\n" +
		"*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o outside -j SNAT --to-source 192.0.2.1\nCOMMIT\n"
	media := regexp.MustCompile(`m=audio (\d+) `)
	for _, shards := range []int{1, 2, 4} {
		b := newHelpBox(t, shards, rules)
		told := map[uint16]netip.Addr{}
		for n := range 4 {
			client := hostOf(1, n+1)
			sdp := fmt.Sprintf("v=0\r\no=a 1 1 IN IP4 %v\r\ns=-\r\nc=IN IP4 %v\r\nt=0 0\r\nm=audio 20000 RTP/AVP 0\r\n", client, client)
			invite := fmt.Sprintf("INVITE sip:b@10.2.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP %v:5060;branch=z9hG4bK%d\r\nFrom: <sip:a@%v>;tag=1\r\n"+
				"To: <sip:b@10.2.0.1>\r\nCall-ID: %d@a\r\nCSeq: 1 INVITE\r\nContact: <sip:a@%v:5060>\r\nContent-Type: application/sdp\r\nContent-Length: %d\r\n\r\n%s",
				client, n, client, n, client, len(sdp), sdp)
			out, v := b.through(inside, packet.AppendUDP(nil, packet.IP{Src: client, Dst: serverIP}, 5060, 5060, []byte(invite)))
			if len(out) != 1 {
				t.Fatalf("the call: %v %v", v.Action, v.Reason)
			}
			ends(t, out[0]) // its checksums are right
			_, got := payloadOf(out[0])
			var port uint16
			if m := media.FindStringSubmatch(got); m == nil || strings.Contains(got, client.String()) {
				t.Fatalf("the server reads %q", got)
			} else if _, err := fmt.Sscan(m[1], &port); err != nil || port%2 != 0 || told[port].IsValid() {
				t.Fatalf("port %d, %v", port, told)
			}
			told[port] = client
		}
		for port, client := range told {
			for i := range uint16(2) {
				if i == 1 { // what is told of a call is nobody's else, right behind its first packet too
					other, _ := b.through(inside, udp(hostOf(1, 99), serverIP, port+1, 7001))
					if from, _ := ends(t, other[0]); from.Port() == port+1 {
						t.Errorf("another connection has port %d", port+1)
					}
				}
				out, v := b.through(outside, udp(serverIP, publicIP, 7000+i, port+i))
				if len(out) != 1 || v.State != flow.Related {
					t.Fatalf("%d shards, port %d: %v %v %v", shards, port+i, v.State, v.Action, v.Reason)
				}
				if _, to := ends(t, out[0]); to != netip.AddrPortFrom(client, 20000+i) {
					t.Errorf("port %d leads to %v, not to %v", port+i, to, client)
				}
				back, v := b.through(inside, udp(client, serverIP, 20000+i, 7000+i))
				if len(back) != 1 || v.State != flow.Established {
					t.Fatalf("the answer: %v %v", v.State, v.Reason)
				}
				if from, _ := ends(t, back[0]); from != netip.AddrPortFrom(publicIP, port+i) {
					t.Errorf("the answer comes from %v", from)
				}
			}
		}
	}
}

// TestQuotedNumber: an ICMP error about a segment whose number was moved quotes it as its
// sender has sent it.
func TestQuotedNumber(t *testing.T) {
	b := newHelpBox(t, 2, masqueraded)
	k := b.dial(t, inside, "10.1.0.1:4000", "10.2.0.1:21", "10.2.0.1:21")
	k.say("PORT 10,1,0,1,19,137\r\n")
	sent := k.segment(k.seq, "LIST\r\n")
	out, _ := b.through(inside, append([]byte(nil), sent...))
	if len(out) != 1 {
		t.Fatal("it did not come through")
	}
	if seq, _ := payloadOf(out[0]); seq == k.seq {
		t.Fatal("nothing was moved")
	}
	back, v := b.through(outside, packet.AppendICMP(nil, packet.IP{Src: serverIP, Dst: publicIP}, 3, 4, 1400, out[0][:28]))
	if v.State != flow.Related || len(back) != 1 {
		t.Fatalf("%v %v", v.State, v.Reason)
	}
	checkError(t, back[0], serverIP, clientIP, sent[:28])
}

// TestExpectByHand: an operator may say what a translated connection expects
// (conntrack -I expect): the child is RELATED, and rules translate it, as in Linux.
func TestExpectByHand(t *testing.T) {
	for _, shards := range []int{1, 4} {
		b := newHelpBox(t, shards, masqueraded)
		k := b.dial(t, inside, "10.1.0.1:4000", "10.2.0.1:80", "10.2.0.1:80")
		master, at, _ := b.find(flow.TCP, k.self, k.peer)
		x := expect.Expectation{
			Tuple: flow.Tuple{Src: flow.AddrFrom(clientIP), Dst: flow.AddrFrom(serverIP), L4: flow.MakeL4(flow.IPv4, flow.UDP, 0, 0, 9000)},
			Mask:  expect.Mask{Src: expect.ExactSource.Src}, Expires: 1 << 30, Flags: expect.Userspace,
		}
		if err := b.shards[at].Expect(master.Orig, x); err != nil {
			t.Fatal(err)
		}
		out, v := b.through(inside, udp(clientIP, serverIP, 1, 9000))
		if len(out) != 1 || v.State != flow.Related {
			t.Fatalf("%v %v", v.State, v.Reason)
		}
		if from, _ := ends(t, out[0]); from.Addr() != publicIP {
			t.Errorf("it comes from %v", from)
		}
	}
}

// sipWith is a message of SIP that says where its sender waits for sound.
func sipWith(first string, sender netip.Addr, seq int, method string, rtp int) string {
	sdp := fmt.Sprintf("v=0\r\no=a 1 1 IN IP4 %v\r\ns=-\r\nc=IN IP4 %v\r\nt=0 0\r\nm=audio %d RTP/AVP 0\r\n", sender, sender, rtp)
	return fmt.Sprintf("%s\r\nVia: SIP/2.0/UDP %v:5060;branch=z9hG4bK1\r\nFrom: <sip:a@%v>;tag=1\r\nTo: <sip:b@10.2.0.1>\r\n"+
		"Call-ID: 1@a\r\nCSeq: %d %s\r\nContent-Type: application/sdp\r\nContent-Length: %d\r\n\r\n%s", first, sender, sender, seq, method, len(sdp), sdp)
}

var sipSound = regexp.MustCompile(`m=audio (\d+) `)

// sips lets a message of SIP through, and returns the port at which its receiver reads that
// sound is waited for.
func (b *helpBox) sips(t *testing.T, in int, src, dst netip.AddrPort, text string) (rtp uint16, from netip.AddrPort) {
	t.Helper()
	out, v := b.through(in, packet.AppendUDP(nil, packet.IP{Src: src.Addr(), Dst: dst.Addr()}, src.Port(), dst.Port(), []byte(text)))
	if len(out) != 1 {
		t.Fatalf("%q: %v %v", text[:10], v.Action, v.Reason)
	}
	_, got := payloadOf(out[0])
	if m := sipSound.FindStringSubmatch(got); m != nil {
		if _, err := fmt.Sscan(m[1], &rtp); err != nil {
			t.Fatal(err)
		}
	}
	from, _ = ends(t, out[0])
	return rtp, from
}

const sipMasqueraded = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p udp --dport 5060 -j CT --helper sip\nCOMMIT\n" +
	"*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o outside -j SNAT --to-source 192.0.2.1\nCOMMIT\n"

// TestSIPBothWays: of two phones with the same port for sound behind one address, the sound of
// each leaves from where the other side was told to send to, whoever sends first: it is one
// connection (nf_nat_sip_expected).
func TestSIPBothWays(t *testing.T) {
	server := netip.AddrPortFrom(serverIP, 5060)
	for _, shards := range []int{1, 2, 4} {
		for n := range 8 {
			b := newHelpBox(t, shards, sipMasqueraded)
			for i := range 2 {
				phone := hostOf(1, 2*n+i+1)
				told, seen := b.sips(t, inside, netip.AddrPortFrom(phone, 5060), server, sipWith("INVITE sip:b@10.2.0.1 SIP/2.0", phone, 1, "INVITE", 10000))
				theirs, _ := b.sips(t, outside, server, seen, sipWith("SIP/2.0 200 OK", serverIP, 1, "INVITE", 20000+10*i))
				out := func() {
					d, v := b.through(inside, udp(phone, serverIP, 10000, theirs))
					if len(d) != 1 {
						t.Fatalf("sound of the phone: %v %v", v.Action, v.Reason)
					}
					if from, to := ends(t, d[0]); from != netip.AddrPortFrom(publicIP, told) || to != netip.AddrPortFrom(serverIP, theirs) {
						t.Errorf("%d shards, phone %d: sound leaves from %v to %v, and %d was told", shards, i, from, to, told)
					}
				}
				in := func() {
					d, v := b.through(outside, udp(serverIP, publicIP, theirs, told))
					if len(d) != 1 {
						t.Fatalf("sound of the server: %v %v", v.Action, v.Reason)
					}
					if from, to := ends(t, d[0]); from != netip.AddrPortFrom(serverIP, theirs) || to != netip.AddrPortFrom(phone, 10000) {
						t.Errorf("%d shards, phone %d: sound comes from %v to %v", shards, i, from, to)
					}
				}
				was := b.len()
				if n%2 == 0 {
					out()
					in()
				} else {
					in()
					out()
				}
				if b.len() != was+1 {
					t.Errorf("%d shards: %d connections, not one", shards, b.len()-was)
				}
			}
		}
	}
}

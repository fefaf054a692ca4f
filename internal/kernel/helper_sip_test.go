package kernel

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// sdp makes a session description (RFC 4566) of an address and media: "audio 4000".
func sdp(a netip.Addr, media ...string) string {
	ip := "IP4"
	if a.Is6() {
		ip = "IP6"
	}
	s := fmt.Sprintf("v=0\r\no=user 53655765 2353687637 IN %s %v\r\ns=-\r\nc=IN %s %v\r\nt=0 0\r\n", ip, a, ip, a)
	for _, m := range media {
		s += "m=" + m + " RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
	}
	return s
}

// sipMessage makes a message of a first line, headers and a body (RFC 3261, 7).
func sipMessage(first, body string, headers ...string) string {
	if body != "" {
		headers = append(headers, "Content-Type: application/sdp")
	}
	return first + "\r\n" + strings.Join(headers, "\r\n") + "\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
}

// sipHost is an address as a SIP URI holds it.
func sipHost(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

// sipRequest is one of the client's, with a Via and a Contact of its own.
func sipRequest(at *place, method string, seq int, body string, more ...string) string {
	me, proxy := sipHost(at.client), sipHost(at.knows)
	return sipMessage(method+" sip:bob@"+proxy+" SIP/2.0", body, append([]string{
		"Via: SIP/2.0/UDP " + me + ":5060;branch=z9hG4bK776asdhds" + strconv.Itoa(seq), "Max-Forwards: 70",
		"From: Alice <sip:alice@" + me + ">;tag=1928301774", "To: Bob <sip:bob@" + proxy + ">",
		"Call-ID: a84b4c76e66710@example.com", "CSeq: " + strconv.Itoa(seq) + " " + method, "Contact: <sip:alice@" + me + ":5060>",
	}, more...)...)
}

var sipCopied = regexp.MustCompile(`(?m)^(Via|From|Call-ID|CSeq): .*\r\n`)

// sipAnswer is one of the server's, to a request as it has come.
func sipAnswer(at *place, status, request, body string, more ...string) string {
	var headers []string
	for _, h := range sipCopied.FindAllString(request, -1) {
		headers = append(headers, strings.TrimSuffix(h, "\r\n"))
	}
	to := regexp.MustCompile(`(?m)^To: (.*)\r\n`).FindStringSubmatch(request)
	if to != nil {
		headers = append(headers, "To: "+to[1]+";tag=a6c85cf")
	}
	return sipMessage("SIP/2.0 "+status, body, append(headers, more...)...)
}

var sdpMedia = regexp.MustCompile(`(?m)^m=\w+ (\d+) `)

// sdpReads returns the address and ports that a body names.
func sdpReads(text string) (a netip.Addr, ports []uint16) {
	if m := regexp.MustCompile(`(?m)^c=IN IP[46] (\S+)\r?\n`).FindStringSubmatch(text); m != nil {
		a, _ = netip.ParseAddr(m[1])
	}
	for _, m := range sdpMedia.FindAllStringSubmatch(text, -1) {
		port, _ := strconv.ParseUint(m[1], 10, 16)
		ports = append(ports, uint16(port))
	}
	return a, ports
}

// sipLength says what is wrong with the Content-Length of a message.
func sipLength(w *world, text string) {
	head, body, _ := strings.Cut(text, "\r\n\r\n")
	m := regexp.MustCompile(`Content-Length: (\d+)`).FindStringSubmatch(head)
	if m == nil || m[1] != strconv.Itoa(len(body)) {
		w.wrong = append(w.wrong, fmt.Sprintf("a body of %d bytes comes behind %q", len(body), head))
	}
}

func sipWire(w *world, at *place) *wire {
	return w.begin("sip", flow.UDP, A, netip.AddrPortFrom(at.client, 5060), netip.AddrPortFrom(at.knows, 5060))
}

// sipInvites is a call with the given media of each side, up to the ACK. It returns where
// each side is to send.
func sipInvites(w *world, at *place, c *wire, seq int, mine, theirs []string) (toClient, toServer []netip.AddrPort) {
	c.say(0, sipRequest(at, "INVITE", seq, sdp(at.client, mine...)))
	request := c.ends[1].heard
	sipLength(w, request)
	a, ports := sdpReads(request)
	for _, p := range ports {
		toClient = append(toClient, netip.AddrPortFrom(a, p))
	}
	w.look()
	c.say(1, sipAnswer(at, "100 Trying", request, ""))
	c.say(1, sipAnswer(at, "180 Ringing", request, "", "Contact: <sip:bob@"+sipHost(at.server)+":5060>"))
	c.say(1, sipAnswer(at, "200 OK", request, sdp(at.server, theirs...), "Contact: <sip:bob@"+sipHost(at.server)+":5060>"))
	sipLength(w, c.ends[0].heard)
	a, ports = sdpReads(c.ends[0].heard)
	for _, p := range ports {
		toServer = append(toServer, netip.AddrPortFrom(a, p))
	}
	w.look()
	c.say(0, sipRequest(at, "ACK", seq, ""))
	return toClient, toServer
}

// sipMediaFlows sends RTP and RTCP of a medium both ways: the server begins.
func sipMediaFlows(w *world, at *place, name string, mine, theirs uint16, toClient, toServer netip.AddrPort) {
	for n, what := range []string{" rtp", " rtcp"} {
		d := uint16(n)
		m := w.begin(name+what, flow.UDP, B, netip.AddrPortFrom(at.server, theirs+d), netip.AddrPortFrom(toClient.Addr(), toClient.Port()+d))
		m.say(0, "\x80\x00 of the server")
		if !m.ends[1].seen {
			continue
		}
		if m.ends[1].own != netip.AddrPortFrom(at.client, mine+d) {
			w.wrong = append(w.wrong, fmt.Sprintf("%s%s comes to %v", name, what, m.ends[1].own))
		}
		if want := netip.AddrPortFrom(toServer.Addr(), toServer.Port()+d); m.ends[1].peer != want {
			w.note(nil, "%s%s comes from %v, though the client sends to %v", name, what, m.ends[1].peer, want)
		}
		m.say(1, "\x80\x00 of the client")
	}
}

// sipMediaBegin is sipMediaFlows, but the client begins: what it sends comes from where the
// server is to send to.
func sipMediaBegin(w *world, at *place, name string, mine, theirs uint16, toClient, toServer netip.AddrPort) {
	for n, what := range []string{" rtp", " rtcp"} {
		d := uint16(n)
		m := w.begin(name+what, flow.UDP, A, netip.AddrPortFrom(at.client, mine+d), netip.AddrPortFrom(toServer.Addr(), toServer.Port()+d))
		m.say(0, "\x80\x00 of the client")
		if !m.ends[1].seen {
			continue
		}
		if m.ends[1].own != netip.AddrPortFrom(at.server, theirs+d) {
			w.wrong = append(w.wrong, fmt.Sprintf("%s%s comes to %v", name, what, m.ends[1].own))
		}
		if want := netip.AddrPortFrom(toClient.Addr(), toClient.Port()+d); m.ends[1].peer != want {
			w.wrong = append(w.wrong, fmt.Sprintf("%s%s comes from %v, though the server is to send to %v", name, what, m.ends[1].peer, want))
		}
		m.say(1, "\x80\x00 of the server")
	}
}

// sipFlowsHeard says that n media have come through both ways.
func sipFlowsHeard(n int) func(w *world, at *place) string {
	return func(w *world, _ *place) string {
		heard := 0
		for _, m := range w.wires {
			if strings.Contains(m.name, "rt") && m.ends[0].heard != "" && m.ends[1].heard != "" {
				heard++
			}
		}
		if heard != n {
			return fmt.Sprintf("%d of %d streams of media come through", heard, n)
		}
		return ""
	}
}

var sipScripts = []helperScript{
	{
		name: "sip INVITE", families: both4and6, helper: "sip", proto: "udp", port: 5060,
		run: func(w *world, at *place) {
			c := sipWire(w, at)
			toClient, toServer := sipInvites(w, at, c, 1, []string{"audio 4000"}, []string{"audio 6000"})
			if len(toClient) == 1 && len(toServer) == 1 {
				sipMediaFlows(w, at, "audio", 4000, 6000, toClient[0], toServer[0])
			}
			w.look()
			c.say(0, sipRequest(at, "BYE", 2, ""))
			c.say(1, sipAnswer(at, "200 OK", c.ends[1].heard, ""))
			w.look()
		},
		holds: sipFlowsHeard(2),
	},
	{
		name: "sip several media", families: both4and6, helper: "sip", proto: "udp", port: 5060,
		run: func(w *world, at *place) {
			c := sipWire(w, at)
			mine, theirs := []uint16{4000, 4002}, []uint16{6000, 6010}
			toClient, toServer := sipInvites(w, at, c, 1, []string{"audio 4000", "video 4002"}, []string{"audio 6000", "video 6010"})
			if len(toClient) == 2 && len(toServer) == 2 {
				for i, name := range []string{"audio", "video"} {
					sipMediaFlows(w, at, name, mine[i], theirs[i], toClient[i], toServer[i])
				}
			}
			w.look()
		},
		holds: sipFlowsHeard(4),
	},
	{ // refused: nothing stays expected
		name: "sip refused", families: both4and6, helper: "sip", proto: "udp", port: 5060, holds: nothingComes,
		run: func(w *world, at *place) {
			c := sipWire(w, at)
			c.say(0, sipRequest(at, "INVITE", 1, sdp(at.client, "audio 4000")))
			w.look()
			c.say(1, sipAnswer(at, "486 Busy Here", c.ends[1].heard, ""))
			w.look()
			c.say(0, sipRequest(at, "ACK", 1, ""))
		},
	},
	{ // the same request again, before the answer and behind it
		name: "sip INVITE again", families: both4and6, helper: "sip", proto: "udp", port: 5060,
		run: func(w *world, at *place) {
			c := sipWire(w, at)
			c.say(0, sipRequest(at, "INVITE", 1, sdp(at.client, "audio 4000")))
			c.again(0)
			w.look()
			c.say(1, sipAnswer(at, "200 OK", c.ends[1].heard, sdp(at.server, "audio 6000"), "Contact: <sip:bob@"+sipHost(at.server)+":5060>"))
			c.again(1)
			w.look()
		},
	},
	{ // a hold and a second description (RFC 3264, 8.4)
		name: "sip re-INVITE", families: both4and6, helper: "sip", proto: "udp", port: 5060,
		run: func(w *world, at *place) {
			c := sipWire(w, at)
			toClient, toServer := sipInvites(w, at, c, 1, []string{"audio 4000"}, []string{"audio 6000"})
			if len(toClient) == 1 && len(toServer) == 1 {
				sipMediaFlows(w, at, "audio", 4000, 6000, toClient[0], toServer[0])
			}
			toClient, toServer = sipInvites(w, at, c, 2, []string{"audio 4100"}, []string{"audio 6100"})
			if len(toClient) == 1 && len(toServer) == 1 {
				sipMediaFlows(w, at, "audio 2", 4100, 6100, toClient[0], toServer[0])
			}
			w.look()
		},
		holds: sipFlowsHeard(4),
	},
	{ // the client's sound begins: it leaves from where it is awaited
		name: "sip client begins", families: both4and6, helper: "sip", proto: "udp", port: 5060,
		run: func(w *world, at *place) {
			c := sipWire(w, at)
			toClient, toServer := sipInvites(w, at, c, 1, []string{"audio 4000"}, []string{"audio 6000"})
			if len(toClient) == 1 && len(toServer) == 1 {
				sipMediaBegin(w, at, "audio", 4000, 6000, toClient[0], toServer[0])
			}
			w.look()
		},
		holds: sipFlowsHeard(2),
	},
	{ // a registration, by which the registrar's own requests are expected
		name: "sip REGISTER", families: both4and6, helper: "sip", proto: "udp", port: 5060,
		run: func(w *world, at *place) {
			c := sipWire(w, at)
			c.say(0, sipRequest(at, "REGISTER", 1, "", "Expires: 1800"))
			request := c.ends[1].heard
			w.look()
			contact := regexp.MustCompile(`(?m)^Contact: (.*)\r\n`).FindStringSubmatch(request)
			if contact == nil {
				return
			}
			c.say(1, sipAnswer(at, "200 OK", request, "", "Contact: "+contact[1]+";expires=1800", "Expires: 1800"))
			w.look()
			c.say(0, sipRequest(at, "REGISTER", 2, "", "Expires: 0"))
			c.say(1, sipAnswer(at, "200 OK", c.ends[1].heard, "", "Expires: 0"))
			w.look()
		},
	},
}

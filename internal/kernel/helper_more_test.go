package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

var helperScripts = slices.Concat(ftpScripts, ircScripts, tftpScripts, amandaScripts, saneScripts, pptpScripts, sipScripts)

var dcc = regexp.MustCompile(`DCC (?:\S+) (?:\S+) (\d+) (\d+)`)

// dccOffer reads what a DCC offer names.
func dccOffer(text string) netip.AddrPort {
	var ip uint32
	var port uint16
	if m := dcc.FindStringSubmatch(text); m != nil {
		fmt.Sscan(m[1], &ip)
		fmt.Sscan(m[2], &port)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, ip))), port)
}

// ircLogin begins a connection to an IRC server.
func ircLogin(w *world, at *place) *wire {
	c := w.dial("irc", A, netip.AddrPortFrom(at.client, 40001), netip.AddrPortFrom(at.knows, 6667))
	c.say(0, "NICK alice\r\nUSER alice 0 * :Alice\r\n")
	c.say(1, ":server 001 alice :welcome\r\n")
	return c
}

// ircOffer has the client offer something in the words given, by DCC, and somebody else
// connect to what was offered.
func ircOffer(words string) func(w *world, at *place) {
	return func(w *world, at *place) {
		c := ircLogin(w, at)
		ip := binary.BigEndian.Uint32(at.client.AsSlice())
		c.say(0, fmt.Sprintf("PRIVMSG bob :\x01DCC "+words+"\x01\r\n", ip, 50000))
		to := dccOffer(c.ends[1].heard)
		w.look()
		c.say(1, ":server NOTICE alice :sent\r\n")
		d := w.dial("data", B, netip.AddrPortFrom(at.other, 41000), to)
		if at.how == "dnat" { // shards whose address is only asked for may need another port for answers to come to them
			w.drawAt(d.ends[1].peer)
		}
		ftpTransfer(w, d, 1)
		c.say(0, "QUIT\r\n")
		c.close()
	}
}

func atClient(w *world, at *place) string { return arrivedAt(w, at.client, 50000, 0) }

var ircScripts = []helperScript{
	{name: "irc SEND", families: only4, helper: "irc", proto: "tcp", port: 6667, run: ircOffer("SEND file.txt %d %d 1234"), holds: atClient},
	{name: "irc CHAT", families: only4, helper: "irc", proto: "tcp", port: 6667, run: ircOffer("CHAT chat %d %d"), holds: atClient},
	{name: "irc MOVE", families: only4, helper: "irc", proto: "tcp", port: 6667, run: ircOffer("MOVE file.txt %d %d"), holds: atClient},
	{name: "irc TSEND", families: only4, helper: "irc", proto: "tcp", port: 6667, run: ircOffer("TSEND file.txt %d %d 1234"), holds: atClient},
	{name: "irc SCHAT", families: only4, helper: "irc", proto: "tcp", port: 6667, run: ircOffer("SCHAT chat %d %d"), holds: atClient},
	{ // for somebody else's address nothing is expected
		name: "irc bounce", families: only4, helper: "irc", proto: "tcp", port: 6667,
		run: func(w *world, at *place) {
			c := ircLogin(w, at)
			c.say(0, "PRIVMSG bob :\x01DCC SEND file 16909060 50000 1234\x01\r\n")
			w.look()
		},
		holds: nothingComes,
	},
	{ // what the server says of others is not read
		name: "irc from the server", families: only4, helper: "irc", proto: "tcp", port: 6667,
		run: func(w *world, at *place) {
			c := ircLogin(w, at)
			ip := binary.BigEndian.Uint32(at.other.AsSlice())
			c.say(1, fmt.Sprintf(":bob PRIVMSG alice :\x01DCC SEND file.txt %d 50000 1234\x01\r\n", ip))
			w.look()
			w.dial("other", A, netip.AddrPortFrom(at.client, 41000), netip.AddrPortFrom(at.other, 50000))
		},
	},
}

// tftpRequest has the client ask for a file, and the server answer from another port.
func tftpRequest(op byte) func(w *world, at *place) {
	return func(w *world, at *place) {
		c := w.begin("request", 17, A, netip.AddrPortFrom(at.client, 40001), netip.AddrPortFrom(at.knows, 69))
		c.say(0, "\x00"+string(op)+"file\x00octet\x00")
		w.look()
		d := w.begin("data", 17, B, netip.AddrPortFrom(at.server, 51000), c.ends[1].peer)
		d.say(0, "\x00\x03\x00\x01some data")
		if d.ends[1].seen {
			d.say(1, "\x00\x04\x00\x01")
			d.say(0, "\x00\x03\x00\x02 and more")
		}
		w.look()
		c.again(0) // a request again, while the data connection is there
		w.look()
	}
}

func tftpArrives(w *world, at *place) string {
	if d := w.wires[1]; d.ends[1].own != netip.AddrPortFrom(at.client, 40001) {
		return fmt.Sprintf("the data comes to %v", d.ends[1].own)
	}
	return ""
}

var tftpScripts = []helperScript{
	{name: "tftp read", families: both4and6, helper: "tftp", proto: "udp", port: 69, run: tftpRequest(1), holds: tftpArrives},
	{name: "tftp write", families: both4and6, helper: "tftp", proto: "udp", port: 69, run: tftpRequest(2), holds: tftpArrives},
	{
		name: "tftp anything else", families: both4and6, helper: "tftp", proto: "udp", port: 69, holds: nothingComes,
		run: func(w *world, at *place) {
			c := w.begin("request", 17, A, netip.AddrPortFrom(at.client, 40001), netip.AddrPortFrom(at.knows, 69))
			for _, d := range []string{"\x00\x03\x00\x01data", "\x00", "\x00\x05\x00\x01no\x00", "\x01\x00"} {
				c.say(0, d)
			}
			w.look()
		},
	},
}

var amandaScripts = []helperScript{
	{
		name: "amanda", families: both4and6, helper: "amanda", proto: "udp", port: 10080,
		run: func(w *world, at *place) {
			c := w.begin("service", 17, A, netip.AddrPortFrom(at.client, 850), netip.AddrPortFrom(at.knows, 10080))
			c.say(0, "Amanda 2.4 REQ HANDLE 000-65637373 SEQ 954568800\nSERVICE sendbackup\n")
			c.say(1, "Amanda 2.4 ACK HANDLE 000-65637373 SEQ 954568800\n")
			c.say(1, "Amanda 2.4 REP HANDLE 000-65637373 SEQ 954568800\nCONNECT DATA 50001 MESG 50002 INDEX 50003\nOPTIONS features=ffff;\n")
			w.look()
			m := regexp.MustCompile(`DATA (\d+) MESG (\d+) INDEX (\d+)`).FindStringSubmatch(c.ends[0].heard)
			if m == nil {
				w.wrong = append(w.wrong, fmt.Sprintf("the answer comes as %q", c.ends[0].heard))
				return
			}
			for i := range 3 {
				var port uint16
				fmt.Sscan(m[i+1], &port)
				d := w.dial("data", A, netip.AddrPortFrom(at.client, uint16(860+i)), netip.AddrPortFrom(at.knows, port))
				if d.up {
					d.say(i%2, "some data and more")
				}
			}
		},
		holds: func(w *world, at *place) string {
			for i, d := range w.wires[1:] {
				if d.ends[1].own != netip.AddrPortFrom(at.server, uint16(50001+i)) {
					return fmt.Sprintf("connection %d comes to %v", i, d.ends[1].own)
				}
			}
			return ""
		},
	},
}

var saneScripts = []helperScript{
	{
		name: "sane", families: both4and6, helper: "sane", proto: "tcp", port: 6566, ownNAT: true,
		run: func(w *world, at *place) {
			c := w.dial("control", A, netip.AddrPortFrom(at.client, 40001), netip.AddrPortFrom(at.knows, 6566))
			c.say(0, "\x00\x00\x00\x00\x01\x00\x00\x03\x00\x00\x00\x05user\x00") // SANE_NET_INIT
			c.say(1, "\x00\x00\x00\x00\x01\x00\x00\x03")
			c.say(0, "\x00\x00\x00\x07\x00\x00\x00\x00") // SANE_NET_START
			c.say(1, "\x00\x00\x00\x00\x00\x00\xc3\x50\x00\x00\x12\x34\x00\x00\x00\x00")
			w.look()
			d := w.dial("data", A, netip.AddrPortFrom(at.client, 40100), netip.AddrPortFrom(at.knows, 50000))
			ftpTransfer(w, d, 1)
			c.close()
		},
		holds: func(w *world, at *place) string { return arrivedAt(w, at.server, 50000, 0) },
	},
	{ // the server is busy: no port
		name: "sane refused", families: both4and6, helper: "sane", proto: "tcp", port: 6566, holds: nothingComes,
		run: func(w *world, at *place) {
			c := w.dial("control", A, netip.AddrPortFrom(at.client, 40001), netip.AddrPortFrom(at.knows, 6566))
			c.say(0, "\x00\x00\x00\x07\x00\x00\x00\x00")
			c.say(1, "\x00\x00\x00\x03\x00\x00\xc3\x50\x00\x00\x12\x34\x00\x00\x00\x00")
			w.look()
		},
	},
}

// PPTP control messages (RFC 2637, 2).
const (
	pptpStartRequest = 1
	pptpStartReply   = 2
	pptpCallRequest  = 7
	pptpCallReply    = 8
	pptpClear        = 12
	pptpDisconnect   = 13
	pptpLinkInfo     = 15
)

// pptp makes a control message, with the given 16 bit words behind its type.
func pptp(typ uint16, words ...uint16) string {
	b := binary.BigEndian.AppendUint16(nil, 0)
	b = append(b, 0, 1, 0x1a, 0x2b, 0x3c, 0x4d)
	b = append(binary.BigEndian.AppendUint16(b, typ), 0, 0)
	for _, w := range words {
		b = binary.BigEndian.AppendUint16(b, w)
	}
	size := map[uint16]int{pptpStartRequest: 156, pptpStartReply: 156, pptpCallRequest: 168, pptpCallReply: 32, pptpClear: 16, pptpDisconnect: 148, pptpLinkInfo: 24}[typ]
	b = append(b, make([]byte, size-len(b))...)
	binary.BigEndian.PutUint16(b, uint16(size))
	return string(b)
}

// showPPTP writes call ids so that they can be told from other numbers.
func showPPTP(b []byte) string {
	if len(b) < 16 {
		return fmt.Sprintf("%x", b)
	}
	calls := map[uint16]int{pptpCallRequest: 1, pptpCallReply: 2, pptpClear: 1, pptpDisconnect: 1, pptpLinkInfo: 1}[binary.BigEndian.Uint16(b[8:])]
	text := fmt.Sprintf("%x", b[:12])
	for i := range calls {
		text += fmt.Sprintf(" call %d", binary.BigEndian.Uint16(b[12+2*i:]))
	}
	return text + fmt.Sprintf(" %x", b[12+2*calls:])
}

// pptpCall sets a tunnel up with these call ids, and returns them as the other side of each
// knows them.
func pptpCall(w *world, at *place, c *wire, client, server uint16) (clientAs, serverAs uint16) {
	w.show = showPPTP
	c.say(0, pptp(pptpStartRequest, 0x0100, 0, 0, 1, 0, 1))
	c.say(1, pptp(pptpStartReply, 0x0100, 0x0100, 0, 1, 0, 1))
	c.say(0, pptp(pptpCallRequest, client, 1))
	if len(c.ends[1].heard) < 14 {
		return 0, 0
	}
	clientAs = binary.BigEndian.Uint16([]byte(c.ends[1].heard[12:]))
	if clientAs != client {
		w.drawCall(clientAs)
	}
	c.say(1, pptp(pptpCallReply, server, clientAs, 0x0100))
	if len(c.ends[0].heard) < 16 {
		return 0, 0
	}
	if back := binary.BigEndian.Uint16([]byte(c.ends[0].heard[14:])); back != client {
		w.wrong = append(w.wrong, fmt.Sprintf("the client's call %d is answered as %d", client, back))
	}
	if serverAs = binary.BigEndian.Uint16([]byte(c.ends[0].heard[12:])); serverAs != server {
		w.drawCall(serverAs)
	}
	w.look()
	c.say(0, pptp(pptpLinkInfo, serverAs, 0, 0xffff, 0xffff, 0xffff, 0xffff))
	c.say(1, pptp(pptpLinkInfo, clientAs, 0, 0xffff, 0xffff, 0xffff, 0xffff))
	return clientAs, serverAs
}

// pptpTunnel sends packets of a tunnel in both directions; first is the side of the first.
func pptpTunnel(w *world, at *place, first Side, client, clientAs, server, serverAs uint16) {
	for n := range 4 {
		if Side(n&1)^first == A {
			if id, as, to := w.gre(A, at.client, at.knows, serverAs, "up"); as.IsValid() && (id != server || as != at.seen || to != at.server) {
				w.wrong = append(w.wrong, fmt.Sprintf("the server of call %d gets call %d of %v to %v", server, id, as, to))
			}
			continue
		}
		if n == 0 && at.how != "none" { // pptp_expectfn looks for the expectation of the other direction by the translated tuple
			w.stale = fmt.Sprintf("proto=47 src=%v ", at.client)
		}
		if id, as, to := w.gre(B, at.server, at.seen, clientAs, "down"); as.IsValid() && (id != client || as != at.knows || to != at.client) {
			w.wrong = append(w.wrong, fmt.Sprintf("the client of call %d gets call %d of %v to %v", client, id, as, to))
		}
	}
	w.look()
}

// pptpScript is a call whose tunnel one of the sides begins.
func pptpScript(first Side) func(w *world, at *place) {
	return func(w *world, at *place) {
		c := w.dial("control", A, netip.AddrPortFrom(at.client, 40001), netip.AddrPortFrom(at.knows, 1723))
		const client, server = 3000, 5000
		clientAs, serverAs := pptpCall(w, at, c, client, server)
		pptpTunnel(w, at, first, client, clientAs, server, serverAs)
		c.say(0, pptp(pptpClear, client))
		c.say(1, pptp(pptpDisconnect, server))
		w.look()
		c.close()
	}
}

// pptpPasses says that packets of the tunnel have come through in both directions.
func pptpPasses(w *world, _ *place) string {
	n := 0
	for _, note := range w.notes {
		if strings.HasPrefix(note.text, "GRE: of ") {
			n++
		}
	}
	if n < 4 {
		return fmt.Sprintf("%d of 4 packets of the tunnel have come through", n)
	}
	return ""
}

var pptpScripts = []helperScript{
	{name: "pptp from the client", families: only4, helper: "pptp", proto: "tcp", port: 1723, run: pptpScript(A), holds: pptpPasses},
	{name: "pptp from the server", families: only4, helper: "pptp", proto: "tcp", port: 1723, run: pptpScript(B), holds: pptpPasses},
}

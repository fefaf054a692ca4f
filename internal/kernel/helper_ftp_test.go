package kernel

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

var (
	both4and6 = []flow.Family{flow.IPv4, flow.IPv6}
	only4     = []flow.Family{flow.IPv4}
)

// ftpLogin begins a control connection, each from a port of its own.
func ftpLogin(w *world, at *place) *wire {
	c := w.dial("control", A, netip.AddrPortFrom(at.client, uint16(40001+len(w.wires))), netip.AddrPortFrom(at.knows, 21))
	c.say(1, "220 ready\r\n")
	c.say(0, "USER anonymous\r\n")
	c.say(1, "230 come in\r\n")
	return c
}

// ftpTransfer is what a data connection does: an end sends, and both close.
func ftpTransfer(w *world, d *wire, sender int) {
	if !d.up {
		return
	}
	d.say(sender, "some data")
	w.look()
	d.say(sender, " and more")
	d.close()
}

// ftpActive has the client announce a port in the form given, and the server connect there.
func ftpActive(w *world, at *place, c *wire, port uint16, form func(netip.AddrPort) string, read func(string) netip.AddrPort) *wire {
	c.say(0, form(netip.AddrPortFrom(at.client, port)))
	to := read(c.ends[1].heard)
	w.look()
	c.say(1, "200 do that\r\n")
	c.say(0, "RETR file\r\n")
	c.say(1, "150 here it comes\r\n")
	return w.dial("data", B, netip.AddrPortFrom(at.server, 20), to)
}

func ftpPORT(a netip.AddrPort) string { return "PORT " + asSix(a) + "\r\n" }

func ftpEPRT(a netip.AddrPort) string {
	n := 1
	if a.Addr().Is6() {
		n = 2
	}
	return fmt.Sprintf("EPRT |%d|%v|%d|\r\n", n, a.Addr(), a.Port())
}

// ftpPassive has the server announce a port, and the client connect there.
func ftpPassive(w *world, at *place, c *wire, port uint16) *wire {
	c.say(0, "PASV\r\n")
	c.say(1, "227 Entering Passive Mode ("+asSix(netip.AddrPortFrom(at.server, port))+").\r\n")
	to := sixNumbers(c.ends[0].heard)
	w.look()
	return w.dial("data", A, netip.AddrPortFrom(at.client, 40100), to)
}

// ftpExtended is ftpPassive by EPSV.
func ftpExtended(w *world, at *place, c *wire, port uint16) *wire {
	c.say(0, "EPSV\r\n")
	c.say(1, fmt.Sprintf("229 Entering Extended Passive Mode (|||%d|)\r\n", port))
	to := netip.AddrPortFrom(at.knows, extended(c.ends[0].heard).Port())
	w.look()
	return w.dial("data", A, netip.AddrPortFrom(at.client, 40100), to)
}

// arrivedAt says what is wrong with the last wire: it has to have come about, with the two
// parts of ftpTransfer, at an end with the given address.
func arrivedAt(w *world, a netip.Addr, port uint16, receiver int) string {
	d := w.wires[len(w.wires)-1]
	if !d.up {
		return "the data connection does not come about"
	}
	if got := d.ends[1].own; got != netip.AddrPortFrom(a, port) {
		return fmt.Sprintf("the data connection comes to %v, not %v:%d", got, a, port)
	}
	if got := strings.TrimRight(string(d.ends[receiver].got), "\x00"); got != "some data and more" {
		return fmt.Sprintf("%q was received", got)
	}
	return ""
}

// nothingComes says that there is no expectation and was no data connection.
func nothingComes(w *world, _ *place) string {
	if d := w.wires[len(w.wires)-1]; d.name == "data" && d.up {
		return "a data connection came about that nobody may expect"
	}
	if all := w.expects(); len(all) > 0 {
		return fmt.Sprintf("expected: %q", all)
	}
	return ""
}

var ftpScripts = []helperScript{
	{
		name: "ftp PORT", families: only4, helper: "ftp", proto: "tcp", port: 21,
		run: func(w *world, at *place) {
			c := ftpLogin(w, at)
			ftpTransfer(w, ftpActive(w, at, c, 50000, ftpPORT, sixNumbers), 0)
			c.say(1, "226 done\r\n")
			c.say(0, "QUIT\r\n")
			c.close()
		},
		holds: func(w *world, at *place) string { return arrivedAt(w, at.client, 50000, 1) },
	},
	{
		name: "ftp EPRT", families: both4and6, helper: "ftp", proto: "tcp", port: 21,
		run: func(w *world, at *place) {
			c := ftpLogin(w, at)
			ftpTransfer(w, ftpActive(w, at, c, 50000, ftpEPRT, extended), 0)
			c.say(1, "226 done\r\n")
			c.close()
		},
		holds: func(w *world, at *place) string { return arrivedAt(w, at.client, 50000, 1) },
	},
	{
		name: "ftp PASV", families: only4, helper: "ftp", proto: "tcp", port: 21,
		run: func(w *world, at *place) {
			c := ftpLogin(w, at)
			ftpTransfer(w, ftpPassive(w, at, c, 60000), 1)
			c.say(1, "226 done\r\n")
			c.close()
		},
		holds: func(w *world, at *place) string { return arrivedAt(w, at.server, 60000, 0) },
	},
	{
		name: "ftp EPSV", families: both4and6, helper: "ftp", proto: "tcp", port: 21,
		run: func(w *world, at *place) {
			c := ftpLogin(w, at)
			ftpTransfer(w, ftpExtended(w, at, c, 60000), 1)
			c.say(1, "226 done\r\n")
			c.close()
		},
		holds: func(w *world, at *place) string { return arrivedAt(w, at.server, 60000, 0) },
	},
	{ // several, one longer and one shorter than what it becomes, and all is acknowledged between them
		name: "ftp PORT many", families: only4, helper: "ftp", proto: "tcp", port: 21,
		run: func(w *world, at *place) {
			c := ftpLogin(w, at)
			for n, port := range []uint16{50000, 5000, 1025, 65535, 50001} {
				c.say(0, ftpPORT(netip.AddrPortFrom(at.client, port)))
				c.say(1, "200 do that\r\n")
				if n == 2 {
					c.say(1, "200 and that\r\n")
				}
			}
			w.look()
			ftpTransfer(w, ftpActive(w, at, c, 50002, ftpPORT, sixNumbers), 0)
			c.say(1, "226 done\r\n")
			c.close()
		},
		holds: func(w *world, at *place) string { return arrivedAt(w, at.client, 50002, 1) },
	},
	{ // what is sent once more is read once more
		name: "ftp PORT again", families: only4, helper: "ftp", proto: "tcp", port: 21,
		run: func(w *world, at *place) {
			c := ftpLogin(w, at)
			c.say(0, ftpPORT(netip.AddrPortFrom(at.client, 50000)))
			c.again(0)
			c.ack(1)
			w.look()
			c.say(1, "200 do that\r\n")
			c.again(1)
			c.say(0, "NOOP\r\n")
			c.again(0)
			c.say(1, "200 done\r\n")
			ftpTransfer(w, ftpActive(w, at, c, 50000, ftpPORT, sixNumbers), 0)
			c.close()
		},
		holds: func(w *world, at *place) string { return arrivedAt(w, at.client, 50000, 1) },
	},
	{ // a segment behind an edit is lost on its way from the router, and acknowledged selectively what came behind it
		name: "ftp PORT and SACK", families: only4, helper: "ftp", proto: "tcp", port: 21,
		run: func(w *world, at *place) {
			c := ftpLogin(w, at)
			c.say(0, ftpPORT(netip.AddrPortFrom(at.client, 50000)))
			c.say(1, "200 do that\r\n")
			lost := "NOOP\r\n"
			e := &c.ends[0]
			seq := e.next()
			w.lose = true
			c.tell(0, lost)
			c.tell(0, "SYST\r\n")
			if gap := c.ends[1].sack; len(gap) == 2 {
				o := &c.ends[1]
				option := []byte{1, 1, 5, 10, byte(gap[0] >> 24), byte(gap[0] >> 16), byte(gap[0] >> 8), byte(gap[0]), byte(gap[1] >> 24), byte(gap[1] >> 16), byte(gap[1] >> 8), byte(gap[1])}
				c.segment(1, packet.Segment{Seq: o.next(), Ack: o.expects(), Flags: packet.ACK, Options: option})
			}
			c.segment(0, packet.Segment{Seq: seq, Ack: e.expects(), Flags: packet.ACK | packet.PSH, Payload: []byte(lost + "SYST\r\n")})
			c.ack(1)
		},
		holds: func(w *world, _ *place) string {
			c := w.wires[0]
			if got := string(c.ends[1].got); !strings.HasSuffix(got, "\r\nNOOP\r\nSYST\r\n") {
				return fmt.Sprintf("the server has %q", got)
			}
			if got := int(c.ends[0].acked); got != len(c.ends[0].sent) {
				return fmt.Sprintf("the client has sent %d bytes, of which %d are acknowledged", len(c.ends[0].sent), got)
			}
			return ""
		},
	},
	{ // H2: to another host
		name: "ftp bounce", families: only4, helper: "ftp", proto: "tcp", port: 21,
		run: func(w *world, at *place) {
			c := ftpLogin(w, at)
			c.say(0, ftpPORT(netip.AddrPortFrom(A.Host(2, flow.IPv4), 50000)))
			w.look()
			w.dial("data", B, netip.AddrPortFrom(at.server, 20), netip.AddrPortFrom(A.Host(2, flow.IPv4), 50000))
		},
		holds: nothingComes,
	},
	{ // one expectation is for one connection
		name: "ftp PASV twice", families: only4, helper: "ftp", proto: "tcp", port: 21,
		run: func(w *world, at *place) {
			c := ftpLogin(w, at)
			ftpTransfer(w, ftpPassive(w, at, c, 60000), 1)
			w.dial("second", A, netip.AddrPortFrom(at.client, 40101), w.wires[1].ends[0].peer)
		},
	},
	{ // the master goes, and with it what it expects; the children stay
		name: "ftp master resets", families: only4, helper: "ftp", proto: "tcp", port: 21,
		run: func(w *world, at *place) {
			c := ftpLogin(w, at)
			d := ftpActive(w, at, c, 50000, ftpPORT, sixNumbers)
			c.say(0, ftpPORT(netip.AddrPortFrom(at.client, 50001)))
			late := sixNumbers(c.ends[1].heard)
			w.look()
			c.reset(0)
			if d.up {
				d.say(0, "some data")
				d.say(1, "thanks")
			}
			w.look()
			_ = late
		},
	},
	{ // two clients announce the same port
		name: "ftp PORT of two", families: only4, helper: "ftp", proto: "tcp", port: 21, only: []string{"masquerade", "snat", "both"},
		run: func(w *world, at *place) {
			c := ftpLogin(w, at)
			c.say(0, ftpPORT(netip.AddrPortFrom(at.client, 50000)))
			first := sixNumbers(c.ends[1].heard)
			second := *at
			second.client = A.Host(2, flow.IPv4)
			o := ftpLogin(w, &second)
			o.tell(0, ftpPORT(netip.AddrPortFrom(second.client, 50000)))
			to := sixNumbers(o.ends[1].heard)
			w.draw(to.Port())
			o.ack(1)
			w.look()
			d := w.dial("data", B, netip.AddrPortFrom(at.server, 20), to)
			ftpTransfer(w, d, 0)
			if first == to {
				w.wrong = append(w.wrong, "both have the same port")
			}
			ftpTransfer(w, w.dial("data", B, netip.AddrPortFrom(at.server, 20), first), 0)
		},
		holds: func(w *world, at *place) string {
			if got := w.wires[2].ends[1].own; got != netip.AddrPortFrom(A.Host(2, flow.IPv4), 50000) {
				return fmt.Sprintf("the second client's data comes to %v", got)
			}
			return arrivedAt(w, at.client, 50000, 1)
		},
	},
}

package helper

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"strconv"

	"github.com/xdpct/xdpct/flow"
)

// sipWriter collects what is to be read otherwise in a message.
type sipWriter struct {
	m     *Message
	msg   *sipMessage
	edits []Edit
}

func (w *sipWriter) replace(at span, with string) {
	w.edits = append(w.edits, Edit{at.At, at.len(), []byte(with)})
}

// told replaces an address and port if the peer knows them otherwise.
func (w *sipWriter) told(at span, is, told netip.AddrPort) {
	if told != is {
		w.replace(at, told.String())
	}
}

// addr maps the address of a URI (nf_nat_sip map_addr): the two ends of the connection are
// known to the receiver by other addresses, everybody else is not.
func (w *sipWriter) addr(a *sipAddr) {
	c, d := w.m.Conn, w.m.Dir
	if a.host.len() == 0 || !a.addr.IsValid() {
		return
	}
	switch a.addr {
	case c.Self(d):
		w.told(a.host, a.addr, c.Seen(d))
	case c.Peer(d):
		w.told(a.host, a.addr, c.Self(d.Other()))
	}
}

// headers maps the request's URI and the headers that name the ends of this connection. Those
// of a path (Route, Record-Route) are not read, as in Linux.
func (w *sipWriter) headers() {
	if w.msg.request {
		w.addr(&w.msg.uri)
	}
	w.via()
	for i := range w.msg.contacts {
		w.addr(&w.msg.contacts[i])
	}
	w.addr(&w.msg.from)
	w.addr(&w.msg.to)
}

// via maps the topmost Via if it is of this connection: in a request it names its sender, in
// a response its receiver.
func (w *sipWriter) via() {
	c, d, v := w.m.Conn, w.m.Dir, &w.msg.via
	own := c.Peer(d)
	if w.msg.request {
		own = c.Self(d)
	}
	if v.proto != c.Proto || v.sentBy.addr != own {
		return
	}
	w.addr(&v.sentBy)
	if a := v.maddr.addr.Addr(); a == c.Self(d).Addr() && a != c.Seen(d).Addr() {
		w.replace(v.maddr.host, bracketed(c.Seen(d).Addr()))
	}
	peer, self := c.Peer(d), c.Self(d.Other())
	if a := v.received.addr.Addr(); a == peer.Addr() && a != self.Addr() {
		w.replace(v.received.host, self.Addr().String())
	}
	if v.rport.len() > 0 && v.port == uint64(peer.Port()) && peer.Port() != self.Port() {
		w.replace(v.rport, strconv.Itoa(int(self.Port())))
	}
}

func bracketed(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

// media expects the media of a session description and rewrites it. Whose address is not the
// sender's own is left alone.
func (w *sipWriter) media(s *sdpSession) (ok bool) {
	c, d := w.m.Conn, w.m.Dir
	self := c.Self(d).Addr()
	own := false
	seen := c.Seen(d).Addr()
	for i := range s.n {
		x := &s.media[i]
		if s.where(x) != self {
			continue
		}
		told, ok := w.medium(x, self)
		if !ok {
			return false
		}
		own, seen = true, told
		if x.conn.at.len() > 0 && told != self {
			w.replace(x.conn.at, told.String())
		}
	}
	if s.n == 0 || seen == self {
		return true
	}
	if s.conn.addr == self {
		w.replace(s.conn.at, seen.String())
	}
	if s.origin.addr == self || own && s.origin.addr.IsValid() && s.origin.addr.Is4() == self.Is4() {
		w.replace(s.origin.at, seen.String())
	}
	return true
}

// medium expects RTP and RTCP of a medium and rewrites its ports.
func (w *sipWriter) medium(x *sdpMedium, self netip.Addr) (told netip.Addr, ok bool) {
	expected := func(port uint16) Expected {
		return Expected{
			Class: x.class, Proto: flow.UDP,
			From: netip.AddrPortFrom(w.m.Conn.Peer(w.m.Dir).Addr(), 0),
			To:   netip.AddrPortFrom(self, port),
		}
	}
	r := &x.rtcp
	foreign := r.conn.at.len() > 0 && r.conn.addr != self
	var rtp, rtcp uint16 // as the peer is told them
	if r.port == 0 || !foreign && r.port == x.port+1 && x.port&1 == 0 {
		base := x.port &^ 1 // as Linux: RTP has the even one
		to, err := w.expect(expected(base), expected(base+1))
		if err != nil {
			return told, false
		}
		told, rtp, rtcp = to.Addr(), to.Port()+x.port-base, to.Port()+1
	} else {
		to, err := w.expect(expected(x.port))
		if err != nil {
			return told, false
		}
		told, rtp = to.Addr(), to.Port()
		if rtcp = r.port; !foreign {
			if to, err = w.expect(expected(r.port)); err != nil {
				return told, false
			}
			rtcp = to.Port()
		}
	}
	if rtp != x.port {
		w.replace(x.at, strconv.Itoa(int(rtp)))
	}
	if r.port != 0 && rtcp != r.port {
		w.replace(r.at, strconv.Itoa(int(rtcp)))
	}
	if r.conn.at.len() > 0 && !foreign && told != self {
		w.replace(r.conn.at, told.String())
	}
	return told, true
}

// expect expects media. What is expected already, of another connection that announces the
// same media, is no reason to leave a message alone whose sender is not translated
// (set_expected_rtp_rtcp, skip_expect).
func (w *sipWriter) expect(x ...Expected) (told netip.AddrPort, err error) {
	told, err = w.m.Env.Expect(w.m, x...)
	if errors.Is(err, ErrClash) && !w.m.Conn.Translated(w.m.Dir) {
		return x[0].To, nil
	}
	return told, err
}

// write makes the edits, in order, and sets Content-Length if the body has another length
// then (mangle_content_len).
func (w *sipWriter) write() {
	grown := 0
	for _, e := range w.edits {
		if e.Off >= w.msg.body.At {
			grown += len(e.With) - e.Len
		}
	}
	if grown != 0 && w.msg.length.len() > 0 {
		w.replace(w.msg.length, strconv.Itoa(w.msg.body.len()+grown))
	}
	slices.SortFunc(w.edits, func(a, b Edit) int { return cmp.Compare(a.Off, b.Off) })
	for _, e := range w.edits {
		w.m.Replace(e.Off, e.Len, e.With)
	}
}

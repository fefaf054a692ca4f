package helper

import (
	"encoding/binary"
	"net/netip"

	"github.com/xdpct/xdpct/flow"
)

// The ids of the three helpers of H.323 in the table of flow.
const (
	h245ID flow.HelperID = 7
	q931ID flow.HelperID = 8
	rasID  flow.HelperID = 9
)

// ras reads H.323's registration, admission and status (H.225.0, nf_conntrack_h323): UDP,
// usually to port 1719. A terminal registers where it can be called, and asks a gatekeeper
// where to call.
func ras() *Helper {
	return &Helper{
		ID: rasID, Protos: []flow.Proto{flow.UDP}, IPv4: true, IPv6: true,
		Classes: []Class{{Max: 32, Timeout: h323Timeout}},
		// Who calls is known as itself (ip_nat_q931_expect).
		Strangers: true,
		New:       func() Session { return new(rasSession) },
	}
}

// q931 reads H.323's call signalling (Q.931 with H.225.0 in its user-user element): TCP,
// usually to port 1720. It announces the H.245 control connection, or has its messages
// inside (tunnelling, fast connect).
func q931() *Helper {
	return &Helper{
		ID: q931ID, Protos: []flow.Proto{flow.TCP}, IPv4: true, IPv6: true,
		Classes: []Class{{Max: 4*h323Channels + 4, Timeout: h323Timeout}},
		Limit:   h323Limit,
		New:     func() Session { return &h323Session{read: (*h323Session).q931} },
	}
}

// h245 reads H.323's control connections (H.245), which open the channels of sound, pictures
// and data. They are expected by q931, and have no port of their own.
func h245() *Helper {
	return &Helper{
		ID: h245ID, Protos: []flow.Proto{flow.TCP}, IPv4: true, IPv6: true,
		Classes: []Class{{Max: 4*h323Channels + 2, Timeout: h323Timeout}},
		Limit:   h323Limit,
		New:     func() Session { return &h323Session{read: (*h323Session).h245} },
	}
}

const (
	h323Channels = 4    // H323_RTP_CHANNEL_MAX
	h323Timeout  = 240  // seconds
	h323Limit    = 8192 // bytes of a message, four times what the largest ones have
)

// h323Session reads TPKTs (RFC 1006 section 6): a version, a zero, a length of 16 bits that
// counts these four bytes, too, and what read reads.
type h323Session struct {
	read func(s *h323Session, m *Message, off int, d []byte) error
	some bool // a message was read before
}

const tpktHeader = 4

func (s *h323Session) Message(m *Message) (int, error) {
	d := m.Data
	bad := ErrProtocol
	if s.some {
		bad = ErrMalformed
	}
	if len(d) > 0 && d[0] != 3 || len(d) > 1 && d[1] != 0 {
		return 0, bad
	}
	if len(d) < tpktHeader {
		return 0, nil
	}
	n := int(binary.BigEndian.Uint16(d[2:]))
	switch {
	case n < tpktHeader:
		return 0, bad
	case n > h323Limit:
		if s.some {
			bad = ErrTooLong
		}
		return 0, bad
	case len(d) < n:
		return 0, nil
	}
	if n > tpktHeader { // an empty one keeps the connection alive
		if err := s.read(s, m, tpktHeader, d[tpktHeader:n]); err != nil {
			return 0, bad
		}
		s.some = true
	}
	return n, nil
}

// h245 reads a message of H.245, which is at an offset of m.Data.
func (s *h323Session) h245(m *Message, off int, d []byte) error {
	found, err := h245Message.decode(d)
	if err != nil {
		return err
	}
	h323Open(m, off, found)
	return nil
}

// Elements of Q.931 (section 4.5).
const (
	q931Discriminator = 0x08
	q931UserUser      = 0x7e
)

// q931 reads a message of Q.931: a discriminator, a call reference behind its length, a type,
// and elements, of which one has the message of H.225.0.
func (s *h323Session) q931(m *Message, off int, d []byte) error {
	at := 2
	if len(d) < at || d[0] != q931Discriminator || d[1] > 15 {
		return errPER
	}
	at += int(d[1]) + 1
	if at > len(d) {
		return errPER
	}
	for at < len(d) {
		id := d[at]
		at++
		switch {
		case id&0x80 != 0: // of one octet
			continue
		case id == q931UserUser:
			// Two octets of length, and the discriminator that counts to what they say.
			if len(d)-at < 3 {
				return errPER
			}
			n := int(binary.BigEndian.Uint16(d[at:]))
			at += 3
			if n < 1 || n-1 > len(d)-at {
				return errPER
			}
			found, err := h225UserUser.decode(d[at : at+n-1])
			if err != nil {
				return err
			}
			h323Signal(m, off+at, found)
			return nil
		}
		if at == len(d) {
			return errPER
		}
		at += 1 + int(d[at])
		if at > len(d) {
			return errPER
		}
	}
	return nil
}

// h323Address returns the address that was found at an offset from off; ok is false if it is
// of the other family than the connection.
func h323Address(m *Message, off int, f perFound) (a netip.AddrPort, ok bool) {
	b := m.Data[off+f.off:][:f.n]
	ip, ok := netip.AddrFromSlice(b[:f.n-2])
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(b[f.n-2:])), ok && flow.FamilyOf(ip) == m.Conn.Family
}

// h323Put has the receiver read another address there.
func h323Put(m *Message, off int, f perFound, a netip.AddrPort) {
	if ip := a.Addr().AsSlice(); len(ip)+2 == f.n {
		m.Replace(off+f.off, f.n, binary.BigEndian.AppendUint16(ip, a.Port()))
	}
}

// h323Translated reports whether either side of the connection is (IPS_NAT_MASK).
func h323Translated(c *Conn) bool {
	return c.Translated(flow.Original) || c.Translated(flow.Reply)
}

// h323Signal reads what was found in a message of call signalling (process_q931).
func h323Signal(m *Message, off int, found []perFound) {
	const callForwarded = 1
	forwarded := false
	for _, f := range found {
		forwarded = forwarded || f.tag == h323Reason && f.val == callForwarded
	}
	for i, f := range found {
		a, ok := netip.AddrPort{}, false
		if f.n > 0 {
			a, ok = h323Address(m, off, f)
		}
		switch f.tag {
		case h323H245Address:
			if ok && !forwarded {
				h323Expect(m, off, f, Expected{Proto: flow.TCP, To: a, Helper: h245ID})
			}
		case h323Forward:
			// It is another's: whether that may be is for the Env to say.
			if ok && forwarded && a.Port() != 0 {
				h323Enter(m, off, f, Expected{Proto: flow.TCP, To: a, Helper: q931ID})
			}
		case h323DestSignal:
			if self := m.Conn.Self(m.Dir.Other()); ok && h323Translated(m.Conn) && a.Addr() != self.Addr() {
				h323Put(m, off, f, self)
			}
		case h323SrcSignal:
			if seen := m.Conn.Seen(m.Dir); ok && h323Translated(m.Conn) && a.Addr() != seen.Addr() {
				h323Put(m, off, f, seen)
			}
		case h323Channel, h323Acked: // fast connect, or tunnelled: channels are the last
			if !forwarded {
				h323Open(m, off, found[i:])
			}
			return
		}
	}
}

// h323Open reads the channels that are opened (process_olc, process_olca).
func h323Open(m *Message, off int, found []perFound) {
	t120 := false
	for _, f := range found {
		switch f.tag {
		case h323Channel:
			t120 = false
		case h323Acked:
			t120 = true
		case h323T120:
			t120 = f.val == h245SeparateLAN
		case h323Media:
			h323RTP(m, off, f)
		case h323Stack:
			if a, ok := h323Address(m, off, f); ok && t120 {
				h323Expect(m, off, f, Expected{Proto: flow.TCP, To: a, Permanent: true})
			}
		}
	}
}

// h323Expect enters what goes to an address of the sender itself, and only that, and has the
// receiver read where it is to go.
func h323Expect(m *Message, off int, f perFound, x Expected) {
	if x.To.Addr() == m.Conn.Self(m.Dir).Addr() && x.To.Port() != 0 {
		h323Enter(m, off, f, x)
	}
}

// h323Enter enters what the receiver may begin, and has it read where that is to go. What is
// refused stays as it was written: it has been counted.
func h323Enter(m *Message, off int, f perFound, x Expected) (told netip.AddrPort, ok bool) {
	x.From = netip.AddrPortFrom(m.Conn.Peer(m.Dir).Addr(), 0)
	told, err := m.Env.Expect(m, x)
	if err != nil {
		return told, false
	}
	h323Put(m, off, f, told)
	return told, true
}

// h323RTP enters RTP and RTCP, of which the address is one or the other: the even port is
// RTP's (expect_rtp_rtcp).
func h323RTP(m *Message, off int, f perFound) {
	a, ok := h323Address(m, off, f)
	if !ok || a.Addr() != m.Conn.Self(m.Dir).Addr() || a.Port() == 0 {
		return
	}
	from := netip.AddrPortFrom(m.Conn.Peer(m.Dir).Addr(), 0)
	rtp := Expected{Proto: flow.UDP, From: from, To: netip.AddrPortFrom(a.Addr(), a.Port()&^1)}
	rtcp := Expected{Proto: flow.UDP, From: from, To: netip.AddrPortFrom(a.Addr(), a.Port()|1)}
	if told, err := m.Env.Expect(m, rtp, rtcp); err == nil {
		h323Put(m, off, f, netip.AddrPortFrom(told.Addr(), told.Port()+a.Port()&1))
	}
}

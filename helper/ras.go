package helper

import (
	"net/netip"

	"github.com/xdpct/xdpct/flow"
)

// rasSession is struct nf_ct_h323_master.
type rasSession struct {
	some bool
	// port is where the one who has registered is called: as it knows that itself, and as the
	// gatekeeper does, each in the direction in which it sends (sig_port).
	port [2]uint16
	told netip.AddrPort // what the gatekeeper was told
	ttl  uint64         // of the registration, in seconds, 0 if there is none
}

const (
	rasDefaultTTL = 300   // default_rrq_ttl
	rasLongestTTL = 86400 // a gatekeeper may say 136 years
	rasAfterURQ   = 30
)

// Message reads a datagram. One that is not RAS turns the helper off if it is the first;
// later ones are none of ours, and change nothing: anybody can forge them.
func (s *rasSession) Message(m *Message) (int, error) {
	found, err := h225RAS.decode(m.Data)
	if err != nil || len(found) == 0 {
		if !s.some {
			return 0, ErrProtocol
		}
		return len(m.Data), nil
	}
	s.some = true
	s.message(m, found[0].val, found[1:])
	return len(m.Data), nil
}

// message reads what was found in a message of a kind (process_ras).
func (s *rasSession) message(m *Message, kind uint64, found []perFound) {
	switch kind {
	case rasGatekeeperRequest, rasLocationRequest:
		s.putRAS(m, found)
	case rasGatekeeperConfirm:
		s.confirmed(m, found)
	case rasRegistrationRequest:
		s.register(m, found)
	case rasRegistrationConfirm:
		s.registered(m, found)
	case rasUnregistrationRequest:
		s.putSignal(m, found)
		m.Env.Forget(m, 0, netip.AddrPort{})
		s.port, s.told, s.ttl = [2]uint16{}, netip.AddrPort{}, 0
		m.Env.Refresh(rasAfterURQ)
	case rasAdmissionRequest:
		s.admit(m, found)
	case rasAdmissionConfirm:
		s.admitted(m, found)
	case rasLocationConfirm:
		if a, f, ok := rasFirst(m, found, h323DestSignal); ok && a.Port() != 0 {
			h323Enter(m, 0, f, Expected{Proto: flow.TCP, To: a, Permanent: true, Helper: q931ID})
		}
	case rasInfoResponse:
		s.putRAS(m, found)
		s.putSignal(m, found)
	}
}

// rasFirst returns the first address that has a tag and is of the connection's family.
func rasFirst(m *Message, found []perFound, tag perTag) (a netip.AddrPort, f perFound, ok bool) {
	for _, f = range found {
		if f.tag == tag && f.n > 0 {
			if a, ok = h323Address(m, 0, f); ok {
				return a, f, true
			}
		}
	}
	return a, f, false
}

// putRAS has the receiver know the sender of the connection by the address that it sees
// (set_ras_addr).
func (s *rasSession) putRAS(m *Message, found []perFound) {
	if !h323Translated(m.Conn) {
		return
	}
	for _, f := range found {
		if f.tag != h323RAS {
			continue
		}
		if a, ok := h323Address(m, 0, f); ok && a == m.Conn.Self(m.Dir) {
			h323Put(m, 0, f, m.Conn.Seen(m.Dir))
			return
		}
	}
}

// putSignal has the receiver know the address of call signalling that was registered as it is
// known there (set_sig_addr).
func (s *rasSession) putSignal(m *Message, found []perFound) {
	if !h323Translated(m.Conn) {
		return
	}
	there := s.port[m.Dir.Other()]
	var first perFound
	for _, f := range found {
		if f.tag != h323Signals && f.tag != h323DestSignal {
			continue
		}
		if first.n == 0 {
			first = f
		}
		a, ok := h323Address(m, 0, f)
		if !ok || a.Port() != s.port[m.Dir] {
			continue
		}
		switch a.Addr() {
		case m.Conn.Self(m.Dir).Addr(): // from who has registered
			if b, ok := h323Address(m, 0, first); ok && b.Addr().IsLoopback() {
				f = first
			}
			h323Put(m, 0, f, netip.AddrPortFrom(m.Conn.Seen(m.Dir).Addr(), there))
			return
		case m.Conn.Peer(m.Dir).Addr(): // from the gatekeeper
			h323Put(m, 0, f, netip.AddrPortFrom(m.Conn.Self(m.Dir.Other()).Addr(), there))
			return
		}
	}
}

// confirmed: a gatekeeper that is to be asked at another address from now on (process_gcf).
func (s *rasSession) confirmed(m *Message, found []perFound) {
	a, f, ok := rasFirst(m, found, h323RAS)
	if !ok || a == m.Conn.Self(m.Dir) || m.Conn.Expected {
		return
	}
	h323Enter(m, 0, f, Expected{Proto: flow.UDP, To: a, Helper: rasID})
}

// register: where the sender is called (process_rrq, expect_q931). Only the gatekeeper may
// (gkrouted_only), and as often as it likes.
func (s *rasSession) register(m *Message, found []perFound) {
	var first perFound
	for _, f := range found {
		if f.tag != h323Signals {
			continue
		}
		if first.n == 0 {
			first = f
		}
		a, ok := h323Address(m, 0, f)
		if !ok || a.Addr() != m.Conn.Self(m.Dir).Addr() || a.Port() == 0 {
			continue
		}
		x := Expected{
			Proto: flow.TCP, From: netip.AddrPortFrom(m.Conn.Peer(m.Dir).Addr(), 0), To: a,
			Permanent: true, Helper: q931ID,
		}
		told, err := m.Env.Expect(m, x)
		if err != nil {
			break
		}
		s.told, s.port = told, [2]uint16{told.Port(), told.Port()}
		s.port[m.Dir] = a.Port()
		// GnomeMeeting has its loopback address in front.
		if b, ok := h323Address(m, 0, first); ok && b.Addr().IsLoopback() && h323Translated(m.Conn) {
			h323Put(m, 0, first, told)
		}
		h323Put(m, 0, f, told)
		break
	}
	s.putRAS(m, found)
	s.ttl = rasDefaultTTL
	for _, f := range found {
		if f.tag == h323TTL {
			s.ttl = f.val
		}
	}
}

// registered: until when (process_rcf).
func (s *rasSession) registered(m *Message, found []perFound) {
	s.putSignal(m, found)
	for _, f := range found {
		if f.tag == h323TTL {
			s.ttl = f.val
		}
	}
	if s.ttl == 0 {
		return
	}
	m.Env.Refresh(uint32(min(s.ttl, rasLongestTTL)))
	if s.told.IsValid() {
		m.Env.Renew(m, 0, s.told, uint32(min(s.ttl, 300)))
	}
}

// admit: who is called, or who calls, as the gatekeeper knows the sender (process_arq).
func (s *rasSession) admit(m *Message, found []perFound) {
	if !h323Translated(m.Conn) {
		return
	}
	self, seen := m.Conn.Self(m.Dir).Addr(), m.Conn.Seen(m.Dir).Addr()
	if a, f, ok := rasFirst(m, found, h323DestSignal); ok && a.Addr() == self && a.Port() == s.port[m.Dir] {
		h323Put(m, 0, f, netip.AddrPortFrom(seen, s.port[m.Dir.Other()]))
		return
	}
	if a, f, ok := rasFirst(m, found, h323SrcSignal); ok && a.Addr() == self {
		h323Put(m, 0, f, netip.AddrPortFrom(seen, a.Port()))
	}
}

// admitted: where the receiver is to call (process_acf). That is mostly another's address.
func (s *rasSession) admitted(m *Message, found []perFound) {
	a, f, ok := rasFirst(m, found, h323DestSignal)
	switch {
	case !ok:
	case a.Addr() == m.Conn.Peer(m.Dir).Addr(): // its own: it is called
		s.putSignal(m, found)
	case a.Port() != 0:
		h323Enter(m, 0, f, Expected{Proto: flow.TCP, To: a, Permanent: true, Helper: q931ID})
	}
}

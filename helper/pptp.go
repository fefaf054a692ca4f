package helper

import (
	"encoding/binary"
	"net/netip"

	"github.com/xdpct/xdpct/flow"
)

// pptpID is the id of "pptp" in the table of flow.
const pptpID flow.HelperID = 6

// pptp reads PPTP control connections (RFC 2637, nf_conntrack_pptp): TCP, usually to port
// 1723. Both sides name a call by an id of their own; what is expected is the GRE tunnel
// between the two ids. As in Linux the client is the PNS and the server the PAC, and of one
// control connection the call that was made last counts.
func pptp() *Helper {
	return &Helper{
		ID: pptpID, Protos: []flow.Proto{flow.TCP}, IPv4: true,
		Classes: []Class{{Max: 2, Timeout: 300}},
		Limit:   pptpLimit,
		New:     func() Session { return new(pptpSession) },
	}
}

const (
	pptpHeader = 12  // bytes in front of what belongs to the message's type
	pptpLimit  = 512 // of a message; the longest of the RFC has 220
	pptpMagic  = 0x1a2b3c4d
)

// The control messages (RFC 2637 section 2).
const (
	pptpStartRequest = 1 + iota
	pptpStartReply
	pptpStopRequest
	pptpStopReply
	pptpEchoRequest
	pptpEchoReply
	pptpOutCallRequest
	pptpOutCallReply
	pptpInCallRequest
	pptpInCallReply
	pptpInCallConnect
	pptpCallClear
	pptpCallDisconnect
	pptpWANError
	pptpSetLink
)

// pptpSizes are the bytes that a message of each type has, header and all. A shorter one is
// not read (pptp_msg_size).
var pptpSizes = [...]int{
	pptpStartRequest: 156, pptpStartReply: 156, pptpStopRequest: 16, pptpStopReply: 16,
	pptpEchoRequest: 16, pptpEchoReply: 20,
	pptpOutCallRequest: 168, pptpOutCallReply: 32,
	pptpInCallRequest: 220, pptpInCallReply: 24, pptpInCallConnect: 28,
	pptpCallClear: 16, pptpCallDisconnect: 148, pptpWANError: 40, pptpSetLink: 24,
}

// Where the fields are. All messages that have one begin with a call id; those with two have
// the peer's behind it.
const (
	pptpCallID       = 12
	pptpPeerCallID   = 14
	pptpStopResult   = 12
	pptpStartResult  = 14
	pptpCallResult   = 16
	pptpResultIsFine = 1 // of all four replies
)

// pptpState is how far the control connection is (enum pptp_ctrlsess_state).
type pptpState uint8

const (
	pptpIdle pptpState = iota
	pptpFailed
	pptpStopping
	pptpRequested
	pptpConfirmed
)

// pptpCall is how far the call is (enum pptp_ctrlcall_state).
type pptpCall uint8

const (
	pptpNoCall pptpCall = iota
	pptpOutRequested
	pptpOutConfirmed
	pptpInRequested
	pptpInReplied
	pptpInConfirmed
	pptpClearing
)

// pptpSession is struct nf_ct_pptp_master and struct nf_nat_pptp.
type pptpSession struct {
	state pptpState
	call  pptpCall
	some  bool   // a message was read before
	has   bool   // pns and told are those of a call
	pns   uint16 // call id that the client wrote
	told  uint16 // and that the server knows it by
	pac   uint16 // call id of the server

	expected Expected // the tunnel, as it was entered last
}

func (s *pptpSession) Message(m *Message) (int, error) {
	d := m.Data
	bad := ErrProtocol
	if s.some {
		bad = ErrMalformed
	}
	// What is no header is seen from its first bytes on: nothing is waited for.
	if len(d) < 2 {
		return 0, nil
	}
	n := int(binary.BigEndian.Uint16(d))
	switch {
	case n > pptpLimit && s.some:
		return 0, ErrTooLong
	case n > pptpLimit, n < pptpHeader, !pptpBegins(d[2:]):
		return 0, bad
	case len(d) < n:
		return 0, nil
	}
	s.some = true
	kind := int(binary.BigEndian.Uint16(d[8:]))
	if kind > 0 && kind < len(pptpSizes) && n >= pptpSizes[kind] {
		if m.Dir == flow.Original {
			s.client(m, kind)
		} else {
			s.server(m, kind)
		}
	}
	return n, nil
}

// pptpBegins reports whether the bytes behind the length are, as far as they go, the type of
// a control message and the magic cookie.
func pptpBegins(d []byte) bool {
	const want = "\x00\x01\x1a\x2b\x3c\x4d"
	n := min(len(d), len(want))
	return string(d[:n]) == want[:n]
}

// client reads a message of the PNS (pptp_outbound_pkt).
func (s *pptpSession) client(m *Message, kind int) {
	id := binary.BigEndian.Uint16(m.Data[pptpCallID:])
	switch kind {
	case pptpStartRequest:
		if s.state == pptpIdle {
			s.state = pptpRequested
		}
	case pptpStopRequest:
		s.state = pptpStopping
	case pptpOutCallRequest:
		if s.state != pptpConfirmed {
			return
		}
		s.call = pptpOutRequested
		s.name(m, id)
	case pptpInCallReply:
		if s.call != pptpInRequested && s.call != pptpInReplied || s.peer(m) != s.pac {
			return
		}
		if m.Data[pptpCallResult] != pptpResultIsFine {
			s.call = pptpNoCall
			return
		}
		s.call = pptpInReplied
		s.name(m, id)
	case pptpCallClear:
		if s.state != pptpConfirmed {
			return
		}
		s.call = pptpClearing
		if s.has {
			pptpPut(m, pptpCallID, s.told)
		}
	}
}

// server reads a message of the PAC (pptp_inbound_pkt).
func (s *pptpSession) server(m *Message, kind int) {
	id := binary.BigEndian.Uint16(m.Data[pptpCallID:])
	switch kind {
	case pptpStartReply:
		if s.state >= pptpRequested {
			s.state = pptpFailed
			if m.Data[pptpStartResult] == pptpResultIsFine {
				s.state = pptpConfirmed
			}
		}
	case pptpStopReply:
		if s.state > pptpStopping {
			return
		}
		s.state = pptpFailed
		if m.Data[pptpStopResult] == pptpResultIsFine {
			s.state = pptpIdle
			m.Env.Forget(m, 0, netip.AddrPort{})
		}
	case pptpOutCallReply:
		if s.state != pptpConfirmed || s.call != pptpOutRequested && s.call != pptpOutConfirmed || s.peer(m) != s.told {
			return
		}
		if m.Data[pptpCallResult] == pptpResultIsFine {
			s.call, s.pac = pptpOutConfirmed, id
			s.expect(m)
		} else {
			s.call = pptpNoCall
		}
		pptpPut(m, pptpPeerCallID, s.pns)
	case pptpInCallRequest:
		if s.state == pptpConfirmed {
			s.call, s.pac = pptpInRequested, id
		}
	case pptpInCallConnect:
		if s.state != pptpConfirmed || s.call != pptpInReplied && s.call != pptpInConfirmed || id != s.told {
			return
		}
		s.call = pptpInConfirmed
		s.expect(m)
		pptpPut(m, pptpCallID, s.pns)
	case pptpCallDisconnect:
		// The RFC has the server's id here, Windows and Linux write and read the client's.
		s.call = pptpNoCall
		s.expected = Expected{}
		m.Env.Hangup(m)
		s.restore(m)
	case pptpWANError, pptpSetLink:
		s.restore(m)
	}
}

// name has the call of the client the id that it wrote, and tells the server another if the
// connection is translated: the port that the server knows the client by. Two clients behind
// one address have different ones.
func (s *pptpSession) name(m *Message, id uint16) {
	s.has, s.pns, s.told = true, id, id
	if pptpTranslated(m) {
		s.told = m.Conn.Seen(flow.Original).Port()
	}
	pptpPut(m, pptpCallID, s.told)
}

// restore has a message to the client name the call by its own id.
func (s *pptpSession) restore(m *Message) {
	if s.has {
		pptpPut(m, pptpCallID, s.pns)
	}
}

// peer returns the second call id of a message.
func (s *pptpSession) peer(m *Message) uint16 {
	return binary.BigEndian.Uint16(m.Data[pptpPeerCallID:])
}

// expect enters the tunnel between the two call ids (exp_gre). m is the server's.
func (s *pptpSession) expect(m *Message) {
	x := Expected{
		Proto:  flow.GRE,
		From:   netip.AddrPortFrom(m.Conn.Peer(m.Dir).Addr(), s.pns),
		To:     netip.AddrPortFrom(m.Conn.Self(m.Dir).Addr(), s.pac),
		Either: true,
		Low:    true, // no ports
	}
	if s.told != s.pns {
		x.Seen = s.told
	}
	if s.expected.Either && s.expected != x { // one tunnel at a time
		m.Env.Forget(m, 0, netip.AddrPort{})
	}
	s.expected = x
	// A refusal has been counted; the call ids are put right all the same.
	_, _ = m.Env.Expect(m, x)
}

// pptpPut has the receiver read another call id at an offset, if the connection is
// translated.
func pptpPut(m *Message, off int, id uint16) {
	if pptpTranslated(m) {
		m.Replace(off, 2, binary.BigEndian.AppendUint16(nil, id))
	}
}

// pptpTranslated reports whether either side is: call ids are rewritten then (IPS_NAT_MASK).
func pptpTranslated(m *Message) bool {
	return m.Conn.Translated(flow.Original) || m.Conn.Translated(flow.Reply)
}

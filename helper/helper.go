package helper

import (
	"errors"
	"net/netip"

	"github.com/xdpct/xdpct/flow"
)

// Helper is a protocol whose payload announces connections (struct nf_conntrack_helper).
type Helper struct {
	ID     flow.HelperID
	Protos []flow.Proto // of the connections that it reads: TCP, UDP or both
	IPv4   bool         // families that it reads
	IPv6   bool
	// Classes are those of its expectations; Expected.Class is an index of it.
	Classes []Class
	// Limit is the longest message of a TCP stream, in bytes, that a Session may ask for:
	// as many of an incomplete one are kept.
	Limit int
	// Strangers says that connections which somebody else than the master's peer begins keep
	// their source (nf_nat_sip_expected). Those of all others seem to come from the
	// master's peer, whom its other end knows (nf_nat_follow_master).
	Strangers bool
	// New makes the session of a connection that begins.
	New func() Session
}

// Class is a kind of expectation of a helper (struct nf_conntrack_expect_policy).
type Class struct {
	Name    string // of the kernel's listing, "" for most
	Max     int    // of one master, 1 to 255
	Timeout uint32 // seconds, 1 to 300
	// Media says that both sides send from the ports at which they receive, so that one of
	// these connections, if it comes from where another is expected to go, seems to come from
	// where that was told to go (the paired expectation of nf_nat_sip_expected).
	Media bool
}

// Session is what a helper knows of one connection. It is used by one goroutine.
type Session interface {
	// Message reads the message at the beginning of m.Data and returns how many of the bytes
	// it has used up.
	//
	// Of a datagram m.Data is the payload; what is returned does not matter. Of a TCP stream
	// it begins where the last message of that direction ended. If it ends before the message
	// does, Message returns 0 and is asked again, with the same bytes and more, as soon as
	// there are some; until then it must have changed nothing. A segment may hold several
	// messages: Message is asked again for the rest.
	//
	// An error turns the helper off for the connection; it is one of this package.
	Message(m *Message) (n int, err error)
}

// Undoer is a Session that changes by a message for which it asks Env.Expect. Undo is called
// when that was refused, and the message is dropped to be sent again: the Session is to be as
// it was before it, since it is given the message once more.
type Undoer interface{ Undo() }

// Why a helper reads a connection no further.
var (
	ErrProtocol  = errors.New("not the protocol")               // the first message is something else (H1)
	ErrEncrypted = errors.New("the stream is encrypted now")    // AUTH TLS, STARTTLS
	ErrTooLong   = errors.New("a message is too long")          // longer than Helper.Limit
	ErrMalformed = errors.New("a message that cannot be right") // and where the next begins is unknown
	ErrPanic     = errors.New("the parser has failed")          // a defect of ours: recovered, counted
)

// Message is one that a Session is to read.
type Message struct {
	// Conn is the connection.
	Conn *Conn
	// Dir is the direction in which it runs.
	Dir flow.Direction
	// Data is the message and what follows it. It must not be changed or kept.
	Data []byte

	// Env is where expectations go. It must not be kept.
	Env Env
	// Edits are those that Replace was asked for, in order.
	Edits []Edit
}

// Edit is a change of a payload: Len bytes from Off on, counted from the beginning of
// Message.Data, become With.
type Edit struct {
	Off, Len int
	With     []byte
}

// Replace has n bytes of the message, from offset off on, read otherwise by the receiver.
// Edits are made from the front to the back and do not overlap. What is to be the same is no
// edit. with is copied.
func (m *Message) Replace(off, n int, with []byte) {
	if string(m.Data[off:off+n]) == string(with) {
		return
	}
	m.Edits = append(m.Edits, Edit{off, n, append([]byte(nil), with...)})
}

// Conn is what a helper may know of a connection: its tuples (nf_conn.tuplehash).
type Conn struct {
	Family flow.Family
	Proto  flow.Proto
	Tuples [2]flow.Tuple // by direction
	// Expected says that the connection was expected itself (IPS_EXPECTED).
	Expected bool
	// Broadcast is the network of which the first packet went to the broadcast address
	// (in_ifaddr.ifa_broadcast and ifa_mask), as its sender knows it. It is the zero Prefix
	// if it went to one host or if the network is not known.
	Broadcast netip.Prefix
}

// Self returns the address and port of who sends in direction d, as it knows itself.
func (c *Conn) Self(d flow.Direction) netip.AddrPort {
	t := &c.Tuples[d]
	return netip.AddrPortFrom(t.Src.Netip(c.Family), t.L4.Src())
}

// Seen returns the address and port of who sends in direction d, as the other side knows it:
// Self, if it is not translated.
func (c *Conn) Seen(d flow.Direction) netip.AddrPort {
	t := &c.Tuples[d.Other()]
	return netip.AddrPortFrom(t.Dst.Netip(c.Family), t.L4.Dst())
}

// Peer returns the address and port of the other side as the sender in direction d knows it.
func (c *Conn) Peer(d flow.Direction) netip.AddrPort { return c.Seen(d.Other()) }

// Translated reports whether the sender in direction d is known to the other side by
// another address or port than to itself: only then is there anything to rewrite.
func (c *Conn) Translated(d flow.Direction) bool { return c.Self(d) != c.Seen(d) }

// Expected is a connection that a message announces, as its sender wrote it: addresses and
// ports are those by which the sender knows itself and its peer, before any translation.
type Expected struct {
	Class int // index of Helper.Classes
	Proto flow.Proto
	// From is who begins it: the zero address stands for anybody, port 0 for any port.
	From netip.AddrPort
	// FromNet, if it is not 0, is how many leading bits of From's address count: who has been
	// asked by a broadcast is anybody of a network (nf_conntrack_broadcast_help).
	FromNet int
	// To is where it goes, in full.
	To netip.AddrPort
	// Either says that the other side may begin it as well, and that both are one connection:
	// a GRE tunnel (PPTP). Ports are call ids then, and 0 is one of them. To is the sender of
	// the message and its call id. From is its peer, whose address is the one that the sender
	// knows, but whose call id is the one that the peer itself wrote; Seen is what the sender
	// knows that by, if it was rewritten, and 0 if not. In the kernel's two tuples
	//
	//	from the peer:   source key From, destination key To
	//	from the sender: source key To,   destination key Seen, or From
	Either bool
	Seen   uint16
	// Permanent expectations are not used up by a connection (NF_CT_EXPECT_PERMANENT).
	Permanent bool
	// Inactive expectations match nothing yet (NF_CT_EXPECT_INACTIVE).
	Inactive bool
	// Helper reads the connection when it comes (nf_conntrack_expect.helper), 0 for none.
	Helper flow.HelperID
	// Low allows a port below 1024, where the protocol fixes it (RSH).
	Low bool
}

// Env is what a message is read in: the table of expectations, translation and the master's
// timer. Its methods are called only while a Session reads a message.
type Env interface {
	// Expect enters expectations, all or none. It returns where the peer of the message's
	// sender is to be told that the first one goes: Expected.To, translated if the sender is.
	// If there are several they differ in the port of To only, each one higher than the one
	// before (RTP and RTCP), and so do those returned.
	//
	// If To is the sender's own address and port of the connection, the port tried first is
	// the one by which the peer knows that (nf_nat_sip_expect); otherwise it is To's.
	//
	// One that is there already is renewed, and comes to the same again. An error says why
	// there is none, and has been counted; the message is then to be left as it is. If it
	// is refused by a limit or for want of a port, the packet is dropped (as nf_ct_helper
	// does), so that it is sent again.
	Expect(m *Message, x ...Expected) (told netip.AddrPort, err error)

	// Forget removes the expectations of the connection in the given class that go to the
	// address, as the sender of m writes it (nf_ct_unexpect_related); an invalid address
	// means all of the class.
	Forget(m *Message, class int, to netip.AddrPort)

	// Renew gives an expectation of the connection another timeout, 1 to 300 seconds from
	// now, and has it match from now on if it was Inactive (refresh_signalling_expectation).
	// It is the one of the class that goes to the address, as the peer of the one who
	// announced it was told it: what Expect returned. It reports whether there is one.
	Renew(m *Message, class int, to netip.AddrPort, seconds uint32) bool

	// Hangup removes all expectations of the connection, and ends the connections that have
	// come by them (destroy_sibling_or_exp).
	Hangup(m *Message)

	// Refresh gives the connection a timeout of its own, in seconds (nf_ct_refresh).
	Refresh(seconds uint32)

	// Map returns what the peer of the sender of m knows an endpoint as that m names, without
	// expecting anything: the sender's own address is translated, and another is not
	// (nf_nat_sip map_addr). If the port is not that of the connection it stays.
	Map(m *Message, a netip.AddrPort) netip.AddrPort
}

// Why Env.Expect enters nothing.
var (
	ErrForeign = errors.New("an address that is not the sender's own") // H2: bounce
	ErrLowPort = errors.New("a port below 1024")
	ErrLimit   = errors.New("too many expectations")  // of the master, the source, or in all
	ErrClash   = errors.New("it overlaps another")    // EBUSY
	ErrNoPort  = errors.New("no port is free for it") // NAT
)

// Registry is helpers by their ids; nil where there is none.
type Registry [32]*Helper

// NewRegistry returns one of the helpers given. It panics if two have one id.
func NewRegistry(helpers ...*Helper) *Registry {
	r := new(Registry)
	for _, h := range helpers {
		if r[h.ID] != nil {
			panic("two helpers with the id of " + h.ID.String())
		}
		r[h.ID] = h
	}
	return r
}

// Of returns the helper of an id that reads a protocol and family, nil for none.
func (r *Registry) Of(id flow.HelperID, p flow.Proto, f flow.Family) *Helper {
	if int(id) >= len(r) || r[id] == nil {
		return nil
	}
	h := r[id]
	if f == flow.IPv4 && !h.IPv4 || f == flow.IPv6 && !h.IPv6 {
		return nil
	}
	for _, q := range h.Protos {
		if p == q {
			return h
		}
	}
	return nil
}

// Package helper reads the payload of protocols that open second connections: an FTP PORT
// command, the SDP body of a SIP INVITE. A helper says which connections are to be expected,
// and, where the announcing side is translated, what the other side is to read instead of
// what was written.
//
// # A helper
//
// A Helper is one file: what it reads (protocol, families), the classes of its expectations
// with their limits (struct nf_conntrack_expect_policy), and New, which makes the Session of
// one connection. A Session is given messages and nothing else: no clock, no randomness, no
// connection but its own. The same bytes, split in whatever way, come to the same
// expectations and the same edits.
//
//	segment ─▶ Stream: in order? from a message's start? ─▶ Session.Message ─▶ Env.Expect
//	                                                                       └▶ Message.Replace ─▶ Edits
//
// # What a helper may not do
//
// It is attached by a rule (-j CT --helper) and by nothing else. It reads only the bytes of
// an established stream that are in order and in the window, from the first one on. What is
// not its protocol, or cannot be read any more (STARTTLS, an endless line), turns it off for
// that connection and for nothing else. It never allocates by a length that the peer names.
//
// The environment, not the helper, holds the rules that keep expectations harmless: the
// announcing side's own address, no port below 1024 but where the protocol fixes one (RSH,
// NetBIOS), limits for each master, each source and
// in all.
package helper

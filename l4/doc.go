// Package l4 holds the protocol trackers: what a packet does to the connection
// that it belongs to, exactly as Linux's nf_conntrack_proto_*.c do it.
//
// A tracker is a total function. It gets the connection, the packet and its
// direction, and answers with an Outcome and, where the connection lives on, a
// timeout. It reads no clock, allocates nothing and touches nothing but the
// connection, so that every cell of its state table can be tested by itself.
//
//	             ┌ Accept   count the packet, refresh the timer
//	             │ Keep     the packet passes, timer and counters stay
//	New, Packet ─┤ Close    count the packet, then remove the connection
//	             │ Invalid  the packet is INVALID, with a Reason
//	             └ Reopen   remove the connection and begin anew with this packet
//
// For a packet of no known connection, call New on a zeroed Conn whose Key and
// Flip are set; only if it accepts need the connection be given a place. An
// INVALID packet thus never costs memory.
package l4

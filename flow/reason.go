package flow

// Reason says why a packet was dropped, is INVALID or was ignored. The zero
// Reason is "nothing to say". Every Reason is a counter of `xdpct stats` under
// the name that String returns; docs/datapath.md lists them.
type Reason uint8

// The reasons.
const (
	NoReason Reason = iota

	// Frames that are not a whole, true IP packet. They are dropped, as ip_rcv and ipv6_rcv drop them.

	ReasonFrameTooShort    // shorter than an Ethernet header, or a VLAN tag that is cut off
	ReasonFrameTooLarge    // does not fit a UMEM chunk
	ReasonIPTooShort       // the IP header is cut off
	ReasonIPVersion        // the version field is not that of the EtherType
	ReasonIPHeaderLength   // the IPv4 header length is below 20 or beyond the packet
	ReasonIPTotalLength    // the IP length field is beyond the frame or below the header
	ReasonIPHeaderChecksum // the IPv4 header checksum is wrong
	ReasonFragmentHeader   // an IPv6 fragment header that is cut off, or that nothing follows although it says so

	// Fragments that are dropped, alone or with their datagram.

	ReasonFragmentLength    // a fragment of no bytes, or not the last one and no multiple of eight bytes
	ReasonFragmentTooLong   // a fragment that would make a datagram of more than 65535 bytes
	ReasonFragmentTiny      // a fragment that ends or begins within the transport header, or a first one without all headers
	ReasonFragmentNested    // a second fragment header
	ReasonFragmentOverlap   // the fragments of the datagram overlap; all of it is dropped
	ReasonFragmentDuplicate // the bytes of this fragment are there already
	ReasonFragmentEnd       // the fragments disagree on where the datagram ends
	ReasonFragmentECN       // some fragments are ECN-capable and some are not
	ReasonFragmentTimeout   // the rest of the datagram did not come in time
	ReasonFragmentLimit     // too many fragments wait: of this datagram, from this source, or in all

	// Packets that nf_conntrack calls INVALID before it looks for a connection.

	ReasonFragment        // a fragment that came to a tracker without its datagram
	ReasonIPv6ExtHeader   // the chain of extension headers is cut off, or ends in No Next Header
	ReasonL4TooShort      // the transport header is cut off
	ReasonL4Length        // the UDP length field is beyond the packet or below 8
	ReasonL4Checksum      // the transport checksum is wrong
	ReasonTCPHeaderLength // the TCP data offset is below 20 or beyond the packet
	ReasonTCPFlags        // a combination of TCP flags that no stack sends
	ReasonGREProtocol     // GRE version 1 that does not carry PPP
	ReasonICMPType        // an ICMP type that is neither query, reply nor error
	ReasonICMPErrorQuote  // an ICMP error whose quoted packet is cut off, a later fragment, or cannot be inverted
	ReasonICMPRedirect    // an ICMPv6 redirect not from a link-local neighbour, or without the redirected packet

	// Packets that nf_conntrack calls INVALID because of the connection they belong to, or have not.

	ReasonICMPErrorUnknown  // an ICMP error about a connection that does not exist
	ReasonICMPErrorAddress  // an ICMP error sent to another host than the one that it is about
	ReasonICMPNoRequest     // an ICMP reply that nobody asked for
	ReasonTCPNoConnection   // a TCP packet that cannot begin a connection
	ReasonTCPNotLoose       // a connection already under way, and nf_conntrack_tcp_loose is 0
	ReasonTCPState          // a TCP packet that the state of its connection forbids
	ReasonTCPRst            // a RST below what the other side has acknowledged
	ReasonTCPSeqAbove       // SEQ is over the upper bound: over the window of the receiver
	ReasonTCPAckAbove       // ACK is over the upper bound: it acknowledges data not seen yet
	ReasonSCTPChunks        // no SCTP chunks, cut-off ones, or ones that must not come together
	ReasonSCTPNoAssociation // an SCTP packet that cannot begin an association
	ReasonSCTPTag           // a verification tag that is not that of the association
	ReasonSCTPState         // an SCTP chunk that the state of the association forbids
	ReasonSCTPCollision     // an INIT ACK of another association than the one under way

	// Accepted without being tracked.

	ReasonVLANTooDeep // more than two VLAN tags

	// Accepted, but the connection was left as it is (IGNORE in the kernel).

	ReasonTCPIgnoredState // a packet outside the state, let through to draw an answer
	ReasonTCPChallenge    // a challenge ACK
	ReasonTCPNotExact     // a RST in the window, but not at the next sequence number (xdpct_tcp_exact_rst)
	ReasonTCPSeqBeyond    // more bytes than the window allowed, accepted in case the peer does
	ReasonTCPSeqBelow     // SEQ is under the lower bound: already acknowledged data retransmitted
	ReasonTCPAckBelow     // ACK is under the lower bound: possibly overly delayed
	ReasonSCTPIgnored     // an SCTP packet that passes, but renews no timer: INIT again, HEARTBEAT with another tag

	// Not judged yet.

	ReasonFragmentHeld // waits for the rest of its datagram

	// Frames that are dropped for want of room, or that cannot be sent.

	ReasonTableFull     // the table is full and holds nothing that may be evicted
	ReasonProbeLimit    // no slot within the bounded probe sequence
	ReasonZoneFull      // the zone has as many connections as it may have
	ReasonClash         // another connection has the reply tuple (insert_failed)
	ReasonHostBusy      // the host's stack did not take it
	ReasonNoChunk       // no free chunk was there for a packet of our own
	ReasonNoPort        // the other port of the bridge is down or gone
	ReasonTXRingFull    // the transmit ring of the other port stayed full
	ReasonTXDown        // the link that it was to leave by was down
	ReasonTXDropped     // the device that it was to leave by dropped it: it had no carrier, or a full queue
	ReasonTXError       // the kernel refused the frame
	ReasonBadDescriptor // the kernel named a frame that does not lie in one chunk
	ReasonHandoverFull  // the ring to the owning shard is full

	// Packets that rules or routes do not let pass.

	ReasonRule            // a rule, or the policy of a chain, drops it
	ReasonRejected        // a rule rejects it (REJECT): it is answered
	ReasonNATExhausted    // no free reply tuple was found for it
	ReasonNATFull         // the directory of tuples, which several shards share, has no room for those of its connection
	ReasonMasquerade      // the interface has no address to masquerade with, or the connection leaves by another than before
	ReasonOtherHost       // its Ethernet destination is another host's: for that host to forward
	ReasonNoVLAN          // under VLAN tags that no interface is for
	ReasonLinkSource      // its Ethernet source is the address of no station, but of a group, or zero: no bridge forwards it
	ReasonMartian         // an address that no packet comes from or goes to
	ReasonReversePath     // an answer would leave by another interface (rp_filter)
	ReasonNotForwarded    // to a group of hosts by its Ethernet address, or from a link-local address to another link
	ReasonNotIP           // not IP: a router forwards nothing else
	ReasonTTLExceeded     // its time to live, or hop limit, is used up
	ReasonTooBig          // longer than the next link takes, and not to be cut
	ReasonNoRoute         // there is no route, or it is unreachable
	ReasonBlackhole       // the route is a blackhole
	ReasonProhibited      // the route is prohibited
	ReasonElsewhere       // the route leads out of an interface that is not one of the ports
	ReasonNoNeighbour     // the next hop did not say its Ethernet address while there was room to wait
	ReasonIPOptions       // an IPv4 option is malformed: it is answered
	ReasonSourceRoute     // an IPv4 source route, which is not followed (accept_source_route)
	ReasonHopByHop        // a malformed IPv6 hop-by-hop header, or one with too much padding or too many options
	ReasonHopByHopUnknown // an IPv6 hop-by-hop option that is not known here says that the packet is to be dropped
	ReasonNATRedirect     // an ICMP redirect about a translated connection: it names a router on another link
	ReasonNATTooShort     // less than eight bytes of transport header, of the packet or of what it quotes, so that it cannot be translated
	ReasonLocalRedirect   // translated to an address of this host, whose answers would not be translated back

	// Packets that the helper of their connection does not let pass: their sender sends them again.

	ReasonHelperHeld    // a message begins with it that is rewritten as a whole: it is kept, and goes out with the rest
	ReasonHelperEarly   // bytes before it are missing, and it may hold what is to be rewritten
	ReasonHelperWaits   // as many edits as a stream remembers are not acknowledged yet
	ReasonHelperRefused // it announces a connection for which there is no room among the expectations, or no port

	// Counted by the XDP program, before user space sees the frame.

	ReasonXDPNoSocket   // no AF_XDP socket serves the receive queue
	ReasonFillRingEmpty // no free chunk was there to receive into
	ReasonRXRingFull    // the receive ring was full
	ReasonRXDropped     // the kernel could not hand the frame to the socket for another reason

	NumReasons // the number of reasons, NoReason included
)

var reasonTexts = [NumReasons]struct{ name, text string }{
	ReasonFrameTooShort:     {"frame_too_short", "shorter than an Ethernet header, or a VLAN tag that is cut off"},
	ReasonFrameTooLarge:     {"frame_too_large", "does not fit a UMEM chunk"},
	ReasonIPTooShort:        {"ip_too_short", "the IP header is cut off"},
	ReasonIPVersion:         {"ip_version", "the version field is not that of the EtherType"},
	ReasonIPHeaderLength:    {"ip_header_length", "the IPv4 header length is below 20 or beyond the packet"},
	ReasonIPTotalLength:     {"ip_total_length", "the IP length field is beyond the frame or below the header"},
	ReasonIPHeaderChecksum:  {"ip_header_checksum", "the IPv4 header checksum is wrong"},
	ReasonFragmentHeader:    {"fragment_header", "an IPv6 fragment header that is cut off, or that nothing follows although it says so"},
	ReasonFragmentHeld:      {"fragment_held", "waits for the rest of its datagram"},
	ReasonFragmentLength:    {"fragment_length", "a fragment of no bytes, or not the last one and no multiple of eight bytes"},
	ReasonFragmentTooLong:   {"fragment_too_long", "a fragment that would make a datagram of more than 65535 bytes"},
	ReasonFragmentTiny:      {"fragment_tiny", "a fragment that ends or begins within the transport header, or a first one without all headers"},
	ReasonFragmentNested:    {"fragment_nested", "a second fragment header"},
	ReasonFragmentOverlap:   {"fragment_overlap", "the fragments of the datagram overlap; all of it is dropped"},
	ReasonFragmentDuplicate: {"fragment_duplicate", "the bytes of this fragment are there already"},
	ReasonFragmentEnd:       {"fragment_end", "the fragments disagree on where the datagram ends"},
	ReasonFragmentECN:       {"fragment_ecn", "some fragments are ECN-capable and some are not"},
	ReasonFragmentTimeout:   {"fragment_timeout", "the rest of the datagram did not come in time"},
	ReasonFragmentLimit:     {"fragment_limit", "too many fragments wait: of this datagram, from this source, or in all"},
	ReasonFragment:          {"fragment", "a fragment that came to a tracker without its datagram"},
	ReasonIPv6ExtHeader:     {"ipv6_ext_header", "the chain of extension headers is cut off, or ends in No Next Header"},
	ReasonL4TooShort:        {"l4_too_short", "the transport header is cut off"},
	ReasonL4Length:          {"l4_length", "the UDP length field is beyond the packet or below 8"},
	ReasonL4Checksum:        {"l4_checksum", "the transport checksum is wrong"},
	ReasonTCPHeaderLength:   {"tcp_header_length", "the TCP data offset is below 20 or beyond the packet"},
	ReasonTCPFlags:          {"tcp_flags", "a combination of TCP flags that no stack sends"},
	ReasonGREProtocol:       {"gre_protocol", "GRE version 1 that does not carry PPP"},
	ReasonICMPType:          {"icmp_type", "an ICMP type that is neither query, reply nor error"},
	ReasonICMPErrorQuote:    {"icmp_error_quote", "an ICMP error whose quoted packet is cut off, a later fragment, or cannot be inverted"},
	ReasonICMPRedirect:      {"icmp_redirect", "an ICMPv6 redirect not from a link-local neighbour, or without the redirected packet"},
	ReasonICMPErrorUnknown:  {"icmp_error_unknown", "an ICMP error about a connection that does not exist"},
	ReasonICMPErrorAddress:  {"icmp_error_address", "an ICMP error sent to another host than the one that it is about"},
	ReasonICMPNoRequest:     {"icmp_no_request", "an ICMP reply that nobody asked for"},
	ReasonTCPNoConnection:   {"tcp_no_connection", "a TCP packet that cannot begin a connection"},
	ReasonTCPNotLoose:       {"tcp_not_loose", "a connection already under way, and nf_conntrack_tcp_loose is 0"},
	ReasonTCPState:          {"tcp_state", "a TCP packet that the state of its connection forbids"},
	ReasonTCPRst:            {"tcp_rst", "a RST below what the other side has acknowledged"},
	ReasonTCPSeqAbove:       {"tcp_seq_above", "SEQ is over the upper bound: over the window of the receiver"},
	ReasonTCPAckAbove:       {"tcp_ack_above", "ACK is over the upper bound: it acknowledges data not seen yet"},
	ReasonSCTPChunks:        {"sctp_chunks", "no SCTP chunks, cut-off ones, or ones that must not come together"},
	ReasonSCTPNoAssociation: {"sctp_no_association", "an SCTP packet that cannot begin an association"},
	ReasonSCTPTag:           {"sctp_tag", "a verification tag that is not that of the association"},
	ReasonSCTPState:         {"sctp_state", "an SCTP chunk that the state of the association forbids"},
	ReasonSCTPCollision:     {"sctp_collision", "an INIT ACK of another association than the one under way"},
	ReasonVLANTooDeep:       {"vlan_too_deep", "more than two VLAN tags"},
	ReasonTCPIgnoredState:   {"tcp_ignored_state", "a packet outside the state, let through to draw an answer"},
	ReasonTCPChallenge:      {"tcp_challenge", "a challenge ACK"},
	ReasonTCPNotExact:       {"tcp_not_exact", "a RST in the window, but not at the next sequence number (xdpct_tcp_exact_rst)"},
	ReasonTCPSeqBeyond:      {"tcp_seq_beyond", "more bytes than the window allowed, accepted in case the peer does"},
	ReasonTCPSeqBelow:       {"tcp_seq_below", "SEQ is under the lower bound: already acknowledged data retransmitted"},
	ReasonTCPAckBelow:       {"tcp_ack_below", "ACK is under the lower bound: possibly overly delayed"},
	ReasonSCTPIgnored:       {"sctp_ignored", "an SCTP packet that passes, but renews no timer: INIT again, HEARTBEAT with another tag"},
	ReasonTableFull:         {"table_full", "the table is full and holds nothing that may be evicted"},
	ReasonProbeLimit:        {"probe_limit", "no slot within the bounded probe sequence"},
	ReasonZoneFull:          {"zone_full", "the zone has as many connections as it may have"},
	ReasonClash:             {"clash", "another connection has the reply tuple (insert_failed)"},
	ReasonHostBusy:          {"host_busy", "the host's stack did not take it"},
	ReasonNoChunk:           {"no_chunk", "no free chunk was there for a packet of our own"},
	ReasonNoPort:            {"no_port", "the other port of the bridge is down or gone"},
	ReasonTXRingFull:        {"tx_ring_full", "the transmit ring of the other port stayed full"},
	ReasonTXDown:            {"tx_down", "the link that it was to leave by was down"},
	ReasonTXDropped:         {"tx_dropped", "the device that it was to leave by dropped it: it had no carrier, or a full queue"},
	ReasonTXError:           {"tx_error", "the kernel refused the frame"},
	ReasonBadDescriptor:     {"bad_descriptor", "the kernel named a frame that does not lie in one chunk"},
	ReasonHandoverFull:      {"handover_full", "the ring to the owning shard is full"},
	ReasonRule:              {"rule", "a rule, or the policy of a chain, drops it"},
	ReasonRejected:          {"rejected", "a rule rejects it (REJECT): it is answered"},
	ReasonNATExhausted:      {"nat_exhausted", "no free reply tuple was found for it"},
	ReasonNATFull:           {"nat_directory_full", "the directory of tuples, which several shards share, has no room for those of its connection"},
	ReasonMasquerade:        {"masquerade", "the interface has no address to masquerade with, or the connection leaves by another than before"},
	ReasonOtherHost:         {"other_host", "its Ethernet destination is another host's: for that host to forward"},
	ReasonNoVLAN:            {"no_vlan", "under VLAN tags that no interface is for"},
	ReasonLinkSource:        {"link_source", "its Ethernet source is the address of no station, but of a group, or zero: no bridge forwards it"},
	ReasonMartian:           {"martian", "an address that no packet comes from or goes to"},
	ReasonReversePath:       {"reverse_path", "an answer would leave by another interface (rp_filter)"},
	ReasonNotForwarded:      {"not_forwarded", "to a group of hosts by its Ethernet address, or from a link-local address to another link"},
	ReasonNotIP:             {"not_ip", "not IP: a router forwards nothing else"},
	ReasonTTLExceeded:       {"ttl_exceeded", "its time to live, or hop limit, is used up"},
	ReasonTooBig:            {"too_big", "longer than the next link takes, and not to be cut"},
	ReasonNoRoute:           {"no_route", "there is no route, or it is unreachable"},
	ReasonBlackhole:         {"blackhole", "the route is a blackhole"},
	ReasonProhibited:        {"prohibited", "the route is prohibited"},
	ReasonElsewhere:         {"elsewhere", "the route leads out of an interface that is not one of the ports"},
	ReasonNoNeighbour:       {"no_neighbour", "the next hop did not say its Ethernet address while there was room to wait"},
	ReasonIPOptions:         {"ip_options", "an IPv4 option is malformed: it is answered"},
	ReasonSourceRoute:       {"ip_source_route", "an IPv4 source route, which is not followed (accept_source_route)"},
	ReasonHopByHop:          {"ipv6_hop_by_hop", "a malformed IPv6 hop-by-hop header, or one with too much padding or too many options"},
	ReasonHopByHopUnknown:   {"ipv6_hbh_option", "an IPv6 hop-by-hop option that is not known here says that the packet is to be dropped"},
	ReasonNATRedirect:       {"nat_redirect", "an ICMP redirect about a translated connection: it names a router on another link"},
	ReasonNATTooShort:       {"nat_too_short", "less than eight bytes of transport header, of the packet or of what it quotes, so that it cannot be translated"},
	ReasonLocalRedirect:     {"local_redirect", "translated to an address of this host, whose answers would not be translated back"},
	ReasonHelperHeld:        {"helper_held", "a message begins with it that is rewritten as a whole: it is kept, and goes out with the rest"},
	ReasonHelperEarly:       {"helper_early", "bytes before it are missing, and it may hold what is to be rewritten"},
	ReasonHelperWaits:       {"helper_waits", "as many edits as a stream remembers are not acknowledged yet"},
	ReasonHelperRefused:     {"helper_refused", "it announces a connection for which there is no room among the expectations, or no port"},
	ReasonXDPNoSocket:       {"xdp_no_socket", "no AF_XDP socket serves the receive queue"},
	ReasonFillRingEmpty:     {"fill_ring_empty", "no free chunk was there to receive into"},
	ReasonRXRingFull:        {"rx_ring_full", "the receive ring was full"},
	ReasonRXDropped:         {"rx_dropped", "the kernel could not hand the frame to the socket for another reason"},
}

// String returns the name of the counter, "" for NoReason.
func (r Reason) String() string {
	if r < NumReasons {
		return reasonTexts[r].name
	}
	return "unknown"
}

// Text describes r in a sentence without capital or full stop.
func (r Reason) Text() string {
	if r < NumReasons {
		return reasonTexts[r].text
	}
	return "unknown"
}

// Malformed reports whether r means that the frame is no whole IP packet. Such
// frames are dropped in every mode.
func (r Reason) Malformed() bool { return r >= ReasonFrameTooShort && r <= ReasonFragmentHeader }

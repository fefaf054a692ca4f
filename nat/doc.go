// Package nat translates addresses: it chooses what a connection's reply tuple is,
// keeps the choices of several shards apart, and rewrites packets and the packets that
// ICMP errors quote.
//
// # Terms
//
// A tuple is what names one direction of a connection: addresses, ports (ICMP:
// identifier, type and code), protocol, zone. The original tuple is that of the first
// packet, the reply tuple that of an answer. A connection that is translated is one
// whose reply tuple is not the inverse of its original one, and nothing else is
// remembered of it: a packet in one direction leaves with the inverse of the other
// direction's tuple (Target). To map the source, or the destination, is to choose
// another end of the reply tuple; a mapping is an address and a port that a source is
// mapped to.
//
// # Invariants
//
//   - No two connections of a tracker have a tuple in common, whatever shards they are
//     on, whether they are translated or not.
//   - A connection is on the shard that the hash of its original tuple names, its home;
//     if it is elsewhere, because its tuple was somebody else's before, the Directory
//     says where. Packets of both directions come there.
//   - Where Linux's choice is determined the choice here is the same, with any number of
//     shards. Where Linux draws a number, the choice is a function of Key, of the
//     tuple and of the tuples that are taken: the same with any number of shards, too,
//     but for --random and --random-fully.
//   - A connection that finds no reply tuple (flow.ReasonNATExhausted) would have found
//     none however long it had looked: every port that it may have is taken.
//
// # Choosing
//
// Allocator.Choose is the kernel's get_unique_tuple. For a source:
//
//	rule: a Range of addresses, ports, both or neither
//	 │
//	 ├─ the tuple as it is, if it lies in the range            ─┐
//	 ├─ else the mapping that the same source has (Sources)     │ unless --random
//	 ├─ an address of the range, by the kernel's hash           │
//	 ├─ the port as it is, if that lies in the range           ─┘
//	 ├─ the port that the source had when it was here last
//	 ├─ every port of the range from a keyed place on; without a range those of the
//	 │  class 1-511, 600-1023, 1024-65535 that the port is of, then all
//	 └─ the tuple of a connection that is about to end (nf_nat_used_tuple_harder)
//
// The first that Space gives is it. Of the host's own addresses only some ports may be
// used, HostPorts, and a search numbers those and no others. Where most of the ports
// towards a destination are taken a crowd remembers which, so that a search reads words
// and does not look up ports that it knows.
//
// # Secrets
//
// Ports can be seen. They are SipHash of Key (RFC 6056, algorithm 3, and for --random
// algorithm 1 with a generator that cannot be run backwards), and Key is for nothing
// that decides where a connection lies.
//
// # Several shards
//
// The reply tuple that a rule asks for may hash to any shard. So each shard claims in the
// Directory, which all share, the tuples of its connections that are concerned: those
// with an address that translation maps to (AddrSet). To choose a port is to claim the
// tuple, by compare-and-swap; so there is no time between choice and use in which
// another could take it.
//
//	frame ─▶ parse ▸ hash ─▶ address in the AddrSet? ──no──▶ home
//	                               │ yes (answers to what is translated)
//	                               ▼
//	                     Directory: claimed? ──no──▶ home
//	                               │ yes
//	                               ▼
//	                     the shard that has it
//
// A packet that is not concerned pays for two look-ups in a table of 512 bytes, and
// with one shard for nothing. A connection that is dropped before it is in the table
// gives its claim back.
//
// When rules or addresses change so that more is concerned, the filter grows first, so
// that what begins from then on is claimed; then the connections that there are claim
// their tuples, a slice between batches; then the rules come into force.
//
// The Directory is the arbiter between shards; within a shard its table is. A tuple whose
// connection has expired is another shard's to take once its owner has seen that, before
// its next batch.
//
// # Zones
//
// The zone is part of a tuple, so two zones may have the rest of one in common, on one
// shard or on two; that is what Linux does. The zone of a port is known when the frame is
// looked up. A zone that a rule of table raw chooses is not: the frame has come to a shard
// by then. So the shard looks again after table raw, if that has chosen a zone and the
// tuple is concerned, and hands the packet over to the shard that has the tuple in that
// zone, which goes on where the first one has left off (shard.Shard.Resume). Packets for
// which no rule chooses a zone pay nothing for this.
//
// # Concurrency
//
// Directory, Sources and Shared are safe for concurrent use, lock nothing and allocate
// nothing after they are made. An Allocator belongs to one shard. All else is not
// changed once it is made.
package nat

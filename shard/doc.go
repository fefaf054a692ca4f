// Package shard is one core's pipeline: parsed packets go in, verdicts come
// out. It tracks connections, and, if it is to forward, asks rules, translates
// and routes.
//
// A Shard is deterministic. Time comes in with each Tick, randomness is the
// secret and the seed that it was made with, and nothing else reaches it: the
// same configuration, times, rules, routes and frames give the same verdicts and
// events. That is what makes captures replayable and one shard comparable with
// four.
//
//	Tick(now)         ─▶ move the clock ▸ reap
//	Prefetch(packets) ─▶ buckets asked for, while packets are parsed
//	Process(packets)  ─▶ in groups: entries located and asked for ▸ each packet judged
//	                                                                     │
//	  tracks only: malformed ▸ invalid ▸ untracked ▸ related ▸ known ▸ new
//	  forwards:    pass ▸ track ▸ shortcut, or, where not all is known, traverse
//
// While one group of packets is judged the entries of those behind it are on their way from
// memory, so that the cache misses of a batch overlap. What was located is a hint:
// judging looks at it again, since a packet may change what the next one finds.
//
// # Forwarding
//
// SetForwarding gives a shard rules and routes, which it does not change. traverse
// shows the hooks in Linux's order; each step says why a packet goes no further, or
// flow.NoReason. What one finds for the next is in the packet's transit, of which
// nothing outlives the packet. A datagram of our own (an ICMP error, a RST) is a
// transit of its own and passes the hooks of a host's own packets.
//
// What does outlive a packet is in paths: each direction of a connection has a code,
// which is what the rules come to for its packets, and a next hop. Where the code is
// nothing but counting, packets take the shortcut past the hooks. Both are void when the
// connection's reply is seen, and when rules change; the next hop is when routes change,
// but for neighbours, and the code is not used between other interfaces than it was made
// for.
//
// Nothing of this takes a lock, or memory for a plain packet. Packets that rules log are
// copied into a buffer of a fixed size (TakeLogged), datagrams of our own wait in
// another (TakeOwn), and whoever calls Process takes both.
//
// # What shards share
//
// All state belongs to the Shard alone, but for: the table of expectations, the
// directory of translated tuples (package nat), what rules such as limit and recent
// remember (package policy), the limits of connections of a zone (Limiter), and those
// of ICMP errors (package icmplimit). They are words that are read and exchanged one by
// one: no packet takes a lock. With one goroutine that runs all shards, as a Replay does,
// they are deterministic, too.
//
// # Zones, and what few connections have
//
// A packet's zone is part of its key. A zone that counts in one direction only
// gives a connection two keys, so a packet that its first key does not find is
// looked for by the other. Marks, labels, timeout policies, masters and what
// translation has chosen lie in the Extra of an entry; connections without one never
// touch that memory.
//
// # Ownership
//
// A connection belongs to the shard that the hash of its original tuple names (Home),
// whichever direction a packet runs; an ICMP error belongs with the connection that it
// is about. On a router a shard may have connections whose reply tuple hashes to
// another: those tuples it has claimed in the directory, which OwnerOf asks first. A
// frame that arrives elsewhere is handed over (engine). If table raw chooses a zone in
// which another shard has claimed the packet's tuple, the packet is handed over after
// table raw (HandOver, TakeRaw), and that shard goes on (Resume).
package shard

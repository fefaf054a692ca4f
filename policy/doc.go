// Package policy is the rules: the text that iptables-save and ip6tables-save
// print, and a program made of it that judges packets as Linux would.
//
//	text ──Parse──▶ Ruleset ──Compile──▶ Program ──Specialise──▶ Code
//	     ◀─WriteTo─
//
// A Ruleset is the text, understood. Every match and target is a type of its own
// that knows its options (for reading and printing) and its conditions or its
// action (for judging). What is not understood is an error with line, column and
// token; nothing is accepted and ignored.
//
// A Program judges a packet at a Hook as ip_tables does: it walks the rules of
// each table's chain in order. It is immutable but for what the rules themselves
// remember (limits, recent lists), and all shards share it; counters belong to
// each shard.
//
// Walking ten thousand rules for each packet is what made iptables slow. Most of a
// rule is about things that never change while a connection lives: addresses,
// ports, interfaces, the state ESTABLISHED. Specialise decides all of that once,
// for one direction of one connection, and leaves Code with only the rules that may
// match, and of those only the conditions that vary from packet to packet (TCP
// flags, length, marks, limits). Running the Code gives the same verdict, the same
// changes and the same counters as walking the rules, by construction: it is the
// same walk, with the constants folded (partial evaluation).
package policy

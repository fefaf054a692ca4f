// Package policy is the program that rules are compiled to: it judges packets as
// Linux would, and keeps what the rules remember.
//
//	text ──syntax.Parse──▶ syntax.Ruleset ──Compile──▶ Program ──Special──▶ Code
//	     ◀─Ruleset.WriteTo─               ◀──Ruleset──
//
// The text of iptables-save is the matter of package policy/syntax, whose values do
// not change once they are read. What changes belongs to the Program: counters, and
// the state of matches (limits, recent lists, counts of connections). The state of a
// match is kept by the match of the syntax that it belongs to, so that a table that
// is not replaced goes on where it was.
//
// A Program judges a packet at a Hook as ip_tables does: it walks the rules of
// each table's chain in order. All shards share it; counters belong to each shard
// until they are added to the Program.
//
// Walking ten thousand rules for each packet is what made iptables slow. Most of a
// rule is about things that never change while a connection lives: addresses,
// ports, interfaces, the state ESTABLISHED. Special decides all of that once,
// for one direction of one connection, and leaves Code with only the rules that may
// match, and of those only the conditions that vary from packet to packet (TCP
// flags, length, marks, limits). Running the Code gives the same verdict, the same
// changes and the same counters as walking the rules, by construction: it is the
// same walk, with the constants folded (partial evaluation).
package policy

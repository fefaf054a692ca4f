// Package syntax reads, checks and prints the text of iptables-save and
// ip6tables-save.
//
// Every match and target is a type of its own, whose exported fields hold what the
// rule says. What is not understood is an *Error with line, column and token; nothing
// is accepted and ignored. What Ruleset.WriteTo prints is what iptables-save would
// print of the same rules.
//
// A Ruleset and all in it does not change once it is parsed. What rules remember
// while they run belongs to the program (package policy).
package syntax

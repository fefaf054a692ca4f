// Package route answers where packets go: the kernel's routing rules, routes,
// addresses and neighbours as they were at one moment.
//
// A [Table] is filled in by one goroutine and then never changed. To follow the kernel,
// take a Clone, change that, and publish it: the two share everything that is the same
// in both, so that a change costs the depth of a prefix tree and not the size of the
// table. Readers need no lock, and each lookup sees one state.
//
// Lookup is fib_lookup and fib6_rule_lookup as they are for a packet that is to be
// forwarded. What can be asked of a flow only by a socket of the host (the output
// interface of a rule, a user, a tunnel key) has the value that the kernel gives to
// forwarded packets: zero.
package route

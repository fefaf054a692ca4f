// Package route is where packets go: the kernel's routes, rules, addresses and
// neighbours as they were at one moment.
//
// A Table is never changed: what follows the kernel makes a new one of the old, which
// shares all that is the same, and hands it to the shards. So a lookup takes no lock,
// and each is answered from one state of the kernel's tables.
package route

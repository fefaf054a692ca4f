// Package mirror follows the routing state of a network namespace: links, addresses,
// routes, routing rules and neighbours, which it publishes as route.Tables.
//
// # How it follows
//
// Two netlink sockets are subscribed, one to neighbours and one to everything else, so
// that a flood of neighbour solicitations costs no more than the neighbours. Routes and
// neighbours are changed one by one as the kernel tells of them. Links, addresses and
// rules are few: whatever is told of them, they are listed anew.
//
// # What can be lost, and how it comes back
//
// A subscription may lose messages (ENOBUFS), and some changes the kernel never tells:
// IPv4 routes vanish with their interface, or its last address, in silence. Each time, the state that may be
// wrong is dirty, and read anew by a full dump on a socket of its own; after ENOBUFS not
// before everything that was kept is read, since the kernel drops all until then, and
// says so but once. The subscription is read on meanwhile, and what it said since the
// dump began is applied once more to the outcome: each message has the whole of what it
// is about, so that the last one counts, whether the dump has seen it or not; and a dump
// of routes begins when what was told of before is done (socket.awaitChanges). A dump
// that the kernel marks as interrupted, or during which messages were lost, is done
// again, later each time, and its outcome taken only if several were interrupted. A
// subscription that ends is made again for as long as it takes; what it said before
// stays in force.
//
// # Threads
//
// One goroutine, Run, owns the state. Readers take the Table that was published last.
// Dumps run beside it and hand over a finished Table. Nothing is locked while anything
// is read or written, and what waits for the kernel ends when Run's stop is closed.
package mirror

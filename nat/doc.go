// Package nat is the place of address translation: choice of ports, rewriting,
// sequence adjustment.
//
// Nothing of it is built yet. What other packages already do for its sake: a
// shard owns the connections whose key hashes to it (shard.Owner), so a port is
// to be chosen such that the reply tuple has the same owner; a Conn may come to
// need a second index slot for a reply tuple that is not the inverse of its
// original; and packet completes partial checksums before a frame leaves, so that
// rewriting can update checksums incrementally.
package nat

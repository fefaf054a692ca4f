package flow

import "errors"

// What a request about one connection may fail with, and the errno of ctnetlink for
// it. An error may say more than these; compare with errors.Is.
var (
	ErrExists   = errors.New("such conntrack exists, try -U to update") // EEXIST
	ErrNotFound = errors.New("such conntrack doesn't exist")            // ENOENT
	ErrBusy     = errors.New("a status that cannot be taken back")      // EBUSY
	ErrInvalid  = errors.New("tuples that do not belong together")      // EINVAL
	ErrNoNAT    = errors.New("only mode: router translates addresses")  // EOPNOTSUPP
)

// Change is what an operator changes about a connection; a nil field stays
// (ctnetlink_change_conntrack).
type Change struct {
	Timeout *uint32 // seconds, at most MaxTimeout
	Status  *Status
	State   *uint8 // the protocol's state, see Conn.State
	Mark    *Mark
	Labels  *Labels
	Helper  *HelperID
}

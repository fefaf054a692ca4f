// Package export writes connections as conntrack(8) of
// conntrack-tools does, so that whatever reads its output reads xdpct's, and as
// JSON for everything new.
package export

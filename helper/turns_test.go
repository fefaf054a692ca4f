package helper

import (
	"slices"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// fuzzStream has a helper read a dialogue whole, split at one byte and split at every byte,
// and compares what came of it. The dialogue is runs of a direction byte, of which the lowest
// bit counts, and what the length in front of a message (at its beginning) says that it has;
// same says that edits must not change lengths.
func fuzzStream(t *testing.T, h *Helper, b []byte, at int, translated, same bool) {
	t.Helper()
	seen := ""
	if translated {
		seen = "192.0.2.1:5787"
	}
	run := func(split func(i int) bool) (out [2]string, g *dialogue) {
		g = newDialogue(t, h, fakeConn(flow.TCP, "10.0.0.2:4000", "192.0.2.9:1723", seen))
		for i, turn := range turns(b) {
			d := flow.Direction(turn[0] & 1)
			bytes := turn[1:]
			from := 0
			for j := range bytes {
				if j > from && split(i+j) {
					out[d] += g.say(d, string(bytes[from:j]))
					from = j
				}
			}
			out[d] += g.say(d, string(bytes[from:]))
		}
		return out, g
	}
	whole, a := run(func(int) bool { return false })
	for _, split := range []func(int) bool{func(i int) bool { return i == at }, func(int) bool { return true }} {
		parts, b := run(split)
		// What is kept of an incomplete message has not been read by anybody yet.
		for d := range parts {
			parts[d] += string(b.rest[d])
			if b.err == nil && a.err == nil && parts[d] != whole[d]+string(a.rest[d]) {
				t.Fatalf("direction %d is read as %q and as %q", d, whole[d], parts[d])
			}
		}
		if !slices.Equal(a.env.log, b.env.log) || (a.err == nil) != (b.err == nil) {
			t.Fatalf("expected %q, %v and %q, %v", a.env.log, a.err, b.env.log, b.err)
		}
	}
	if n := len(whole[0]) + len(whole[1]) + len(a.rest[0]) + len(a.rest[1]); same && a.err == nil {
		for _, turn := range turns(b) {
			n -= len(turn) - 1
		}
		if n != 0 {
			t.Fatalf("%d bytes more", n)
		}
	}
}

// turns cuts a dialogue into turns of at most 256 bytes: a direction, a byte more than the
// lowest of which says how many there are.
func turns(b []byte) (all [][]byte) {
	for len(b) > 1 {
		n := len(b)
		if len(b) > 2 {
			n = min(len(b), 1+max(int(b[1])<<8|int(b[2]), 1)&0x1ff)
		}
		all = append(all, b[:n])
		b = b[n:]
	}
	return all
}

package export

import (
	"fmt"
	"io"
	"maps"
	"slices"
)

// HelperStats are the counters of helpers, of all shards together.
type HelperStats struct {
	Flows    uint64 `json:"flows"`    // connections that are read at present
	Bytes    uint64 `json:"bytes"`    // memory for what is incomplete, and for edits
	Read     uint64 `json:"read"`     // connections that were read
	Full     uint64 `json:"full"`     // connections that were not: there were xdpct_helper_max of them
	Crowded  uint64 `json:"crowded"`  // connections that were not: their source had xdpct_helper_max_source of them
	Evicted  uint64 `json:"evicted"`  // connections that were read no further for others' sake: nobody had answered
	Picked   uint64 `json:"picked"`   // connections that were not: their first byte was not seen, or came with a SYN
	Messages uint64 `json:"messages"` // messages that were read
	Edits    uint64 `json:"edits"`    // places in them that were rewritten
	Passed   uint64 `json:"passed"`   // messages that went on unread, since half of one was sent again alone
	// Off are connections that were read no further, by the reason.
	Off map[string]uint64 `json:"off"`
	// Refused are announcements of connections that are not expected, by the reason.
	Refused map[string]uint64 `json:"refused"`
}

// writeText prints the counters as lines of `xdpct stats`.
func (h *HelperStats) writeText(w io.Writer, all bool) {
	line := pairs(all, "flows", h.Flows, "bytes", h.Bytes, "read", h.Read, "full", h.Full,
		"crowded", h.Crowded, "evicted", h.Evicted, "picked", h.Picked, "messages", h.Messages, "edits", h.Edits, "passed", h.Passed)
	if line == "" {
		return // no connection has a helper
	}
	fmt.Fprintf(w, "helpers\t%s\n", line)
	for _, m := range []struct {
		name   string
		counts map[string]uint64
	}{{"off", h.Off}, {"refused", h.Refused}} {
		for _, reason := range slices.Sorted(maps.Keys(m.counts)) {
			if n := m.counts[reason]; n > 0 || all {
				fmt.Fprintf(w, "helpers\t%s=%s %d\n", m.name, reason, n)
			}
		}
	}
}

func (h *HelperStats) metrics() []samples {
	off := counter("xdpct_helper_off_total", "Connections that a helper reads no further, by the reason.", "reason")
	refused := counter("xdpct_helper_refused_total", "Connections that were announced and are not expected, by the reason.", "reason")
	for _, reason := range slices.Sorted(maps.Keys(h.Off)) {
		off = off.of(h.Off[reason], reason)
	}
	for _, reason := range slices.Sorted(maps.Keys(h.Refused)) {
		refused = refused.of(h.Refused[reason], reason)
	}
	return []samples{
		gauge("xdpct_helper_flows", "Connections that helpers read.").of(h.Flows),
		gauge("xdpct_helper_bytes", "Memory that helpers use for what is incomplete and for edits.").of(h.Bytes),
		counter("xdpct_helper_read_total", "Connections that helpers have read.").of(h.Read),
		counter("xdpct_helper_full_total", "Connections that no helper reads, since there were as many as there may be (xdpct_helper_max).").of(h.Full),
		counter("xdpct_helper_crowded_total", "Connections that no helper reads, since their source had begun as many as it may (xdpct_helper_max_source).").of(h.Crowded),
		counter("xdpct_helper_evicted_total", "Connections that a helper reads no further: nobody had answered them, and room was needed.").of(h.Evicted),
		counter("xdpct_helper_picked_total", "Connections that no helper reads, since their first byte was not seen, or came with a SYN.").of(h.Picked),
		counter("xdpct_helper_messages_total", "Messages that helpers have read.").of(h.Messages),
		counter("xdpct_helper_edits_total", "Places in messages that helpers have rewritten.").of(h.Edits),
		counter("xdpct_helper_passed_total", "Messages that went on unread, since a part of one was sent again alone.").of(h.Passed),
		off, refused,
	}
}

package main

import (
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/shard"
)

// TestInsertFailed: a connection whose reply tuple is taken is a failed insertion and a
// drop, as nf_ct_resolve_clash and __nf_conntrack_confirm count them.
func TestInsertFailed(t *testing.T) {
	var s shard.Stats
	s.Reasons[flow.ReasonClash] = 1
	s.Reasons[flow.ReasonNATExhausted] = 10
	s.Reasons[flow.ReasonProbeLimit] = 100
	s.Reasons[flow.ReasonTableFull] = 1000
	got := shardStats(0, s)
	if got.InsertFailed != 111 || got.Drop != 1011 || got.ChainTooLong != 100 {
		t.Errorf("insert_failed=%d drop=%d chaintoolong=%d, want 111, 1011, 100", got.InsertFailed, got.Drop, got.ChainTooLong)
	}
}

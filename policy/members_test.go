package policy

import (
	"slices"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"

	"pgregory.net/rapid"
)

// TestMembersModel: through additions, ends of connections and changes of rules the counts
// are those of a model that remembers who counts whom, a rule that goes gives everything
// back once the sweep is done.
func TestMembersModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const conns, rules = 8, 3
		type counted struct {
			c   *connCount
			key [connKey]uint64
		}
		var m Members
		var lists [conns]uint32
		var model [conns]map[counted]bool
		for i := range model {
			model[i] = map[counted]bool{}
		}
		all := make([]*connCount, rules)
		for i := range all {
			all[i] = newSmallConnCount()
		}
		var gone []*connCount
		live := map[*connCount]bool{}
		for _, c := range all {
			live[c] = true
		}
		m.Follow(&Program{connCounts: live})
		check := func() {
			want := map[counted]uint64{}
			n := 0
			for i := range conns {
				for k := range model[i] {
					want[k]++
					n++
					if !m.has(lists[i], k.c, k.key) {
						t.Fatal("a rule has forgotten a connection")
					}
				}
			}
			if m.left > 0 {
				return // what is not swept yet may count still
			}
			for _, c := range slices.Concat(all, gone) {
				for a := range uint64(3) {
					key := [connKey]uint64{a}
					if got := c.of(key[:]); got != want[counted{c, key}] {
						t.Fatalf("%d connections of %d, want %d", got, a, want[counted{c, key}])
					}
				}
			}
			if m.Len() != n || m.Faults() != 0 {
				t.Fatalf("%d counted, want %d; %d faults", m.Len(), n, m.Faults())
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { check() },
			"count": func(t *rapid.T) {
				i, key := rapid.IntRange(0, conns-1).Draw(t, "conn"), [connKey]uint64{rapid.Uint64Range(0, 2).Draw(t, "address")}
				c := all[rapid.IntRange(0, rules-1).Draw(t, "rule")]
				if m.has(lists[i], c, key) {
					return
				}
				c.add(key[:], 1)
				lists[i] = m.add(lists[i], c, key)
				model[i][counted{c, key}] = true
			},
			"end": func(t *rapid.T) {
				i := rapid.IntRange(0, conns-1).Draw(t, "conn")
				m.Release(lists[i])
				lists[i] = 0
				clear(model[i])
			},
			"rules": func(t *rapid.T) {
				live = map[*connCount]bool{}
				for i, c := range all {
					if rapid.Bool().Draw(t, "stays") {
						live[c] = true
					} else { // what is replaced does not come back
						gone = append(gone, c)
						all[i] = newSmallConnCount()
						live[all[i]] = true
					}
				}
				m.Follow(&Program{connCounts: live})
				for i := range model {
					for k := range model[i] {
						if !live[k.c] {
							delete(model[i], k)
						}
					}
				}
			},
			"sweep": func(t *rapid.T) { m.Sweep(rapid.IntRange(1, 40).Draw(t, "places")) },
		})
		for m.left > 0 {
			m.Sweep(1)
		}
		check()
		for i := range lists {
			m.Release(lists[i])
			clear(model[i])
		}
		check()
	})
}

func newSmallConnCount() *connCount {
	return &connCount{newStore(3, connKey, connWidth, [2]uint64{1, 2})}
}

// TestMembersReleaseTwice: a list that is released twice, or never was one, harms nobody.
func TestMembersReleaseTwice(t *testing.T) {
	var m Members
	c, key := newSmallConnCount(), [connKey]uint64{1}
	c.add(key[:], 2)
	one := m.add(0, c, key)
	other := m.add(0, c, key)
	m.Release(one)
	m.Release(one)
	m.Release(99)
	if n := c.of(key[:]); n != 1 || m.Len() != 1 || m.Faults() != 2 {
		t.Fatalf("%d are counted, %d by lists, %d faults", n, m.Len(), m.Faults())
	}
	if a, b := m.add(0, c, key), m.add(0, c, key); a != one || b == one || b == other {
		t.Errorf("the places %d and %d are given beside %d", a, b, other)
	}
}

// TestMembersNote: what a packet takes along to another shard is counted there, unless its
// rule is no longer in force.
func TestMembersNote(t *testing.T) {
	p := compile(t, accept+"-A FORWARD -m connlimit --connlimit-above 5 -j DROP\nCOMMIT\n", flow.IPv4, nil)
	var c *connCount
	for c = range p.connCounts {
	}
	var from, to Members
	key := [connKey]uint64{7}
	c.add(key[:], 1)
	list := from.add(0, c, key)
	n := from.Note(list)
	from.Release(list)
	if to.Recount(&n) != 0 || c.of(key[:]) != 0 {
		t.Error("a rule that is not in force counts")
	}
	to.Follow(p)
	if list = to.Recount(&n); c.of(key[:]) != 1 || !to.has(list, c, key) {
		t.Error("it is not counted anew")
	}
	to.Release(list)
	if c.of(key[:]) != 0 {
		t.Error("it is counted for ever")
	}
}

// TestCarriedConnLimit: a table that is not replaced goes on with what connlimit counts,
// and one that is does not.
func TestCarriedConnLimit(t *testing.T) {
	p := compile(t, accept+"-A FORWARD -m connlimit --connlimit-above 5 -j DROP\nCOMMIT\n", flow.IPv4, nil)
	same, err := Compile(p.rulesets[0], nil, []string{"eth0"}, nat.Key{3}, p)
	if err != nil {
		t.Fatal(err)
	}
	other := compile(t, accept+"-A FORWARD -m connlimit --connlimit-above 5 -j DROP\nCOMMIT\n", flow.IPv4, same)
	for c := range p.connCounts {
		if !same.connCounts[c] || other.connCounts[c] {
			t.Error("the counts of connlimit are not where they belong")
		}
	}
	if len(p.connCounts) != 1 || len(other.connCounts) != 1 {
		t.Errorf("%d and %d counts for a rule", len(p.connCounts), len(other.connCounts))
	}
}

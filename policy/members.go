package policy

// Members says which connlimit rules count which connections of one shard. It is that
// shard's own, and not safe for concurrent use. The zero Members is empty.
//
// The rules that count one connection are a list, whose number the shard keeps with the
// connection. A rule that is no longer in force counts no connection: Sweep takes it out of the
// lists, a few at a time, so that the counts of rules that were replaced are given back
// however long the connections live that they counted.
type Members struct {
	all  []member // the first is not used
	free uint32   // the first that is free, 0 for none

	live   map[*connCount]bool // those of the rules in force
	swept  int                 // the place that Sweep looked at last
	left   int                 // how many places it has yet to look at, round from there
	faults uint64
}

// member says that a rule counts a connection. Without a count it is a place in a list that
// add may use again.
type member struct {
	count *connCount
	key   [connKey]uint64
	next  uint32 // of the same connection, or of the free ones; 0 for none
	held  bool   // it is in a list, not free
}

// has reports whether a rule counts the connection of a list for an address.
func (m *Members) has(list uint32, c *connCount, key [connKey]uint64) bool {
	for ; list != 0; list = m.all[list].next {
		if e := &m.all[list]; e.count == c && e.key == key {
			return true
		}
	}
	return false
}

// add puts a rule into a list and returns what the list is then.
func (m *Members) add(list uint32, c *connCount, key [connKey]uint64) uint32 {
	for i := list; i != 0; i = m.all[i].next {
		if e := &m.all[i]; e.count == nil {
			e.count, e.key = c, key
			return list
		}
	}
	if len(m.all) == 0 {
		m.all = make([]member, 1, 64)
	}
	i := m.free
	if i != 0 {
		m.free = m.all[i].next
	} else {
		i = uint32(len(m.all))
		m.all = append(m.all, member{})
		if m.left > 0 {
			m.left++ // one more to pass on the round
		}
	}
	m.all[i] = member{c, key, list, true}
	return i
}

// Release takes a connection off the rules that count it: it has ended, or is closed.
// list is what View.Member was for it; 0 is none. A list that is released already is left
// alone, and counted as a fault.
func (m *Members) Release(list uint32) {
	for list != 0 {
		if int(list) >= len(m.all) || !m.all[list].held {
			m.faults++
			return
		}
		e := &m.all[list]
		e.uncount()
		next := e.next
		*e = member{next: m.free}
		m.free, list = list, next
	}
}

// uncount takes the connection off the rule.
func (e *member) uncount() {
	if e.count != nil {
		e.count.add(e.key[:], ^uint64(0))
		e.count = nil
	}
}

// Faults returns how many lists were to be released that had been: none, unless the shard
// is wrong.
func (m *Members) Faults() uint64 { return m.faults }

// Follow says which rules are in force from now on, nil for none. Those that stay (Compile
// says which do) go on counting what they count; Sweep is to be called until it has dropped
// the others.
func (m *Members) Follow(p *Program) {
	m.live = nil
	if p != nil {
		m.live = p.connCounts
	}
	m.left = max(len(m.all)-1, 0)
}

// Sweep drops rules that are not in force any more from the lists: it looks at no more than
// n places. It goes on where it stopped, whatever Follow was told in between, so that every
// place has its turn however often rules change.
func (m *Members) Sweep(n int) {
	for ; n > 0 && m.left > 0; n, m.left = n-1, m.left-1 {
		if m.swept++; m.swept >= len(m.all) {
			m.swept = 1
		}
		if e := &m.all[m.swept]; !m.live[e.count] {
			e.uncount()
		}
	}
}

// Len returns how many connections are counted, each for every rule that counts it. It looks
// at all of them.
func (m *Members) Len() (n int) {
	for i := range m.all {
		if m.all[i].count != nil {
			n++
		}
	}
	return n
}

// maxNoted is how many rules of table raw a Note has room for.
const maxNoted = 4

// Note is what rules have counted of a packet that another shard goes on with. It holds
// nothing: the counts are released where they were taken, and taken anew by Recount.
type Note struct {
	n  int
	of [maxNoted]struct {
		count *connCount
		key   [connKey]uint64
	}
}

// Note notes the rules of a list, at most maxNoted of them: those that were asked last.
func (m *Members) Note(list uint32) (n Note) {
	for ; list != 0 && n.n < maxNoted; list = m.all[list].next {
		if e := &m.all[list]; e.count != nil {
			n.of[n.n].count, n.of[n.n].key = e.count, e.key
			n.n++
		}
	}
	return n
}

// Recount returns a list of the rules in a note that are in force and have room.
func (m *Members) Recount(n *Note) (list uint32) {
	for i := n.n - 1; i >= 0; i-- {
		e := &n.of[i]
		if !m.live[e.count] {
			continue
		}
		if _, ok := e.count.add(e.key[:], 1); ok {
			list = m.add(list, e.count, e.key)
		}
	}
	return list
}

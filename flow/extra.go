package flow

// Extra is what few connections have: it lies beside the table and costs nothing
// until it is used (struct nf_ct_ext). A Conn says by Extended whether it has one.
type Extra struct {
	// Reply is the canonical key of the reply tuple, and ReplyFlip 1 where that
	// had to be inverted to reach it. Valid iff the Conn is TwoKeyed.
	Reply Tuple

	Start     int64 // nanoseconds since 1970, 0 if nf_conntrack_timestamp was off
	Mark      Mark
	Policy    uint16 // timeout policy, 0 is that of all
	Helper    HelperID
	ReplyFlip uint8
	// ZoneDirs are the directions that the connection's zone counts for; in the
	// others it is in zone 0.
	ZoneDirs ZoneDirs
	// Expects says that the connection is, or has been, master of expectations.
	Expects bool
	// Masqueraded is the interface by which a masqueraded connection leaves, plus
	// one; 0 if it is not masqueraded (nf_conn_nat.masq_index).
	Masqueraded uint8
	// MasterHelper is the helper of the connection's master, 0 for none.
	MasterHelper HelperID
	// Counted is the list of the rules that count the connection (connlimit), 0 for none.
	Counted uint32 // here the first cache line ends: all that translation needs

	// Master is the original tuple of the connection that this one was expected
	// by. Valid iff the Conn is Expected.
	Master Tuple
	Labels Labels
	// PacketsHi are the packets by direction, in units of 2^40: what a Conn has no room
	// for. Of 24 bits that are used there are 32.
	PacketsHi [2]uint32
}

// Labels are the 128 connection labels, a bit each (struct nf_conn_labels).
type Labels [2]uint64

// Has reports whether label n is set. Valid iff n < 128.
func (l Labels) Has(n int) bool { return l[n/64]>>(n%64)&1 != 0 }

// Set sets label n. Valid iff n < 128.
func (l *Labels) Set(n int) { l[n/64] |= 1 << (n % 64) }

// Clear clears label n. Valid iff n < 128.
func (l *Labels) Clear(n int) { l[n/64] &^= 1 << (n % 64) }

// HelperID is a helper, 0 for none; HelperName says which.
type HelperID uint8

// helpers are the helpers of Linux, and rsh and rpc, by their ids, with what their rules may
// be of: the protocols and family of struct nf_conntrack_helper.
var helpers = [...]struct {
	name           string
	tcp, udp, ipv6 bool
}{
	{}, {"ftp", true, false, true}, {"irc", true, false, false}, {"tftp", false, true, true}, {"amanda", false, true, true},
	{"sip", true, true, true}, {"pptp", true, false, false}, {"H.245", true, false, true}, {"Q.931", true, false, true},
	{"RAS", false, true, true}, {"sane", true, false, true}, {"netbios-ns", false, true, false}, {"snmp", false, true, false},
	{"snmp_trap", false, true, false}, {"rsh", true, false, true}, {"rpc", true, true, false},
}

// HelperByName returns the helper of that name; ok is false if there is none.
func HelperByName(name string) (h HelperID, ok bool) {
	for i := range helpers {
		if helpers[i].name == name && i > 0 {
			return HelperID(i), true
		}
	}
	return 0, false
}

// HelperNames returns the names of all helpers.
func HelperNames() (names []string) {
	for i := range helpers[1:] {
		names = append(names, helpers[i+1].name)
	}
	return names
}

// Reads reports whether the helper reads connections of a protocol and family.
func (h HelperID) Reads(p Proto, f Family) bool {
	if h == 0 || int(h) >= len(helpers) || f == IPv6 && !helpers[h].ipv6 {
		return false
	}
	return p == TCP && helpers[h].tcp || p == UDP && helpers[h].udp
}

func (h HelperID) String() string {
	if int(h) < len(helpers) {
		return helpers[h].name
	}
	return "unknown"
}

// ZoneDirs is a set of directions, a bit each (nf_conntrack_zone.dir).
type ZoneDirs uint8

// The sets of directions that a zone may count for.
const (
	ZoneOriginal ZoneDirs = 1 << Original            // NF_CT_ZONE_DIR_ORIG
	ZoneReply    ZoneDirs = 1 << Reply               // NF_CT_ZONE_DIR_REPL
	ZoneBoth     ZoneDirs = ZoneOriginal | ZoneReply // NF_CT_DEFAULT_ZONE_DIR
)

// ZoneID is a zone and the directions that it counts for (struct
// nf_conntrack_zone). The zero ZoneID is the default zone.
type ZoneID struct {
	Zone Zone
	Dirs ZoneDirs // 0 means both
}

// In returns the zone that counts in direction d (nf_ct_zone_id).
func (z ZoneID) In(d Direction) Zone {
	if z.Dirs != 0 && z.Dirs&(1<<d) == 0 {
		return 0
	}
	return z.Zone
}

// Directional reports whether the two directions are in different zones.
func (z ZoneID) Directional() bool { return z.Zone != 0 && z.Dirs != 0 && z.Dirs != ZoneBoth }

package kernel

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// rulesets makes random rules of what both iptables and xdpct know. What depends on
// the clock or on chance is left out, or so chosen that it does not.
type rulesets struct {
	r *rand.Rand
	f flow.Family
	n int
	// legacy: the rules are for ip_tables
	legacy    bool
	connlimit bool // count connections
	bridge    bool // the rules are for a bridge, which does not translate
}

func (g *rulesets) pick(s ...string) string { return s[g.r.IntN(len(s))] }

func (g *rulesets) host() string {
	s := Side(g.r.IntN(2))
	a := s.Host(1+g.r.IntN(Hosts), g.f)
	switch g.r.IntN(4) {
	case 0:
		if g.f == flow.IPv4 {
			return a.String() + "/30"
		}
		return a.String() + "/126"
	case 1:
		if g.f == flow.IPv4 {
			return a.String() + "/24"
		}
		return a.String() + "/48"
	}
	return a.String()
}

func (g *rulesets) not() string {
	if g.r.IntN(4) == 0 {
		return "! "
	}
	return ""
}

// ah is what it is called where it is a protocol.
func (g *rulesets) ah() string {
	if g.f == flow.IPv6 {
		return "udp"
	}
	return "ah"
}

// base makes -s, -d, -i, -o, -p and matches of the protocol.
func (g *rulesets) base(chain string) (text, proto string) {
	var b strings.Builder
	add := func(format string, a ...any) { fmt.Fprintf(&b, " "+format, a...) }
	if g.r.IntN(3) == 0 {
		add("%s-s %s", g.not(), g.host())
	}
	if g.r.IntN(4) == 0 {
		add("%s-d %s", g.not(), g.host())
	}
	if g.r.IntN(4) == 0 && chain != "POSTROUTING" {
		add("%s-i %s", g.not(), g.pick("r0", "r1", "r+"))
	}
	if g.r.IntN(5) == 0 && chain != "PREROUTING" {
		add("%s-o %s", g.not(), g.pick("r0", "r1", "r+"))
	}
	icmp := "icmp"
	if g.f == flow.IPv6 {
		icmp = "ipv6-icmp"
	}
	if g.r.IntN(2) == 0 {
		proto = g.pick("tcp", "tcp", "tcp", "udp", "udp", icmp, "udplite", "sctp", "esp", "gre", g.ah())
		add("-p %s", proto)
	}
	port := func() string {
		p := ports[g.r.IntN(len(ports))]
		if g.r.IntN(3) == 0 {
			return fmt.Sprintf("%d:%d", p, p+uint16(g.r.IntN(3)))
		}
		return fmt.Sprint(p)
	}
	switch proto {
	case "tcp", "udp":
		if g.r.IntN(2) == 0 {
			add("-m %s %s%s %s", proto, g.not(), g.pick("--dport", "--sport"), port())
		} else if g.r.IntN(4) == 0 {
			add("-m multiport %s--%s %d,%d:%d", g.not(), g.pick("dports", "sports", "ports"), ports[g.r.IntN(3)], 5000, 5001)
		}
		if proto == "tcp" && g.r.IntN(4) == 0 {
			add("-m tcp %s--tcp-flags %s", g.not(), g.pick("FIN,SYN,RST,ACK SYN", "SYN,ACK SYN,ACK", "RST RST", "ALL NONE", "FIN FIN"))
		}
	case "icmp":
		if g.r.IntN(2) == 0 {
			add("-m icmp %s--icmp-type %s", g.not(), g.pick("8", "0", "3", "3/4", "11", "any"))
		}
	case "ipv6-icmp":
		if g.r.IntN(2) == 0 {
			add("-m icmp6 %s--icmpv6-type %s", g.not(), g.pick("128", "129", "1", "2", "3/0"))
		}
	}
	return b.String(), proto
}

// matches makes up to two more.
func (g *rulesets) matches(table, chain, proto string) string {
	var b strings.Builder
	for range g.r.IntN(3) {
		m := ""
		switch {
		case g.connlimit && table != "raw" && hooked(chain) && g.r.IntN(2) == 0:
			m = g.limitConns()
		case g.r.IntN(2) == 0:
			g.n++
			m = g.more(table, chain, proto)
		}
		if m == "" {
			m = g.match(table, chain)
		}
		b.WriteString(" " + m)
	}
	return b.String()
}

// limitConns counts connections, by the packets that begin them: at these nf_conncount
// looks at its whole list. At later ones it stops where it finds theirs, and what has
// ended behind that still counts, and a packet that passes a rule twice, by two jumps, is
// two (docs/parity.md). Other packets are in
// TestConnlimitAgrees and TestConnlimitUnseenAgrees.
func (g *rulesets) limitConns() string {
	bits := []int{32, 24, 31, 0}
	if g.f == flow.IPv6 {
		bits = []int{128, 48, 126, 0}
	}
	return fmt.Sprintf("-m conntrack --ctstate NEW ! --ctstatus CONFIRMED -m connlimit --connlimit-%s %d --connlimit-mask %d%s", g.pick("upto", "above"), g.r.IntN(8), bits[g.r.IntN(4)], g.pick(" --connlimit-saddr", " --connlimit-daddr"))
}

func (g *rulesets) hashMode() string {
	if m := g.pick("srcip", "dstip", "srcip,dstip", "srcip,dstport", "srcport,dstport"); on("hashlimitports") || !strings.Contains(m, "port") {
		return m
	}
	return "srcip"
}

func (g *rulesets) match(table, chain string) string {
	g.n++
	hops := "ttl --ttl"
	if g.f == flow.IPv6 {
		hops = "hl --hl"
	}
	all := []string{
		"-m conntrack " + g.not() + "--ctstate " + g.pick("NEW", "ESTABLISHED", "RELATED,ESTABLISHED", "INVALID", "UNTRACKED", "NEW,INVALID", "DNAT", "SNAT", "SNAT,DNAT"),
		"-m conntrack " + g.not() + "--ctstate " + g.pick("NEW", "ESTABLISHED", "RELATED,ESTABLISHED", "INVALID"),
		"-m conntrack " + g.not() + "--ctproto " + g.pick("tcp", "udp"),
		"-m conntrack " + g.not() + "--ctorigsrc " + g.host(),
		"-m conntrack " + g.not() + "--ctrepldst " + g.host(),
		"-m conntrack " + g.not() + "--ctorigdstport " + g.pick("80", "22:100"),
		"-m conntrack --ctdir " + g.pick("ORIGINAL", "REPLY"),
		"-m conntrack " + g.not() + "--ctstatus " + g.pick("SEEN_REPLY", "ASSURED", "CONFIRMED", "EXPECTED", "NONE"),
		"-m state --state " + g.pick("NEW", "ESTABLISHED", "RELATED"),
		"-m mark " + g.not() + "--mark " + g.pick("0x1", "0x2/0x2", "0x0"),
		"-m connmark " + g.not() + "--mark " + g.pick("0x1", "0x4/0xf", "0x0"),
		"-m length " + g.not() + "--length " + g.pick("60", "0:100", "100:600", "700"),
		"-m " + hops + "-" + g.pick("lt 64", "gt 60", "eq 63", "lt 3"),
		"-m tos " + g.not() + "--tos " + g.pick("0x10/0x3f", "0xb8", "0x00"),
		"-m dscp " + g.not() + "--dscp " + g.pick("0", "46", "4"),
		"-m addrtype " + g.not() + "--" + g.pick("src", "dst") + "-type " + g.pick("LOCAL", "UNICAST", "UNICAST,LOCAL"),
		"-m pkttype " + g.not() + "--pkt-type unicast",
		"-m mac " + g.not() + "--mac-source 02:00:00:00:01:01",
		fmt.Sprintf("-m limit --limit 1/hour --limit-burst %d", 1+g.r.IntN(20)),
		fmt.Sprintf("-m statistic --mode nth %s--every %d --packet %d", g.not(), 2+g.r.IntN(3), g.r.IntN(2)),
		fmt.Sprintf("-m hashlimit --hashlimit-upto 1/hour --hashlimit-burst %d --hashlimit-mode %s --hashlimit-name h%d", 1+g.r.IntN(9), g.hashMode(), g.n),
		"-m comment --comment \"rule " + fmt.Sprint(g.n) + "\"",
		"-m recent --name a " + g.pick("--set", "--rcheck", "--update", "--remove", "--rcheck --hitcount 3", "--update --hitcount 2") + g.pick(" --rsource", " --rdest"),
		"-m connbytes --connbytes " + g.pick("3:", "0:5", "100:2000") + " --connbytes-dir " + g.pick("original", "reply", "both") + " --connbytes-mode " + g.pick("packets", "bytes", "avgpkt"),
	}
	s := Side(g.r.IntN(2))
	all = append(all, fmt.Sprintf("-m iprange %s--%s-range %s-%s", g.not(), g.pick("src", "dst"), s.Host(1, g.f), s.Host(2, g.f)))
	m := all[g.r.IntN(len(all))]
	if strings.Contains(m, "-m mac") && chain != "PREROUTING" && chain != "FORWARD" {
		return "-m length --length 0:65535"
	}
	return m
}

func (g *rulesets) target(table, chain, proto, base string) string {
	v6 := g.f == flow.IPv6
	hops := "TTL --ttl"
	if v6 {
		hops = "HL --hl"
	}
	switch table {
	case "raw":
		return g.pick("CT --notrack", "ACCEPT", "CT --zone 5", "NOTRACK", "DROP", "ACCEPT", "RETURN", "")
	case "mangle":
		t := []string{
			"MARK --set-xmark 0x1/0xffffffff", "MARK --set-xmark 0x2/0x2", "CONNMARK --set-xmark 0x4/0xf",
			"CONNMARK --save-mark", "CONNMARK --restore-mark", "TOS --set-tos 0x10/0x3f", "DSCP --set-dscp 46", "ACCEPT", "RETURN", "",
			hops + "-set 50", hops + "-inc 2", hops + "-dec 1",
		}
		if g.r.IntN(15) == 0 {
			return "DROP"
		}
		return t[g.r.IntN(len(t))]
	case "nat":
		return g.natTarget(chain, proto, base)
	}
	t := []string{"ACCEPT", "ACCEPT", "ACCEPT", "DROP", "RETURN", "", "LOG --log-prefix \"x \"", "REJECT", "NFLOG --nflog-group 1"}
	if proto == "tcp" {
		t = append(t, "REJECT --reject-with tcp-reset")
	}
	if v6 {
		t = append(t, "REJECT --reject-with icmp6-adm-prohibited")
	} else {
		t = append(t, "REJECT --reject-with icmp-host-prohibited", "REJECT --reject-with icmp-net-unreachable")
	}
	return t[g.r.IntN(len(t))]
}

func (g *rulesets) natTarget(chain, proto, base string) string {
	other := B
	if g.r.IntN(3) == 0 {
		other = A
	}
	withPorts := proto == "tcp" || proto == "udp"
	addr := func(n int) string { return other.Host(n, g.f).String() }
	bracket := func(n int) string {
		if g.f == flow.IPv6 {
			return "[" + addr(n) + "]"
		}
		return addr(n)
	}
	if chain == "PREROUTING" && g.f == flow.IPv6 { // not back to where it came from, or the kernel sends redirects
		other = A
		if strings.Contains(base, " -i r0") {
			other = B
		} else if !strings.Contains(base, " -i r1") || strings.Contains(base, "! -i") {
			return "ACCEPT"
		}
	}
	if chain == "PREROUTING" {
		switch {
		case withPorts && g.r.IntN(2) == 0:
			return fmt.Sprintf("DNAT --to-destination %s:%d", bracket(1+g.r.IntN(Hosts)), ports[g.r.IntN(len(ports))])
		case g.r.IntN(5) == 0:
			return fmt.Sprintf("DNAT --to-destination %s-%s%s", addr(1), addr(4), g.pick("", " --persistent"))
		}
		return "DNAT --to-destination " + addr(1+g.r.IntN(Hosts))
	}
	switch {
	case g.r.IntN(3) == 0:
		return "MASQUERADE"
	case withPorts && g.r.IntN(2) == 0:
		return fmt.Sprintf("SNAT --to-source %s:%s%s", bracket(60), g.pick("3000-3400", "2000-2400"), g.pick("", " --random"))
	case g.r.IntN(3) == 0:
		return fmt.Sprintf("SNAT --to-source %s-%s%s", addr(60), addr(63), g.pick("", " --persistent"))
	}
	return "SNAT --to-source " + addr(60) + g.pick("", "", " --random-fully")
}

// text makes a file for iptables-restore.
func (g *rulesets) text() string {
	var b strings.Builder
	for _, t := range []struct {
		table  string
		chains []string
	}{
		{"raw", []string{"PREROUTING"}}, {"mangle", []string{"PREROUTING", "FORWARD", "POSTROUTING"}},
		{"nat", []string{"PREROUTING", "POSTROUTING"}}, {"filter", []string{"FORWARD"}},
	} {
		if g.r.IntN(3) == 0 && t.table != "filter" || t.table == "raw" && g.r.IntN(2) == 0 || g.bridge && t.table == "nat" {
			continue
		}
		fmt.Fprintf(&b, "*%s\n", t.table)
		if t.table == "filter" {
			b.WriteString(":INPUT DROP [0:0]\n") // the router's own answers are not what is compared
		}
		for _, c := range t.chains {
			policy := "ACCEPT"
			if t.table == "filter" && g.r.IntN(4) == 0 {
				policy = "DROP"
			}
			fmt.Fprintf(&b, ":%s %s [0:0]\n", c, policy)
		}
		users := []string{"one", "two", "three"}
		for _, u := range users {
			fmt.Fprintf(&b, ":%s - [0:0]\n", u)
		}
		for _, c := range t.chains {
			g.chain(&b, t.table, c, users, 2+g.r.IntN(6))
		}
		if t.table != "nat" {
			for i, u := range users {
				g.chain(&b, t.table, u, users[i+1:], g.r.IntN(4))
			}
		}
		if t.table == "filter" {
			b.WriteString(tracks)
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// hooked reports whether a chain is one of the kernel's, so that targets that are not for
// all of them may be in it.
func hooked(chain string) bool { return chain == strings.ToUpper(chain) }

func (g *rulesets) chain(b *strings.Builder, table, chain string, users []string, n int) {
	for range n {
		base, proto := g.base(chain)
		if table != "filter" && table != "mangle" && len(chain) < 6 {
			base, proto = "", ""
		}
		matches := g.matches(table, chain, proto)
		target := ""
		if g.r.IntN(3) == 0 && hooked(chain) {
			target = g.moreTargets(table, chain, proto, base)
		}
		if target == "" {
			target = g.target(table, chain, proto, base)
		}
		if len(users) > 0 && g.r.IntN(5) == 0 {
			target = users[g.r.IntN(len(users))]
			if g.r.IntN(5) == 0 {
				fmt.Fprintf(b, "-A %s%s%s -g %s\n", chain, base, matches, target)
				continue
			}
		}
		if target != "" {
			target = " -j " + target
		}
		fmt.Fprintf(b, "-A %s%s%s%s\n", chain, base, matches, target)
	}
}

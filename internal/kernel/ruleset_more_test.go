package kernel

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/policy/syntax"
)

// refused are the words of rules that xdpct does not take, as supports has found.
var refused = map[string]error{}

// supports reports whether xdpct takes a rule; what the words are of that it does not,
// TestMain tells at the end.
func supports(f flow.Family, table, chain, words string) bool {
	module, _, _ := strings.Cut(strings.TrimPrefix(words[max(strings.Index(words, "-m "), strings.Index(words, "-j "), 0):], "-m "), " --")
	if _, ok := refused[module]; ok {
		return false
	}
	if !hooked(chain) { // which xdpct reads closely only if packets come there
		chain = "FORWARD"
		if table == "raw" || table == "nat" {
			chain = "PREROUTING"
		}
	}
	r, err := syntax.Parse(strings.NewReader(fmt.Sprintf("*%s\n-A %s %s\nCOMMIT\n", table, chain, words)), "rule", f)
	if err == nil {
		both := [2]*syntax.Ruleset{}
		both[f.Index()] = r
		_, err = policy.Compile(both[0], both[1], []string{"r0", "r1"}, nat.Key{1, 2}, nil)
	}
	if err != nil {
		refused[module] = err
	}
	return err == nil
}

// TestRefusedMatches lists the matches and targets that the generator knows and xdpct
// refuses, so that none is left out in silence.
func TestRefusedMatches(t *testing.T) {
	for seed := range uint64(3) {
		for round := range rulesRounds {
			makeTrial(seed, round)
		}
	}
	for _, m := range slices.Sorted(maps.Keys(refused)) {
		t.Logf("%s: %v", m, refused[m])
	}
}

// more is a match of those beyond the first generator's. It may need a protocol, and then
// names it.
func (g *rulesets) more(table, chain, proto string) string {
	r := g.r
	n := func(lo, hi int) int { return lo + r.IntN(hi-lo+1) }
	v6 := g.f == flow.IPv6
	conntrack := func() string {
		return g.not() + g.pick(
			"--ctproto tcp", "--ctproto udp", "--ctproto 99", "--ctorigsrc "+g.host(), "--ctorigdst "+g.host(), "--ctreplsrc "+g.host(),
			"--ctorigsrcport 0:1023", "--ctorigdstport 53", "--ctreplsrcport 22:80", "--ctrepldstport 1024:65535",
			"--ctstatus SEEN_REPLY,ASSURED", "--ctstatus NONE", "--ctexpire 0:20", "--ctexpire 45:90", "--ctexpire 90:4294967295")
	}
	all := []string{
		"-m conntrack " + g.not() + "--ctstate " + g.pick("INVALID", "UNTRACKED", "NEW", "INVALID,UNTRACKED", "ESTABLISHED") + " " + conntrack(),
		"-m conntrack " + conntrack(),
		"-m conntrack --ctdir " + g.pick("ORIGINAL", "REPLY") + " " + conntrack(),
		"-m recent --name " + g.pick("a", "b") + " " + g.not() + g.pick("--rcheck", "--update") + fmt.Sprintf(" --seconds 3600%s%s%s", g.pick("", " --reap"), g.pick("", fmt.Sprintf(" --hitcount %d", n(1, 6))), g.pick("", " --rttl")),
		"-m recent --name " + g.pick("a", "b") + " " + g.not() + g.pick("--set", "--remove", "--rcheck") + g.mask() + g.pick(" --rsource", " --rdest"),
		fmt.Sprintf("-m hashlimit --hashlimit-%s 1/hour --hashlimit-burst %d --hashlimit-mode %s --hashlimit-name m%d", g.pick("upto", "above"), n(1, 20), g.hashMode(), g.n),
		fmt.Sprintf("-m hashlimit --hashlimit-upto 1/hour --hashlimit-burst %d --hashlimit-mode srcip,dstip --hashlimit-srcmask %d --hashlimit-dstmask %d --hashlimit-name m%d", n(1, 30), n(0, 32), n(20, 32), g.n),
		fmt.Sprintf("-m quota --quota %d", n(0, 20000)),
		"-m statistic --mode random --probability " + g.pick("0", "1"),
		fmt.Sprintf("-m limit --limit %d/hour --limit-burst %d", n(1, 3), n(1, 20)),
		"-m addrtype " + g.not() + "--" + g.pick("src", "dst") + "-type " + g.addrTypes() + g.ifaces(chain),
		"-m pkttype " + g.not() + "--pkt-type " + g.pick("broadcast", "multicast", "unicast"),
		"-m mark --mark " + g.pick("0x3/0x3", "4", "0x0/0xffffffff"),
		"-m ecn " + g.not() + fmt.Sprintf("--ecn-ip-ect %d", n(0, 3)),
		"-m string --algo " + g.pick("bm", "kmp") + fmt.Sprintf(" --from %d --to %d --hex-string \"|%s|\"", n(0, 30), n(40, 200), g.pick("0050", "000000", "0035", "dead")),
		"-m u32 --u32 \"" + g.pick("0>>22&0x3C@0>>16=0x35", "2&0xFFFF=0x100:0x300", "6&0xFF=6", "0>>22&0x3C@12>>26&0x3C@0=0", "4&0x3FFF=0:0x3000", "9=1") + "\"",
		"-m time " + g.pick("--datestart 2020-01-01", "--datestop 2020-01-01", "--timestart 00:00:00 --timestop 23:59:59", "--monthdays 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31"),
		"-m helper " + g.not() + "--helper ftp",
		fmt.Sprintf("-m connlabel --label %d%s", n(0, 5), g.pick("", " --set")),
		"-m dscp --dscp-class " + g.pick("EF", "CS1", "BE", "AF41"),
		"-m connbytes " + g.not() + "--connbytes " + g.pick("1:2", "0:40", "41:") + " --connbytes-dir " + g.pick("original", "reply", "both") + " --connbytes-mode " + g.pick("packets", "bytes", "avgpkt"),
	}
	if chain == "PREROUTING" || chain == "FORWARD" { // chains of one's own are reached from others, too
		all = append(all, "-m devgroup "+g.not()+g.pick("--src-group 0", "--src-group 0x1/0x3"))
	}
	if chain == "PREROUTING" && (table == "raw" || table == "mangle") && !g.bridge {
		all = append(all, "-m rpfilter"+g.pick("", " --loose")+g.pick("", " --validmark")+g.pick("", " --accept-local")+g.pick("", " --invert"))
	}
	switch proto {
	case "tcp":
		all = append(all, "-m tcp "+g.not()+fmt.Sprintf("--tcp-option %d", []int{2, 3, 4, 8, 254}[r.IntN(5)]), "-m tcpmss "+g.not()+"--mss "+g.pick("1460", "0:1000", "536:1500"),
			"-m ecn "+g.not()+g.pick("--ecn-tcp-cwr", "--ecn-tcp-ece"))
		all = append(all, "-m tcp --tcp-flags "+g.pick("PSH,URG PSH", "FIN,SYN,RST,PSH,ACK,URG NONE", "FIN,SYN FIN,SYN"))
	case "icmp":
		all = append(all, "-m icmp "+g.not()+"--icmp-type "+g.pick("5/1", "12", "3/1", "255", "0/0", "time-exceeded", "redirect", "4"))
	case "ipv6-icmp":
		all = append(all, "-m icmp6 "+g.not()+"--icmpv6-type "+g.pick("1/3", "4", "4/2", "packet-too-big", "time-exceeded"))
	case "sctp":
		all = append(all, "-m sctp "+g.not()+"--dport "+g.pick("22:80", "443"), "-m sctp --chunk-types "+g.pick("any INIT", "all DATA", "only INIT,DATA"), "-m multiport --ports 53,80,443")
	case "udplite":
		all = append(all, "-m multiport "+g.not()+"--"+g.pick("dports", "sports", "ports")+" 22,53:80,5000")
	case "esp":
		all = append(all, "-m esp "+g.not()+"--espspi "+g.pick("0", "1:100"))
	case "ah":
		all = append(all, "-m ah "+g.not()+"--ahspi "+g.pick("256", "0:100"))
	}
	if v6 {
		all = append(all, "-m frag --fragmore", "-m frag --fragid 0:4294967295 --fraglast", "-m rt "+g.not()+"--rt-type "+g.pick("0", "2"), "-m rt --rt-segsleft "+g.pick("0", "1"),
			"-m hbh "+g.pick("--hbh-len 8", "--hbh-opts 5:2", "--hbh-opts 1:4"), "-m dst "+g.pick("--dst-len 8", "--dst-opts 1:4"),
			"-m ipv6header "+g.pick("--header hop,dst --soft", "--header auth,prot --soft", "--header ipv6-opts,prot"))
	}
	m := all[r.IntN(len(all))]
	if !supports(g.f, table, chain, protoOption(proto)+m) || strings.Contains(m, "--fragid") && !g.legacy {
		return ""
	}
	return m
}

func protoOption(proto string) string {
	if proto == "" {
		return ""
	}
	return "-p " + proto + " "
}

// mask is one of those that lists of recent have.
func (g *rulesets) mask() string {
	if g.f == flow.IPv6 {
		return g.pick("", " --mask ffff:ffff:ffff::")
	}
	return g.pick("", " --mask 255.255.255.0", " --mask 255.255.255.254")
}

// addrTypes are those that Linux knows of a family.
func (g *rulesets) addrTypes() string {
	if g.f == flow.IPv6 {
		return g.pick("MULTICAST", "ANYCAST", "LOCAL,ANYCAST")
	}
	return g.pick("BROADCAST", "MULTICAST", "ANYCAST", "LOCAL,BROADCAST", "UNREACHABLE", "BLACKHOLE", "PROHIBIT")
}

// ifaces limits an address type to an interface.
func (g *rulesets) ifaces(chain string) string {
	switch chain {
	case "PREROUTING":
		return g.pick("", " --limit-iface-in")
	case "POSTROUTING":
		return g.pick("", " --limit-iface-out")
	case "FORWARD":
		return g.pick("", " --limit-iface-in", " --limit-iface-out")
	}
	return ""
}

// moreTargets are targets beyond the first generator's; "" if there is none.
func (g *rulesets) moreTargets(table, chain, proto, base string) string {
	v6 := g.f == flow.IPv6
	var all []string
	switch table {
	case "raw":
		all = []string{"CT --zone 5", "CT --zone 9"}
		if on("zoneorig") {
			all = append(all, "CT --zone-orig 7")
		}
		if on("zonereply") {
			all = append(all, "CT --zone-reply 3")
		}
	case "mangle":
		all = []string{
			"MARK --and-mark 0x2", "MARK --or-mark 0x4", "MARK --xor-mark 0x1", "CONNMARK --set-xmark 0x8/0xc", "CONNMARK --save-mark --nfmask 0x3 --ctmask 0xff",
			"CONNMARK --restore-mark --nfmask 0x0 --ctmask 0x4", "CONNMARK --and-mark 0xf", "CONNMARK --or-mark 0x1", "CONNMARK --xor-mark 0x2",
			"HMARK --hmark-tuple src,dst --hmark-mod 4 --hmark-rnd 9", "HMARK --hmark-src-prefix 24 --hmark-proto-mask 0xff --hmark-mod 3 --hmark-offset 1 --hmark-rnd 5", "TOS --and-tos 0x3c", "TOS --or-tos 0x04", "TOS --xor-tos 0x10", "DSCP --set-dscp-class AF41", "DSCP --set-dscp 0",
		}
		if chain != "PREROUTING" {
			all = append(all, "CLASSIFY --set-class 0001:0002")
		}
		if proto == "tcp" {
			if !strings.Contains(base, "! -p") {
				all = append(all, "ECN --ecn-tcp-remove", "TCPOPTSTRIP --strip-options mss,timestamp", "TCPOPTSTRIP --strip-options sack-permitted,wscale")
			}
			if chain != "PREROUTING" && strings.Contains(base, "--tcp-flags FIN,SYN,RST,ACK SYN") && !strings.Contains(base, "! --tcp-flags") {
				all = append(all, "TCPMSS --set-mss 1200", "TCPMSS --set-mss 400", "TCPMSS --clamp-mss-to-pmtu", "TCPMSS --clamp-mss-to-pmtu")
			}
		}
	case "filter":
		if v6 {
			all = []string{"REJECT --reject-with icmp6-no-route", "REJECT --reject-with icmp6-addr-unreachable", "REJECT --reject-with icmp6-policy-fail", "REJECT --reject-with icmp6-reject-route"}
		} else {
			all = []string{"REJECT --reject-with icmp-proto-unreachable", "REJECT --reject-with icmp-port-unreachable", "REJECT --reject-with icmp-admin-prohibited", "REJECT --reject-with icmp-net-prohibited"}
		}
		all = append(all, "LOG --log-level debug --log-tcp-options --log-ip-options", "NFLOG --nflog-prefix x --nflog-threshold 2")
	case "nat":
		all = g.moreNAT(chain, proto, base)
	}
	if len(all) == 0 {
		return ""
	}
	t := all[g.r.IntN(len(all))]
	if !supports(g.f, table, chain, protoOption(proto)+flagsOf(base)+"-j "+t) {
		return ""
	}
	return t
}

func flagsOf(base string) string {
	if strings.Contains(base, "--tcp-flags") {
		return "--tcp-flags FIN,SYN,RST,ACK SYN "
	}
	return ""
}

func (g *rulesets) moreNAT(chain, proto, base string) (all []string) {
	v6 := g.f == flow.IPv6
	other := B
	if g.r.IntN(3) == 0 {
		other = A
	}
	bits := 24
	if v6 {
		bits = 48
	}
	if chain == "PREROUTING" {
		if v6 { // not back to where it came from, or the kernel sends redirects
			other = A
			if strings.Contains(base, " -i r0") {
				other = B
			} else if !strings.Contains(base, " -i r1") || strings.Contains(base, "! -i") {
				return nil
			}
		}
		host := other.Host(1+g.r.IntN(Hosts), g.f).String()
		if v6 {
			host = "[" + host + "]"
		}
		if !v6 { // NETMAP of what is on the same side may come back
			all = append(all, fmt.Sprintf("NETMAP --to %v/%d", other.Host(0, g.f), bits))
		}
		if proto == "tcp" || proto == "udp" {
			all = append(all, fmt.Sprintf("DNAT --to-destination %s:6000-6004", host), fmt.Sprintf("DNAT --to-destination %s:6000-6004 --random", host),
				fmt.Sprintf("DNAT --to-destination %s:5000-5079/22", host))
		}
		return all
	}
	lo, hi := other.Host(60, g.f).String(), other.Host(63, g.f).String()
	if proto == "tcp" || proto == "udp" {
		all = append(all, "MASQUERADE --to-ports 4000-4100", "MASQUERADE --to-ports 2000-2030 --random", "MASQUERADE --to-ports 700-800")
		if !v6 {
			all = append(all, fmt.Sprintf("SNAT --to-source %s-%s:2000-2100", lo, hi), fmt.Sprintf("SNAT --to-source %s:1-100", lo), fmt.Sprintf("SNAT --to-source %s:2000-2000", lo))
		}
	}
	return append(all, "MASQUERADE --random", "MASQUERADE --random-fully", fmt.Sprintf("SNAT --to-source %s-%s --random", lo, hi))
}

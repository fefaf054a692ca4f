package syntax

import "github.com/xdpct/xdpct/flow"

// matches are the matches that rules may have, by the name after -m. To add one:
// a type here, a case in policy/compile_match.go, a line in docs/policy.md
// (docs/adding-a-match.md).
var matches = map[string]kind[Match]{
	"addrtype":   both(func(flow.Family) Match { return &AddrType{} }),
	"ah":         both(func(f flow.Family) Match { return newAH(f) }),
	"cluster":    both(func(flow.Family) Match { return newCluster() }),
	"comment":    both(func(flow.Family) Match { return newComment() }),
	"connbytes":  both(func(flow.Family) Match { return newConnBytes() }),
	"connlabel":  both(func(flow.Family) Match { return newConnLabel() }),
	"connlimit":  both(func(f flow.Family) Match { return newConnLimit(f) }),
	"connmark":   both(func(flow.Family) Match { return &Mark{Conn: true} }),
	"conntrack":  both(func(f flow.Family) Match { return newConntrack(f) }),
	"cpu":        both(func(flow.Family) Match { return &CPU{} }),
	"dccp":       both(func(flow.Family) Match { return newDCCP() }),
	"dscp":       both(func(flow.Family) Match { return &DSCP{} }),
	"dst":        v6("", func(flow.Family) Match { return &Opts{Dst: true} }),
	"ecn":        both(func(flow.Family) Match { return newECN() }),
	"esp":        both(func(flow.Family) Match { return newESP() }),
	"eui64":      v6("", func(flow.Family) Match { return &EUI64{} }),
	"frag":       v6("-f", func(flow.Family) Match { return newFrag() }),
	"hashlimit":  both(func(f flow.Family) Match { return newHashLimit(f) }),
	"hbh":        v6("", func(flow.Family) Match { return &Opts{} }),
	"helper":     both(func(flow.Family) Match { return &Helper{} }),
	"hl":         v6("ttl", func(flow.Family) Match { return newHops("hl") }),
	"icmp":       v4("icmp6", func(f flow.Family) Match { return newICMP(f) }),
	"icmp6":      v6("icmp", func(f flow.Family) Match { return newICMP(f) }),
	"icmpv6":     v6("icmp", func(f flow.Family) Match { return newICMP(f) }),
	"ipcomp":     both(func(flow.Family) Match { return newIPComp() }),
	"iprange":    both(func(f flow.Family) Match { return newIPRange(f) }),
	"ipv6header": v6("", func(flow.Family) Match { return &IPv6Header{} }),
	"length":     both(func(flow.Family) Match { return &Length{} }),
	"limit":      both(func(flow.Family) Match { return &Limit{} }),
	"mac":        both(func(flow.Family) Match { return &MACSource{} }),
	"mark":       both(func(flow.Family) Match { return &Mark{} }),
	"mh":         v6("", func(flow.Family) Match { return newMH() }),
	"multiport":  both(func(flow.Family) Match { return &MultiPort{} }),
	"pkttype":    both(func(flow.Family) Match { return newPktType() }),
	"policy":     both(func(f flow.Family) Match { return newPolicy(f) }),
	"quota":      both(func(flow.Family) Match { return newQuota() }),
	"recent":     both(func(f flow.Family) Match { return newRecent(f) }),
	"rpfilter":   both(func(flow.Family) Match { return &RPFilter{} }),
	"rt":         v6("", func(flow.Family) Match { return newRT() }),
	"sctp":       both(func(flow.Family) Match { return newSCTP() }),
	"state":      both(func(flow.Family) Match { return &State{} }),
	"statistic":  both(func(flow.Family) Match { return newStatistic() }),
	"string":     both(func(flow.Family) Match { return newString() }),
	"tcp":        both(func(flow.Family) Match { return newTCP() }),
	"tcpmss":     both(func(flow.Family) Match { return &TCPMSSValue{} }),
	"time":       both(func(flow.Family) Match { return newTime() }),
	"tos":        both(func(flow.Family) Match { return newTOS() }),
	"ttl":        v4("hl", func(flow.Family) Match { return newHops("ttl") }),
	"u32":        both(func(flow.Family) Match { return &U32{} }),
	"udp":        both(func(flow.Family) Match { return newPorts("udp", flow.UDP) }),
}

// impliedNames are the matches that -p loads by itself.
var impliedNames = map[flow.Proto]string{
	flow.TCP: "tcp", flow.UDP: "udp", flow.SCTP: "sctp", flow.DCCP: "dccp", flow.ICMP: "icmp", flow.ICMPv6: "icmp6",
	protoAH: "ah", protoESP: "esp", protoIPComp: "ipcomp", protoMH: "mh",
}

// targets are the targets that rules may have, by the name after -j. To add one:
// a type here, a case in policy/compile_target.go, a line in docs/policy.md
// (docs/adding-a-match.md).
var targets = map[string]kind[Target]{
	"ACCEPT":      both(func(flow.Family) Target { return &Verdict{"ACCEPT"} }),
	"CHECKSUM":    both(func(flow.Family) Target { return &FillChecksum{} }),
	"CLASSIFY":    both(func(flow.Family) Target { return &Classify{} }),
	"CONNMARK":    both(func(flow.Family) Target { return newSetConnMark() }),
	"CT":          both(func(flow.Family) Target { return newCT() }),
	"DNAT":        both(func(f flow.Family) Target { return newDNAT(f) }),
	"DNPT":        v6("NETMAP", func(flow.Family) Target { return &NPT{name: "DNPT"} }),
	"DROP":        both(func(flow.Family) Target { return &Verdict{"DROP"} }),
	"DSCP":        both(func(flow.Family) Target { return &SetDSCP{} }),
	"ECN":         v4("", func(flow.Family) Target { return newSetECN() }),
	"HL":          v6("TTL", func(flow.Family) Target { return newSetHops("HL") }),
	"LOG":         both(func(flow.Family) Target { return newLog() }),
	"MARK":        both(func(flow.Family) Target { return &SetMark{} }),
	"MASQUERADE":  both(func(f flow.Family) Target { return newMasquerade(f) }),
	"NETMAP":      both(func(f flow.Family) Target { return newNetmap(f) }),
	"NFLOG":       both(func(flow.Family) Target { return newNFLog() }),
	"NOTRACK":     both(func(flow.Family) Target { return &CT{Old: true} }),
	"REDIRECT":    both(func(f flow.Family) Target { return newRedirect(f) }),
	"REJECT":      both(func(f flow.Family) Target { return newReject(f) }),
	"RETURN":      both(func(flow.Family) Target { return &Verdict{"RETURN"} }),
	"SNAT":        both(func(f flow.Family) Target { return newSNAT(f) }),
	"SNPT":        v6("NETMAP", func(flow.Family) Target { return &NPT{name: "SNPT"} }),
	"TCPMSS":      both(func(flow.Family) Target { return newSetMSS() }),
	"TCPOPTSTRIP": both(func(flow.Family) Target { return &StripTCPOptions{} }),
	"TOS":         both(func(flow.Family) Target { return newSetTOS() }),
	"TTL":         v4("HL", func(flow.Family) Target { return newSetHops("TTL") }),
}

package policy

import (
	"errors"
	"fmt"

	"github.com/xdpct/xdpct/flow"
)

// newMatch returns a fresh match of that name for rules of family f.
func newMatch(name string, f flow.Family) (match, error) {
	v6 := f == flow.IPv6
	switch name {
	case "tcp":
		return newTCP(), nil
	case "udp":
		return &udpMatch{newPorts("udp", flow.UDP)}, nil
	case "sctp":
		return &sctpMatch{portsMatch: newPorts("sctp", flow.SCTP)}, nil
	case "icmp":
		if v6 {
			return nil, errors.New("is for IPv4; IPv6 has icmp6")
		}
		return &icmpMatch{module: "icmp", flag: "--icmp-type"}, nil
	case "icmp6", "icmpv6":
		if !v6 {
			return nil, errors.New("is for IPv6; IPv4 has icmp")
		}
		return &icmpMatch{module: "icmp6", flag: "--icmpv6-type", typ: icmpType{v6: true}}, nil
	case "multiport":
		return &multiportMatch{}, nil
	case "state":
		return &stateMatch{}, nil
	case "conntrack":
		return newConntrack(f), nil
	case "mark":
		return &markMatch{module: "mark"}, nil
	case "connmark":
		return &markMatch{module: "connmark", conn: true}, nil
	case "limit":
		return &limitMatch{}, nil
	case "hashlimit":
		return newHashlimit(f), nil
	case "connlimit":
		return newConnlimit(f), nil
	case "connbytes":
		return newConnbytes(f), nil
	case "iprange":
		return newIPRange(f), nil
	case "mac":
		return newMAC(f), nil
	case "tos":
		return newTOS(f), nil
	case "dscp":
		return newDSCP(f), nil
	case "ttl":
		if v6 {
			return nil, errors.New("is for IPv4; IPv6 has hl")
		}
		return newTTL("ttl", "--ttl"), nil
	case "hl":
		if !v6 {
			return nil, errors.New("is for IPv6; IPv4 has ttl")
		}
		return newTTL("hl", "--hl"), nil
	case "length":
		return newLength(f), nil
	case "tcpmss":
		return newTCPMSS(f), nil
	case "addrtype":
		return newAddrType(f), nil
	case "pkttype":
		return newPktType(f), nil
	case "statistic":
		return newStatistic(f), nil
	case "recent":
		return newRecent(f), nil
	case "comment":
		return newComment(f), nil
	case "frag":
		if !v6 {
			return nil, errors.New("is for IPv6; IPv4 has -f")
		}
		return newFrag(f), nil
	case "rt":
		if !v6 {
			return nil, errors.New("is for IPv6")
		}
		return newRT(f), nil
	case "rpfilter":
		return newRPFilter(f), nil
	}
	if why, ok := cannotMatch[name]; ok {
		return nil, errors.New(why)
	}
	return nil, fmt.Errorf("there is no such match here (docs/policy.md lists them)")
}

// cannotMatch says of matches that Linux has why they are not here.
var cannotMatch = map[string]string{
	"owner":    "forwarded packets have no owner: no process of this host sent them",
	"unclean":  "was removed from Linux; INVALID packets are what it looked for: -m conntrack --ctstate INVALID",
	"set":      "sets are in the kernel (ipset), where these packets are not; list the members as rules, or ranges with -m iprange",
	"physdev":  "tells the ports of a kernel bridge apart; here -i and -o name them",
	"helper":   "helpers are not here yet; -m conntrack --ctstate RELATED",
	"cgroup":   "forwarded packets belong to no process",
	"socket":   "asks for a socket of this host, which forwarded packets do not have",
	"bpf":      "runs a program of the kernel; say it in matches",
	"u32":      "is not supported; say it in matches of headers (-m length, -m ttl, --tcp-flags)",
	"string":   "is not supported: packets are not searched for text",
	"time":     "is not supported; load other rules by cron (xdpct rules load)",
	"policy":   "IPsec is the kernel's: decrypted packets are not seen here",
	"nfacct":   "accounting objects are the kernel's; rules count by themselves (xdpct rules save -c)",
	"quota":    "is not supported; -m connbytes limits a connection",
	"geoip":    "is not part of Linux",
	"account":  "is not part of Linux",
	"ipvs":     "IPVS is the kernel's",
	"devgroup": "is not supported; name the interfaces, or a prefix of them (eth+)",
	"realm":    "is not supported; match addresses",
	"cluster":  "is not supported",
	"dccp":     "is not supported; -m multiport knows ports of dccp",
	"esp":      "is not supported; -p esp matches the protocol",
	"ah":       "is not supported; -p ah matches the protocol",
	"ecn":      "is not supported; -m tos --tos 0x03/0x03 looks at the same bits",
}

// implied is the match that -p loads by itself.
func implied(p flow.Proto, f flow.Family) match {
	name := map[flow.Proto]string{flow.TCP: "tcp", flow.UDP: "udp", flow.SCTP: "sctp", flow.ICMP: "icmp", flow.ICMPv6: "icmp6"}[p]
	if name == "" {
		return nil
	}
	m, err := newMatch(name, f)
	if err != nil {
		return nil
	}
	return m
}

// newTarget returns a fresh target of that name; nil if it is none, so that it may
// be a chain.
func newTarget(name string, f flow.Family) (target, error) {
	v6 := f == flow.IPv6
	switch name {
	case "ACCEPT":
		return &verdictTarget{name, Accept}, nil
	case "DROP":
		return &verdictTarget{name, Drop}, nil
	case "RETURN":
		return &verdictTarget{name, returned}, nil
	case "REJECT":
		return newReject(f), nil
	case "LOG":
		return newLog(f), nil
	case "NFLOG":
		return newNFLog(f), nil
	case "MARK":
		return newMark(f), nil
	case "CONNMARK":
		return newConnMark(f), nil
	case "TOS":
		return newSetTOS(f), nil
	case "DSCP":
		return newSetDSCP(f), nil
	case "TTL":
		if v6 {
			return nil, errors.New("is for IPv4; IPv6 has HL")
		}
		return newSetTTL("TTL", "--ttl"), nil
	case "HL":
		if !v6 {
			return nil, errors.New("is for IPv6; IPv4 has TTL")
		}
		return newSetTTL("HL", "--hl"), nil
	case "TCPMSS":
		return newSetMSS(f), nil
	case "CT":
		return newCT(f), nil
	case "NOTRACK":
		return &ctTarget{old: true}, nil
	case "SNAT":
		return newSNAT(f), nil
	case "DNAT":
		return newDNAT(f), nil
	case "MASQUERADE":
		return newMasquerade(f), nil
	case "REDIRECT":
		return newRedirect(f), nil
	case "NETMAP":
		return newNetmap(f), nil
	}
	if why, ok := cannotTarget[name]; ok {
		return nil, errors.New(why)
	}
	return nil, nil
}

// cannotTarget says of targets that Linux has why they are not here.
var cannotTarget = map[string]string{
	"QUEUE":       "was removed from Linux; programs do not decide about packets here",
	"NFQUEUE":     "would hand packets to another program one by one, which ends line rate; decide by rules, or watch with NFLOG",
	"MIRROR":      "was removed from Linux: it sends attackers' packets at third parties; REJECT answers",
	"ULOG":        "was removed from Linux; NFLOG does the same",
	"SET":         "sets are in the kernel (ipset), where these packets are not; -m recent remembers addresses",
	"TPROXY":      "gives packets to a socket of this host, which does not see forwarded ones; DNAT sends them to a proxy",
	"SYNPROXY":    "is not supported; -m hashlimit limits SYNs by source",
	"TEE":         "is not supported",
	"CHECKSUM":    "is not needed: checksums are completed when a frame leaves",
	"CLASSIFY":    "sets a class of the kernel's queues, which these packets do not pass",
	"CONNSECMARK": "SELinux marks are the kernel's",
	"SECMARK":     "SELinux marks are the kernel's",
	"AUDIT":       "is not supported; LOG",
	"TRACE":       "is not supported; xdpct replay --verdicts tells what becomes of a packet",
	"IDLETIMER":   "is not supported",
	"LED":         "is not supported",
	"RATEEST":     "is not supported",
	"CLUSTERIP":   "was removed from Linux",
	"ECN":         "is not supported; TOS --set-tos 0x00/0x03 clears the same bits of IP",
	"HMARK":       "is not supported; MARK",
	"SAME":        "was removed from Linux; SNAT --persistent does the same",
	"TCPOPTSTRIP": "is not supported",
	"DNPT":        "is not supported; NETMAP",
	"SNPT":        "is not supported; NETMAP",
}

// sctpMatch is xt_sctp: ports, and kinds of chunks.
type sctpMatch struct {
	portsMatch
}

package syntax

// cannotMatch says of matches that Linux has why they are not here.
var cannotMatch = map[string]string{
	"account":  "is not part of Linux; rules count by themselves (xdpct rules save -c)",
	"bpf":      "runs a program of the kernel, where these packets are not; -m u32, -m string and matches of headers say the same",
	"cgroup":   "forwarded packets belong to no process; match addresses and ports",
	"devgroup": "groups of interfaces are not followed; name the interfaces, or a prefix of them (-i eth+)",
	"geoip":    "is not part of Linux; list the networks as rules",
	"ipvs":     "IPVS is the kernel's, where these packets are not; DNAT to a range of addresses shares connections out",
	"l2tp":     "is not supported; -m u32 reads the same bytes",
	"nfacct":   "accounting objects are the kernel's; rules count by themselves (xdpct rules save -c)",
	"osf":      "fingerprints are the kernel's (nfnl_osf); -m tcpmss, -m ttl and --tcp-option tell systems apart",
	"owner":    "forwarded packets have no owner: no process of this host sent them",
	"physdev":  "tells the ports of a kernel bridge apart; here -i and -o name them",
	"rateest":  "estimators are the kernel's; -m hashlimit --hashlimit-rate-match compares rates",
	"realm":    "realms of routes are not followed; match addresses (-d), or mark what they are for (-j MARK)",
	"set":      "sets are in the kernel (ipset), where these packets are not; list the members as rules, or ranges with -m iprange",
	"socket":   "asks for a socket of this host, which forwarded packets do not have; -m addrtype --dst-type LOCAL tells what is for the host",
	"srh":      "is not supported; -m rt --rt-type 4 matches segment routing headers",
	"unclean":  "was removed from Linux; INVALID packets are what it looked for: -m conntrack --ctstate INVALID",
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
	"CONNSECMARK": "SELinux marks are the kernel's",
	"SECMARK":     "SELinux marks are the kernel's",
	"AUDIT":       "is not supported; LOG",
	"TRACE":       "is not supported; xdpct replay --verdicts tells what becomes of a packet",
	"IDLETIMER":   "is not supported",
	"LED":         "is not supported",
	"RATEEST":     "is not supported",
	"CLUSTERIP":   "was removed from Linux",
	"HMARK":       "is not supported; MARK",
	"SAME":        "was removed from Linux; SNAT --persistent does the same",
}

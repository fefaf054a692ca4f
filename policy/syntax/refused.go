package syntax

// cannotMatch says of matches that Linux has why they are not here.
var cannotMatch = map[string]string{
	"account": "is not part of Linux; rules count by themselves (xdpct rules save -c)",
	"bpf":     "runs a program of the kernel, where these packets are not; -m u32, -m string and matches of headers say the same",
	"cgroup":  "forwarded packets belong to no process; match addresses and ports",
	"geoip":   "is not part of Linux; list the networks as rules",
	"ipvs":    "IPVS is the kernel's, where these packets are not; DNAT to a range of addresses shares connections out",
	"l2tp":    "has no match of its own; -m u32 reads the same bytes",
	"nfacct":  "accounting objects are the kernel's; rules count by themselves (xdpct rules save -c)",
	"osf":     "fingerprints are the kernel's (nfnl_osf); -m tcpmss, -m ttl and --tcp-option tell systems apart",
	"owner":   "forwarded packets have no owner: no process of this host sent them",
	"physdev": "tells the ports of a kernel bridge apart; here -i and -o name them",
	"rateest": "estimators are the kernel's; -m hashlimit --hashlimit-rate-match compares rates",
	"set":     "sets are in the kernel (ipset), where these packets are not; list the members as rules, or ranges with -m iprange",
	"socket":  "asks for a socket of this host, which forwarded packets do not have; -m addrtype --dst-type LOCAL tells what is for the host",
	"srh":     "has no match of its own; -m rt --rt-type 4 matches segment routing headers",
	"unclean": "was removed from Linux; INVALID packets are what it looked for: -m conntrack --ctstate INVALID",
}

// cannotTarget says of targets that Linux has why they are not here.
var cannotTarget = map[string]string{
	"QUEUE":       "was removed from Linux; programs do not decide about packets here",
	"NFQUEUE":     "would hand packets to another program one by one, which ends line rate; decide by rules, or watch with NFLOG",
	"MIRROR":      "was removed from Linux: it sends attackers' packets at third parties; REJECT answers",
	"ULOG":        "was removed from Linux; NFLOG does the same",
	"SET":         "sets are in the kernel (ipset), where these packets are not; -m recent --set remembers addresses, and --rcheck asks for them",
	"TPROXY":      "gives packets to a socket of this host, which does not see forwarded ones; DNAT sends them to a proxy",
	"SYNPROXY":    "has to change the sequence numbers of both sides for as long as a connection lives, which nothing here does yet; -m hashlimit --hashlimit-mode srcip limits the SYNs of each source",
	"TEE":         "copies packets to another host; NFLOG logs them here, and a mirrored switch port copies them all",
	"CONNSECMARK": "SELinux marks are the kernel's; CONNMARK has marks",
	"SECMARK":     "SELinux marks are the kernel's; MARK has marks",
	"IDLETIMER":   "tells programs of the host by sysfs, which is the kernel's; a rule's counters that stand still say the same (xdpct rules save -c)",
	"LED":         "is the kernel's; a rule's counters say when packets came (xdpct rules save -c)",
	"RATEEST":     "estimators are the kernel's; -m hashlimit --hashlimit-rate-match compares rates",
	"CLUSTERIP":   "was removed from Linux; -m cluster says which node takes a connection",
	"SAME":        "was removed from Linux; SNAT --persistent does the same",
}

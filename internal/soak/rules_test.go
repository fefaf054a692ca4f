package soak

import (
	"fmt"
	"strings"
)

// ruleText is a file of rules in several variants, which do the same.
type ruleText struct{ before, filter string }

// variants is how many variants there are that are right, and broken is one that is not.
const (
	variants = 2
	broken   = variants
)

// variant returns the file. The first two differ in a chain that nothing passes; the last
// is refused.
func (r *ruleText) variant(n int) string {
	var spare strings.Builder
	jump := ""
	switch n {
	case 0:
	case broken:
		return r.before + "*filter\n:FORWARD DROP [0:0]\n" + r.filter + "-A FORWARD -m conntrack --ctstate ESTABLISHED,NOSUCHSTATE -j ACCEPT\nCOMMIT\n"
	default:
		spare.WriteString(":spare - [0:0]\n")
		jump = "-A FORWARD -p udp -m udp --dport 7 -j spare\n"
		for i := range 50 {
			fmt.Fprintf(&spare, "-A spare -p udp -m udp --sport %d -j DROP\n", 20000+i)
		}
	}
	chains, rules, _ := strings.Cut(spare.String(), "\n")
	if chains != "" {
		chains += "\n"
	}
	return r.before + "*filter\n:FORWARD DROP [0:0]\n" + chains + r.filter + jump + rules + "COMMIT\n"
}

// Ports that rules refuse: what goes to droppedPort is dropped, and answered by a RST if it
// goes to refusedPort.
const (
	httpPort     = 80
	transferPort = 2000
	echoPort     = 5000
	queryPort    = 53
	droppedPort  = 9
	refusedPort  = 113
	forwardPort  = 8000 // and up, of the router's address on the WAN: to h3
)

// statefulRules are what all rulesets begin with. A connection that nobody knows is told
// so, as one is that was mapped on an address that the router has lost.
const statefulRules = `-A FORWARD -p udp -m udp --dport 9 -j DROP
-A FORWARD -p tcp -m tcp --dport 113 -j REJECT --reject-with tcp-reset
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -j REJECT --reject-with tcp-reset
`

const clamp = `*mangle
:FORWARD ACCEPT [0:0]
-A FORWARD -o vpn -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-A FORWARD -i vpn -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
COMMIT
`

// routerRules are the router's: a stateful firewall that masquerades and forwards ports.
var routerRules = [2]*ruleText{
	{
		before: clamp + `*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -i wan -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.50.0.13:80
-A PREROUTING -i wan -p tcp -m tcp --dport 8200 -j DNAT --to-destination 10.50.0.13:2000
-A PREROUTING -i wan -p udp -m udp --dport 8500 -j DNAT --to-destination 10.50.0.13:5000
-A POSTROUTING -o wan -j MASQUERADE
COMMIT
`,
		filter: statefulRules + `-A FORWARD -i wan -m conntrack --ctstate DNAT -j ACCEPT
-A FORWARD -i wan -j DROP
-A FORWARD -j ACCEPT
`,
	},
	{
		before: clamp,
		filter: statefulRules + `-A FORWARD -p ipv6-icmp -j ACCEPT
-A FORWARD -i wan -p tcp -m multiport --dports 80,2000 -j ACCEPT
-A FORWARD -i wan -p udp -m udp --dport 5000 -j ACCEPT
-A FORWARD -i wan -j DROP
-A FORWARD -j ACCEPT
`,
	},
}

// bridgeRules are the filtering bridge's: whoever is on the left may begin.
var bridgeRules = [2]*ruleText{
	{filter: statefulRules + "-A FORWARD -i a -j ACCEPT\n"},
	{filter: statefulRules + "-A FORWARD -p ipv6-icmp -j ACCEPT\n-A FORWARD -i a -j ACCEPT\n"},
}

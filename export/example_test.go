package export_test

import (
	"encoding/json"
	"fmt"
	"log"
	"net/netip"
	"os"

	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/flow"
)

// query is a DNS query from behind a NAT.
func query() *flow.Record {
	addr := func(s string) flow.Addr { return flow.AddrFrom(netip.MustParseAddr(s)) }
	return &flow.Record{
		Orig:    flow.Tuple{Src: addr("10.0.0.1"), Dst: addr("192.0.2.53"), L4: flow.MakeL4(flow.IPv4, flow.UDP, 0, 40000, 53)},
		Reply:   flow.Tuple{Src: addr("192.0.2.53"), Dst: addr("203.0.113.1"), L4: flow.MakeL4(flow.IPv4, flow.UDP, 0, 53, 40000)},
		Status:  flow.SeenReply | flow.SrcNAT,
		Timeout: 29,
	}
}

// The lines are those of conntrack -L.
func ExampleFormat_AppendFlow() {
	f := export.Format{Extended: true}
	fmt.Printf("%s\n", f.AppendFlow(nil, query()))
	// Output:
	// ipv4     2 udp      17 29 src=10.0.0.1 dst=192.0.2.53 sport=40000 dport=53 src=192.0.2.53 dst=203.0.113.1 sport=53 dport=40000 mark=0 use=1
}

// What is saved is a command of conntrack(8) that makes the connection again.
func ExampleAppendSave() {
	fmt.Printf("conntrack %s\n", export.AppendSave(nil, query()))
	// Output:
	// conntrack -A -t 29 -u SEEN_REPLY -s 10.0.0.1 -d 192.0.2.53 -r 192.0.2.53 -n 203.0.113.1 -p udp --sport 40000 --dport 53 --reply-port-src 53 --reply-port-dst 40000
}

func ExampleNewFlow() {
	j, err := json.Marshal(export.NewFlow(query()))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", j)
	// Output:
	// {"l3proto":"ipv4","l4proto":"udp","protonum":17,"timeout":29,"original":{"src":"10.0.0.1","dst":"192.0.2.53","sport":40000,"dport":53,"packets":0,"bytes":0},"reply":{"src":"192.0.2.53","dst":"203.0.113.1","sport":53,"dport":40000,"packets":0,"bytes":0},"status":["SEEN_REPLY","SRC_NAT"],"mark":0,"zone":0}
}

// Counters that are zero are left out of the text.
func ExampleStats_WriteText() {
	s := export.Stats{States: map[string]uint64{"NEW": 2, "INVALID": 1}, Reasons: map[string]uint64{"l4_checksum": 1}}
	if err := s.WriteText(os.Stdout, false); err != nil {
		log.Fatal(err)
	}
	// Output:
	// state NEW           2
	// state INVALID       1
	// reason l4_checksum  1  the transport checksum is wrong
}

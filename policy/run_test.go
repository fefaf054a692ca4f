package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// BenchmarkRun walks rules that do not match.
func BenchmarkRun(b *testing.B) {
	const n = 1000
	var text strings.Builder
	text.WriteString("*filter\n:FORWARD ACCEPT [0:0]\n")
	for i := range n {
		fmt.Fprintf(&text, "-A FORWARD -s 172.16.%d.%d -p udp -m udp --dport %d -j DROP\n", i>>8, i&255, 1+i)
	}
	text.WriteString("COMMIT\n")
	p := compile(b, text.String(), flow.IPv4, nil)
	v := viewOf(b, p, datagram("10.1.0.1", 1, 1), 0)
	b.ReportAllocs()
	for b.Loop() {
		p.Run(FilterForward, v)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/rule")
}

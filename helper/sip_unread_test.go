package helper

import (
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// TestSIPUnreadAddress: of a message whose c= or o= is no address and no name nothing is
// rewritten, neither headers nor the rest of the description, and nothing is expected.
func TestSIPUnreadAddress(t *testing.T) {
	for _, net := range []sipNet{{family: flow.IPv4, proto: flow.UDP, translated: true}, {family: flow.IPv6, proto: flow.UDP, translated: true}} {
		text := sipOffer + sipDescription + "m=audio 4000 RTP/AVP 0\n"
		for _, c := range []struct {
			was, is string
			read    bool
		}{
			{"c=IN IP4 <a>", "c=IN IP4 [<a>]", false}, {"o=- 1 1 IN IP4 <a>", "o=- 1 1 IN IP4 [<a>]", false},
			{"c=IN IP4 <a>", "c=IN IP4 <a>%1", false}, {"c=IN IP4 <a>", "c=IN IP4 \"<a>\"", false},
			{"c=IN IP4 <a>", "c=IN IP5 <a>", false}, {"c=IN IP4 <a>", "c=IN IP4 phone.example.", true}, {"c=IN IP4 <a>", "c=IN IP4 <a>", true},
		} {
			env := new(sipEnv)
			sent := net.expand(strings.Replace(text, c.was, c.is, 1))
			got := say(t, sip().New(), net.conn(), flow.Original, sent, env)
			if (got != sent) != c.read || !c.read && len(env.rows) > 0 {
				t.Errorf("%v, %s: changed\n%s\nexpected\n%s", net, c.is, changed(sent, got), net.list(env))
			}
		}
	}
}

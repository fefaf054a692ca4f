package kernel

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
)

// helperScript is a dialogue of a protocol that announces connections.
type helperScript struct {
	name     string
	families []flow.Family
	helper   string   // as CT --helper names it
	proto    string   // of the connection that is read
	port     uint16   // of its server
	only     []string // translations, if not all of allTranslations
	// ownNAT: of the kernel's connections table nat is asked, of ours it is not: they follow
	// their master, so that a rule for its port alone is enough.
	ownNAT bool
	run    func(w *world, at *place)
	// holds is what has to be true of a world when the script is done, whatever the router:
	// what the protocol is for.
	holds func(w *world, at *place) string
}

// place is where the hosts of a script are.
type place struct {
	client, server netip.Addr // themselves
	knows          netip.Addr // the client knows the server as
	seen           netip.Addr // the server sees the client as
	other          netip.Addr // host 2 of the server's side
	how            string     // the translation
}

var allTranslations = []string{"none", "masquerade", "snat", "dnat", "both", "shorter"}

func placeOf(how string, f flow.Family) *place {
	p := &place{client: A.Host(1, f), server: B.Host(1, f), knows: B.Host(1, f), seen: A.Host(1, f), other: B.Host(2, f), how: how}
	switch how {
	case "masquerade", "both":
		p.seen = B.Host(254, f)
	case "snat":
		p.seen = B.Host(60, f)
	case "shorter": // the address by which the client is known has fewer digits than its own
		p.client, p.seen = A.Host(62, f), B.Host(4, f)
	}
	if how == "dnat" || how == "both" {
		p.knows = A.Host(61, f)
	}
	return p
}

// helperRules read a protocol, translate, and count: packets of side B that begin anything
// that is not expected are dropped.
func helperRules(s *helperScript, how string, f flow.Family) string {
	p := placeOf(how, f)
	read := fmt.Sprintf("-p %s --dport %d", s.proto, s.port)
	rules := "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING " + read + " -j CT --helper " + s.helper + "\nCOMMIT\n" +
		"*mangle\n:FORWARD ACCEPT [0:0]\n-A FORWARD " + read + " -j CONNMARK --set-xmark 0x7/0xffffffff\nCOMMIT\n"
	nat := ""
	if p.knows != p.server {
		to := p.server.String()
		nat += fmt.Sprintf("-A PREROUTING -i r0 -d %v -j DNAT --to-destination %s\n", p.knows, to)
	}
	switch how {
	case "masquerade", "both":
		nat += "-A POSTROUTING -o r1 -j MASQUERADE\n"
	case "snat", "shorter":
		nat += fmt.Sprintf("-A POSTROUTING -o r1 -j SNAT --to-source %v\n", p.seen)
	}
	if how != "none" {
		rules += "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n" + nat + "COMMIT\n"
	}
	rules += "*filter\n:FORWARD ACCEPT [0:0]\n:INPUT DROP [0:0]\n"
	for _, m := range []string{
		"-m conntrack --ctstate INVALID", "-m conntrack --ctstate NEW", "-m conntrack --ctstate ESTABLISHED", "-m conntrack --ctstate RELATED", "-m conntrack --ctstatus EXPECTED",
		"-m helper --helper " + s.helper, "-m connmark --mark 0x7", "-m conntrack --ctstatus EXPECTED -m connmark --mark 0x7", "-i r1 -m conntrack --ctstate NEW -j DROP",
	} {
		rules += "-A FORWARD " + m + "\n"
	}
	return rules + "COMMIT\n"
}

// play runs a script in the world of a router.
func (s *helperScript) play(t *testing.T, r router, how string, f flow.Family) *world {
	t.Helper()
	w := &world{t: t, router: r, f: f}
	at := placeOf(how, f)
	s.run(w, at)
	w.look()
	for _, what := range w.wrong {
		t.Errorf("%T: %s", r, what)
	}
	if s.holds != nil {
		if what := s.holds(w, at); what != "" {
			t.Errorf("%T: %s\n%s", r, what, w.story(0, len(w.notes)))
		}
	}
	return w
}

// eachHelperScript runs a test for every script, family and translation.
func eachHelperScript(t *testing.T, test func(t *testing.T, s *helperScript, how string, f flow.Family)) {
	t.Helper()
	testenv.Root(t)
	testenv.Program(t, "iptables-restore")
	testenv.Program(t, "ip6tables-restore")
	testenv.Program(t, "conntrack")
	for i := range helperScripts {
		s := &helperScripts[i]
		for _, f := range s.families {
			for _, how := range allTranslations {
				if s.only != nil && !slices.Contains(s.only, how) {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/%v", s.name, how, f), func(t *testing.T) {
					pin(t)
					test(t, s, how, f)
				})
			}
		}
	}
}

// helperSysctls keep connections alive, however busy the machine is.
var helperSysctls = map[string]string{
	"nf_conntrack_udp_timeout": "3600", "nf_conntrack_gre_timeout": "3600", "nf_conntrack_tcp_timeout_close": "3600", "nf_conntrack_tcp_timeout_time_wait": "3600",
}

// onKernel plays a script in the kernel's world, and returns it with what rules have counted.
func (s *helperScript) onKernel(t *testing.T, how string, f flow.Family) (w *world, saved string) {
	t.Helper()
	k, err := newLinux(&lab{}, f, helperRules(s, how, f), helperSysctls, false)
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	w = s.play(t, k, how, f)
	if saved, err = k.save(); err != nil {
		t.Fatal(err)
	}
	return w, saved
}

// TestHelpersAgree plays the dialogues to the kernel and to devices of one, two and four
// shards. In each what the hosts see is right from end to end; and in all the same comes out,
// byte for byte but for what is drawn, the same is expected, the same connections are there
// in the same states, and rules have counted the same. XDPCT_STORIES=1 prints what happens.
func TestHelpersAgree(t *testing.T) {
	eachHelperScript(t, func(t *testing.T, s *helperScript, how string, f flow.Family) {
		rules := helperRules(s, how, f)
		k, saved := s.onKernel(t, how, f)
		if os.Getenv("XDPCT_STORIES") != "" {
			t.Logf("\n%s\n%s", k.story(0, len(k.notes)), saved)
		}
		if how == "masquerade" { // the kernel agrees with itself, or comparing shows nothing
			again, counted := s.onKernel(t, how, f)
			s.compareWorlds(t, "the kernel once more", k, again, saved, counted, rules)
		}
		for _, n := range shardCounts {
			d, err := newDevice(n, &lab{}, f, rules)
			if err != nil {
				t.Fatal(err)
			}
			x := s.play(t, d, how, f)
			counted, err := d.save()
			if err != nil {
				t.Fatal(err)
			}
			s.compareWorlds(t, fmt.Sprintf("%d shards", n), k, x, saved, counted, rules)
			d.close()
		}
	})
}

func (s *helperScript) compareWorlds(t *testing.T, who string, k, x *world, saved, counted, rules string) {
	t.Helper()
	if what := sameWorld(k, x); what != "" {
		t.Errorf("%s: %s", who, what)
	}
	for _, what := range sameCounts(saved, counted, rules) {
		if !s.ownNAT || !strings.HasPrefix(what, "counted by nat ") {
			t.Errorf("%s: %s", who, what)
		}
	}
}

var announced = regexp.MustCompile(`(\d+),(\d+),(\d+),(\d+),(\d+),(\d+)`)

// sixNumbers reads what PORT and 227 announce (RFC 959); the zero AddrPort if there is none.
func sixNumbers(text string) netip.AddrPort {
	var n [6]byte
	m := announced.FindStringSubmatch(text)
	if m == nil {
		return netip.AddrPort{}
	}
	for i := range n {
		fmt.Sscan(m[i+1], &n[i])
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(n[:])), uint16(n[4])<<8|uint16(n[5]))
}

// asSix writes an address and port as PORT and 227 do.
func asSix(a netip.AddrPort) string {
	return fmt.Sprintf("%s,%d,%d", strings.ReplaceAll(a.Addr().String(), ".", ","), a.Port()>>8, a.Port()&255)
}

// extended reads |2|address|port| (RFC 2428).
func extended(text string) netip.AddrPort {
	parts := strings.Split(text, "|")
	if len(parts) < 4 {
		return netip.AddrPort{}
	}
	a, _ := netip.ParseAddr(parts[2])
	var port uint16
	fmt.Sscan(parts[3], &port)
	return netip.AddrPortFrom(a, port)
}

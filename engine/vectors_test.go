package engine

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/rx/capture"
)

// vectors calls visit for each line of a file of vectors.
func vectors(t *testing.T, name string, visit func(line []byte)) {
	t.Helper()
	f, err := os.Open(testenv.Shared(t, "vectors/"+name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Buffer(nil, 1<<24); sc.Scan(); {
		visit(sc.Bytes())
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
}

// documented fails t unless docs/parity.md names a case.
func documented(t *testing.T, name string) {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join("..", "docs", "parity.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), "| "+name+" |") {
		t.Errorf("docs/parity.md does not name %q", name)
	}
}

// ovsCase is a test of Open vSwitch: frames by port, and listings to expect.
type ovsCase struct {
	Name   string
	Events []struct {
		Frame  string
		Expect *[]string `json:"expect_ct"`
	}
}

// ovsRun says how a case is run here. Its frames come with what OpenFlow rules of
// the original did to them, which the vectors have not.
type ovsRun struct {
	flushed int                  // number of listings after which the original flushes the table
	liberal func(frame int) bool // nf_conntrack_tcp_be_liberal, by number of the frame
	restart []int                // numbers of frames before which the table is emptied
	states  string               // of each frame, if the original tells
	later   string               // not run, and why
}

const cutOff = "the frames are cut off in the vectors; the same order and headers are compared with the kernel"

var ovsRuns = map[string]ovsRun{
	"conntrack - force commit":                                                     {restart: []int{3}},
	"conntrack - ct flush":                                                         {later: "the vectors lack the commands and the ICMP frames; deleting by tuple, id and zone is in TestConntrackSession"},
	"conntrack - new connections":                                                  {states: "NEW NEW NEW"},
	"conntrack - generic IP protocol":                                              {states: "NEW"},
	"conntrack - ICMP related 2":                                                   {states: "INVALID NEW RELATED", flushed: 1},
	"conntrack - ICMP related NAT with single port":                                {later: "NAT"},
	"conntrack - IPv4 fragmentation with fragments specified":                      {states: "hold NEW"},
	"conntrack - IPv4 fragmentation out of order":                                  {states: "hold NEW"},
	"conntrack - IPv4 fragmentation overlapping fragments by 1 octet out of order": {states: "hold drop"},
	"conntrack - IPv6 fragmentation incomplete reassembled packet":                 {states: "hold"},
	"conntrack - IPv6 fragmentation out of order":                                  {later: cutOff},
	"conntrack - IPv6 fragmentation, multiple extension headers":                   {later: cutOff},
	"conntrack - IPv6 fragmentation, multiple extension headers 2":                 {later: cutOff},
	"conntrack - IPv6 fragmentation, multiple extension headers 2 + out of order":  {later: cutOff},
	"conntrack - SCTP SNAT with port range":                                        {later: "NAT"},
	"conntrack - fragment reassembly with L3 L4 protocol information":              {later: cutOff},
	"conntrack - ICMP from different source related with NAT":                      {later: "NAT"},
	"ofproto-dpif - conntrack - untrackable traffic":                               {states: "UNTRACKED"},
	"ofproto-dpif - conntrack - tcp pick up":                                       {},
	"ofproto-dpif - conntrack - disable tcp sequence checking": {
		restart: []int{9, 18}, liberal: func(n int) bool { return n/9 == 1 },
		states: "NEW ESTABLISHED ESTABLISHED ESTABLISHED INVALID ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED " +
			"NEW ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED " +
			"NEW ESTABLISHED ESTABLISHED ESTABLISHED INVALID ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED",
	},
}

// TestOVSVectors runs the frames of Open vSwitch's system tests and compares the
// listings.
func TestOVSVectors(t *testing.T) {
	ran := 0
	vectors(t, "ovs_vectors.jsonl", func(line []byte) {
		var c ovsCase
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatal(err)
		}
		t.Run(c.Name, func(t *testing.T) {
			documented(t, c.Name)
			run, ok := ovsRuns[c.Name]
			if !ok {
				t.Fatal("nothing says how to run it")
			}
			if run.later != "" {
				return // named in docs/parity.md
			}
			ran++
			runOVS(t, &c, run)
		})
	})
	if ran != 11 {
		t.Errorf("%d cases were run, want 11", ran)
	}
}

func runOVS(t *testing.T, c *ovsCase, run ovsRun) {
	t.Helper()
	newReplay := func(n int) *Replay {
		s := DefaultSettings()
		s.L4.TCPBeLiberal = run.liberal != nil && run.liberal(n)
		r, err := NewReplay(s, 1, Zoning{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		return r
	}
	r := newReplay(0)
	var states []string
	n, listings := 0, 0
	for i, e := range c.Events {
		if e.Expect != nil {
			compareOVS(t, i, r, *e.Expect)
			if listings++; listings == run.flushed {
				r = newReplay(n)
			}
			continue
		}
		if slices.Contains(run.restart, n) {
			r = newReplay(n)
		}
		n++
		b, err := hex.DecodeString(e.Frame)
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, stateOf(r, b, capture.LinkEthernet))
	}
	if got := strings.Join(states, " "); run.states != "" && got != run.states {
		t.Errorf("states\n%s, want\n%s", got, run.states)
	}
}

// stateOf judges a frame and says what it is: its state, hold, or drop.
func stateOf(r *Replay, frame []byte, link capture.LinkType) string {
	_, v := r.Frame(&capture.Frame{Data: frame, Wire: len(frame), Link: link})
	if s := v.Action.String(); s != "accept" {
		return s
	}
	return v.State.String()
}

// compareOVS compares the table with a listing of ovs-appctl dpctl/dump-conntrack.
func compareOVS(t *testing.T, at int, r *Replay, want []string) {
	t.Helper()
	attributes := regexp.MustCompile(`,(mark|labels|zone)=[^,)]*`) // set by OpenFlow rules
	for i := range want {
		want[i] = attributes.ReplaceAllString(want[i], "")
	}
	var have []string
	for _, rec := range r.Records() {
		have = append(have, ovsLine(&rec))
	}
	for _, w := range want {
		i := slices.IndexFunc(have, ovsPattern(w).MatchString)
		if i < 0 {
			t.Errorf("event %d: %s is missing from %v", at, w, have)
			continue
		}
		have = slices.Delete(have, i, i+1)
	}
	if len(have) > 0 {
		t.Errorf("event %d: should not be there: %v", at, have)
	}
}

// ovsPattern matches a line in which the original has blanked some values.
func ovsPattern(line string) *regexp.Regexp {
	return regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(line), "<cleared>", `\d+`) + "$")
}

func ovsLine(r *flow.Record) string {
	side := func(u *flow.Tuple) string {
		l, f := u.L4, u.L4.Family()
		s := fmt.Sprintf("(src=%v,dst=%v,", u.Src.Netip(f), u.Dst.Netip(f))
		if l.Proto() == flow.ICMP {
			return s + fmt.Sprintf("id=%d,type=%d,code=%d)", l.Src(), l.ICMPType(), l.ICMPCode())
		}
		return s + fmt.Sprintf("sport=%d,dport=%d)", l.Src(), l.Dst())
	}
	proto := r.Orig.L4.Proto().String()
	if proto == "unknown" {
		proto = fmt.Sprint(uint8(r.Orig.L4.Proto()))
	}
	s := fmt.Sprintf("%s,orig=%s,reply=%s", proto, side(&r.Orig), side(&r.Reply))
	if r.Orig.L4.Proto() == flow.TCP {
		s += ",protoinfo=(state=" + r.StateName() + ")"
	}
	return s
}

// ipfStates are the states that the packets of IPFilter's tests of state and
// fragments get. The originals say pass or block by rules; docs/parity.md says how
// the two agree.
var ipfStates = map[string]string{
	"f12":    "NEW INVALID drop drop drop drop drop hold drop",
	"f13":    "INVALID drop drop drop drop drop drop drop hold drop hold drop hold drop INVALID INVALID NEW NEW NEW",
	"f21":    "NEW RELATED RELATED INVALID",
	"f22":    "NEW RELATED RELATED INVALID",
	"f24":    "NEW hold drop hold",
	"ipv6_2": "UNTRACKED UNTRACKED NEW ESTABLISHED",
	"ipv6_3": "NEW INVALID INVALID INVALID ESTABLISHED",
	"ipv6_6": "hold drop drop drop",
}

// TestIPFVectors runs the packets of IPFilter's regression tests of state and
// fragments.
func TestIPFVectors(t *testing.T) {
	ran := 0
	vectors(t, "ipf_vectors.jsonl", func(line []byte) {
		var c struct {
			Test  string
			Input []struct{ Hex string }
		}
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatal(err)
		}
		want, ok := ipfStates[c.Test]
		if !ok {
			return
		}
		ran++
		t.Run(c.Test, func(t *testing.T) {
			documented(t, c.Test)
			r, err := NewReplay(DefaultSettings(), 1, Zoning{})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			var got []string
			for _, in := range c.Input {
				b, err := hex.DecodeString(in.Hex)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, stateOf(r, b, capture.LinkRaw))
			}
			if g := strings.Join(got, " "); g != want {
				t.Errorf("states\n%s, want\n%s", g, want)
			}
		})
	})
	if ran != len(ipfStates) {
		t.Errorf("%d cases were run, want %d", ran, len(ipfStates))
	}
}

// Package cases reads connections that are written down packet by packet, each with
// what conntrack says of it. The same files are run through xdpct (engine) and through
// the running kernel (internal/kernel), so what they claim is held from both sides.
//
// A file holds cases. A case is a name, remarks and packets, one a line:
//
//	case handshake
//	# RFC 9293, 3.5: the connection is ASSURED with the third segment
//	a tcp S  0     mss 1460 = NEW SYN_SENT
//	b tcp SA 0 1   mss 1460 = ESTABLISHED reply seen SYN_RECV
//	a tcp A  1 1            = ESTABLISHED seen assured ESTABLISHED
//
// A packet is sent by side a, who begins, or b. Sequence and acknowledgement numbers
// count from the initial ones of each side. After "=" stand the state, then "reply" if
// the packet runs in that direction, "seen" for IPS_SEEN_REPLY and "assured" for
// IPS_ASSURED, as the packet left them, and at last the state that the protocol's tracker
// then has of the connection, where there is one; "nothing" stands where nothing leaves: the packet is dropped, or a fragment is held.
package cases

import (
	"bufio"
	"bytes"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// Case is one connection, or a few that belong together. It holds for both families,
// unless its name is followed by "ipv4" or "ipv6".
type Case struct {
	Name     string
	Families []flow.Family
	Steps    []Step
}

//go:embed testdata/*.txt
var files embed.FS

// All returns the cases of all files, by the file's name.
func All() (map[string][]Case, error) {
	names, err := fs.Glob(files, "testdata/*.txt")
	if err != nil {
		return nil, err
	}
	all := map[string][]Case{}
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if all[name], err = Read(bytes.NewReader(text)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return all, nil
}

// Step is one packet.
type Step struct {
	Line  int    // in the file, from 1
	Text  string // the packet, as it is written
	FromB bool
	Want  Verdict
	make  builder
}

// Verdict is what conntrack says of a packet. The zero Verdict is one of which nothing
// leaves.
type Verdict struct {
	Passed    bool
	State     flow.State
	Dir       flow.Direction
	SeenReply bool
	Assured   bool
	L4State   string // "" if there is no connection, or its protocol has no states
}

func (v Verdict) String() string {
	if !v.Passed {
		return strings.TrimSpace("nothing " + v.L4State)
	}
	words := []string{v.State.String()}
	for _, w := range []struct {
		set  bool
		word string
	}{{v.Dir == flow.Reply, "reply"}, {v.SeenReply, "seen"}, {v.Assured, "assured"}} {
		if w.set {
			words = append(words, w.word)
		}
	}
	return strings.TrimSpace(strings.Join(words, " ") + " " + v.L4State)
}

// parseVerdict is the inverse of String.
func parseVerdict(s string) (v Verdict, err error) {
	words := strings.Fields(s)
	if len(words) == 0 {
		return v, fmt.Errorf("nothing stands after =")
	}
	v.Passed = words[0] != "nothing"
	found := !v.Passed
	for _, st := range []flow.State{flow.Invalid, flow.New, flow.Established, flow.Related, flow.Untracked} {
		if st.String() == words[0] {
			v.State, found = st, true
		}
	}
	if !found {
		return v, fmt.Errorf("%q is no state", words[0])
	}
	for _, w := range words[1:] {
		switch w {
		case "reply":
			v.Dir = flow.Reply
		case "seen":
			v.SeenReply = true
		case "assured":
			v.Assured = true
		default:
			if v.L4State != "" || strings.ToUpper(w) != w {
				return v, fmt.Errorf("%q is not understood", w)
			}
			v.L4State = w
		}
	}
	return v, nil
}

// Read reads cases. An error names the line.
func Read(r io.Reader) (all []Case, err error) {
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		name, isCase := strings.CutPrefix(line, "case ")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case isCase:
			c, err := parseName(name)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
			all = append(all, c)
		case len(all) == 0:
			return nil, fmt.Errorf("line %d: a packet outside of a case", n)
		default:
			s, err := parseStep(line)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
			s.Line = n
			c := &all[len(all)-1]
			c.Steps = append(c.Steps, s)
		}
	}
	return all, sc.Err()
}

func parseName(text string) (Case, error) {
	name, only, _ := strings.Cut(text, " ")
	both := []flow.Family{flow.IPv4, flow.IPv6}
	switch only {
	case "":
		return Case{Name: name, Families: both}, nil
	case "ipv4":
		return Case{Name: name, Families: both[:1]}, nil
	case "ipv6":
		return Case{Name: name, Families: both[1:]}, nil
	}
	return Case{}, fmt.Errorf("%q is no family", only)
}

func parseStep(line string) (s Step, err error) {
	text, want, ok := strings.Cut(line, "=")
	if !ok {
		return s, fmt.Errorf("nothing says what is expected (= NEW)")
	}
	if s.Want, err = parseVerdict(want); err != nil {
		return s, err
	}
	s.Text = strings.TrimSpace(text)
	words := strings.Fields(text)
	if len(words) < 2 || words[0] != "a" && words[0] != "b" {
		return s, fmt.Errorf("a packet begins with its side, a or b, and its protocol")
	}
	s.FromB = words[0] == "b"
	s.make, err = parsePacket(words[1], words[2:])
	return s, err
}

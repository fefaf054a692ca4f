package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/rx/capture"
)

// runCLI runs the program in this process.
func runCLI(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errOut bytes.Buffer
	code = run(args, &out, &errOut)
	return out.String(), errOut.String(), code
}

func replayVerdicts(t *testing.T, args ...string) (vs []frameVerdict) {
	t.Helper()
	out, errOut, code := runCLI(t, append([]string{"replay", "--verdicts"}, args...)...)
	if code != 0 {
		t.Fatalf("replay %v: exit code %d: %s", args, code, errOut)
	}
	for dec := json.NewDecoder(strings.NewReader(out)); dec.More(); {
		var v frameVerdict
		if err := dec.Decode(&v); err != nil {
			t.Fatal(err)
		}
		vs = append(vs, v)
	}
	return vs
}

// vectorStep is a step of tcp_vectors.json: side, flags, relative sequence and
// acknowledgement numbers, payload length, window, options, and what the kernel
// says: one state or several, and the connection's state, or null.
type vectorStep struct {
	side, flags string
	seq, ack    int64
	n           int
	win         uint16
	opts        string
	want        []string
	wantState   string
}

func (s *vectorStep) UnmarshalJSON(b []byte) error {
	var raw [9]json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return err
	}
	for i, dst := range []any{&s.side, &s.flags, &s.seq, &s.ack, &s.n, &s.win, &s.opts} {
		if err := json.Unmarshal(raw[i], dst); err != nil {
			return fmt.Errorf("field %d: %w", i, err)
		}
	}
	var one *string
	if json.Unmarshal(raw[7], &one) == nil {
		if one != nil {
			s.want = []string{*one}
		}
	} else if err := json.Unmarshal(raw[7], &s.want); err != nil {
		return err
	}
	var st *string
	if err := json.Unmarshal(raw[8], &st); err != nil {
		return err
	}
	if st != nil {
		s.wantState = *st
	}
	return nil
}

var flagLetters = map[rune]packet.TCPFlags{
	'F': packet.FIN, 'S': packet.SYN, 'R': packet.RST, 'P': packet.PSH,
	'A': packet.ACK, 'U': packet.URG, 'E': packet.ECE, 'C': packet.CWR,
}

// TestVectors replays the TCP cases of the kernel's and pf's own tests.
func TestVectors(t *testing.T) {
	text, err := os.ReadFile(testenv.Shared(t, "vectors/tcp_vectors.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases map[string]struct {
		Note  string
		Steps []vectorStep
	}
	if err := json.Unmarshal(text, &cases); err != nil {
		t.Fatal(err)
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			verdicts := replayVerdicts(t, writeVector(t, c.Steps))
			for i, s := range c.Steps {
				v := verdicts[i]
				got := strings.Replace(v.CTState, "ESTABLISHED", "EST", 1)
				if s.want != nil && !slices.Contains(s.want, got) {
					t.Errorf("step %d (%s %s): %s (%s), want %v", i, s.side, s.flags, got, v.Reason, s.want)
				}
				if s.wantState != "" && v.L4State != s.wantState {
					t.Errorf("step %d (%s %s): state %s, want %s", i, s.side, s.flags, v.L4State, s.wantState)
				}
			}
		})
	}
}

func writeVector(t *testing.T, steps []vectorStep) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "vector.pcap")
	w, err := capture.Create(name, capture.LinkRaw)
	if err != nil {
		t.Fatal(err)
	}
	isn := map[string]uint32{"a": 0x10000000, "b": 0x20000000}
	for i, s := range steps {
		ip, sport, dport, peer := packet.IP{Src: leftIP, Dst: rightIP}, uint16(41000), uint16(8080), "b"
		if s.side == "b" {
			ip, sport, dport, peer = packet.IP{Src: rightIP, Dst: leftIP}, dport, sport, "a"
		}
		seg := packet.Segment{Seq: isn[s.side] + uint32(s.seq), Window: s.win, Payload: make([]byte, s.n)}
		for _, l := range s.flags {
			seg.Flags |= flagLetters[l]
		}
		if seg.Flags&packet.ACK != 0 {
			seg.Ack = isn[peer] + uint32(s.ack)
		}
		if seg.Options, err = hex.DecodeString(s.opts); err != nil {
			t.Fatal(err)
		}
		for len(seg.Options)%4 != 0 {
			seg.Options = append(seg.Options, 1)
		}
		d := packet.AppendTCP(nil, ip, sport, dport, seg)
		at := time.Unix(1700000000, int64(i)*int64(time.Millisecond))
		if err := w.Write(&capture.Frame{N: i + 1, Time: at, Data: d, Wire: len(d), Link: capture.LinkRaw}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestCaptures replays every capture there is: no crash, a verdict a frame, the
// same verdicts and tables whatever the number of shards, and no growth.
func TestCaptures(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(testenv.Shared(t, "pcaps"), "*.pcap*"))
	if err != nil || len(files) < 200 {
		t.Fatalf("%d captures, %v", len(files), err)
	}
	frames := 0
	var before, after runtime.MemStats
	for i, f := range files {
		want, wantErr, code := runCLI(t, "replay", "--verdicts", f)
		if code != 0 {
			t.Errorf("%s: exit code %d: %s", f, code, wantErr)
		}
		n := strings.Count(want, "\n")
		if n == 0 {
			t.Errorf("%s: no frames", f)
		}
		frames += n
		table, _, _ := runCLI(t, "replay", f)
		for _, shards := range []string{"2", "4"} {
			if got, _, _ := runCLI(t, "replay", "--verdicts", "--shards", shards, f); got != want {
				t.Errorf("%s: %s shards give other verdicts", f, shards)
			}
			if got, _, _ := runCLI(t, "replay", "--shards", shards, f); got != table {
				t.Errorf("%s: %s shards give another table", f, shards)
			}
		}
		if i == len(files)/2 {
			runtime.GC()
			runtime.ReadMemStats(&before)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("the heap grew by %d bytes over half of the captures", grown)
	}
	t.Logf("%d frames of %d captures", frames, len(files))
}

// TestBrokenCapture cuts a capture at every byte: what is readable is replayed,
// and the error names file and frame.
func TestBrokenCapture(t *testing.T) {
	dir := t.TempDir()
	for cut := range len(demoCapture) {
		name := filepath.Join(dir, "cut.pcap")
		if err := os.WriteFile(name, demoCapture[:cut], 0o644); err != nil {
			t.Fatal(err)
		}
		out, errOut, code := runCLI(t, "replay", "--verdicts", name)
		lines := strings.Count(out, "\n")
		want := fmt.Sprintf("%s: frame %d: ", name, lines+1)
		if cut < 24 {
			want = name + ": "
		} else if at, whole := frameEnds(cut); whole {
			if code != 0 || lines != at {
				t.Fatalf("cut at %d, between frames: %d frames, exit code %d, %s", cut, lines, code, errOut)
			}
			continue
		}
		if code != 1 || !strings.Contains(errOut, want) {
			t.Fatalf("cut at %d: exit code %d, %q, want %q", cut, code, errOut, want)
		}
	}
}

// frameEnds returns how many frames of the demo's capture end by byte at, and
// whether one ends there.
func frameEnds(at int) (n int, whole bool) {
	pos := 24
	for pos < at {
		pos += 16 + int(demoCapture[pos+8]) + int(demoCapture[pos+9])<<8
		n++
	}
	return n, pos == at
}

// TestReplayOverLength: a record that claims a shorter frame than was captured of it is
// read, and what comes after it, as tcpdump reads them.
func TestReplayOverLength(t *testing.T) {
	frame := func(port uint16) []byte {
		ip := packet.IP{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2")}
		return packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, packet.AppendUDP(nil, ip, port, 53, []byte("question")))
	}
	var file []byte
	le := binary.LittleEndian
	for _, v := range []uint32{0xa1b2c3d4, 4<<16 | 2, 0, 0, 262144, 1} {
		file = le.AppendUint32(file, v)
	}
	for i, wire := range []int{0, -20, 0, -50, 10} { // the original length, less the captured one
		f := frame(uint16(1000 + i))
		for _, v := range []uint32{uint32(i), 0, uint32(len(f)), uint32(len(f) + wire)} {
			file = le.AppendUint32(file, v)
		}
		file = append(file, f...)
	}
	name := filepath.Join(t.TempDir(), "over.pcap")
	if err := os.WriteFile(name, file, 0o644); err != nil {
		t.Fatal(err)
	}
	out, errOut, code := runCLI(t, "replay", name)
	for port := 1000; port < 1005; port++ {
		if !strings.Contains(out, fmt.Sprintf("sport=%d dport=53 ", port)) {
			t.Errorf("no connection from port %d", port)
		}
	}
	if code != 0 {
		t.Errorf("exit code %d: %s", code, errOut)
	}
	testenv.Program(t, "tcpdump")
	said, err := exec.Command("tcpdump", "-nn", "-r", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	if n, want := strings.Count(out, "\n"), strings.Count(string(said), "\n"); n != want {
		t.Errorf("%d connections, tcpdump sees %d packets:\n%s", n, want, said)
	}
}

// TestReplayForeignLink: frames of a link type that nothing is known of are an error that
// names it, not an empty table.
func TestReplayForeignLink(t *testing.T) {
	name := filepath.Join(t.TempDir(), "wifi.pcap")
	const wifi = 105 // LINKTYPE_IEEE802_11
	w, err := capture.Create(name, wifi)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := w.Write(&capture.Frame{N: i + 1, Time: time.Unix(1700000000, 0), Data: make([]byte, 60), Wire: 60, Link: wifi}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_, errOut, code := runCLI(t, "replay", name)
	if want := name + ": 3 frames were not read: their link type (105)"; code != 1 || !strings.Contains(errOut, want) {
		t.Errorf("exit code %d, %q, want %q", code, errOut, want)
	}
}

// TestReplayPartial: checksums that were left to a device are named on stderr, and what is
// to be done; those that are wrong in another way are not.
func TestReplayPartial(t *testing.T) {
	ip := packet.IP{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2")}
	var pseudo uint32 // RFC 768: addresses, protocol and length
	d := packet.AppendUDP(nil, ip, 1000, 53, []byte("question"))
	for i := 12; i < 20; i += 2 {
		pseudo += uint32(binary.BigEndian.Uint16(d[i:]))
	}
	pseudo += 17 + uint32(len(d)-20)
	pseudo = pseudo&0xffff + pseudo>>16
	for _, c := range []struct {
		sum  uint16
		said bool
	}{{uint16(pseudo), true}, {uint16(pseudo) + 1, false}} {
		binary.BigEndian.PutUint16(d[26:], c.sum)
		name := filepath.Join(t.TempDir(), "partial.pcap")
		w, err := capture.Create(name, capture.LinkRaw)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Write(&capture.Frame{N: 1, Time: time.Unix(1700000000, 0), Data: d, Wire: len(d), Link: capture.LinkRaw}); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		out, errOut, code := runCLI(t, "replay", name)
		if said := strings.Contains(errOut, "1 of 1 frames") && strings.Contains(errOut, "--partial-checksums"); said != c.said || code != 0 || out != "" {
			t.Errorf("checksum %#x: exit code %d, %q, %q", c.sum, code, out, errOut)
		}
		out, errOut, _ = runCLI(t, "replay", "--partial-checksums", name)
		if (out != "") != c.said || errOut != "" {
			t.Errorf("checksum %#x, --partial-checksums: %q, %q", c.sum, out, errOut)
		}
	}
}

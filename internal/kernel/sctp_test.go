package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/xdpct/xdpct/engine"
	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/rx/capture"
)

// Timeouts of the SCTP states are so far from each other that they tell in which state the
// timer was set, and whether a packet has set it: between the paths and the packets that
// are tested the kernel's timeouts grow by sctpLater, as the time of xdpct does.
const (
	sctpBase  = 300_000 // seconds, of SCTPNone
	sctpEach  = 1000    // from one state to the next
	sctpLater = 100_000
	sctpSlack = 300 // how long the test may take
)

func sctpTimeout(s flow.SCTPState) int { return sctpBase + sctpEach*int(s) }

// sctpSysctls are the kernel's timeouts, later being added to each.
func sctpSysctls(later int) map[string]string {
	all := map[string]string{}
	for s := flow.SCTPClosed; s < flow.NumSCTPStates; s++ {
		all["nf_conntrack_sctp_timeout_"+strings.ToLower(s.String())] = strconv.Itoa(sctpTimeout(s) + later)
	}
	return all
}

// TestSCTPCells meets every state of an association, in both directions, with every chunk
// type, tags that are right, zero, wrong and the other's, the T flag, two chunks in a
// packet and damaged ones, and holds the tracker to the running kernel: the verdict, the
// state, the timer and whether it was set, and what is remembered for packets to come.
func TestSCTPCells(t *testing.T) {
	testenv.Root(t)
	pin(t)
	o, err := NewOracle(sctpSysctls(0))
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	cfg := engine.DefaultSettings()
	cfg.Max = 1 << 17
	for s := range flow.NumSCTPStates {
		cfg.L4.Timeouts.SCTP[s] = uint32(sctpTimeout(s))
	}
	x, err := engine.NewReplay(cfg, 1, engine.Zoning{})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	r := &sctpRun{T: t, o: o, x: x, now: epoch, cells: sctpCells()}
	if last := r.cells[len(r.cells)-1].port; int(last) != firstPort+len(r.cells)-1 {
		t.Fatalf("%d cells: there are not as many ports", len(r.cells))
	}

	for i, more := 0, true; more; i++ {
		more = r.step("path", func(c *sctpCell) *sctpPacket { return nth(c.context.path, i) })
	}
	before := r.tables("path")
	for _, c := range r.cells {
		if got := before[c.port].state(); got != c.context.state {
			t.Fatalf("the path to %s leads to %v, not to %v", c.context.name, got, c.context.state)
		}
	}

	for name, value := range sctpSysctls(sctpLater) {
		if err := o.router.Sysctl("net/netfilter/"+name, value); err != nil {
			t.Fatal(err)
		}
	}
	r.now = r.now.Add(sctpLater * time.Second)
	r.step("tested", func(c *sctpCell) *sctpPacket { return &c.tested })
	after := r.tables("tested")

	for i, more := 0, true; more; i++ {
		more = r.step("what is remembered", func(c *sctpCell) *sctpPacket { return nth(sctpQuestions(c.context), i) })
	}
	r.tables("what is remembered")
	r.report(before, after)
}

func nth(all []sctpPacket, i int) *sctpPacket {
	if i < len(all) {
		return &all[i]
	}
	return nil
}

// sctpRun sends packets of cells through the kernel and through xdpct.
type sctpRun struct {
	*testing.T
	o       *Oracle
	x       *engine.Replay
	now     time.Time // of xdpct
	cells   []*sctpCell
	invalid int // packets that the kernel calls so
	packets int
	differ  int
}

// difference reports a difference; of many only the first.
func (r *sctpRun) difference(c *sctpCell, when, what string) {
	r.Helper()
	if r.differ++; r.differ <= 20 {
		r.Errorf("%s\n%s: %s", c, when, what)
	}
}

// batch is how many frames are sent before the router is asked whether it is done: less
// than its queues hold.
const batch = 128

// step sends one packet of each cell that has one, and reports whether there were any.
func (r *sctpRun) step(when string, pick func(*sctpCell) *sctpPacket) bool {
	r.Helper()
	var frames [2][][]byte
	var cells [2][]*sctpCell
	any := false
	flush := func(from Side) {
		r.exchange(when, from, frames[from], cells[from])
		frames[from], cells[from] = frames[from][:0], cells[from][:0]
	}
	for _, c := range r.cells {
		p := pick(c)
		if p == nil {
			continue
		}
		any = true
		from := Side(p.dir)
		frames[from] = append(frames[from], Frame(from, Number(p.datagram(c.port), uint16(len(frames[from])+1))))
		if cells[from] = append(cells[from], c); len(cells[from]) == batch {
			flush(from)
		}
	}
	flush(A)
	flush(B)
	return any
}

// exchange sends frames, which are numbered from 1, and compares verdicts.
func (r *sctpRun) exchange(when string, from Side, frames [][]byte, cells []*sctpCell) {
	r.Helper()
	out, err := r.o.ExchangeFrames(from, frames...)
	if err != nil {
		r.Fatal(err)
	}
	verdicts := map[int]Verdict{}
	for _, f := range out[from^1] {
		if ip := f[14:]; len(ip) >= 20 && ip[9] == byte(flow.SCTP) {
			verdicts[int(binary.BigEndian.Uint16(ip[4:]))] = fromDSCP(ip[1] >> 2)
		}
	}
	for i, c := range cells {
		want, forwarded := verdicts[i+1]
		d := frames[i][14:]
		_, v := r.x.Frame(&capture.Frame{Time: r.now, Data: d, Wire: len(d), Link: capture.LinkRaw})
		if what := differ(want, forwarded, v); what != "" {
			r.difference(c, when, what)
		}
		r.packets++
		if want.State == flow.Invalid {
			r.invalid++
		}
	}
}

// sctpRow is a line of a listing.
type sctpRow struct {
	id      string // the line without its timeout
	timeout int
}

// state is the association's, as the kernel prints it.
func (r sctpRow) state() flow.SCTPState {
	for s := range flow.NumSCTPStates {
		if f := strings.Fields(r.id); len(f) > 4 && f[4] == s.String() {
			return s
		}
	}
	return flow.SCTPNone
}

// sctpRows reads a listing; rows are by the port of the client.
func sctpRows(text []byte) (map[uint16]sctpRow, error) {
	rows := map[uint16]sctpRow{}
	for line := range bytes.Lines(text) {
		if !bytes.Contains(line, []byte("sctp")) {
			continue
		}
		id, timeout, err := split(string(line))
		if err != nil {
			return nil, err
		}
		_, sport, _ := strings.Cut(id, " sport=")
		sport, _, _ = strings.Cut(sport, " ")
		port, err := strconv.ParseUint(sport, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("listing line %q: %w", line, err)
		}
		rows[uint16(port)] = sctpRow{id, timeout}
	}
	return rows, nil
}

// tables compares the kernel's connections with those of xdpct, and returns the former.
func (r *sctpRun) tables(when string) map[uint16]sctpRow {
	r.Helper()
	text, err := r.o.Table()
	if err != nil {
		r.Fatal(err)
	}
	kernel, err := sctpRows(text)
	if err != nil {
		r.Fatal(err)
	}
	r.x.SetTime(r.now)
	text = text[:0]
	for _, rec := range r.x.Records() {
		text = append((&export.Format{Extended: true}).AppendFlow(text, &rec), '\n')
	}
	xdpct, err := sctpRows(text)
	if err != nil {
		r.Fatal(err)
	}
	later := 0
	if !r.now.Equal(epoch) {
		later = sctpLater
	}
	for _, c := range r.cells {
		k, x := kernel[c.port], xdpct[c.port]
		if x.id != "" {
			x.timeout += later
		}
		if k.id != x.id || k.timeout > x.timeout+1 || k.timeout < x.timeout-sctpSlack {
			r.difference(c, when, fmt.Sprintf("\nkernel %d %s\nxdpct  %d %s", k.timeout, k.id, x.timeout, x.id))
		}
	}
	return kernel
}

// report says what the cells did to the kernel, so that a test of nothing shows.
func (r *sctpRun) report(before, after map[uint16]sctpRow) {
	r.Helper()
	var begun, moved, renewed, kept int
	for _, c := range r.cells {
		b, a := before[c.port], after[c.port]
		switch {
		case b.id == "" && a.id != "":
			begun++
		case b.id == "":
		case a.state() != b.state():
			moved++
		case a.timeout > b.timeout:
			renewed++
		default:
			kept++
		}
	}
	r.Logf("%d cells, %d packets, %d INVALID; %d begin a connection, %d change its state, %d set its timer only, %d neither; %d differences",
		len(r.cells), r.packets, r.invalid, begun, moved, renewed, kept, r.differ)
	if n := len(r.cells); begun < n/500 || moved < n/20 || renewed < n/20 || kept < n/20 {
		r.Error("hardly a cell was tested")
	}
}

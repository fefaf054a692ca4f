package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/xdpct/xdpct/engine"
	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/rx/capture"
	"github.com/xdpct/xdpct/shard"
)

// replayOptions are the flags of replay.
type replayOptions struct {
	verdicts, json, partial bool
	out                     string
	shards                  int
	settings                engine.Settings
	format                  export.Format
	rules, rules6           string
	helpers                 []shard.Assignment
	expect                  bool
	stdin                   io.Reader
}

func replayCommand() *cobra.Command {
	o := replayOptions{settings: engine.DefaultSettings()}
	cmd := &cobra.Command{
		Use:   "replay [flags] CAPTURE...",
		Short: "Run captures through the tracker and print the final table",
		Long: `Read pcap and pcapng captures (Ethernet, raw IP, Linux cooked, PPP, loopback; also gzipped),
one after the other (- is standard input), with the capture's own time as the clock, and print the
connections that are alive at the end as 'list' does.

With --verdicts print one JSON object for each frame instead:
  n        the number of the frame, from 1
  ts       its time
  ctstate  NEW, ESTABLISHED, RELATED, INVALID or UNTRACKED; empty while held
  dir      original or reply, empty if the frame belongs to no connection
  status   status bits of its connection after the frame
  l4state  state of its protocol after the frame; for an INVALID frame that of
           the connection that its addresses and ports name
  timeout  seconds that this connection lives on without further frames
  verdict  accept, drop, or hold: a fragment that waits for the rest of its
           datagram; the one that completes it gets the datagram's verdict
  reason   why it was dropped, is INVALID or was ignored

A capture that is broken is replayed up to the break; the error names the file
and the frame. One with frames of another link type is an error, too. That frames have
checksums that a device was to complete is said on stderr: see --partial-checksums.`,
		Example: `  xdpct replay web.pcap
  xdpct replay --verdicts --set nf_conntrack_tcp_loose=0 part1.pcapng.gz part2.pcapng.gz
  xdpct replay --out passed.pcap mixed.pcap
  xdpct replay --helper tcp/21=ftp --expect ftp.pcap
  xdpct replay --rules rules.v4 --verdicts mixed.pcap`,
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, files []string) error {
			o.stdin = cmd.InOrStdin()
			return o.run(cmd.OutOrStdout(), cmd.ErrOrStderr(), files)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.verdicts, "verdicts", false, "print a verdict for each frame instead of the final table")
	f.BoolVar(&o.json, "json", false, "print the final table as JSON, a connection a line")
	f.StringVar(&o.out, "out", "", "write to `FILE`: the frames that pass if its name ends in .pcap or .pcap.gz, else the output")
	f.IntVar(&o.shards, "shards", 1, "number of shards; verdicts depend on it only where a shard's share of nf_conntrack_max is full")
	f.BoolVar(&o.partial, "partial-checksums", false, "accept checksums that the sending host left to its device")
	f.BoolVarP(&o.format.Extended, "extended", "e", false, "begin lines with the layer 3 protocol, as conntrack -o extended")
	f.StringVar(&o.rules, "rules", "", "let the packets pass the rules of `FILE`, as a bridge does whose frames come in by \"in\" and leave by \"out\"; what is dropped is not in --out")
	f.StringVar(&o.rules6, "rules6", "", "the same for IPv6, as ip6tables-save prints them")
	f.Var(helperFlag{&o.helpers}, "helper", "have a helper read the connections to a port, as tcp/21=ftp; may be given several times")
	f.BoolVar(&o.expect, "expect", false, "print the expectations of helpers, as they come and go, instead of the final table")
	f.Var(profileFlag{&o.settings}, "profile", "begin with the timeouts of a profile, linux or rfc; give it before --set")
	f.Var(settingsFlag{&o.settings}, "set", "change a setting; see 'xdpct settings'")
	return cmd
}

// frameVerdict is a line of --verdicts.
type frameVerdict struct {
	N       int      `json:"n"`
	Time    string   `json:"ts"`
	CTState string   `json:"ctstate"`
	Dir     string   `json:"dir"`
	Status  []string `json:"status"`
	L4State string   `json:"l4state"`
	Timeout uint32   `json:"timeout"`
	Verdict string   `json:"verdict"`
	Reason  string   `json:"reason"`
}

func (o *replayOptions) run(stdout, stderr io.Writer, files []string) (err error) {
	if o.shards < 1 || o.shards > engine.MaxShards {
		return usageError{fmt.Errorf("--shards %d: must be 1..%d", o.shards, engine.MaxShards)}
	}
	rules, err := o.readRules()
	if err != nil {
		return err
	}
	var w *bufio.Writer
	var r *engine.Replay
	if o.expect {
		rules.Expected = func(k flow.EventKind, e *expect.Expectation) {
			_, _ = fmt.Fprintf(w, "%s\n", export.AppendExpectationEvent(nil, k, e, r.Now().UnixMilli()))
		}
	}
	if r, err = engine.NewReplayWith(o.settings, o.shards, engine.Zoning{}, rules); err != nil {
		return err
	}
	defer r.Close()
	if o.partial {
		r.AcceptPartial()
	}
	o.format.Counters = o.settings.Acct

	sink, text, err := o.openOut(stdout)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sink.Close()) }()
	w = bufio.NewWriterSize(text, 1<<16)
	defer func() { err = errors.Join(err, w.Flush()) }()

	var broken error
	n := 0
	for _, name := range files {
		if err := o.replayFile(r, name, &n, w, sink); err != nil {
			broken = errors.Join(broken, err)
		}
	}
	if o.expect {
		r.Expectations() // those that have ended are told
	}
	if p := r.Partial(); p > 0 {
		fmt.Fprintf(stderr, "xdpct: %d of %d frames are INVALID (l4_checksum) because the host they were captured on left their checksums to its device; --partial-checksums accepts them\n", p, n)
	}
	if !o.verdicts && !o.expect {
		if err := o.printTable(w, r); err != nil {
			return err
		}
	}
	return broken
}

// outSink is where --out goes: frames, text, or nowhere.
type outSink struct {
	name string
	pcap *capture.Writer // opened with the first frame, whose link type it takes
	text *os.File
}

func (o *replayOptions) openOut(stdout io.Writer) (*outSink, io.Writer, error) {
	s := &outSink{}
	switch {
	case o.out == "":
		return s, stdout, nil
	case strings.HasSuffix(o.out, ".pcap"), strings.HasSuffix(o.out, ".pcap.gz"):
		s.name = o.out
		return s, stdout, nil
	}
	f, err := os.Create(o.out)
	s.text = f
	return s, f, err
}

func (s *outSink) write(f *capture.Frame) (err error) {
	if s.name == "" {
		return nil
	}
	if s.pcap == nil {
		if s.pcap, err = capture.Create(s.name, f.Link); err != nil {
			return err
		}
	}
	return s.pcap.Write(f)
}

// Close closes what is open. A capture that no frame reached is written empty.
func (s *outSink) Close() (err error) {
	if s.name != "" && s.pcap == nil {
		if s.pcap, err = capture.Create(s.name, capture.LinkEthernet); err != nil {
			return err
		}
	}
	if s.pcap != nil {
		err = s.pcap.Close()
	}
	if s.text != nil {
		err = errors.Join(err, s.text.Close())
	}
	return err
}

func (o *replayOptions) replayFile(r *engine.Replay, name string, n *int, w *bufio.Writer, sink *outSink) error {
	in, err := o.open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	enc := json.NewEncoder(w)
	var foreign foreignFrames
	for {
		var f capture.Frame
		if err := in.Next(&f); errors.Is(err, io.EOF) {
			return foreign.err(name)
		} else if err != nil {
			return err
		}
		*n++
		foreign.count(f.Link)
		p, v := r.Frame(&f)
		for _, passed := range r.Passed() {
			if err := sink.write(passed); err != nil {
				return err
			}
		}
		if o.verdicts {
			if err := enc.Encode(describe(*n, &f, p, v, r)); err != nil {
				return err
			}
		}
	}
}

// open opens a capture, - for standard input.
func (o *replayOptions) open(name string) (*capture.Reader, error) {
	if name == "-" {
		return capture.NewReader("standard input", o.stdin)
	}
	return capture.Open(name)
}

// foreignFrames counts frames of link types that nothing is known of.
type foreignFrames struct {
	n    int
	link capture.LinkType // of the first
}

func (f *foreignFrames) count(l capture.LinkType) {
	if l.Understood() {
		return
	}
	if f.n == 0 {
		f.link = l
	}
	f.n++
}

// err is the error of a file that has such frames, or nil.
func (f *foreignFrames) err(name string) error {
	if f.n == 0 {
		return nil
	}
	return fmt.Errorf("%s: %d frames were not read: their link type (%d) is none of Ethernet, raw IP, Linux cooked, PPP and loopback", name, f.n, f.link)
}

func describe(n int, f *capture.Frame, p *packet.Packet, v shard.Verdict, r *engine.Replay) frameVerdict {
	line := frameVerdict{
		N: n, Time: r.Now().Format(time.RFC3339Nano), CTState: v.State.String(),
		Status: []string{}, Verdict: v.Action.String(), Reason: v.Reason.String(),
	}
	if v.Action == shard.Hold {
		line.CTState = ""
	}
	if !f.Time.IsZero() {
		line.Time = f.Time.UTC().Format(time.RFC3339Nano)
	}
	if v.Conn {
		line.Dir, line.Status, line.Timeout = v.Dir.String(), v.Status.Names(), r.Timeout(v)
		line.L4State = flow.StateName(p.Key.L4.Proto(), v.L4State)
	} else if rec, ok := r.Named(); ok {
		line.L4State, line.Timeout = rec.StateName(), rec.Timeout
	}
	return line
}

func (o *replayOptions) printTable(w io.Writer, r *engine.Replay) error {
	if o.json {
		enc := json.NewEncoder(w)
		for _, rec := range r.Records() {
			if err := enc.Encode(export.NewFlow(&rec)); err != nil {
				return err
			}
		}
		return nil
	}
	return printRecords(w, r, o.format)
}

func printRecords(w io.Writer, r *engine.Replay, f export.Format) error {
	var line []byte
	for _, rec := range r.Records() {
		line = append(f.AppendFlow(line[:0], &rec), '\n')
		if _, err := w.Write(line); err != nil {
			return err
		}
	}
	return nil
}

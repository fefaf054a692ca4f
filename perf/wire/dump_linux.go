package wire

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"github.com/xdpct/xdpct/engine"
)

// DumpRate is the load under which xdpct lists its connections, in frames a second.
const DumpRate = 1_000_000

// Dump is how long it took to list all connections, and what that cost the packets.
type Dump struct {
	Name  Subject `json:"name"`
	Flows int     `json:"flows"`
	// Took is the time of the listing command, from its start to its end, and
	// Listed the number of connections that it said it had shown.
	Took   time.Duration `json:"took_ns"`
	Listed int           `json:"listed"`
	// Quiet and During are the rates of packets, in frames a second, before the
	// listing and while it ran; 0 where there was no load.
	Quiet  float64 `json:"quiet_pps,omitempty"`
	During float64 `json:"during_pps,omitempty"`
	// Lost is the share of the frames which came in while it ran that found no
	// room, because the shard did not get round to them.
	Lost float64 `json:"lost,omitempty"`
}

// Lister makes a command that lists the connections of an engine; stop ends what it
// needs.
type Lister func(e *engine.Engine) (argv []string, stop func() error, err error)

// MeasureDump times `conntrack -L` of all connections: of xdpct under a load of
// DumpRate, by the command that list makes; of the kernel at rest.
func MeasureDump(name Subject, o Options, list Lister) (d Dump, err error) {
	if err := o.Validate(); err != nil {
		return d, err
	}
	d.Name = name
	err = with(name, o, func(b *bench) error {
		if err := b.setUp(); err != nil {
			return err
		}
		var n int
		if n, _, err = b.sys.flows(); err != nil {
			return err
		}
		d.Flows = n
		switch sys := b.sys.(type) {
		case *tracker:
			argv, stop, err := list(sys.engine)
			if err != nil {
				return err
			}
			err = b.dumpUnderLoad(&d, argv)
			return errors.Join(err, stop())
		case *kernel:
			return b.lab.box.Do(func() error { return d.list([]string{"conntrack", "-L"}) })
		}
		return fmt.Errorf("%s has no listing", name)
	})
	return d, err
}

// dumpUnderLoad lists while frames come in.
func (b *bench) dumpUnderLoad(d *Dump, argv []string) error {
	sent := make(chan error, 1)
	go func() {
		_, err := b.lab.Send(Load{
			Flows: b.o.Flows, Size: b.o.Size, Uniform: true, PPS: DumpRate,
			Frames: int(DumpRate * b.o.Duration.Seconds()), CPU: b.o.GenCPU, Urgent: true,
		})
		sent <- err
	}()
	third := b.o.Duration / 3
	time.Sleep(third / 4) // until it is under way
	var err error
	if d.Quiet, err = b.rateWhile(func() error { time.Sleep(third); return nil }); err == nil {
		var before, after Detail
		var taken float64
		before, err = b.sys.detail()
		d.During, err = b.rateWhile(func() error { return errors.Join(err, d.list(argv)) })
		if err == nil {
			after, err = b.sys.detail()
		}
		var lost uint64
		for r, n := range after.Drops {
			lost += n - before.Drops[r]
		}
		taken = float64(after.Hits + after.Inserts - before.Hits - before.Inserts)
		d.Lost = float64(lost) / (taken + float64(lost))
	}
	if len(sent) > 0 {
		err = errors.Join(err, errors.New("the listing outlasted the load: ask for a longer --duration"))
	}
	return errors.Join(err, <-sent)
}

// rateWhile returns the frames a second that are taken while f runs.
func (b *bench) rateWhile(f func() error) (float64, error) {
	before, _, err := b.done()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := f(); err != nil {
		return 0, err
	}
	took := time.Since(start)
	after, _, err := b.done()
	return float64(after-before) / took.Seconds(), err
}

var shown = regexp.MustCompile(`(\d+) flow entries have been shown`)

// list runs a listing command.
func (d *Dump) list(argv []string) error {
	var errOut bytes.Buffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = &errOut // its output goes nowhere
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%v: %w: %s", argv, err, errOut.Bytes())
	}
	d.Took = time.Since(start)
	m := shown.FindSubmatch(errOut.Bytes())
	if m == nil {
		return fmt.Errorf("%v said %q", argv, errOut.Bytes())
	}
	var err error
	d.Listed, err = strconv.Atoi(string(m[1]))
	return err
}

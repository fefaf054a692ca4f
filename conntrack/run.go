package conntrack

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/xdpct/xdpct/control"
	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/flow"
)

// program is how the version of conntrack-tools whose options and messages these
// are calls itself: scripts look for it.
const program = "conntrack v1.4.7 (conntrack-tools)"

// The exit codes.
const (
	exitOK    = 0
	exitError = 1 // it failed, or nothing matched
	exitUsage = 2
)

// IO is where a command reads and writes.
type IO struct {
	In       io.Reader
	Out, Err io.Writer
}

// Main runs a command line (without the program's name) against the tracker that
// listens on a control socket, and returns the exit code.
func Main(ctx context.Context, args []string, socket string, std IO) int {
	c, err := parse(args)
	if err == nil {
		r := &runner{ctx: ctx, client: control.NewClient(socket), std: std, out: bufio.NewWriterSize(std.Out, 1<<16)}
		var code int
		code, err = r.run(c)
		if flushed := r.out.Flush(); err == nil {
			err = flushed
		}
		if err == nil {
			r.trailer(c)
			return code
		}
	}
	var usage usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(std.Err, "%s: %v\nTry `conntrack -h' or 'conntrack --help' for more information.\n", program, err)
		return exitUsage
	}
	fmt.Fprintf(std.Err, "%s: Operation failed: %v\n", program, err)
	return exitError
}

// runner runs commands.
type runner struct {
	ctx    context.Context
	client *control.Client
	std    IO
	out    *bufio.Writer
	n      int    // lines printed, or entries made
	done   string // what became of them, for the trailer
}

func (r *runner) trailer(c *command) {
	switch {
	case r.done == "":
	case strings.HasSuffix(r.done, "."):
		fmt.Fprintf(r.std.Err, "%s: %s\n", program, r.done)
	case c.table == "expect" && c.verb == 'E':
		fmt.Fprintf(r.std.Err, "%s: %d expectation events have been %s.\n", program, r.n, r.done)
	case c.table == "expect":
		fmt.Fprintf(r.std.Err, "%s: %d expectations have been %s.\n", program, r.n, r.done)
	case c.verb == 'E':
		fmt.Fprintf(r.std.Err, "%s: %d flow events have been %s.\n", program, r.n, r.done)
	default:
		fmt.Fprintf(r.std.Err, "%s: %d flow entries have been %s.\n", program, r.n, r.done)
	}
}

// run runs one command.
func (r *runner) run(c *command) (code int, err error) {
	if err := c.refuse(); err != nil {
		return 0, err
	}
	for _, name := range c.ignoredStatus() {
		fmt.Fprintf(r.std.Err, "WARNING: ignoring %s, use --%s instead\n", name, strings.ToLower(strings.Replace(name, "_", "-", 1)))
	}
	if c.unnamedLabels() {
		fmt.Fprintln(r.std.Err, "nfct_labelmap_new: No such file or directory")
	}
	r.n, r.done = 0, ""
	if c.table == "expect" {
		return r.runExpect(c)
	}
	switch c.verb {
	case 0, 'h':
		_, err = io.WriteString(r.out, usage)
	case 'V':
		_, err = fmt.Fprintln(r.out, program)
	case 'L':
		r.done = "shown"
		err = r.list(c)
	case 'G':
		r.done = "shown"
		err = r.get(c)
	case 'D':
		r.done = "deleted"
		err = r.selected(c, "/v1/flows/delete", nil)
		code = r.codeIfNone()
	case 'U':
		r.done = "updated"
		err = r.update(c)
		code = r.codeIfNone()
	case 'I', 'A':
		err = r.create(c)
	case 'F':
		r.done = "connection tracking table has been emptied."
		_, err = r.client.Number(r.ctx, http.MethodPost, "/v1/flush", nil)
	case 'C':
		err = r.count()
	case 'S':
		err = r.stats()
	case 'E':
		r.done = "shown"
		err = r.events(c)
	case 'R':
		code, err = r.load(c)
	}
	return code, err
}

func (r *runner) codeIfNone() int {
	if r.n == 0 {
		return exitError
	}
	return exitOK
}

// refused are the options that xdpct cannot honour, and why.
var refused = map[string]string{
	"secmark": "xdpct knows no SELinux marks",
}

// refuse refuses what cannot be honoured, by name.
func (c *command) refuse() error {
	for name, why := range refused {
		if c.has(name) {
			return usagef("option `--%s' is not supported: %s", name, why)
		}
	}
	for _, name := range []string{"src-nat", "dst-nat", "any-nat"} {
		verbs := "LDEUIA"
		if name == "any-nat" {
			verbs = "LDEU"
		}
		if c.has(name) && (c.table != "conntrack" || c.verb == 0 || strings.IndexByte(verbs, c.verb) < 0) {
			return usagef("Illegal option `--%s' with this command", name)
		}
	}
	if c.has("any-nat") && (c.has("src-nat") || c.has("dst-nat")) {
		return usagef("cannot specify `--src-nat' or `--dst-nat' with `--any-nat'")
	}
	if c.has("zero") {
		for _, o := range options {
			if c.has(o.name) && o.name != "zero" && o.name != "output" {
				return usagef("Can't use -z with filtering parameters")
			}
		}
	}
	if c.verb != 'L' && c.has("zero") || c.verb != 'E' && (c.has("event-mask") || c.has("buffer-size")) {
		return usagef("Illegal option with this command")
	}
	return nil
}

// unnamedLabels reports whether labels are to be shown but the file of their names, which
// is not named, does not exist. conntrack(8) warns, and shows none.
func (c *command) unnamedLabels() bool {
	for _, v := range c.values["output"] {
		if slices.Contains(strings.Split(v, ","), "labels") && !c.has("labelmap") {
			_, err := os.Stat(defaultLabelMap)
			return errors.Is(err, fs.ErrNotExist) && c.output(url.Values{}) == nil
		}
	}
	return false
}

// output reads -o into the parameters of a request.
func (c *command) output(q url.Values) error {
	for _, v := range c.values["output"] {
		all := strings.Split(v, ",")
		for i, o := range all {
			switch o {
			case "xml", "save", "json":
				q.Set("format", o)
			case "extended", "id", "ktimestamp", "timestamp":
				q.Set(o, "1")
			case "labels":
				names, err := c.labelMap()
				switch {
				case errors.Is(err, fs.ErrNotExist) && !c.has("labelmap"): // run has warned of it
					continue
				case err != nil:
					return usagef("`-o labels' needs the names of labels: %v", err)
				}
				q.Set("labels", "1")
				j, err := json.Marshal(names)
				if err != nil {
					return err
				}
				q.Set("labelnames", string(j))
			case "userspace":
				return usagef("option `-o userspace' is not supported: xdpct does not know who made a change")
			default:
				return usagef("Bad parameter `%s'", strings.Join(all[i:], ","))
			}
		}
	}
	return nil
}

// query makes the parameters of a request: the filter and the output format.
func (c *command) query(f *flow.Filter) (url.Values, error) {
	q := url.Values{}
	if f != nil {
		j, err := json.Marshal(f)
		if err != nil {
			return nil, err
		}
		q.Set("filter", string(j))
	}
	return q, c.output(q)
}

// print counts and prints a line.
func (r *runner) print(line []byte) error {
	r.n++
	_, err := r.out.Write(append(line, '\n'))
	return err
}

func (r *runner) list(c *command) error {
	if c.table != "conntrack" { // nothing waits to be confirmed, nothing that has died lingers
		return nil
	}
	f, err := c.filter()
	if err != nil {
		return err
	}
	set, unset, err := c.status()
	if err != nil {
		return err
	}
	if c.has("status") && set|unset == 0 { // the kernel refuses such a filter (EINVAL)
		return errors.New("invalid parameters")
	}
	f.Set, f.Unset = set, unset
	q, err := c.query(&f)
	if err != nil {
		return err
	}
	xml := q.Get("format") == "xml"
	if xml {
		_, _ = r.out.WriteString(export.XMLHeader)
	}
	if c.has("zero") {
		err = r.client.Post(r.ctx, "/v1/flows/zero", q, nil, r.print)
	} else {
		err = r.client.Lines(r.ctx, "/v1/flows", q, r.print)
	}
	if xml && err == nil {
		_, err = r.out.WriteString(export.XMLFooter)
	}
	if err == nil && q.Get("format") == "save" {
		err = r.unsaved(c, f)
	}
	return err
}

// unsaved warns of the connections just listed whose lines do not say all that they need to
// go on: what was restored of them would be broken or hang.
func (r *runner) unsaved(c *command, f flow.Filter) error {
	f.Set |= flow.SeqAdjust
	j, err := json.Marshal(&f)
	if err != nil {
		return err
	}
	edited := 0
	if err := r.client.Lines(r.ctx, "/v1/flows", url.Values{"filter": {string(j)}}, func([]byte) error { edited++; return nil }); err != nil {
		return err
	}
	if edited > 0 {
		fmt.Fprintf(r.std.Err, "WARNING: a helper has edited %d of these connections: how far their sequence numbers are apart is not saved, so end them with -D when they are restored\n", edited)
	}
	return nil
}

// get shows the connection with a tuple. The zone is part of its name.
func (r *runner) get(c *command) error {
	orig, _, err := c.tuples()
	if err != nil {
		return err
	}
	p, _, _ := c.protocol()
	z, err := c.zone()
	if err != nil {
		return err
	}
	q, err := c.query(nil)
	if err != nil {
		return err
	}
	text := func(name string, v any) { q.Set(name, fmt.Sprint(v)) }
	text("proto", uint8(p))
	text("src", orig.Src)
	text("dst", orig.Dst)
	text("zone", z.Zone)
	text("held", 1)
	for name, v := range map[string]*uint16{"sport": orig.SPort, "dport": orig.DPort, "icmp-id": orig.ICMPID} {
		if v != nil {
			text(name, *v)
		}
	}
	for name, v := range map[string]*uint8{"icmp-type": orig.ICMPType, "icmp-code": orig.ICMPCode} {
		if v != nil {
			text(name, *v)
		}
	}
	err = r.client.Lines(r.ctx, "/v1/flow", q, r.print)
	if errors.Is(err, control.ErrNotFound) {
		return errors.New("such conntrack doesn't exist")
	}
	return err
}

// selected has something done to the connections that the options select, and
// prints them.
func (r *runner) selected(c *command, path string, body any) error {
	f, err := c.filter()
	if err != nil {
		return err
	}
	if c.verb == 'U' { // these say what is to be, not what is
		f.State, f.Mark, f.Mask = "", nil, nil
	} else if f.Set, f.Unset, err = c.status(); err != nil {
		return err
	}
	q, err := c.query(&f)
	if err != nil {
		return err
	}
	if c.verb == 'U' {
		q.Set("held", "1")
	}
	return r.client.Post(r.ctx, path, q, body, r.print)
}

func (r *runner) update(c *command) error {
	u, err := c.update()
	if err != nil {
		return err
	}
	return r.selected(c, "/v1/flows/update", &u)
}

func (r *runner) create(c *command) error {
	j, err := c.flow()
	if err != nil {
		return err
	}
	r.done = "created"
	if c.verb == 'A' {
		r.done = "added"
	}
	err = r.client.Post(r.ctx, "/v1/flows", nil, &j, r.print)
	if errors.Is(err, control.ErrConflict) {
		if c.verb == 'A' {
			return nil
		}
		return errors.New("Such conntrack exists, try -U to update") //nolint:staticcheck // conntrack(8)'s own words
	}
	if err == nil {
		r.n = 1
	}
	return err
}

func (r *runner) count() error {
	n, err := r.client.Number(r.ctx, http.MethodGet, "/v1/count", nil)
	if err == nil {
		_, err = fmt.Fprintln(r.out, n)
	}
	return err
}

// stats prints a line for each shard where conntrack(8) has one for each CPU.
func (r *runner) stats() error {
	st, err := r.client.Stats(r.ctx)
	if err != nil {
		return err
	}
	for _, s := range st.Shards {
		_, err = fmt.Fprintf(r.out, "cpu=%-4d\tfound=%d invalid=%d insert=%d insert_failed=%d drop=%d early_drop=%d error=%d search_restart=%d clash_resolve=%d chaintoolong=%d \n",
			s.Shard, s.Found, s.Invalid, s.Insert, s.InsertFailed, s.Drop, s.EarlyDrop, s.Error, s.SearchRestart, s.ClashResolve, s.ChainTooLong)
	}
	return err
}

// enobufs is what conntrack(8) says of lost events; the number is ours.
const enobufs = "WARNING: We have hit ENOBUFS! We are losing events (%s of them).\n"

func (r *runner) events(c *command) error {
	f, err := c.filter()
	if err != nil {
		return err
	}
	if f.Set, f.Unset, err = c.status(); err != nil {
		return err
	}
	q, err := c.query(&f)
	if err != nil {
		return err
	}
	for _, e := range strings.Split(strings.Join(c.values["event-mask"], ","), ",") {
		switch e {
		case "", "ALL", "NEW", "UPDATES", "DESTROY":
		default:
			return usagef("Bad parameter `%s'", e)
		}
	}
	q.Set("kinds", strings.Join(c.values["event-mask"], ","))
	if b, err := number[uint32](c, "buffer-size"); err != nil {
		return err
	} else if b != nil {
		q.Set("buffer", fmt.Sprint(*b))
	}
	xml := q.Get("format") == "xml"
	if xml {
		_, _ = r.out.WriteString(export.XMLHeader)
	}
	err = r.follow("/v1/events", q)
	if xml {
		_, _ = r.out.WriteString(export.XMLFooter)
	}
	return err
}

// follow prints a stream of events until it is interrupted; then there is a trailer to
// print. Every other command is ended by a signal as it stands, as conntrack(8) is.
func (r *runner) follow(path string, q url.Values) error {
	ctx, stop := signal.NotifyContext(r.ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := r.client.Lines(ctx, path, q, func(line []byte) error {
		if n, lost := bytes.CutPrefix(line, []byte("!lost ")); lost {
			fmt.Fprintf(r.std.Err, enobufs, n)
			return nil
		}
		return errors.Join(r.print(line), r.out.Flush())
	})
	if errors.Is(err, context.Canceled) {
		return nil // that is how it ends
	}
	return err
}

// load runs the commands of a file, one a line.
func (r *runner) load(c *command) (code int, err error) {
	in, name := r.std.In, c.value("load-file")
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return 0, usagef("Failed to open file %s for reading", name)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	sc, tunnels := bufio.NewScanner(in), 0
	for n := 1; sc.Scan(); n++ {
		fields := strings.Fields(sc.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if fields[0] == "conntrack" {
			fields = fields[1:]
		}
		line, err := parse(fields)
		if err == nil && line.verb == 'R' {
			err = usagef("a file cannot load another")
		}
		if err == nil && line.tunnel() {
			tunnels++
			continue
		}
		if err == nil {
			_, err = r.run(line)
		}
		if err != nil {
			return 0, fmt.Errorf("%w (line %d of %s)", err, n, name)
		}
	}
	r.done = ""
	if tunnels > 0 {
		fmt.Fprintf(r.std.Err, "WARNING: %d tunnels of PPTP were not restored: their calls are to be made again\n", tunnels)
	}
	return exitOK, sc.Err()
}

// tunnel reports whether a saved connection is the tunnel of a call that a helper has read: GRE
// whose packets bear the key of the receiver, and the sender's is known from the call only. Without
// its control connection none of its packets would match it, and it would be in the next call's way.
func (c *command) tunnel() bool {
	src, _ := number[uint16](c, "srckey")
	dst, _ := number[uint16](c, "dstkey")
	return (c.verb == 'I' || c.verb == 'A') && src != nil && dst != nil && *src != 0 && *dst != 0
}

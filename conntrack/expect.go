package conntrack

import (
	"fmt"
	"net/http"

	"github.com/xdpct/xdpct/flow"
)

// runExpect runs a command on the expectation table.
func (r *runner) runExpect(c *command) (code int, err error) {
	switch c.verb {
	case 'L':
		r.done = "shown"
		for _, name := range []string{"src", "dst", "reply-src", "reply-dst", "protonum", "timeout", "status", "mark", "zone", "id", "tuple-src", "tuple-dst", "mask-src", "mask-dst"} {
			if c.has(name) {
				return 0, usagef("Illegal option `--%s' with this command", name)
			}
		}
		q, err := c.query(nil)
		if err != nil {
			return 0, err
		}
		family, err := c.family()
		if err != nil {
			return 0, err
		}
		if family == 0 {
			family = flow.IPv4
		}
		q.Set("family", family.String())
		return exitOK, r.client.Lines(r.ctx, "/v1/expectations", q, r.print)
	case 'E':
		r.done = "shown"
		q, err := c.query(nil)
		if err != nil {
			return 0, err
		}
		return exitOK, r.follow("/v1/expectations/events", q)
	case 'C':
		n := 0
		err := r.client.Lines(r.ctx, "/v1/expectations", nil, func([]byte) error { n++; return nil })
		if err == nil {
			_, err = fmt.Fprintln(r.out, n)
		}
		return exitOK, err
	case 'I':
		j, err := c.expectation()
		if err != nil {
			return 0, err
		}
		r.done, r.n = "created", 1
		return exitOK, r.client.Post(r.ctx, "/v1/expectations", nil, &j, r.print)
	case 'D':
		if err := c.need("src", "dst", "protonum"); err != nil {
			return 0, err
		}
		f, err := c.filter()
		if err != nil {
			return 0, err
		}
		r.done = "deleted"
		err = r.unexpect(c, &f)
		return r.codeIfNone(), err
	case 'F':
		r.done = "expectation table has been emptied."
		return exitOK, r.unexpect(c, &flow.Filter{})
	case 'S':
		st, err := r.client.Stats(r.ctx)
		if err != nil {
			return 0, err
		}
		e := st.Expectations
		_, err = fmt.Fprintf(r.out, "cpu=%-4d\texpect_new=%d expect_create=%d expect_delete=%d \n", 0, e.Matched, e.Created, e.Deleted)
		return exitOK, err
	}
	return 0, usagef("Can't do command on table expect")
}

func (r *runner) unexpect(c *command, f *flow.Filter) (err error) {
	q, err := c.query(f)
	if err != nil {
		return err
	}
	r.n, err = r.client.Number(r.ctx, http.MethodPost, "/v1/expectations/delete", q)
	return err
}

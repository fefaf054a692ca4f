package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/flow"
)

// maxBody bounds the body of a request.
const maxBody = 1 << 16

func readBody(w http.ResponseWriter, r *http.Request, into any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return badRequest{fmt.Errorf("body: %w", err)}
	}
	bodyRead(w)
	return nil
}

// bodyRead takes the deadline for the body away, so that the answer may take longer.
func bodyRead(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
}

// create makes the connection that the body describes, in the form in which
// connections are listed as JSON.
func (s *Server) create(w http.ResponseWriter, r *http.Request) error {
	var j export.Flow
	if err := readBody(w, r, &j); err != nil {
		return err
	}
	rec, err := j.Record()
	if err != nil {
		return badRequest{err}
	}
	return s.tracker.Create(r.Context(), rec)
}

// streamed answers with a line for each connection that act emits.
func (s *Server) streamed(w http.ResponseWriter, r *http.Request, act func(context.Context, flow.Filter, func(*flow.Record) error) error) error {
	f, err := parseFilter(r)
	if err != nil {
		return badRequest{err}
	}
	l, err := s.lines(w, r)
	if err != nil {
		return err
	}
	if err := act(r.Context(), f, l.record); err != nil {
		return err
	}
	return l.flush()
}

func (s *Server) delete(w http.ResponseWriter, r *http.Request) error {
	return s.streamed(w, r, s.tracker.Delete)
}

func (s *Server) zero(w http.ResponseWriter, r *http.Request) error {
	return s.streamed(w, r, s.tracker.Zero)
}

// Update is what is to become of connections; absent fields stay.
type Update struct {
	Timeout *uint32     `json:"timeout,omitempty"` // seconds
	Status  flow.Status `json:"status,omitempty"`  // bits to set
	State   string      `json:"state,omitempty"`   // of TCP or SCTP, by name
	// Mark is xored in after the bits of Mask (all, if absent) were cleared.
	Mark *flow.Mark `json:"mark,omitempty"`
	Mask *flow.Mark `json:"mask,omitempty"`
	// AddLabels are set after DelLabels were cleared.
	AddLabels flow.Labels `json:"add_labels,omitempty"`
	DelLabels flow.Labels `json:"del_labels,omitempty"`
}

// change says what u changes about r, and whether that is anything.
func (u *Update) change(r *flow.Record) (ch flow.Change, any bool) {
	if u.Timeout != nil && *u.Timeout != r.Timeout {
		ch.Timeout, any = u.Timeout, true
	}
	if st := r.Status | u.Status; st != r.Status {
		ch.Status, any = &st, true
	}
	if st, ok := flow.StateByName(r.Orig.L4.Proto(), u.State); ok && st != r.State {
		ch.State, any = &st, true
	}
	if u.Mark != nil {
		mask := ^flow.Mark(0)
		if u.Mask != nil {
			mask = *u.Mask
		}
		if m := r.Mark&^mask ^ *u.Mark; m != r.Mark {
			ch.Mark, any = &m, true
		}
	}
	labels := r.Labels
	for i := range labels {
		labels[i] = labels[i]&^u.DelLabels[i] | u.AddLabels[i]
	}
	if labels != r.Labels {
		ch.Labels, any = &labels, true
	}
	return ch, any
}

func (s *Server) update(w http.ResponseWriter, r *http.Request) error {
	var u Update
	if err := readBody(w, r, &u); err != nil {
		return err
	}
	return s.streamed(w, r, func(ctx context.Context, f flow.Filter, emit func(*flow.Record) error) error {
		return s.tracker.Update(ctx, f, u.change, emit)
	})
}

// Expectation is an expectation to make. Master and expected tuples are of the
// protocol and family of Master.
type Expectation struct {
	Master   export.Tuple `json:"master"`
	Proto    uint8        `json:"protonum"`
	Zone     flow.Zone    `json:"zone"`
	Expected export.Tuple `json:"expected"`
	// Mask says by bits which parts of the expected source count.
	Mask      export.Tuple `json:"mask"`
	Timeout   uint32       `json:"timeout"` // seconds
	Class     uint8        `json:"class"`
	Permanent bool         `json:"permanent"`
	Inactive  bool         `json:"inactive"`
}

func (s *Server) expect(w http.ResponseWriter, r *http.Request) error {
	var j Expectation
	if err := readBody(w, r, &j); err != nil {
		return err
	}
	master, err := j.Master.Tuple(flow.Proto(j.Proto), j.Zone)
	if err != nil {
		return badRequest{fmt.Errorf("master: %w", err)}
	}
	t, err := j.Expected.Tuple(flow.Proto(j.Proto), j.Zone)
	if err != nil {
		return badRequest{fmt.Errorf("expected: %w", err)}
	}
	m, err := j.Mask.Tuple(flow.Proto(j.Proto), 0)
	if err != nil {
		return badRequest{fmt.Errorf("mask: %w", err)}
	}
	if t.L4.Family() != master.L4.Family() || m.L4.Family() != master.L4.Family() {
		return badRequest{errors.New("master, expected and mask are of different families")}
	}
	x := expect.Expectation{Tuple: t, Mask: expect.Mask{Src: m.Src, ID: m.L4.Src()}, Class: j.Class, Flags: expect.Userspace}
	if j.Permanent {
		x.Flags |= expect.Permanent
	}
	if j.Inactive {
		x.Flags |= expect.Inactive
	}
	return s.tracker.Expect(r.Context(), master, x, time.Duration(j.Timeout)*time.Second)
}

func (s *Server) expectations(w http.ResponseWriter, r *http.Request) error {
	l, err := s.lines(w, r)
	if err != nil {
		return err
	}
	family, err := ParseFamily(r.FormValue("family"))
	if err != nil {
		return badRequest{err}
	}
	list, now := s.tracker.Expectations(r.Context())
	for i := range list {
		if family != 0 && list[i].Tuple.L4.Family() != family {
			continue
		}
		if l.style == "json" {
			err = l.enc.Encode(export.NewExpectation(&list[i], now))
		} else {
			l.buf = export.AppendExpectation(l.buf[:0], &list[i], now)
			err = l.line()
		}
		if err != nil {
			return err
		}
	}
	return l.flush()
}

// expectEvents streams what happens to expectations.
func (s *Server) expectEvents(w http.ResponseWriter, r *http.Request) error {
	l, err := s.lines(w, r)
	if err != nil {
		return err
	}
	give, err := s.streams.take(r, 0)
	if err != nil {
		return err
	}
	defer give()
	return s.tracker.ExpectEvents(r.Context(), func(k flow.EventKind, x *expect.Expectation, now int64, lost uint64) error {
		if lost > 0 {
			fmt.Fprintf(l.w, "!lost %d\n", lost)
		}
		if x == nil {
			return l.flush()
		}
		l.buf = export.AppendExpectationEvent(l.buf[:0], k, x, now)
		return l.line()
	})
}

// unexpect removes the expectations whose tuple the filter's orig selects, and
// answers with their number.
func (s *Server) unexpect(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilter(r)
	if err != nil {
		return badRequest{err}
	}
	n := s.tracker.DeleteExpectations(r.Context(), func(e *expect.Expectation) bool {
		return f.Match(&flow.Record{Orig: e.Tuple, Reply: e.Tuple})
	})
	_, err = fmt.Fprintln(w, n)
	return err
}

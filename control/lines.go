package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/flow"
)

// lines is a response of one line a record.
type lines struct {
	w      *bufio.Writer
	http   *http.ResponseController
	style  string // text, json, xml or save
	format export.Format
	buf    []byte
	enc    *json.Encoder
	stamp  bool // begin events with their time (-o timestamp)
}

func (s *Server) lines(w http.ResponseWriter, r *http.Request) (*lines, error) {
	l := &lines{w: bufio.NewWriterSize(w, 1<<16), http: http.NewResponseController(w), format: s.format}
	switch l.style = r.FormValue("format"); l.style {
	case "", "text", "xml", "save":
	case "json":
		l.enc = json.NewEncoder(l.w)
	default:
		return nil, badRequest{fmt.Errorf("format %q is neither text, json, xml nor save", l.style)}
	}
	flag := func(name string) bool { return r.FormValue(name) == "1" }
	f := &l.format
	f.Extended, f.ID, f.KTimestamp, f.Labels = flag("extended"), flag("id"), flag("ktimestamp"), flag("labels")
	l.stamp = flag("timestamp")
	f.Now = s.now().UnixNano()
	if flag("held") {
		f.Use = 2
	}
	if names := r.FormValue("labelnames"); names != "" {
		if err := json.Unmarshal([]byte(names), &f.LabelNames); err != nil {
			return nil, badRequest{fmt.Errorf("labelnames: %w", err)}
		}
	}
	return l, nil
}

// flush sends what there is.
func (l *lines) flush() error { return errors.Join(l.w.Flush(), l.http.Flush()) }

func (l *lines) record(r *flow.Record) error {
	switch l.style {
	case "json":
		return l.enc.Encode(export.NewFlow(r))
	case "xml":
		l.buf = l.format.AppendXML(l.buf[:0], r)
	case "save":
		l.buf = export.AppendSave(l.buf[:0], r)
	default:
		l.buf = l.format.AppendFlow(l.buf[:0], r)
	}
	return l.line()
}

func (l *lines) event(e *flow.Event) error {
	switch l.style {
	case "json":
		return l.enc.Encode(export.NewEvent(e))
	case "xml":
		l.buf = l.format.AppendXMLEvent(l.buf[:0], e)
	case "save":
		l.buf = export.AppendSaveEvent(l.buf[:0], e)
	default:
		l.buf = l.buf[:0]
		if l.stamp {
			l.buf = fmt.Appendf(l.buf, "[%-.8d.%-.6d]\t", e.Time/1e9, e.Time%1e9/1e3)
		}
		l.buf = l.format.AppendEvent(l.buf, e)
	}
	return l.line()
}

func (l *lines) line() error {
	l.buf = append(l.buf, '\n')
	_, err := l.w.Write(l.buf)
	return err
}

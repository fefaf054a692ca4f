package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// forTerminal returns w, or if it is a terminal a writer that shows control characters as
// \x1b: comments and names of rules may have them, and must not steer the terminal.
func forTerminal(w io.Writer) io.Writer {
	f, ok := w.(*os.File)
	if !ok {
		return w
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return w
	}
	return &visible{w: w}
}

// visible writes control characters, those of C1 in UTF-8 (U+0080 to U+009F) and as bytes of
// their own among them, as they are written in Go. Lines and tabs stay.
type visible struct {
	w    io.Writer
	rest int  // bytes of a UTF-8 sequence that are to come
	last byte // before
}

func (v *visible) Write(p []byte) (int, error) {
	out := make([]byte, 0, len(p))
	for i, c := range p {
		lead := v.rest == 0
		switch {
		case c < 0x20 && c != '\n' && c != '\t', c == 0x7f, c == 0xc2 && i+1 < len(p) && p[i+1] < 0xa0, lead && c >= 0x80 && c < 0xa0,
			v.last == 0xc2 && c >= 0x80 && c < 0xa0:
			out = fmt.Appendf(out, "\\x%02x", c)
		default:
			out = append(out, c)
		}
		v.last = c
		switch {
		case c >= 0xf0:
			v.rest = 3
		case c >= 0xe0:
			v.rest = 2
		case c >= 0xc0:
			v.rest = 1
		case c >= 0x80 && v.rest > 0:
			v.rest--
		default:
			v.rest = 0
		}
	}
	if _, err := v.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

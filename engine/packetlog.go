package engine

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/xdpct/xdpct/shard"
)

// packetLog carries what rules log (LOG, NFLOG) off a worker. The worker only copies;
// the text is made, and written, by another goroutine. What finds no room is counted.
type packetLog struct {
	ring *spsc[shard.Logged]
	lost atomic.Uint64
}

const (
	packetLogSize     = 256 // packets that wait to be written, of a worker
	packetLogInterval = 5 * time.Millisecond
	// maxLinesPerSecond is how many packets are written in a second.
	maxLinesPerSecond = 100
)

func newPacketLog() *packetLog { return &packetLog{ring: newSPSC[shard.Logged](packetLogSize)} }

// takeLogged takes what rules have logged from the shard.
func (w *worker) takeLogged() {
	all, lost := w.shard.TakeLogged()
	for i := range all {
		if !w.log.ring.push(all[i]) {
			lost++
		}
	}
	if lost > 0 {
		w.log.lost.Add(lost)
	}
}

// logPackets writes what rules log, until the engine stops.
func (e *Engine) logPackets() {
	tick := time.NewTicker(packetLogInterval)
	defer tick.Stop()
	second := time.NewTicker(time.Second)
	defer second.Stop()
	w := packetWriter{e: e}
	for {
		select {
		case <-e.stopped:
			w.drain()
			w.endSecond()
			return
		case <-tick.C:
			w.drain()
		case <-second.C:
			w.endSecond()
		}
	}
}

// packetWriter writes at most maxLinesPerSecond packets between two calls of endSecond.
type packetWriter struct {
	e       *Engine
	buf     [32]shard.Logged
	text    []byte
	written int
	lost    uint64
}

// drain writes what there is.
func (p *packetWriter) drain() {
	for _, w := range p.e.workers {
		p.lost += w.log.lost.Swap(0)
		for n := w.log.ring.pop(p.buf[:]); n > 0; n = w.log.ring.pop(p.buf[:]) {
			for i := range p.buf[:n] {
				p.write(&p.buf[i])
			}
		}
	}
}

// write writes a packet as the kernel's LOG does, so that tools for its lines can read
// it, and which rule it was.
func (p *packetWriter) write(l *shard.Logged) {
	if p.written == maxLinesPerSecond {
		p.lost++
		return
	}
	p.written++
	p.text = l.AppendText(p.text[:0], p.e.interfaceName(l.In), p.e.interfaceName(l.Out))
	attrs := []slog.Attr{slog.String("table", l.Rule.Table), slog.String("chain", l.Rule.Chain), slog.Int("line", l.Rule.Line)}
	if l.Rule.Group >= 0 {
		attrs = append(attrs, slog.Int("nflog_group", l.Rule.Group))
	}
	p.e.log.LogAttrs(context.Background(), slogLevel(l.Rule.Level), string(p.text), attrs...)
}

// endSecond says how many packets were not written.
func (p *packetWriter) endSecond() {
	if p.lost > 0 {
		p.e.log.Warn("packets that rules log were not written: too many at once", "packets", p.lost)
	}
	p.written, p.lost = 0, 0
}

// slogLevel is a syslog level as the log of the program has it.
func slogLevel(syslog int) slog.Level {
	switch {
	case syslog <= 3: // err
		return slog.LevelError
	case syslog == 4: // warning
		return slog.LevelWarn
	}
	return slog.LevelInfo // what rules ask for is never left out
}

// interfaceName returns the name of an interface, "" if there is none of that number.
func (e *Engine) interfaceName(n int) string {
	if names := e.names.Load(); names != nil && n >= 0 && n < len(*names) {
		return (*names)[n]
	}
	return ""
}

package engine

import (
	"context"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/rx"
)

// passes waits until a few datagrams that are sent all come through, and returns of how
// many connections they were.
func (w *wire) passes(t *testing.T) int {
	t.Helper()
	const n = 20
	testenv.Until(t, "the bridge passes", func() bool {
		w.tried += n
		return w.passWithin(t, 200*time.Millisecond, 0, n, func(k int) []byte { return udpFrame(uint16(w.tried+k), uint16(100+k), false) }) == n
	})
	return n
}

func (w *wire) count(t *testing.T) int {
	t.Helper()
	n, err := w.e.Count(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// traffic is frames that are sent into side 0, whatever becomes of them.
type traffic struct {
	sent atomic.Int64
	stop chan struct{}
	done chan struct{}
}

// traffic begins to send.
func (w *wire) traffic() *traffic {
	x := &traffic{stop: make(chan struct{}), done: make(chan struct{})}
	raw := w.raw[0]
	go func() {
		defer close(x.done)
		for k := 0; ; k++ {
			select {
			case <-x.stop:
				return
			default:
			}
			_ = raw.Send(udpFrame(uint16(k), uint16(20000+k%100), false))
			x.sent.Add(1)
			time.Sleep(50 * time.Microsecond) // the rate
		}
	}()
	return x
}

// goesOn waits until so many more frames were sent.
func (x *traffic) goesOn(t *testing.T, frames int64) {
	t.Helper()
	from := x.sent.Load()
	testenv.Until(t, "traffic goes on", func() bool { return x.sent.Load() >= from+frames })
}

func (x *traffic) end() {
	close(x.stop)
	<-x.done
}

// TestLinkDownAndUp takes each link down and up again under traffic: the state
// stays, and traffic resumes.
func TestLinkDownAndUp(t *testing.T) {
	eachDriver(t, func(t *testing.T, d rx.Driver) {
		w := newWire(t, d, 1, nil)
		flows := w.passes(t)
		for _, name := range portNames {
			x := w.traffic()
			if err := w.box.SetUp(name, false); err != nil {
				t.Fatal(err)
			}
			x.goesOn(t, 200)
			if n := w.count(t); n < flows {
				t.Errorf("%s down: %d connections left of at least %d", name, n, flows)
			}
			if err := w.box.SetUp(name, true); err != nil {
				t.Fatal(err)
			}
			x.end()
			w.passes(t)
		}
	})
}

// TestInterfaceDeleted deletes a bridged interface under traffic and makes it
// again: no crash, no spinning, the state stays, and traffic resumes.
func TestInterfaceDeleted(t *testing.T) {
	eachDriver(t, func(t *testing.T, d rx.Driver) {
		for victim, name := range portNames {
			t.Run(name, func(t *testing.T) {
				w := newWire(t, d, 1, nil)
				before := w.passes(t)
				free := w.free(t)
				x := w.traffic()
				link, err := w.box.Link(name)
				if err != nil {
					t.Fatal(err)
				}
				if err := w.box.Netlink().LinkDel(link); err != nil {
					t.Fatal(err)
				}
				p := w.e.ports[victim]
				testenv.Until(t, "the port is out of use", func() bool { return !p.attached() })
				x.goesOn(t, 200)
				x.end()
				if n := w.count(t); n < before {
					t.Errorf("%d connections, %d before", n, before)
				}
				w.join(t, victim, 1)
				w.passes(t)
				// What the driver held when the interface went may be lost, no more.
				testenv.Until(t, "the chunks are free again", func() bool { return w.free(t) >= free-64 })
			})
		}
	})
}

// TestBridgePortNamesWhileOneReturns reads the names of the ports, as who loads rules does,
// while one is taken into use again. The race detector sees if that is not guarded.
func TestBridgePortNamesWhileOneReturns(t *testing.T) {
	w := newWire(t, rx.DriverXSK, 1, nil)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if got := w.e.interfaceNames(); !slices.Equal(got, portNames) {
				t.Errorf("ports %q", got)
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	link, err := w.box.Link(portNames[0])
	if err == nil {
		err = w.box.Netlink().LinkDel(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	p := w.e.ports[0]
	testenv.Until(t, "the port is out of use", func() bool { return !p.attached() })
	w.join(t, 0, 1)
	testenv.Until(t, "the port is back", p.attached)
	close(stop)
	<-done
}

// free returns the free chunks of a bridge.
func (w *wire) free(t *testing.T) (n int) {
	t.Helper()
	s, err := w.e.Stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, ws := range s.Workers {
		n += ws.Free
	}
	return n
}

// pinned returns how many threads of the process may run on fewer CPUs than this one.
func pinned(t *testing.T) (n int) {
	t.Helper()
	all := len(allowedCPUs())
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		var set unix.CPUSet
		if unix.SchedGetaffinity(tid, &set) == nil && set.Count() < all { // else it has ended
			n++
		}
	}
	return n
}

// TestStopLeavesNoPinnedThread: the threads of the workers end with them, so that no other
// goroutine is run on one CPU only.
func TestStopLeavesNoPinnedThread(t *testing.T) {
	runtime.LockOSThread() // a thread that is not a worker's
	defer runtime.UnlockOSThread()
	if len(allowedCPUs()) < 2 {
		testenv.Missing(t, "a second CPU")
	}
	w := newWire(t, rx.DriverXSK, 1, nil)
	testenv.Until(t, "the worker is pinned", func() bool { return pinned(t) > 0 })
	if err := w.e.Stop(); err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, "no thread is pinned", func() bool { return pinned(t) == 0 })
}

// TestStopLeavesNothing opens and closes engines on the same interfaces, one
// after the other: a restart succeeds at once.
func TestStopLeavesNothing(t *testing.T) {
	eachDriver(t, func(t *testing.T, d rx.Driver) {
		w := newWire(t, d, 2, nil)
		goroutines := runtime.NumGoroutine()
		for range 5 {
			if err := w.e.Stop(); err != nil {
				t.Fatal(err)
			}
			cfg := w.e.cfg
			if err := w.box.Do(func() (err error) {
				w.e, err = Open(cfg, w.e.log)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			w.e.Start()
			w.passes(t)
		}
		testenv.Until(t, "no goroutine is left of those that ended", func() bool { return runtime.NumGoroutine() <= goroutines+3 })
	})
}

// TestPortsReopen closes and opens the ports of an engine that has not started,
// as it does where zero copy is not to be had on every port: no chunk is lost.
func TestPortsReopen(t *testing.T) {
	eachDriver(t, func(t *testing.T, d rx.Driver) {
		w := newWire(t, d, 2, nil)
		if err := w.e.Stop(); err != nil {
			t.Fatal(err)
		}
		var e *Engine
		if err := w.box.Do(func() (err error) {
			if e, err = Open(w.e.cfg, w.e.log); err != nil {
				return err
			}
			e.cfg.ForceCopy = true
			if err := e.closePorts(); err != nil {
				return err
			}
			for _, k := range e.workers {
				if got, want := k.pool.Free(), chunksPerPort*len(e.ports)+chunksBeside; got != want {
					t.Errorf("worker %d has %d free chunks, want %d", k.id, got, want)
				}
			}
			return e.openPorts()
		}); err != nil {
			t.Fatal(err)
		}
		e.Start()
		w.e = e // which the test's end stops
		w.passes(t)
	})
}

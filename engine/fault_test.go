package engine

import (
	"context"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/frag"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/rx"
)

// try sends a few datagrams and reports whether all came through.
func (w *wire) try(t *testing.T, first int) bool {
	t.Helper()
	const n = 20
	return w.pass(t, 0, n, func(k int) []byte { return udpFrame(uint16(first+k), uint16(first+k), false) }) == n
}

func (w *wire) count(t *testing.T) int {
	t.Helper()
	n, err := w.e.Count(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// traffic sends frames into side 0 until stop is closed, whatever becomes of
// them.
func (w *wire) traffic(stop chan struct{}) (done chan struct{}) {
	done = make(chan struct{})
	go func() {
		defer close(done)
		for k := 0; ; k++ {
			select {
			case <-stop:
				return
			default:
			}
			_ = w.raw[0].Send(udpFrame(uint16(k), uint16(20000+k%100), false))
			time.Sleep(50 * time.Microsecond)
		}
	}()
	return done
}

// TestLinkDownAndUp takes each link down and up again under traffic: the state
// stays, and traffic resumes.
func TestLinkDownAndUp(t *testing.T) {
	eachDriver(t, func(t *testing.T, d rx.Driver) {
		w := newWire(t, d, 1, nil)
		if !w.try(t, 100) {
			t.Fatal("the bridge does not pass")
		}
		for i, name := range portNames {
			stop := make(chan struct{})
			done := w.traffic(stop)
			if err := w.box.SetUp(name, false); err != nil {
				t.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond)
			if n := w.count(t); n < 20 {
				t.Errorf("%s down: %d connections left of at least 20", name, n)
			}
			if err := w.box.SetUp(name, true); err != nil {
				t.Fatal(err)
			}
			close(stop)
			<-done
			deadline := time.Now().Add(3 * time.Second)
			for !w.try(t, 1000*(i+1)) {
				if time.Now().After(deadline) {
					t.Fatalf("%s: traffic does not resume", name)
				}
			}
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
				if !w.try(t, 100) {
					t.Fatal("the bridge does not pass")
				}
				free := w.free(t)
				before := w.count(t)
				stop := make(chan struct{})
				done := w.traffic(stop)
				link, err := w.box.Link(name)
				if err != nil {
					t.Fatal(err)
				}
				if err := w.box.Netlink().LinkDel(link); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				close(stop)
				<-done
				if n := w.count(t); n < before {
					t.Errorf("%d connections, %d before", n, before)
				}
				w.join(t, victim, 1)
				deadline := time.Now().Add(10 * time.Second)
				for first := 2000; !w.try(t, first); first += 20 {
					if time.Now().After(deadline) {
						t.Fatal("traffic does not resume")
					}
				}
				// What the driver held when the interface went may be lost, no more.
				if now := w.free(t); now < free-64 {
					t.Errorf("%d free chunks, %d before", now, free)
				}
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
	within(t, 10*time.Second, "the port is out of use", func() bool { return !p.attached() })
	w.join(t, 0, 1)
	within(t, 10*time.Second, "the port is back", p.attached)
	close(stop)
	<-done
}

// free waits until the bridge is at rest and returns its free chunks.
func (w *wire) free(t *testing.T) (n int) {
	t.Helper()
	time.Sleep(100 * time.Millisecond)
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
	within(t, 5*time.Second, "the worker is pinned", func() bool { return pinned(t) > 0 })
	if err := w.e.Stop(); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "no thread is pinned", func() bool { return pinned(t) == 0 })
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
			if !w.try(t, 100) {
				t.Fatal("the bridge does not pass after a restart")
			}
		}
		if n := runtime.NumGoroutine(); n > goroutines+3 {
			t.Errorf("%d goroutines, %d before", n, goroutines)
		}
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
				if got, want := k.pool.Free(), chunksPerPort*len(e.ports)+frag.MaxHeld; got != want {
					t.Errorf("worker %d has %d free chunks, want %d", k.id, got, want)
				}
			}
			return e.openPorts()
		}); err != nil {
			t.Fatal(err)
		}
		e.Start()
		w.e = e // which the test's end stops
		if !w.try(t, 100) {
			t.Error("the bridge does not pass")
		}
	})
}

package expect

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// filled is a table with n expectations of as many masters, of one announcer.
func filled(t testing.TB, n int) (*Table, func(master, port int) Expectation) {
	table := New(4096, &secret)
	of := func(master, port int) Expectation {
		e := ftp(tuple("10.0.0.1", "10.0.0.2", uint16(master), 21), uint16(port))
		e.Expires, e.SourceLimit, e.Announcer = 1<<40, 1<<20, flow.Addr{Lo: 9}
		return e
	}
	for i := range n {
		if err := table.Insert(0, 0, of(i, 1024+i)); err != nil {
			t.Fatal(err)
		}
	}
	return table, of
}

// BenchmarkInsert: what an announcement costs that pushes another one out, that is refused,
// and what a master costs that goes, among few others and among many.
func BenchmarkInsert(b *testing.B) {
	for _, n := range []int{16, 512, 4095} {
		b.Run(fmt.Sprintf("pushes/%d", n), func(b *testing.B) {
			table, of := filled(b, n)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := table.Insert(0, 0, of(0, 20000+i%30000)); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("refused/%d", n), func(b *testing.B) {
			table, of := filled(b, n)
			b.ReportAllocs()
			for b.Loop() {
				if table.Insert(0, 0, of(60000, 1024)) == nil {
					b.Fatal("not refused")
				}
			}
		})
		b.Run(fmt.Sprintf("master/%d", n), func(b *testing.B) {
			table, _ := filled(b, n)
			nobody := tuple("10.0.0.7", "10.0.0.2", 1, 21)
			for b.Loop() {
				table.RemoveMaster(&nobody)
			}
		})
	}
}

// TestInsertGarbage: what an announcement costs in memory does not grow with the table.
func TestInsertGarbage(t *testing.T) {
	per := func(n int) uint64 {
		table, of := filled(t, n)
		var was, is runtime.MemStats
		runtime.ReadMemStats(&was)
		const times = 200
		for i := range times {
			if err := table.Insert(0, 0, of(0, 20000+i)); err != nil {
				t.Fatal(err)
			}
		}
		runtime.ReadMemStats(&is)
		return (is.TotalAlloc - was.TotalAlloc) / times
	}
	if few, many := per(16), per(4095); many > 2*few+256 {
		t.Errorf("%d bytes among 4095, %d among 16", many, few)
	}
}

// TestNoGap: a packet that comes while its expectation is renewed, or announced again, finds
// it.
func TestNoGap(t *testing.T) {
	table := New(100, &secret)
	master, comes := tuple("10.0.0.1", "10.0.0.2", 1000, 21), tuple("10.0.0.2", "10.0.0.1", 20, 2000)
	e := ftp(master, 2000)
	e.Flags = Permanent
	if err := table.Insert(0, 0, e); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 20000 {
			if i%2 == 0 {
				if err := table.Insert(0, 0, e); err != nil {
					t.Error(err)
				}
			} else if !table.Renew(&master, 300_000, func(*Expectation) bool { return true }) {
				t.Error("not renewed")
			}
		}
	}()
	for missed := 0; ; {
		select {
		case <-done:
			if missed > 0 {
				t.Errorf("missed %d times", missed)
			}
			return
		default:
			if _, ok := table.Find(&comes, 1); !ok {
				missed++
			}
		}
	}
}

package engine

import (
	"runtime/debug"
	"runtime/metrics"
)

// How much may be allocated, in bytes, and how many rules may have been replaced, before
// memory is given back.
const (
	untidy    = 32 << 20
	manyRules = 10_000
)

// tidily runs f, and gives memory back to the system if f has needed much, in the
// background: what reading and compiling rules has left behind, and the rules before. By
// itself the collector would come to that after minutes, since nothing else allocates.
func (e *Engine) tidily(f func() error) error {
	before := allocated()
	err := f()
	much := allocated()-before >= untidy
	if (e.leaving.Swap(false) || much) && !e.tidying.Swap(true) {
		go func() {
			e.tidying.Store(false) // who comes from now on leaves more behind
			debug.FreeOSMemory()
		}()
	}
	return err
}

// allocated returns how many bytes have been allocated on the heap so far.
func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

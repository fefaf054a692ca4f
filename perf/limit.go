package perf

import (
	"math/rand/v2"

	"github.com/xdpct/xdpct/rx"
)

// limit touches memory of the size that a table of so many connections has, in
// the pattern of a packet, and nothing else.
type limit struct {
	maps  []*rx.UMEM // any memory in huge pages would do
	mem   [3][]byte
	lines [3]int
	order [chunks]int // of the chunks
	at    [chunks][3]uint32
	sink  uint64
}

const line = 64

func newLimit(flows int) (*limit, error) {
	l := &limit{}
	for i := range l.order {
		l.order[i] = i
	}
	sizes := [3]int{chunks * chunkSize, max(flows*7, 4096), max(flows*128, 4096)}
	for i, size := range sizes {
		u, err := rx.NewUMEM((size+rx.MinChunk-1)/rx.MinChunk, rx.MinChunk)
		if err != nil {
			l.close()
			return nil, err
		}
		l.maps, l.mem[i] = append(l.maps, u), u.Memory()
		for at := 0; at < len(l.mem[i]); at += line {
			l.mem[i][at] = 1
		}
		l.lines[i] = size / line
	}
	l.lines[2] /= 2 // entries of two lines
	return l, nil
}

func (l *limit) close() {
	for _, u := range l.maps {
		_ = u.Close()
	}
}

// choose chooses the lines of `chunks` packets.
func (l *limit) choose() {
	rand.Shuffle(chunks, func(i, j int) { l.order[i], l.order[j] = l.order[j], l.order[i] })
	for i, chunk := range l.order {
		l.at[i] = [3]uint32{
			uint32(chunk*chunkSize + rx.Headroom), uint32(rand.IntN(l.lines[1]) * line), uint32(rand.IntN(l.lines[2]) * 2),
		}
	}
}

// touch touches them.
func (l *limit) touch() {
	frames, index, slab := l.mem[0], l.mem[1], l.mem[2]
	sink := l.sink
	for i := range l.at {
		a := &l.at[i]
		sink += uint64(frames[a[0]]) + uint64(index[a[1]])
		e := uint64(a[2]) * line
		slab[e]++
		slab[e+line]++
	}
	l.sink = sink
}

package rx

// Pool keeps the free chunks of one core. It belongs to one goroutine.
type Pool struct {
	umem   *UMEM
	free   []uint64
	first  uint64 // first chunk of this pool
	chunks uint64 // number of chunks of this pool
}

// NewPool returns a pool of n chunks of the UMEM from number first on, all free.
func NewPool(u *UMEM, first, n int) *Pool {
	p := &Pool{umem: u, free: make([]uint64, n), first: uint64(first), chunks: uint64(n)}
	for i := range p.free {
		p.free[i] = uint64(first+n-1-i) * u.chunk
	}
	return p
}

// Home returns whether the chunk of an address is one of this pool's.
func (p *Pool) Home(addr uint64) bool { return addr/p.umem.chunk-p.first < p.chunks }

// Free returns the number of free chunks.
func (p *Pool) Free() int { return len(p.free) }

// Put frees the chunk of an address, which may point anywhere into it.
func (p *Pool) Put(addr uint64) { p.free = append(p.free, addr&^(p.umem.chunk-1)) }

// Peek returns at most n free chunks without taking them.
func (p *Pool) Peek(n int) []uint64 { return p.free[max(len(p.free)-n, 0):] }

// Take takes the last n free chunks: all that Peek(n) returned.
func (p *Pool) Take(n int) { p.free = p.free[:len(p.free)-n] }

// Refill gives at most n free chunks to the fill ring of q.
func (p *Pool) Refill(q Queue, n int) {
	if chunks := p.Peek(q.Room(n)); len(chunks) > 0 {
		p.Take(q.Fill(chunks)) // all of them: there is room
	}
}

package nat

import (
	"math/bits"

	"github.com/xdpct/xdpct/flow"
)

// Key is the secret that translation has of its own. Everything that an outsider can
// observe of a choice (a port, an identifier) is a function of this key and of nothing
// that keys a hash table (RFC 6056, section 3.3.3: the secret key of F). Fill it from
// crypto/rand; a fixed one is for tests and replays.
type Key [2]uint64

// Domains keep the uses of one key apart: none of them tells anything about another.
const (
	domainStart   = iota + 1 // where the search for a port begins
	domainDraw               // ports of --random and --random-fully
	domainTuple              // index and fingerprints of a Directory
	domainSource             // index and fingerprints of Sources
	domainCrowded            // destinations that are short of ports
	domainRand               // Rand
)

// sum is SipHash-2-4 (Aumasson and Bernstein) of a domain and of words: a pseudorandom
// function, of which outputs tell neither the key nor other outputs.
func (k Key) sum(domain uint64, words ...uint64) uint64 {
	v0, v1 := k[0]^0x736f6d6570736575, k[1]^0x646f72616e646f6d
	v2, v3 := k[0]^0x6c7967656e657261, k[1]^0x7465646279746573
	round := func() {
		v0 += v1
		v1 = bits.RotateLeft64(v1, 13) ^ v0
		v0 = bits.RotateLeft64(v0, 32)
		v2 += v3
		v3 = bits.RotateLeft64(v3, 16) ^ v2
		v0 += v3
		v3 = bits.RotateLeft64(v3, 21) ^ v0
		v2 += v1
		v1 = bits.RotateLeft64(v1, 17) ^ v2
		v2 = bits.RotateLeft64(v2, 32)
	}
	block := func(m uint64) {
		v3 ^= m
		round()
		round()
		v0 ^= m
	}
	block(domain)
	for _, m := range words {
		block(m)
	}
	block(uint64(8*(len(words)+1)) << 56) // the length in bytes ends the message
	v2 ^= 0xff
	for range 4 {
		round()
	}
	return v0 ^ v1 ^ v2 ^ v3
}

// secret returns a secret for flow.Tuple.Hash, for one domain.
func (k Key) secret(domain uint64) (s flow.Secret) {
	for i := range s {
		s[i] = k.sum(domain, uint64(i))
	}
	return s
}

// Rand is a stream of random numbers: SipHash of a counter. Its outputs tell neither
// the seed nor what comes next. The zero Rand is a stream like any other. It is not
// safe for concurrent use.
type Rand struct {
	key Key
	n   uint64
}

// NewRand returns a stream that seed alone determines.
func NewRand(seed uint64) *Rand { return &Rand{key: Key{seed, domainRand}} }

// Uint64 returns the next number.
func (r *Rand) Uint64() uint64 {
	r.n++
	return r.key.sum(domainRand, r.n)
}

// Uint32 returns 32 bits of the next number.
func (r *Rand) Uint32() uint32 { return uint32(r.Uint64() >> 32) }

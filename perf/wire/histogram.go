package wire

import "time"

// Histogram counts times in nanoseconds by their highest bit and the three below
// it, so that a bucket is at most an eighth wide.
type Histogram [512]uint64

// Count returns how many times there are.
func (h *Histogram) Count() (n uint64) {
	for _, c := range h {
		n += c
	}
	return n
}

// Quantile returns the time that a share q of all times does not exceed, rounded
// up to the end of its bucket; 0 if there are none. Valid iff 0 < q <= 1.
func (h *Histogram) Quantile(q float64) time.Duration {
	rest := q * float64(h.Count())
	if rest == 0 {
		return 0
	}
	for i, c := range h {
		if rest -= float64(c); rest <= 0 {
			return bucketEnd(i)
		}
	}
	return bucketEnd(len(h) - 1)
}

// bucketEnd returns the least time beyond bucket i.
func bucketEnd(i int) time.Duration {
	high, below := i/8, i%8
	if high < 3 {
		return time.Duration(i + 1)
	}
	if high > 60 { // three centuries
		high = 60
	}
	return time.Duration(8+below+1) << (high - 3)
}

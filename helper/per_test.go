package helper

import (
	"slices"
	"testing"
)

// TestPER: single values, written out by the clauses of X.691 that are named.
func TestPER(t *testing.T) {
	say := func(lo, hi uint64) *perType { return perInt(lo, hi).saying(1) }
	one := func(k *perType) *perType { return perSeq(perIs(perFlag), perIs(k)) } // a bit in front: what is aligned, and what is not
	for _, c := range []struct {
		name string
		t    *perType
		b    []byte
		want []uint64 // values found, nil: it cannot be right
	}{
		{"10.5.7.1: up to 255 values are bits", one(say(1, 4)), []byte{0b0_11_00000}, []uint64{4}},
		{"and no more than there are", one(say(1, 3)), []byte{0b0_11_00000}, nil},
		{"one value is no bits", one(say(7, 7)), []byte{0}, []uint64{7}},
		{"255 values are eight bits", one(say(1, 255)), []byte{0x01, 0x80}, []uint64{4}},
		{"10.5.7.2: 256 values are an octet", one(say(1, 256)), []byte{0x80, 0xff}, []uint64{256}},
		{"10.5.7.3: up to 64k are two", one(say(0, 65535)), []byte{0x80, 0x12, 0x34}, []uint64{0x1234}},
		{"which are there", one(say(0, 65535)), []byte{0x80, 0x12}, nil},
		{"257 values are two", one(say(0, 256)), []byte{0x80, 1, 0}, []uint64{256}},
		{"10.5.7.4: more have a length", one(say(1, 1<<32-1)), []byte{0b0_01_00000, 0x0e, 0x0f}, []uint64{0x0e10}},
		{"of up to four", one(say(0, 1<<32-1)), []byte{0b0_11_00000, 0xff, 0xff, 0xff, 0xff}, []uint64{1<<32 - 1}},
		{"or three", one(say(1, 192400)), []byte{0b0_10_00000, 2, 0xef, 0x8f}, []uint64{192400}},
		{"not four", one(say(1, 192400)), []byte{0b0_11_00000, 0, 2, 0xef, 0x8f}, nil},
		{"nor more than there may be", one(say(1, 192400)), []byte{0b0_10_00000, 2, 0xef, 0x90}, nil},

		{"22.6: a choice has bits", perSeq(perIs(perNils(3).saying(1))), []byte{0b10_000000}, []uint64{2}},
		{"as many as there are alternatives", perSeq(perIs(perNils(3).saying(1))), []byte{0b11_000000}, nil},
		{"22.8: and more behind the dots", perNils(3).extensible().saying(1), []byte{0b1_0_000010, 1, 0}, []uint64{5}},
		{"in an open type", perNils(3).extensible().saying(1), []byte{0b1_0_000010, 2, 0}, nil},
		{"10.6: not more than 63", perNils(3).extensible().saying(1), []byte{0b1_1_000000, 1, 0x40, 1, 0}, nil},
		{"a type that goes on behind its open type", perNils(1).extensible(say(0, 65535)), []byte{0x80, 1, 0, 7}, nil},
		{"one that ends before", perSeq(perIs(perNils(1).extensible(say(0, 255))), perIs(say(0, 255))), []byte{0x80, 3, 5, 6, 7, 8}, []uint64{5, 8}},

		{"18: a component that is not there", perSeq(perOpt(say(0, 7)), perOpt(say(0, 7))), []byte{0b01_101_000}, []uint64{5}},
		{"18.8: additions, of which one is not known", perSeq().extensible(nil, say(0, 255)), []byte{0b1_0_000010, 0b111_00000, 1, 9, 1, 7, 2, 8, 8}, []uint64{7}},
		{"of which there are fewer than said", perSeq().extensible(nil, say(0, 255)), []byte{0b1_0_000010, 0b111_00000, 1, 9, 1, 7, 2, 8}, nil},
		{"without their bits", perSeq().extensible(nil), []byte{0b1_0_111111, 0xff}, nil},

		{"10.9.3.6: a length of one octet", perSeq(perIs(perBytes), perIs(say(0, 255))), []byte{2, 9, 9, 7}, []uint64{7}},
		{"10.9.3.7: of two", perSeq(perIs(perBytes), perIs(say(0, 255))), slices.Concat([]byte{0x80, 130}, make([]byte, 130), []byte{7}), []uint64{7}},
		{"10.9.3.8: fragments", perSeq(perIs(perBytes), perIs(say(0, 255))), make16k(), nil},
		{"more than there is", perSeq(perIs(perBytes)), []byte{3, 9, 9}, nil},
		{"16.7: two octets are not aligned", perSeq(perIs(perFlag), perIs(perText(8, 2, 2)), perIs(say(0, 127))), []byte{0x80, 0, 0b0_0000111}, []uint64{7}},
		{"16.8: more are", perSeq(perIs(perFlag), perIs(perText(8, 3, 3)), perIs(say(0, 127))), []byte{0x80, 9, 9, 9, 7 << 1}, []uint64{7}},
		{"27.5: characters of four bits", perSeq(perIs(perText(4, 1, 128)), perIs(say(0, 15))), []byte{2 << 1, 0x12, 0x37}, []uint64{7}},
		{"19: a SEQUENCE OF", perOf(say(0, 255)), []byte{3, 7, 8, 9}, []uint64{7, 8, 9}},
		{"of none", perSeq(perIs(perOf(say(0, 255))), perIs(say(0, 255))), []byte{0, 7}, []uint64{7}},
		{"of too few", perOf(say(0, 255)), []byte{3, 7, 8}, nil},
		{"nothing", say(0, 255), nil, nil},
	} {
		found, err := c.t.decode(c.b)
		var got []uint64
		for _, f := range found {
			got = append(got, f.val)
		}
		if !slices.Equal(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("%s: %v, %v, want %v", c.name, got, err, c.want)
		}
	}
}

// make16k is a string in one fragment of 16384 octets and a rest of none.
func make16k() []byte {
	b := make([]byte, 16384+3)
	b[0] = 0xc1
	b[len(b)-1] = 7
	return b
}

// TestPERMost: of more fields than anybody needs the first are noted.
func TestPERMost(t *testing.T) {
	b := slices.Concat([]byte{127}, make([]byte, 127))
	if found, err := perOf(perInt(0, 255).saying(1)).decode(b); err != nil || len(found) != perMost {
		t.Errorf("%d, %v", len(found), err)
	}
}

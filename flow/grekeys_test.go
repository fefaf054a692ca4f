package flow

import (
	"fmt"
	"sync"
	"testing"
)

func tunnel(client, server uint64, from, to uint16) Tuple {
	return Tuple{Src: Addr{Lo: client}, Dst: Addr{Lo: server}, L4: MakeL4(IPv4, GRE, 0, from, to)}
}

// TestGREKeys: a packet finds the id of its sender by the ends and the id that it names;
// another tunnel cannot take that, and none is left when it is removed.
func TestGREKeys(t *testing.T) {
	var none *GREKeys
	if none.Source(Addr{}, Addr{}, 1) != 0 {
		t.Error("an id of nobody")
	}
	var k GREKeys
	there, back := tunnel(1, 2, 0x11, 0x22), tunnel(2, 1, 0x22, 0x11)
	for range 2 {
		if !k.Add(there, back) {
			t.Fatal("not added, or not again")
		}
	}
	if k.Source(Addr{Lo: 1}, Addr{Lo: 2}, 0x22) != 0x11 || k.Source(Addr{Lo: 2}, Addr{Lo: 1}, 0x11) != 0x22 || k.Source(Addr{Lo: 1}, Addr{Lo: 2}, 0x11) != 0 {
		t.Error("the wrong id")
	}
	if other := tunnel(1, 2, 0x33, 0x22); k.Add(tunnel(2, 1, 0x22, 0x33), other) {
		t.Error("two tunnels with one id of the server")
	}
	if half := tunnel(2, 1, 0x22, 0x33); k.has(half) {
		t.Error("half of a tunnel that was refused is there")
	}
	for n := range 2 { // each of two tunnels of two zones takes it back
		if !k.has(there) || !k.has(back) {
			t.Errorf("gone after %d of two", n)
		}
		k.Remove(there, back)
	}
	if k.has(there) || k.has(back) {
		t.Error("it is there still")
	}
}

func (k *GREKeys) has(t Tuple) bool { return k.Source(t.Src, t.Dst, t.L4.Dst()) == t.L4.Src() }

// TestHangup: whoever asks is told of each tunnel that has ended since, in order.
func TestHangup(t *testing.T) {
	var k GREKeys
	one := k.Last()
	for i := range uint64(3) {
		k.HangUp(Tuple{Src: Addr{Lo: i}}, nil)
	}
	for i := range uint64(3) {
		if one = one.Next(); one == nil || one.Master.Src.Lo != i {
			t.Fatalf("the %d.: %v", i, one)
		}
	}
	if one.Next() != nil || one != k.Last() {
		t.Error("there is another")
	}
}

// BenchmarkGREKeys: what a call costs that comes and goes, among others.
func BenchmarkGREKeys(b *testing.B) {
	for _, n := range []uint64{1, 256, 4096} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			k := NewGREKeys(&Secret{0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb, 0xd6e8feb86659fd93, 0xa0761d6478bd642f, 0xe7037ed1a0b428db, 0x8ebc6af09c88c6e3})
			for i := range n {
				k.Add(tunnel(i, 9, 1, 2), tunnel(9, i, 2, 1))
			}
			b.ReportAllocs()
			for b.Loop() {
				k.Add(tunnel(n, 9, 1, 2), tunnel(9, n, 2, 1))
				k.Remove(tunnel(n, 9, 1, 2), tunnel(9, n, 2, 1))
			}
		})
	}
}

// TestGREKeysAtOnce: changes of several goroutines are all made, while others read.
func TestGREKeysAtOnce(t *testing.T) {
	var k GREKeys
	var wg sync.WaitGroup
	for g := range uint16(4) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := uint16(1); i < 200; i++ {
				key := tunnel(uint64(g), 9, i, i)
				if !k.Add(key) || k.Source(key.Src, key.Dst, i) != i {
					t.Error("what was added is not there")
				}
				if i%2 == 1 {
					k.Remove(key)
				}
			}
		}()
	}
	wg.Wait()
	for g := range uint16(4) {
		for i := uint16(1); i < 200; i++ {
			if key := tunnel(uint64(g), 9, i, i); k.has(key) != (i%2 == 0) {
				t.Fatalf("%d of %d: %v", i, g, k.has(key))
			}
		}
	}
}

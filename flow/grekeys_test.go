package flow

import (
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
	if half := tunnel(2, 1, 0x22, 0x33); k.Has(&half) {
		t.Error("half of a tunnel that was refused is there")
	}
	if k.Removals() != 0 {
		t.Error("removed before it was")
	}
	if k.Remove(there, back); k.Has(&there) || k.Has(&back) || k.Removals() != 1 {
		t.Error("it is there still")
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
			for i := range uint16(200) {
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
		for i := range uint16(200) {
			if key := tunnel(uint64(g), 9, i, i); k.Has(&key) != (i%2 == 0) {
				t.Fatalf("%d of %d: %v", i, g, k.Has(&key))
			}
		}
	}
}

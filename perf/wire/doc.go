// Package wire measures xdpct and the kernel on the wire: veth pairs between
// namespaces, a generator in the kernel at one end and a counter at the other.
//
//	source                      box                        sink
//	  gen0 ──────────────── port0 [ under test ] port1 ──────────── end0
//	  live frames                                           XDP count, drop
//
// The generator is an XDP program run with live frames
// (BPF_F_TEST_XDP_LIVE_FRAMES), so no frame passes through a socket before it
// reaches what is measured. Generator and counter are the same whatever is
// under test.
package wire

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target bpfel -type received -cflags "-O2 -g -Wall -Werror -I/usr/include/x86_64-linux-gnu" wire bpf/wire.c

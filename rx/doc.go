// Package rx moves frames between NIC queues and user space over AF_XDP.
//
//	             ┌────────── UMEM: one, shared by all queues ──────────┐
//	NIC queue ─▶ XDP program ─▶ RX ring ─▶ Receive … Transmit ─▶ TX ring ─▶ NIC queue
//	             ▲                                                      │
//	             └── Fill ring ◀── free chunks ◀── completion ring ◀────┘
//
// A UMEM is the memory of the frames, cut into chunks. A Queue is the AF_XDP
// socket of one receive queue, with its four rings; all Queues share the UMEM,
// so that a frame is forwarded, or handed to another core, by passing on its
// descriptor. A Program is the XDP program of one port, which steers frames to
// the Queues and counts those that it does not (bpf/xdpct.c).
//
// # Ownership of chunks
//
// A chunk belongs to exactly one of: the user, the kernel (between Fill and
// Receive, or between Transmit and Complete). Who receives a frame owns its
// chunk and must give it to Fill or Transmit in the end. A Pool keeps the free
// chunks of one core. Those in the rings of a Queue whose interface is gone are
// had back by Abandon.
//
// # Errors
//
// A link that goes down, an interface that goes away, a full ring: these are
// states with counters (QueueStats), not failures. A Queue whose interface is
// gone says so (Gone) and does nothing more.
//
// Of the files, only those named _unsafe.go use unsafe, and only those named
// _linux.go or _unsafe.go make system calls.
package rx

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target bpfel -type xdp_fate -cflags "-O2 -g -Wall -Werror -I/usr/include/x86_64-linux-gnu" xdp bpf/xdpct.c

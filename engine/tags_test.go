package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	bpflink "github.com/cilium/ebpf/link"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/perf/netlab"
)

// mark is the IP identification by which the tests find their frame again.
const mark = 4711

// taggedFrame is a UDP datagram from the left host under VLAN tags, the outermost first.
func taggedFrame(dst packet.MAC, to string, tags ...uint16) []byte {
	f := packet.AppendEthernet(nil, dst, macA, packet.AppendUDP(nil,
		packet.IP{Src: netip.MustParseAddr(netlab.LeftIP), Dst: netip.MustParseAddr(to), ID: mark}, 1, 2, []byte("tagged")))
	out := append([]byte{}, f[:12]...)
	for _, tag := range tags {
		out = binary.BigEndian.AppendUint16(out, uint16(packet.EtherVLAN))
		out = binary.BigEndian.AppendUint16(out, tag)
	}
	return append(out, f[12:]...)
}

// tagsOf returns the tags of a frame that taggedFrame made; ok is false for others.
func tagsOf(f []byte) (tags []uint16, ok bool) {
	at := 12
	for len(f) >= at+4 && binary.BigEndian.Uint16(f[at:]) == uint16(packet.EtherVLAN) {
		tags = append(tags, binary.BigEndian.Uint16(f[at+2:]))
		at += 4
	}
	return tags, len(f) >= at+8 && f[at+2] == 0x45 && binary.BigEndian.Uint16(f[at+6:]) == mark
}

// TestTagsOnRouterPort sends frames with VLAN tags that no interface is for to a router:
// they are dropped by name. On a Linux bridge the kernel has taken the tag out of the frame
// before XDP sees it, so that it would pass for one without.
func TestTagsOnRouterPort(t *testing.T) {
	for name, kind := range map[string]netlab.Kind{"veth": netlab.Veth, "bridge": netlab.LinuxBridge} {
		t.Run(name, func(t *testing.T) {
			h, e := newHosts(t, netlab.HostsOptions{Left: kind, Routed: true}, "", "", nil)
			in, out := openRaw(t, h.Left), openRaw(t, h.Right)
			link, err := h.Box.Link("left")
			if err != nil {
				t.Fatal(err)
			}
			mac := packet.MAC(link.Attrs().HardwareAddr)
			serveTCP(t, h.Right, netlab.RightIP+":80")
			dial(t, h.Left, netlab.RightIP+":80") // neighbours are known now
			for i, tags := range [][]uint16{{5}, {5, 6}} {
				if err := in.Send(taggedFrame(mac, netlab.RightIP, tags...)); err != nil {
					t.Fatal(err)
				}
				testenv.Until(t, "drop", func() bool {
					s, err := e.Stats(context.Background())
					if err != nil {
						t.Fatal(err)
					}
					return s.Total().Reasons[flow.ReasonNoVLAN] == uint64(i+1)
				})
			}
			// One without a tag passes, so the others would be here before it.
			if err := in.Send(taggedFrame(mac, netlab.RightIP)); err != nil {
				t.Fatal(err)
			}
			n := 0
			for f := range frames(t, out) {
				if _, ok := tagsOf(f); ok {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%d frames came through, not only the one without a tag", n)
			}
		})
	}
}

// TestTagsOnBridge passes frames through a bridge of xdpct, one side of which is a Linux
// bridge: they keep their tags.
func TestTagsOnBridge(t *testing.T) {
	h, _ := newHosts(t, netlab.HostsOptions{Left: netlab.LinuxBridge}, "", "", nil)
	in, out := openRaw(t, h.Left), openRaw(t, h.Right)
	for _, tags := range [][]uint16{{5}, {5, 6}, nil} {
		if err := in.Send(taggedFrame(macB, netlab.PeerIP, tags...)); err != nil {
			t.Fatal(err)
		}
		var got []uint16
		found := false
		for f := range frames(t, out) {
			if g, ok := tagsOf(f); ok {
				got, found = g, true
			}
		}
		if !found || !slices.Equal(got, tags) {
			t.Errorf("tags %v are %v on the other side (found: %v)", tags, got, found)
		}
	}
}

func openRaw(t *testing.T, ns *netlab.NS) *netlab.Raw {
	t.Helper()
	r, err := ns.OpenRaw("eth0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// frames yields what is received until a frame of taggedFrame's is among it.
func frames(t *testing.T, r *netlab.Raw) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for deadline := testenv.Deadline(); time.Now().Before(deadline); {
			f, err := r.Recv(50 * time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			if f == nil {
				continue
			}
			_, ours := tagsOf(f)
			if !yield(f) || ours {
				return
			}
		}
	}
}

// TestTagsOnAnswer rejects a frame under tags on a bridge: the ICMP error comes back under
// the same.
func TestTagsOnAnswer(t *testing.T) {
	const reject = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p udp -j REJECT\nCOMMIT\n"
	h, _ := newHosts(t, netlab.HostsOptions{}, reject, "", nil)
	in := openRaw(t, h.Left)
	for _, tags := range [][]uint16{nil, {5}, {5, 6}} {
		sent := taggedFrame(macB, netlab.PeerIP, tags...)
		if err := in.Send(sent); err != nil {
			t.Fatal(err)
		}
		var answer []byte
		testenv.Until(t, "answer", func() bool {
			f, err := in.Recv(50 * time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			ip := 14 + 4*len(tags)
			if len(f) < ip+28 || f[ip] != 0x45 || f[ip+9] != 1 || f[ip+20] != 3 {
				return false
			}
			answer = f
			return true
		})
		want := append(append(append([]byte{}, sent[6:12]...), sent[:6]...), sent[12:14+4*len(tags)]...)
		if !bytes.HasPrefix(answer, want) {
			t.Errorf("tags %v: the answer begins with %x, not %x", tags, answer[:len(want)], want)
		}
	}
}

// pushTag has a host's stack send all that leaves its eth0 under a VLAN tag, as a VLAN
// interface does: the tag is not in the frame, but beside it, for the device to insert,
// which veth never does.
func pushTag(t *testing.T, ns *netlab.NS, tag int32) {
	t.Helper()
	const tpid = 0x0081 // 0x8100 in network byte order
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.LoadImm(asm.R2, tpid, asm.DWord),
		asm.LoadImm(asm.R3, int64(tag), asm.DWord),
		asm.FnSkbVlanPush.Call(),
		asm.LoadImm(asm.R0, 0, asm.DWord), // TCX_PASS
		asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { prog.Close() })
	if err := ns.Do(func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		l, err := bpflink.AttachTCX(bpflink.TCXOptions{Interface: ifi.Index, Program: prog, Attach: ebpf.AttachTCXEgress})
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// TestTagsBesideFrames: a tag that the sender left to its device is a tag all the same.
func TestTagsBesideFrames(t *testing.T) {
	for _, kind := range []netlab.Kind{netlab.Veth, netlab.LinuxBridge} {
		h, _ := newHosts(t, netlab.HostsOptions{Left: kind}, "", "", nil)
		out := openRaw(t, h.Right)
		pushTag(t, h.Left, 5)
		in := openRaw(t, h.Left)
		if err := in.Send(taggedFrame(macB, netlab.PeerIP)); err != nil {
			t.Fatal(err)
		}
		found := false
		for f := range frames(t, out) {
			if tags, ok := tagsOf(f); ok {
				if found = true; !slices.Equal(tags, []uint16{5}) {
					t.Errorf("tags %v", tags)
				}
			}
		}
		if !found {
			t.Error("it did not come through")
		}
	}
}

package helper

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/kernel"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
)

// kernelRouter is a router between two sides, and the calling thread stays on one CPU.
func kernelRouter(t *testing.T) *kernel.Oracle {
	t.Helper()
	testenv.Root(t)
	testenv.Program(t, "iptables-restore")
	o, err := kernel.NewRouter(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	unpin, err := kernel.Pin()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(unpin)
	return o
}

// TestSIPKernel asks the running kernel's helper what TestSIP asks ours: the same bytes out
// and the same expectations, but where sipFacts says otherwise, and why.
func TestSIPKernel(t *testing.T) {
	o := kernelRouter(t)
	for _, c := range sipFacts {
		for _, net := range c.nets() {
			t.Run(c.name+"/"+net.String(), func(t *testing.T) {
				k := newSIPKernel(t, o, net)
				for i, step := range c.steps {
					sent := net.expand(step.text)
					got := k.send(step.dir, sent)
					wantChanged, wantRows := "", step.expect
					if net.translated {
						wantChanged = net.changes(step.changed, got)
					}
					if l := step.linux; l != nil {
						if l.expect != "-" {
							wantRows = l.expect
						}
						if l.changed != "" && (net.translated || l.always) {
							wantChanged = net.changes(l.changed, got)
						}
					}
					if got := changed(sent, got); got != wantChanged {
						t.Errorf("step %d: Linux changes\n%s\nand is said to\n%s", i, got, wantChanged)
					}
					if wantChanged == "dropped" {
						continue // whether something is expected then is of no interest
					}
					if got, want := k.list(), expandRows(wantRows, net); got != want {
						t.Errorf("step %d: Linux expects\n%s\nand is said to\n%s", i, got, want)
					}
				}
			})
		}
	}
}

// TestSIPKernelTimeouts: the kernel's timeouts are those of our classes and of the connection,
// but for a registration's, which is as long as the registrar says.
func TestSIPKernelTimeouts(t *testing.T) {
	k := newSIPKernel(t, kernelRouter(t), sipNet{flow.IPv4, flow.UDP, true, false})
	classes := sip().Classes
	for i, c := range []struct {
		dir  flow.Direction
		text string
		want []uint32 // of what is expected
	}{
		{flow.Original, sipOffer + sipDescription + "m=audio 4000 RTP/AVP 0\n", []uint32{classes[sipAudio].Timeout, classes[sipAudio].Timeout}},
		{flow.Original, sipOffer + sipDescription + "m=video 4000 RTP/AVP 0\n", []uint32{classes[sipVideo].Timeout, classes[sipVideo].Timeout}},
		{flow.Original, sipOffer + sipDescription + "m=image 4000 udptl t38\n", []uint32{classes[sipImage].Timeout, classes[sipImage].Timeout}},
		{flow.Reply, "SIP/2.0 404 Not Found\n" + sipAnswer, nil},
		{flow.Original, sipRegister, []uint32{classes[sipSignalling].Timeout}},
		{flow.Reply, sipRegistered, []uint32{120}},
		{flow.Original, sipRegister, []uint32{classes[sipSignalling].Timeout}},
		{flow.Reply, strings.Replace(sipRegistered, "120", "1800", 1), []uint32{1800}}, // ours: sipLongest
	} {
		k.send(c.dir, k.net.expand(c.text))
		text, err := k.o.ReadFile("/proc/net/nf_conntrack_expect")
		if err != nil {
			t.Fatal(err)
		}
		var got []uint32
		for line := range strings.Lines(string(text)) {
			n, err := strconv.ParseUint(strings.Fields(line)[0], 10, 32)
			if err != nil {
				t.Fatal(line)
			}
			got = append(got, uint32(n))
		}
		const late = 10 // seconds that a busy machine may have taken
		about := func(a, b uint32) bool { return a <= b && a+late >= b }
		if !slices.EqualFunc(got, c.want, about) {
			t.Errorf("step %d: Linux expects for %v s, not for %v", i, got, c.want)
		}
		table, err := k.o.Table()
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.ParseUint(strings.Fields(string(table))[4], 10, 32)
		if err != nil || !about(uint32(n), sipTimeout) {
			t.Errorf("step %d: the connection has %d s, %v", i, n, err)
		}
	}
}

// TestSIPKernelPort: Linux sends the server's packets to the port that a translated client's
// Via names, whatever port it sends from.
func TestSIPKernelPort(t *testing.T) {
	k := newSIPKernel(t, kernelRouter(t), sipNet{flow.IPv4, flow.UDP, true, false})
	k.send(flow.Original, k.net.expand(strings.Replace(sipRegister, "<A>:5060;branch", "<A>:5077;branch", 1)))
	k.send(flow.Reply, k.net.expand(sipRegistered))
	if k.to != 5077 {
		t.Errorf("an answer goes to port %d", k.to)
	}
}

// TestSIPKernelSplit: Linux reads no message that is split over segments, which
// TestSIPSplit wants to be read.
func TestSIPKernelSplit(t *testing.T) {
	n := sipTCPTranslated
	k := newSIPKernel(t, kernelRouter(t), n)
	text := n.expand(sipInvite)
	half := len(text) - 20
	if got := k.send(flow.Original, text[:half]) + k.send(flow.Original, text[half:]); got != text || k.list() != "" {
		t.Errorf("Linux expects %s and changes %s", k.list(), changed(text, got))
	}
}

// sipKernel is a connection through the kernel, to whose packets its helper is attached.
type sipKernel struct {
	t   *testing.T
	o   *kernel.Oracle
	net sipNet
	seq [2]uint32 // of TCP, by direction: what each side sends next
	ack [2]uint32 // what each side has received up to

	to uint16 // the destination port of what has come out last
}

func newSIPKernel(t *testing.T, o *kernel.Oracle, n sipNet) *sipKernel {
	t.Helper()
	k := &sipKernel{t: t, o: o, net: n, seq: [2]uint32{1000, 2000}}
	if err := o.Clear(); err != nil {
		t.Fatal(err)
	}
	client, seen, _ := n.addrs()
	rules := fmt.Sprintf("*raw\n-A PREROUTING -p %v -s %v -j CT --helper sip\nCOMMIT\n", n.proto, client)
	switch {
	case n.source():
		to := netip.AddrPortFrom(seen, sipSeenPort).String()
		rules += fmt.Sprintf("*nat\n-A POSTROUTING -p %v -s %v -j SNAT --to-source %s\nCOMMIT\n", n.proto, client, to)
	case n.translated:
		_, _, server := n.addrs()
		y := n.known()
		rules += fmt.Sprintf("*nat\n-A PREROUTING -p %v -d %v --dport %d -j DNAT --to-destination %s\nCOMMIT\n", n.proto, y.Addr(), y.Port(), netip.AddrPortFrom(server, sipPort))
	}
	if err := o.Restore(n.family, rules); err != nil {
		t.Fatal(err)
	}
	if n.proto == flow.TCP {
		k.tcp(flow.Original, packet.SYN, "")
		k.tcp(flow.Reply, packet.SYN|packet.ACK, "")
		k.tcp(flow.Original, packet.ACK, "")
	}
	return k
}

// ends returns the addresses and ports of a packet in a direction.
func (k *sipKernel) ends(d flow.Direction) (side kernel.Side, ip packet.IP, sport, dport uint16) {
	client, seen, server := k.net.addrs()
	if d == flow.Original {
		return kernel.A, packet.IP{Src: client, Dst: k.net.known().Addr()}, sipClientPort, k.net.known().Port()
	}
	return kernel.B, packet.IP{Src: server, Dst: seen}, sipPort, k.net.seenPort()
}

// send sends bytes in a direction and returns what comes out, "" if nothing does.
func (k *sipKernel) send(d flow.Direction, text string) string {
	k.t.Helper()
	if k.net.proto == flow.TCP {
		return k.tcp(d, packet.ACK|packet.PSH, text)
	}
	side, ip, sport, dport := k.ends(d)
	return string(k.exchange(side, packet.AppendUDP(nil, ip, sport, dport, []byte(text)), 8))
}

// exchange returns the payload of what comes out for a datagram, whose transport header has
// n bytes.
func (k *sipKernel) exchange(side kernel.Side, d []byte, n int) []byte {
	k.t.Helper()
	out, err := k.o.Exchange(side, d)
	if err != nil {
		k.t.Fatal(err)
	}
	frames := out[side^1]
	if len(frames) == 0 {
		return nil
	}
	header := 14 + 20 + n
	if k.net.family == flow.IPv6 {
		header += 20
	}
	k.to = binary.BigEndian.Uint16(frames[0][header-n+2:])
	return frames[0][header:]
}

func (k *sipKernel) tcp(d flow.Direction, flags packet.TCPFlags, text string) string {
	k.t.Helper()
	side, ip, sport, dport := k.ends(d)
	other := d.Other()
	seg := packet.Segment{Seq: k.seq[d], Ack: k.ack[d], Flags: flags, Window: 60000, Payload: []byte(text)}
	got := k.exchange(side, packet.AppendTCP(nil, ip, sport, dport, seg), 20)
	k.seq[d] += uint32(len(text))
	k.ack[other] += uint32(len(got))
	if flags&packet.SYN != 0 {
		k.seq[d]++
		k.ack[other] = k.seq[d]
	}
	return string(got)
}

// list returns what the kernel expects, as sipNet.list writes it.
func (k *sipKernel) list() string {
	k.t.Helper()
	text, err := k.o.ReadFile("/proc/net/nf_conntrack_expect")
	if err != nil {
		k.t.Fatal(err)
	}
	var rows []string
	for line := range strings.Lines(string(text)) {
		// 180 l3proto = 2 proto=17 src=10.2.2.1 dst=10.1.1.1 sport=0 dport=4000 PERMANENT,INACTIVE sip/audio
		words := strings.Fields(line)
		value := func(key string) string {
			for _, w := range words {
				if v, ok := strings.CutPrefix(w, key+"="); ok {
					return v
				}
			}
			return ""
		}
		port, err := strconv.ParseUint(value("dport"), 10, 16)
		class := slices.IndexFunc(sip().Classes, func(c Class) bool { return "sip/"+c.Name == words[len(words)-1] })
		if err != nil || class < 0 || value("sport") != "0" {
			k.t.Fatalf("an expectation that is not understood: %s", line)
		}
		flags := ""
		if strings.Contains(line, "PERMANENT") {
			flags = "permanent"
		}
		if strings.Contains(line, "INACTIVE") {
			flags += " inactive"
		}
		to := netip.AddrPortFrom(netip.MustParseAddr(value("dst")), uint16(port))
		rows = append(rows, k.net.rowString(class, netip.MustParseAddr(value("src")), to, flags))
	}
	slices.Sort(rows)
	return strings.Join(rows, "\n")
}

package policy

import (
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy/syntax"
)

// noEnv is a machine without routes and connections.
type noEnv struct{ Env }

func (noEnv) Connection() (*flow.Conn, *flow.Extra) { return nil, nil }

// viewOf returns a datagram as rules of table filter see it at a moment, in
// milliseconds. One shard has it, as each goroutine of a test its own.
func viewOf(t testing.TB, p *Program, d []byte, now int64) *View {
	t.Helper()
	frame := packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, d)
	pkt := &packet.Packet{}
	pkt.Parse(frame, len(frame), packet.Checks{})
	v := &View{P: pkt, In: 0, Out: 1, State: flow.New, Now: now, Random: nat.NewRand(1), Env: noEnv{}, Counts: make([]Count, p.NumCounters()), Members: &Members{}}
	v.Src, v.Dst = pkt.Addrs()
	if b := pkt.Body(); len(b) >= 4 && pkt.Proto.HasPorts() {
		v.SrcPort, v.DstPort = uint16(b[0])<<8|uint16(b[1]), uint16(b[2])<<8|uint16(b[3])
	}
	return v
}

func datagram(src string, sport uint16, size int) []byte {
	return packet.AppendUDP(nil, packet.IP{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr("10.2.0.1")}, sport, 53, make([]byte, size))
}

const accept = "*filter\n:FORWARD DROP [0:0]\n"

// TestStateExact: what a rule lets through does not depend on how many shards ask it
// at once. Run with -race.
func TestStateExact(t *testing.T) {
	const shards, each = 8, 400
	for _, c := range []struct {
		name, rules string
		want        int64
	}{
		{"limit", "-A FORWARD -m limit --limit 1/day --limit-burst 4 -j ACCEPT\n", 4},
		{"hashlimit", "-A FORWARD -m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 7 --hashlimit-mode srcip --hashlimit-name a -j ACCEPT\n", 7 * 4},
		{"hashlimit bytes", "-A FORWARD -m hashlimit --hashlimit-upto 1000b/s --hashlimit-burst 3000b --hashlimit-mode srcip --hashlimit-name a -j ACCEPT\n", 4 * 7 * (1 + 4)}, // seconds of 7 packets: one, and four of the burst
		{"hashlimit shared", "-A FORWARD -m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 7 --hashlimit-mode srcip --hashlimit-name a -j ACCEPT\n" +
			"-A FORWARD -m hashlimit --hashlimit-upto 1/sec --hashlimit-burst 900 --hashlimit-mode dstip --hashlimit-name a -j ACCEPT\n", 7 * 4},
		{"recent", "-A FORWARD -m recent --update --hitcount 6 --name x -j DROP\n-A FORWARD -m recent --set --name x -j ACCEPT\n", 6 * 4},
		{"recent list", "-A FORWARD -m recent --rcheck --name x -j DROP\n-A FORWARD -m recent --set --name x -j ACCEPT\n", 4},
		{"statistic", "-A FORWARD -m statistic --mode nth --every 4 --packet 0 -j ACCEPT\n", shards * each / 4},
		{"connlimit", "-A FORWARD -m connlimit --connlimit-upto 5 -j ACCEPT\n", 5 * 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := compile(t, accept+c.rules+"COMMIT\n", flow.IPv4, nil)
			var accepted atomic.Int64
			var wg sync.WaitGroup
			for range shards {
				var views []*View
				for _, src := range []string{"10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"} {
					views = append(views, viewOf(t, p, datagram(src, 1000, 92), 1000)) // 120 bytes: 8 times 16
				}
				wg.Go(func() {
					for i := range each {
						v := views[i%len(views)]
						v.Member = 0 // each is another connection
						if p.Run(FilterForward, v) == Accept {
							accepted.Add(1)
						}
					}
				})
			}
			wg.Wait()
			slack := int64(0)
			if strings.HasPrefix(c.name, "recent") {
				slack = shards * 4 // two rules: between them another shard may pass, in Linux as here
			}
			if n := accepted.Load(); n < c.want || n > c.want+slack {
				t.Errorf("%d packets were accepted, want %d", n, c.want)
			}
		})
	}
}

// TestStateCarries: loading rules leaves alone what tables remember that were not
// replaced, and recent and hashlimit by name; what else is replaced begins anew.
func TestStateCarries(t *testing.T) {
	const rules = "-A FORWARD -m limit --limit 1/day --limit-burst 1 -j ACCEPT\n"
	p := compile(t, accept+rules+"COMMIT\n", flow.IPv4, nil)
	ask := func(p *Program) Verdict { return p.Run(FilterForward, viewOf(t, p, datagram("10.1.0.1", 1, 1), 5)) }
	if ask(p) != Accept || ask(p) != Drop {
		t.Fatal("the limit does not limit")
	}
	same, err := Compile(p.rulesets[0], nil, []string{"eth1", "eth0"}, nat.Key{1, 2}, p)
	if err != nil {
		t.Fatal(err)
	}
	if ask(same) != Drop {
		t.Error("the same rules for other interfaces have forgotten")
	}
	if ask(compile(t, accept+rules+"COMMIT\n", flow.IPv4, same)) != Accept {
		t.Error("a table that was replaced has not begun anew")
	}
	for _, rules := range []string{
		"-A FORWARD -m recent --rcheck --name x -j DROP\n-A FORWARD -m recent --set --name x -j ACCEPT\n",
		"-A FORWARD -m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 1 --hashlimit-mode srcip --hashlimit-name a -j ACCEPT\n",
	} {
		p := compile(t, accept+rules+"COMMIT\n", flow.IPv4, nil)
		if ask(p) != Accept || ask(p) != Drop {
			t.Fatal("it is not remembered", rules)
		}
		again := compile(t, accept+rules+"COMMIT\n", flow.IPv4, p)
		if ask(again) != Drop {
			t.Error("a list of the same name has begun anew:", rules)
		}
		gone := compile(t, accept+"COMMIT\n", flow.IPv4, again)
		if ask(compile(t, accept+rules+"COMMIT\n", flow.IPv4, gone)) != Accept {
			t.Error("a list that no rule named is still there:", rules)
		}
	}
}

// TestHashlimitFull: a table that is full drops packets of others (hotdrop), and entries
// that have expired make room at once.
func TestHashlimitFull(t *testing.T) {
	p := compile(t, accept+"-A FORWARD -m hashlimit --hashlimit-upto 5/sec --hashlimit-mode srcip --hashlimit-htable-size 64 --hashlimit-htable-max 64 --hashlimit-htable-expire 2000 --hashlimit-name a -j ACCEPT\n-A FORWARD -j ACCEPT\nCOMMIT\n", flow.IPv4, nil)
	from := func(n byte) []byte { return datagram(netip.AddrFrom4([4]byte{10, 1, 1, n}).String(), 1, 1) }
	for n := range byte(64) {
		if p.Run(FilterForward, viewOf(t, p, from(n), 1000)) != Accept {
			t.Fatalf("address %d is dropped", n)
		}
	}
	if p.Run(FilterForward, viewOf(t, p, from(100), 1000)) != Drop {
		t.Error("one more is let through")
	}
	if p.Run(FilterForward, viewOf(t, p, from(100), 2999)) != Drop {
		t.Error("one more is let through before any has expired")
	}
	if p.Run(FilterForward, viewOf(t, p, from(100), 3000)) != Accept {
		t.Error("no room was made of what has expired")
	}
}

// TestRecentOldest: a list keeps the hundred addresses that were seen last.
func TestRecentOldest(t *testing.T) {
	p := compile(t, accept+"-A FORWARD -p udp --sport 1 -m recent --set --name x -j ACCEPT\n-A FORWARD -m recent --rcheck --name x -j ACCEPT\nCOMMIT\n", flow.IPv4, nil)
	run := func(n int, sport uint16, now int64) Verdict {
		return p.Run(FilterForward, viewOf(t, p, datagram(netip.AddrFrom4([4]byte{10, 1, 1, byte(n)}).String(), sport, 1), now))
	}
	for n := range 100 {
		run(n, 1, int64(n))
	}
	run(0, 1, 200) // 1 is the oldest now
	run(100, 1, 201)
	for n := range 101 {
		want := Accept
		if n == 1 {
			want = Drop
		}
		if got := run(n, 2, 300); got != want {
			t.Errorf("address %d: %v", n, got)
		}
	}
}

// TestRecentMask: the mask of a list is that of the first rule which names it (F65).
func TestRecentMask(t *testing.T) {
	p := compile(t, accept+"-A FORWARD -p udp --sport 1 -m recent --set --name x --mask 255.255.255.0 -j ACCEPT\n-A FORWARD -m recent --rcheck --name x --mask 255.255.255.255 -j ACCEPT\nCOMMIT\n", flow.IPv4, nil)
	p.Run(FilterForward, viewOf(t, p, datagram("10.1.1.1", 1, 1), 1))
	if p.Run(FilterForward, viewOf(t, p, datagram("10.1.1.2", 2, 1), 1)) != Accept {
		t.Error("the second rule uses a mask of its own")
	}
}

// TestRecompileUnderWorkers: rules are compiled again while shards run them (F30). Run
// with -race.
func TestRecompileUnderWorkers(t *testing.T) {
	r, err := syntax.Parse(strings.NewReader(accept+"-A FORWARD -m recent --update --name x -j DROP\n-A FORWARD -m recent --set --name x\n-A FORWARD -m limit -j ACCEPT\nCOMMIT\n"), "rules", flow.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	var current atomic.Pointer[Program]
	p, err := Compile(r, nil, []string{"eth0"}, nat.Key{1, 2}, nil)
	if err != nil {
		t.Fatal(err)
	}
	current.Store(p)
	var wg sync.WaitGroup
	var stop atomic.Bool
	for range 3 {
		v := viewOf(t, p, datagram("10.1.1.1", 1, 1), 1)
		wg.Go(func() {
			for !stop.Load() {
				current.Load().Run(FilterForward, v)
			}
		})
	}
	for range 200 {
		if p, err = Compile(r, nil, []string{"eth0", "eth1"}, nat.Key{1, 2}, p); err != nil {
			t.Error(err)
		}
		current.Store(p)
	}
	stop.Store(true)
	wg.Wait()
}

// TestNoAllocations: rules that remember, and matches that look into packets, allocate
// nothing while they run.
func TestNoAllocations(t *testing.T) {
	rules := accept + "-A FORWARD -m limit --limit 1/sec\n-A FORWARD -m hashlimit --hashlimit-upto 5/sec --hashlimit-mode srcip,dstip,srcport --hashlimit-name a\n" +
		"-A FORWARD -m recent --set --name x\n-A FORWARD -m recent --update --seconds 5 --hitcount 3 --reap --name x\n-A FORWARD -m recent --remove --name x\n" +
		"-A FORWARD -m connlimit --connlimit-above 5\n-A FORWARD -m statistic --mode nth --every 3\n-A FORWARD -m quota --quota 100000\n" +
		"-A FORWARD -m string --string abc --algo bm --icase\n-A FORWARD -m u32 --u32 \"0>>22&0x3C@0>>16=1000\"\n-A FORWARD -m time --weekdays Mon\n" +
		"-A FORWARD -p udp -m udp --dport 53\n-A FORWARD -m conntrack --ctstate NEW --ctproto 17\n-A FORWARD -m ecn --ecn-ip-ect 0\n-A FORWARD -m connlabel --label 5 --set\n" +
		"-A FORWARD -m helper --helper ftp\n-A FORWARD -m cpu --cpu 0\n-A FORWARD -m policy --dir in --pol none\nCOMMIT\n"
	p := compile(t, rules, flow.IPv4, nil)
	v := viewOf(t, p, datagram("10.1.0.1", 1000, 50), 5)
	v.Tracked, v.Conn = true, &flow.Conn{}
	if n := testing.AllocsPerRun(1000, func() {
		p.Run(FilterForward, v)
		v.Members.Release(v.Member)
		v.Member = 0
	}); n != 0 {
		t.Errorf("%v allocations a packet", n)
	}
}

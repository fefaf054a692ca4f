package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
)

// logRules log at each hook, with translation and another mark in between.
func logRules(f flow.Family, tag string) string {
	all := "LOG --log-tcp-sequence --log-tcp-options --log-ip-options --log-prefix "
	log := func(name, more string) string { return fmt.Sprintf("-j %s\"%s%s \"%s\n", all, tag, name, more) }
	rules := "*raw\n-A PREROUTING " + log("raw", "") +
		"COMMIT\n*mangle\n-A PREROUTING " + log("pre", " --log-macdecode") + "-A PREROUTING -p udp -j MARK --set-mark 0x1f\n-A FORWARD " + log("mfwd", "") + "-A POSTROUTING " + log("post", "") +
		"COMMIT\n*nat\n-A PREROUTING -p tcp --dport 81 -j DNAT --to-destination DST\n-A POSTROUTING -p udp --sport 700 -j SNAT --to-source SRC\nCOMMIT\n" +
		"*filter\n:INPUT DROP [0:0]\n-A FORWARD " + "-j LOG --log-prefix \"" + tag + "fwd \"\n-A FORWARD -p tcp --dport 25 -j REJECT\nCOMMIT\n"
	dst, src := B.Host(3, f).String(), B.Host(60, f).String()
	return strings.NewReplacer("DST", dst, "SRC", src).Replace(rules)
}

// kernelLog reads the kernel's log from its end on.
type kernelLog struct{ fd int }

func openKernelLog(t *testing.T) *kernelLog {
	const all = "/proc/sys/net/netfilter/nf_log_all_netns" // LOG in a namespace is silent without
	was, err := os.ReadFile(all)
	if err != nil {
		testenv.Missing(t, "nf_log_all_netns ("+err.Error()+")")
	}
	if err := os.WriteFile(all, []byte("1"), 0); err != nil {
		testenv.Missing(t, "the right to set nf_log_all_netns ("+err.Error()+")")
	}
	t.Cleanup(func() { _ = os.WriteFile(all, was, 0) })
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		testenv.Missing(t, "a kernel log that can be read ("+err.Error()+")")
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		t.Fatal(err)
	}
	return &kernelLog{fd}
}

// take returns the lines with a tag that have come.
func (k *kernelLog) take(tag string) (lines []string) {
	var b [8192]byte
	for {
		n, err := unix.Read(k.fd, b[:])
		if err != nil || n <= 0 {
			return lines
		}
		_, text, _ := bytes.Cut(b[:n], []byte(";"))
		text, _, _ = bytes.Cut(text, []byte("\n"))
		if bytes.HasPrefix(text, []byte(tag)) && !bytes.Contains(text, []byte("DST=ff02:")) { // its own reports
			lines = append(lines, unescape(string(text)))
		}
	}
}

func unescape(s string) string { return strings.ReplaceAll(s, `\x5c`, `\`) }

// logDatagrams are datagrams of all that LOG knows.
func logDatagrams(f flow.Family) map[string][]byte {
	ip := packet.IP{Src: A.Host(1, f), Dst: B.Host(1, f), ID: 77}
	tcp := func(dport uint16, s packet.Segment) []byte { return packet.AppendTCP(nil, ip, 700, dport, s) }
	quoted := packet.AppendUDP(nil, packet.IP{Src: B.Host(1, f), Dst: A.Host(1, f)}, 53, 700, []byte("hello"))
	d := map[string][]byte{
		"SYN":      tcp(80, packet.Segment{Seq: 5, Flags: packet.SYN | packet.ECE | packet.CWR, Window: 1000, Options: []byte{2, 4, 5, 180, 1, 3, 3, 7}}),
		"DNAT":     tcp(81, packet.Segment{Seq: 5, Flags: packet.SYN, Window: 1000}),
		"REJECT":   tcp(25, packet.Segment{Seq: 5, Flags: packet.SYN, Window: 1000}),
		"INVALID":  tcp(80, packet.Segment{Seq: 5, Flags: packet.FIN | packet.URG | packet.PSH, Window: 9}),
		"UDP":      packet.AppendUDP(nil, ip, 700, 53, []byte("hello")),
		"UDP-Lite": packet.AppendUDPLite(nil, ip, 701, 53, 0, []byte("hello")),
		"SCTP":     packet.AppendSCTP(nil, ip, 1, 2, 0, packet.AppendChunk(nil, 1, 0, make([]byte, 16))),
		"GRE":      packet.AppendIP(nil, ip, flow.GRE, make([]byte, 8)),
		"ESP":      packet.AppendIP(nil, ip, 50, []byte{0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}),
		"AH":       packet.AppendIP(nil, ip, 51, []byte{59, 1, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3, 4, 5, 6, 7}),
		"short":    packet.AppendIP(nil, ip, flow.UDP, []byte{1, 2, 3, 4}),
		"TCP cut":  packet.AppendIP(nil, ip, flow.TCP, []byte{1, 2, 3, 4, 5, 6, 7, 8}),
		"other":    packet.AppendIP(nil, ip, 99, nil),
	}
	if f == flow.IPv4 {
		d["echo"] = packet.AppendICMP(nil, ip, 8, 0, 5<<16|6, []byte("ping"))
		d["unreachable"] = packet.AppendICMP(nil, ip, 3, 1, 0, quoted)
		d["too big"] = packet.AppendICMP(nil, ip, 3, 4, 1400, quoted)
		d["redirect"] = packet.AppendICMP(nil, ip, 5, 1, 0x0a010107, quoted)
		d["problem"] = packet.AppendICMP(nil, ip, 12, 0, 9<<24, quoted)
		d["timestamp"] = packet.AppendICMP(nil, ip, 13, 0, 7, make([]byte, 12))
		d["error cut"] = packet.AppendICMP(nil, ip, 11, 0, 0, quoted[:10])
		firm := bytes.Clone(d["UDP"])
		firm[1], firm[6] = 0xb8, 0x40
		binary.BigEndian.PutUint16(firm[10:], 0)
		binary.BigEndian.PutUint16(firm[10:], ^onesSum(firm[:20]))
		d["DF, TOS"] = firm
		return d
	}
	d["echo"] = packet.AppendICMP(nil, ip, 128, 0, 5<<16|6, []byte("ping"))
	d["unreachable"] = packet.AppendICMP(nil, ip, 1, 3, 0, quoted)
	d["too big"] = packet.AppendICMP(nil, ip, 2, 0, 1400, quoted)
	d["problem"] = packet.AppendICMP(nil, ip, 4, 1, 9, quoted)
	d["options"] = packet.AppendIP(nil, ip, 60, append([]byte{17, 0, 1, 4, 0, 0, 0, 0}, d["UDP"][40:]...))
	d["atomic"] = packet.AppendIP(nil, ip, 44, append([]byte{17, 0, 0, 0, 0, 0, 0, 9}, d["UDP"][40:]...))
	return d
}

func onesSum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// TestLogsAgree lets LOG rules at each hook of the kernel's router and of a shard write
// about the same packets, and compares the lines.
func TestLogsAgree(t *testing.T) {
	testenv.Root(t)
	for _, p := range []string{"iptables-legacy-restore", "ip6tables-legacy-restore"} {
		testenv.Program(t, p)
	}
	k := openKernelLog(t)
	byChance := regexp.MustCompile(`ID=\d+ (DF )?PROTO=ICMP TYPE=3 CODE=3|FLOWLBL=\d+`)
	for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
		for name, d := range logDatagrams(f) {
			o, err := NewRouter(map[string]string{"net/ipv4/conf/r0/send_redirects": "0", "net/ipv4/conf/all/send_redirects": "0"})
			if err != nil {
				t.Fatal(err)
			}
			tag := fmt.Sprintf("t%d", time.Now().UnixNano()%1e6)
			text := logRules(f, tag)
			if err := o.RestoreBy(tool(f)+"-legacy", text); err != nil { // which drops what is cut off, as xdpct does
				o.Close()
				t.Fatal(err)
			}
			w, err := newDevice(1, &lab{}, f, text)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := o.Exchange(A, d); err != nil {
				t.Fatal(err)
			}
			if _, err := w.exchange(A, Frame(A, d)); err != nil {
				t.Fatal(err)
			}
			var ours []string
			logged, _ := w.shards[0].TakeLogged()
			names := map[int]string{-1: "", 0: "r0", 1: "r1"}
			for i := range logged {
				ours = append(ours, string(logged[i].AppendText(nil, names[logged[i].In], names[logged[i].Out])))
			}
			kernels := k.take(tag)
			for i := range max(len(ours), len(kernels)) {
				line := func(all []string) string {
					if i >= len(all) {
						return "(none)"
					}
					return byChance.ReplaceAllString(strings.TrimRight(all[i], " "), "")
				}
				if a, b := line(kernels), line(ours); a != b {
					t.Errorf("%v, %s:\nkernel %q\nxdpct  %q", f, name, a, b)
				}
			}
			if len(kernels) == 0 && len(ours) == 0 {
				t.Errorf("%v, %s: nobody logged it", f, name)
			}
			o.Close()
			w.close()
		}
	}
}

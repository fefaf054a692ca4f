package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// Generator names what makes the frames that are measured. The connections are
// set up by LiveFrames in any case.
type Generator string

// The generators.
const (
	LiveFrames Generator = "live"   // an XDP program, see Load
	Pktgen     Generator = "pktgen" // the kernel's, for kernels built with CONFIG_NET_PKTGEN
)

// pktgenDir is where pktgen is told what to do, in the namespace of the thread.
const pktgenDir = "/proc/thread-self/net/pktgen"

// portsPerSource is how many connections share a source address, and firstPort
// the lowest of their ports: PORTS_LOG and FIRST_PORT of bpf/wire.c.
const (
	portsPerSource = 1 << 14
	firstPort      = 1024
	serverPort     = 4433
)

// sendPktgen sends a load by pktgen. Its packets pick address and port at random
// each, and carry no time.
func (l *Lab) sendPktgen(load Load) (s Sent, err error) {
	err = l.source.Do(func() error {
		s, err = runPktgen(pktgenDir, load)
		return err
	})
	return s, err
}

func runPktgen(dir string, load Load) (s Sent, err error) {
	thread := filepath.Join(dir, fmt.Sprintf("kpktgend_%d", load.CPU))
	if _, err := os.Stat(thread); errors.Is(err, fs.ErrNotExist) {
		return s, errors.New("this kernel has no pktgen (CONFIG_NET_PKTGEN, modprobe pktgen): use the live generator")
	}
	tell := func(file, command string) error {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(command+"\n"), 0o644); err != nil {
			return fmt.Errorf("pktgen: %q: %w", command, err)
		}
		return nil
	}
	for _, c := range []string{"rem_device_all", "add_device " + genName} {
		if err := tell(filepath.Base(thread), c); err != nil {
			return s, err
		}
	}
	defer func() { err = errors.Join(err, tell(filepath.Base(thread), "rem_device_all")) }()
	for _, c := range pktgenCommands(load) {
		if err := tell(genName, c); err != nil {
			return s, err
		}
	}
	if err := tell("pgctrl", "start"); err != nil { // returns when all is sent
		return s, err
	}
	text, err := os.ReadFile(filepath.Join(dir, genName))
	if err != nil {
		return s, err
	}
	return pktgenResult(text)
}

// pktgenCommands describes a load in pktgen's words. Its random ranges end before
// their maximum.
func pktgenCommands(load Load) []string {
	sources := (load.Flows + portsPerSource - 1) / portsPerSource
	ports := min(load.Flows, portsPerSource)
	first := binary.BigEndian.Uint32(firstSource.AsSlice())
	end, _ := netip.AddrFromSlice(binary.BigEndian.AppendUint32(nil, first+uint32(sources)))
	c := []string{
		fmt.Sprintf("count %d", load.Frames), fmt.Sprintf("pkt_size %d", load.Size), "clone_skb 0", "delay 0",
		"src_mac " + genMAC.String(), "dst_mac " + inMAC.String(),
		fmt.Sprintf("src_min %v", firstSource), fmt.Sprintf("src_max %v", end),
		fmt.Sprintf("dst %v", destination),
		fmt.Sprintf("udp_src_min %d", firstPort), fmt.Sprintf("udp_src_max %d", firstPort+ports),
		fmt.Sprintf("udp_dst_min %d", serverPort), fmt.Sprintf("udp_dst_max %d", serverPort),
	}
	if load.Uniform {
		c = append(c, "flag IPSRC_RND", "flag UDPSRC_RND")
	}
	if load.PPS > 0 {
		c = append(c, fmt.Sprintf("ratep %d", int(load.PPS)))
	}
	return c
}

// pktgenSent finds what was sent and how long it took, as in
// "Result: OK: 1234(c1000+d234) usec, 5000 (60byte,0frags)".
var pktgenSent = regexp.MustCompile(`Result: OK: (\d+)\([^)]*\) usec, (\d+) \(`)

func pktgenResult(text []byte) (Sent, error) {
	m := pktgenSent.FindSubmatch(text)
	if m == nil {
		return Sent{}, fmt.Errorf("pktgen did not send: %q", text)
	}
	us, err1 := strconv.ParseInt(string(m[1]), 10, 64)
	n, err2 := strconv.ParseUint(string(m[2]), 10, 64)
	return Sent{n, time.Duration(us) * time.Microsecond}, errors.Join(err1, err2)
}

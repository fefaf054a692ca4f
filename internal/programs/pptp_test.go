package programs

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/internal/testenv"
)

// hdlc frames a PPP packet as an asynchronous line does (RFC 1662, 4 and C.2).
func hdlc(packet []byte) []byte {
	fcs := uint16(0xffff)
	for _, c := range packet {
		fcs ^= uint16(c)
		for range 8 {
			if fcs&1 != 0 {
				fcs = fcs>>1 ^ 0x8408
			} else {
				fcs >>= 1
			}
		}
	}
	fcs = ^fcs
	b := []byte{0x7e}
	for _, c := range append(bytes.Clone(packet), byte(fcs), byte(fcs>>8)) {
		if c < 0x20 || c == 0x7d || c == 0x7e {
			b = append(b, 0x7d, c^0x20)
		} else {
			b = append(b, c)
		}
	}
	return append(b, 0x7e)
}

// unescaped returns the bytes of a line without its escapes.
func unescaped(line []byte) (b []byte) {
	for i := 0; i < len(line); i++ {
		if line[i] == 0x7d && i+1 < len(line) {
			i++
			b = append(b, line[i]^0x20)
		} else {
			b = append(b, line[i])
		}
	}
	return b
}

// testPPTP is pptpd with pptp. In the place of pppd, which needs PPP in the kernel, the
// server runs a program that sends back what it gets: each packet goes through the tunnel
// (GRE) and comes back.
func testPPTP(t *testing.T, l *lab) {
	needs(t, "pptpd")
	needs(t, "pptp")
	mirror, conf := filepath.Join(l.dir, "mirror"), filepath.Join(l.dir, "pptpd.conf")
	hello := filepath.Join(l.dir, "hello") // the server reads no tunnel before pppd has spoken
	must(t, os.WriteFile(hello, hdlc([]byte("\xff\x03\xc0\x21hello")), 0o644))
	must(t, os.WriteFile(mirror, []byte("#!/bin/sh\nstty raw -echo\ncat "+hello+"\nexec cat\n"), 0o755))
	must(t, os.WriteFile(conf, fmt.Appendf(nil, "ppp %s\nspeed 115200\nlisten %s\nlocalip 192.0.2.1\nremoteip 192.0.2.10-20\n", mirror, serverIP), 0o600))
	must(t, os.WriteFile(filepath.Join(l.dir, "options"), nil, 0o600))
	l.spawn(l.server, "pptpd", "-f", "-c", conf, "-o", filepath.Join(l.dir, "options"), "-p", filepath.Join(l.dir, "pptpd.pid"))
	listening(t, l, serverIP+":1723")
	t.Run("pptp, and packets through its tunnel", func(t *testing.T) {
		must(t, os.MkdirAll("/var/run/pptp", 0o755)) // where its processes meet
		c := exec.Command("pptp", serverIP, "--nolaunchpppd", "--nohostroute", "--timeout", "0.1")
		ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		line, theirs := os.NewFile(uintptr(ends[0]), "line"), os.NewFile(uintptr(ends[1]), "line of pptp")
		defer line.Close()
		c.Stdin = theirs // it reads and writes there
		var log bytes.Buffer
		c.Stderr = &log
		c.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
		must(t, l.client.Do(c.Start))
		_ = theirs.Close()
		defer func() {
			_ = unix.Kill(-c.Process.Pid, unix.SIGTERM)
			_ = c.Wait()
			if t.Failed() {
				t.Logf("pptp: %s", &log)
			}
		}()
		lines := make(chan []byte, 1024)
		go func() {
			for buf := make([]byte, 4096); ; {
				n, err := line.Read(buf)
				lines <- bytes.Clone(buf[:n])
				if err != nil {
					return
				}
			}
		}()
		const packets = 20
		var got []byte
		for n := range packets {
			text := fmt.Sprintf("packet %02d through the tunnel", n)
			packet := append([]byte{0xff, 0x03, 0xc0, 0x21}, text...)
			deadline := testenv.Deadline()
			for !bytes.Contains(unescaped(got), []byte(text)) { // the first may come before the tunnel is there
				if time.Now().After(deadline) {
					t.Fatalf("%q does not come back: %q", text, got)
				}
				_, err := line.Write(hdlc(packet))
				must(t, err)
				for wait := time.After(300 * time.Millisecond); !bytes.Contains(unescaped(got), []byte(text)); {
					select {
					case b := <-lines:
						got = append(got, b...)
						continue
					case <-wait:
					}
					break
				}
			}
		}
	})
}

package conntrack

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"
)

// TestRefusals: what cannot be honoured or read is refused by name, with exit code 2,
// before anything is asked of a tracker.
func TestRefusals(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"-L -c 5", "option `--secmark' is not supported"},
		{"-L -o userspace", "option `-o userspace' is not supported"},
		{"-I -p udp -s 1.1.1.1 -d 2.2.2.2 --sport 1 --dport 2 -t 5 -n ff::1", "mismatched address family"},
		{"-G -p udp -s 1.1.1.1 -d 2.2.2.2 --sport 1 --dport 2 -n 3.3.3.3", "Illegal option `--src-nat' with this command"},
		{"-L -n [ff::1]x", "Invalid port `x'"},
		{"-L --s 1.1.1.1", "option `--s' is ambiguous"},
		{"-L -p tcp --sport 70000", "`70000' is not a number from 0 to 65535"},
		{"-L -s 1.1.1", "Invalid IP address `1.1.1'"},
		{"-L -s 1.1.1.1/33", "Invalid CIDR notation"},
		{"-L --mask-src 255.0.255.0 -s 1.1.1.1", "not a mask of leading ones"},
		{"-L -p udp --state ESTABLISHED", "unknown option `--state'"},
		{"-L -m x", "`x' is not a mark"},
		{"-L --sport 5", "unknown option `--sport'"},
		{"-L extra", "unknown type `extra'"},
		{"-L conntrack extra", "unknown argument `extra'"},
		{"-L -w 1 --zero=3", "option `--zero' takes no argument"},
		{"-I -p tcp -s 1.1.1.1 -d 2.2.2.2 --sport 1 --dport 2 -t 9 --orig-zone 1 --reply-zone 2 --state CLOSE", "one zone only"},
		{"-U -p tcp --label-add nosuchlabel", "unknown label"},
		{"-E -b many", "`many' is not a number"},
	} {
		var out, errOut bytes.Buffer
		code := Main(context.Background(), strings.Fields(c.args), filepath.Join(t.TempDir(), "none"), IO{strings.NewReader(""), &out, &errOut})
		if code != exitUsage || !strings.Contains(errOut.String(), c.want) || out.Len() != 0 {
			t.Errorf("%s: %d %q %q, want %q", c.args, code, out.String(), errOut.String(), c.want)
		}
	}
}

// FuzzCommandLine reads arbitrary command lines: each is understood or refused.
func FuzzCommandLine(f *testing.F) {
	for _, s := range []string{
		"-L -p tcp --state ESTABLISHED -s 10.0.0.0/8 -o xml,id", "-D -w 5 --mark 1/3 -u !ASSURED",
		"-I -p icmp -s 1.1.1.1 -d 2.2.2.2 --icmp-type 8 --icmp-code 0 -t 9", "--update -ptcp --mark=0x1",
		"-I expect -p tcp -s 1.1.1.1 -d 2.2.2.2 --sport 1 --dport 2 --tuple-src 3.3.3.3 --tuple-dst 4.4.4.4 --tuple-port-dst 5 -t 9",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		c, err := parse(strings.Fields(line))
		if err != nil {
			return
		}
		for _, read := range []func() error{
			func() error { _, err := c.filter(); return err },
			func() error { _, err := c.update(); return err },
			func() error {
				j, err := c.flow()
				if err == nil {
					_, _ = j.Record()
				}
				return err
			},
			func() error { _, err := c.expectation(); return err },
		} {
			if err := read(); err != nil && err.Error() == "" {
				t.Errorf("%q: an error without a text", line)
			}
		}
	})
}

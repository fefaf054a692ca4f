package conntrack_test

import (
	"context"
	"os"
	"strings"

	"github.com/xdpct/xdpct/conntrack"
)

// Main is the whole of conntrack(8): a command line in, output and an exit code out. A
// mistake in the command line is told before anything is asked of a tracker.
func ExampleMain() {
	std := conntrack.IO{In: strings.NewReader(""), Out: os.Stdout, Err: os.Stdout}
	code := conntrack.Main(context.Background(), []string{"-L", "-p", "tcp", "--state", "LISTENING"}, "/run/xdpct.sock", std)
	if code == 2 {
		os.Stdout.WriteString("exit code 2\n")
	}
	// Output:
	// conntrack v1.4.7 (conntrack-tools): unknown TCP state `LISTENING'
	// Try `conntrack -h' or 'conntrack --help' for more information.
	// exit code 2
}

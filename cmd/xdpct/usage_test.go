package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestWrongUsage: what was typed wrong is exit code 2, and nothing of it is ignored.
func TestWrongUsage(t *testing.T) {
	for args, want := range map[string]string{
		"run":                           "-c FILE is required",
		"bench --pps --wire --rules 10": "--rules is for measurements in memory, not for --wire",
	} {
		if _, errOut, code := runCLI(t, strings.Fields(args)...); code != exitUsage || !strings.Contains(errOut, want) {
			t.Errorf("%s: exit code %d, %q, want %q", args, code, errOut, want)
		}
	}
}

// TestReplayStdin: - is standard input, for captures as for rules.
func TestReplayStdin(t *testing.T) {
	want, _, _ := runCLI(t, "replay", "demo.pcap")
	root := rootCommand()
	var out bytes.Buffer
	root.SetArgs([]string{"replay", "-"})
	root.SetIn(bytes.NewReader(demoCapture))
	root.SetOut(&out)
	if err := root.Execute(); err != nil || out.String() != want || want == "" {
		t.Errorf("%v: %q, want %q", err, out.String(), want)
	}
}

package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// release is the version that the linker is told (-ldflags "-X main.release=v1.2.3"), "" if
// none; then the build information says what was built.
var release string

func versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  xdpct version",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			if asJSON {
				return json.NewEncoder(out).Encode(map[string]string{
					"version": version(), "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH,
				})
			}
			_, err := fmt.Fprint(out, versionLine())
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func versionLine() string {
	return fmt.Sprintf("xdpct %s %s %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// version returns the release, or else what the build information has: the version of the
// module where the commit has one, or the commit and its date ("0e0c6bd 2026-11-21").
func version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return versionOf(info)
}

// untagged is the end of a version that Go makes up for a commit without a tag: its time
// and the beginning of its name (go.dev/ref/mod, pseudo-versions).
var untagged = regexp.MustCompile(`[-.]\d{14}-[0-9a-f]{12}(\+dirty)?$`)

func versionOf(info *debug.BuildInfo) string {
	vcs := map[string]string{}
	for _, s := range info.Settings {
		vcs[s.Key] = s.Value
	}
	commit := vcs["vcs.revision"]
	v := info.Main.Version
	if v != "" && v != "(devel)" && (commit == "" || !untagged.MatchString(v)) {
		return v
	}
	if commit == "" {
		return "unknown"
	}
	commit = commit[:min(len(commit), 7)]
	if vcs["vcs.modified"] == "true" {
		commit += "+dirty"
	}
	if date, _, ok := strings.Cut(vcs["vcs.time"], "T"); ok { // RFC 3339, UTC
		commit += " " + date
	}
	return commit
}

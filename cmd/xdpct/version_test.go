package main

import (
	"runtime/debug"
	"testing"
)

// TestVersion: what the linker is told comes first, then what Go knows of the build; it is
// never "(devel)".
func TestVersion(t *testing.T) {
	info := func(version string, settings ...debug.BuildSetting) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Version: version}, Settings: settings}
	}
	commit := debug.BuildSetting{Key: "vcs.revision", Value: "0123456789abcdef0123456789abcdef01234567"}
	for _, c := range []struct {
		info *debug.BuildInfo
		want string
	}{
		{info("v1.2.3", commit), "v1.2.3"},
		{info("(devel)", commit), "0123456789ab"},
		{info("(devel)", commit, debug.BuildSetting{Key: "vcs.modified", Value: "true"}), "0123456789ab+dirty"},
		{info("(devel)"), "unknown"},
		{info(""), "unknown"},
	} {
		if got := versionOf(c.info); got != c.want {
			t.Errorf("%+v: %q, want %q", c.info, got, c.want)
		}
	}
	release = "v9.9.9"
	defer func() { release = "" }()
	if got := version(); got != release {
		t.Errorf("%q, want what the linker was told", got)
	}
}

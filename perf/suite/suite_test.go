package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestScenarios: the built-in ones are in order, and bad ones are refused.
func TestScenarios(t *testing.T) {
	all, err := readScenarios(builtIn)
	if err != nil || len(all) == 0 {
		t.Fatal(len(all), err)
	}
	for text, want := range map[string]string{
		"- {name: a}":            "either an engine or a wire scenario",
		"- {engine: {flows: 1}}": "is empty or taken",
		"- {name: a, engine: {flows: 1}}\n- {name: a, engine: {flows: 1}}": "is empty or taken",
		"- {name: a, engine: {flows: -1}}":                                 "-1 flows",
		"- {name: a, engine: {speed: 1}}":                                  "speed",
		"- {name: a, engine: {proto: gre}}":                                `proto "gre"`,
		"- {name: a, engine: {ip: 5}}":                                     "ip 5",
		"- {name: a, wire: {mode: switch, flows: 1}}":                      `mode "switch"`,
		"- {name: a, wire: {mode: bridge, flows: 1, compare: [x]}}":        `nothing called "x"`,
	} {
		if _, err := readScenarios([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := choose(all, "udp-1,nonsense"); err == nil {
		t.Error("a scenario that does not exist was chosen")
	}
}

// TestRunComparePlot runs, compares and plots small scenarios.
func TestRunComparePlot(t *testing.T) {
	all, err := readScenarios([]byte(`
- {name: one, engine: {flows: 1}, plot: flows, curve: UDP}
- {name: some, engine: {flows: 500}, plot: flows, curve: UDP}
- {name: flood, engine: {work: flood, flows: 500, proto: tcp}}
- {name: two, engine: {flows: 500, shards: 2}, plot: shards, curve: UDP}`))
	if err != nil {
		t.Fatal(err)
	}
	var results, progress bytes.Buffer
	if err := run(all, 2, 5*time.Millisecond, &results, &progress); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "r.jsonl")
	if err := os.WriteFile(file, results.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	read, err := readSamples(file)
	if err != nil || len(read) != 8 {
		t.Fatal(len(read), err)
	}
	for _, s := range read {
		if s.Value <= 0 || s.PPS <= 0 || s.Machine.CPUs == 0 {
			t.Errorf("%+v", s)
		}
	}
	for _, name := range []string{"flows", "shards"} {
		svg := filepath.Join(filepath.Dir(file), name+".svg")
		if err := draw(read, name, svg); err != nil {
			t.Error(err)
		}
		if text, err := os.ReadFile(svg); err != nil || !bytes.Contains(text, []byte("<svg")) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := compare(&progress, read, read, 0.05); err != nil {
		t.Errorf("results are worse than themselves: %v", err)
	}
}

// TestRegression: a fall that is both large and certain fails, noise and small
// falls do not.
func TestRegression(t *testing.T) {
	of := func(values ...float64) (s []sample) {
		for _, v := range values {
			s = append(s, sample{Scenario: "x", Value: v})
		}
		return s
	}
	base := of(1, 1.01, 0.99, 1.02, 0.98)
	for _, c := range []struct {
		name  string
		after []sample
		worse bool
	}{
		{"same", of(1, 1.01, 0.99, 1.02, 0.98), false},
		{"a fifth less", of(0.8, 0.81, 0.79, 0.82, 0.78), true},
		{"a little less", of(0.965, 0.966, 0.967, 0.968, 0.969), false},
		{"less once", of(1, 1.01, 0.5, 1.02, 0.98), false},
		{"more", of(1.2, 1.21, 1.19, 1.22, 1.18), false},
	} {
		var out bytes.Buffer
		if err := compare(&out, base, c.after, 0.05); errors.Is(err, errRegression) != c.worse {
			t.Errorf("%s: %v\n%s", c.name, err, &out)
		}
	}
}

// TestBadResults: a damaged result file is refused with its line.
func TestBadResults(t *testing.T) {
	file := filepath.Join(t.TempDir(), "r.jsonl")
	if err := os.WriteFile(file, []byte("{}\nnonsense\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := readSamples(file); err == nil || !strings.Contains(err.Error(), "r.jsonl:2") {
		t.Error(err)
	}
}

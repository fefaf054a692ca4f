package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadmeConfigurations reads every configuration in the README.
func TestReadmeConfigurations(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(text), "```yaml\n")[1:]
	for i, b := range blocks {
		b, _, _ = strings.Cut(b, "```")
		if _, err := ReadConfig(strings.NewReader(b)); err != nil {
			t.Errorf("configuration %d: %v", i+1, err)
		}
	}
	if len(blocks) != 2 {
		t.Errorf("%d configurations, want 2", len(blocks))
	}
}

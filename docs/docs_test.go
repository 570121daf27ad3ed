// Package docs keeps the generated pages of the manual equal to the code.
package docs

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

var rewrite = flag.Bool("rewrite", false, "write the generated pages instead of comparing them")

func TestGeneratedPages(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"states.md": fsm.Manual(),
	} {
		if *rewrite {
			require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
		}
		page, err := os.ReadFile(name)
		require.NoError(t, err)
		if text != string(page) { // not both texts in the message: they are long
			t.Errorf("docs/%s is not what the code says: run make docs", name)
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

// TestLinks follows every relative link of the pages.
func TestLinks(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("*.md")
	require.NoError(t, err)
	more, err := filepath.Glob("decisions/*.md")
	require.NoError(t, err)
	pages = append(append(pages, more...), "../README.md")
	require.NotEmpty(t, more)
	for _, page := range pages {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.HasPrefix(m[1], "http") {
				continue
			}
			_, err := os.Stat(filepath.Join(filepath.Dir(page), m[1]))
			require.NoError(t, err, "%s links to %s", page, m[1])
		}
	}
}

package fsm

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestManualNamesEverything(t *testing.T) {
	t.Parallel()
	text := Manual()
	for _, r := range rules() {
		require.NotEmpty(t, r.doc, "rule %q has no sentence for the manual", r.id.Name)
		require.Contains(t, text, r.id.Name)
	}
	for _, way := range usualWays() {
		_, ok := Next(Standalone, way[0], way[1])
		require.True(t, ok, "the diagram shows %s --> %s, which is no edge", way[0], way[1])
	}
	require.NotContains(t, text, "unknown step")
	require.Equal(t, 3, strings.Count(text, "\n## "))
}

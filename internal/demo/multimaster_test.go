package demo

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMultimasterConfig(t *testing.T) {
	t.Parallel()
	good := MultimasterConfig{Stage: Stage{Executable: "pgdrover", Out: &bytes.Buffer{}}, Nodes: 3, Writing: time.Second}
	_, err := NewMultimaster(good)
	require.NoError(t, err)
	for want, change := range map[string]func(*MultimasterConfig){
		"--nodes must be from 2 to 5":       func(c *MultimasterConfig) { c.Nodes = 6 },
		"--writing must be positive":        func(c *MultimasterConfig) { c.Writing = 0 },
		"--stay not negative":               func(c *MultimasterConfig) { c.Stay = -1 },
		"leaves no room for 3 ports":        func(c *MultimasterConfig) { c.Port = 65534 },
		"no program to run is given":        func(c *MultimasterConfig) { c.Executable = "" },
		"no place to tell the story is giv": func(c *MultimasterConfig) { c.Out = nil },
	} {
		bad := good
		change(&bad)
		_, err := NewMultimaster(bad)
		require.ErrorContains(t, err, want)
	}
}

func TestMastersView(t *testing.T) {
	t.Parallel()
	x := &master{name: "n1", port: 5501, status: "replicating", lagBytes: 296, lag: 12 * time.Millisecond, conflicts: 7, tombstones: 3}
	x.committed.Store(42)
	var plain bytes.Buffer
	v := &mastersView{stage: &Stage{Out: &plain, start: time.Now()}}
	v.show([]*master{x})
	require.Contains(t, plain.String(), "n1: replicating, 42 transactions written, lag 296 bytes, 12 ms, 7 conflicts\n")

	var screen bytes.Buffer
	v = &mastersView{stage: &Stage{Out: &screen, Terminal: true}}
	v.show([]*master{x})
	first := screen.String()
	require.Contains(t, first, "n1     |  5501 | replicating |           42 |       296 |       12 |         7 |          3\x1b[K\n")
	screen.Reset()
	v.show([]*master{x})
	require.Equal(t, "\x1b[3A"+first, screen.String(), "the table is drawn over itself")
	v.flush()
	screen.Reset()
	v.show([]*master{x})
	require.Equal(t, first, screen.String(), "after a word it is drawn anew")
}

func TestEveryTransactionIsNumbered(t *testing.T) {
	t.Parallel()
	x := &master{name: "n2"}
	require.True(t, strings.HasPrefix(x.transaction(newRand(5), 17), "BEGIN; INSERT INTO public.journal VALUES ('n2', 17); "))
	require.True(t, strings.HasSuffix(x.transaction(newRand(6), 17), "; COMMIT"))
}

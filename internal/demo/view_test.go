package demo

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

func group() []node {
	return []node{
		{name: "node_1", port: 5501, reported: fsm.Primary, goal: fsm.Primary, connection: "read-write", lsn: "0/3000000"},
		{name: "node_2", port: 5502, reported: fsm.Secondary, goal: fsm.Secondary, connection: "read-only", lsn: "0/3000000"},
	}
}

func TestStory(t *testing.T) {
	t.Parallel()
	nodes := group()
	require.Equal(t, "node_1", primaryOf(nodes))
	require.Equal(t, "node_1", writableOf(nodes))
	require.True(t, allSettled(nodes))
	nodes[0].goal = fsm.Draining
	require.Empty(t, primaryOf(nodes))
	require.Empty(t, writableOf(nodes))
	require.False(t, allSettled(nodes))
	nodes[0].reported, nodes[0].goal = fsm.Secondary, fsm.Secondary
	require.False(t, allSettled(nodes), "nobody is primary")
	require.Empty(t, unanswered(0))
	require.Contains(t, unanswered(2), "2 of them")
}

func TestViewWithoutTerminalTellsChanges(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	v := newView(&Stage{Out: &out, start: time.Now()}, newWriter(""))
	nodes := group()
	v.show(nodes)
	v.show(nodes)
	require.Equal(t, 3, bytes.Count(out.Bytes(), []byte("\n")), "a heading, and a line for each node")
	nodes[0].goal = fsm.Draining
	v.show(nodes)
	require.Contains(t, out.String(), "primary -> draining")
	require.NotContains(t, out.String(), "\x1b")
}

func TestViewOnTerminalDrawsOverItself(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	v := newView(&Stage{Out: &out, Terminal: true, start: time.Now()}, newWriter(""))
	v.show(group())
	require.NotContains(t, out.String(), "\x1b[5A")
	v.show(group())
	require.Contains(t, out.String(), "\x1b[5A")
	v.flush()
	out.Reset()
	v.show(group())
	require.NotContains(t, out.String(), "\x1b[5A")
}

func TestWhatCannotBe(t *testing.T) {
	t.Parallel()
	good := FailoverConfig{Stage: Stage{Executable: "x", Out: &bytes.Buffer{}}, Nodes: 3, Failure: Kill}
	_, err := NewFailover(good)
	require.NoError(t, err)
	for want, change := range map[string]func(*FailoverConfig){
		"--nodes must be":   func(c *FailoverConfig) { c.Nodes = 1 },
		"--failure must be": func(c *FailoverConfig) { c.Failure = "fire" },
		"--stay and":        func(c *FailoverConfig) { c.Warmup = -1 },
		"leaves no room":    func(c *FailoverConfig) { c.Port = 65534 },
		"no program":        func(c *FailoverConfig) { c.Executable = "" },
	} {
		bad := good
		change(&bad)
		_, err := NewFailover(bad)
		require.ErrorContains(t, err, want)
	}
}

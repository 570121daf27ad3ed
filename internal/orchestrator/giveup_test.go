package orchestrator_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/orchestrator"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// joinOf is a plan of three nodes, two of which join.
func joinOf(t *testing.T) *run {
	t.Helper()
	sql := func(phase, node, text string, parallel int, serves ...string) workflow.Step {
		return workflow.Step{Type: workflow.TypeSQL, Phase: phase, Node: node, SQL: text, Description: text, Parallel: parallel, For: serves}
	}
	made := func(s workflow.Step) workflow.Step {
		s.Undo = "undo of " + s.SQL
		return s
	}
	steps := []workflow.Step{
		made(sql("J1", "n1", "fence", 0)),
		made(sql("J2", "n2", "node of n2", 1, "n2")), made(sql("J2", "n3", "node of n3", 1, "n3")),
		made(sql("J3", "n1", "slot of n2", 2, "n2")), made(sql("J3", "n1", "slot of n3", 2, "n3")),
		{Type: workflow.TypeHold, Phase: "J6", Node: "n1", SQL: "hold"},
		made(sql("J6", "n2", "copy '$n1.shared_snapshot' to n2", 3, "n2")), made(sql("J6", "n3", "copy '$n1.shared_snapshot' to n3", 3, "n3")),
		sql("J6", "n1", "noted", 0),
		sql("J8", "n2", "await n2", 4, "n2"), sql("J8", "n3", "await n3", 4, "n3"),
		{Type: workflow.TypeLetGo, Phase: "J8", Node: "n1"},
		sql("J14", "n2", "n2 follows n3", 5, "n3", "n2"), sql("J14", "n3", "n3 follows n2", 5, "n2", "n3"),
		sql("J16", "n1", "lower", 0),
	}
	for i := range steps {
		steps[i].Number, steps[i].Path = i+1, "s"+string(rune('a'+i))
	}
	r := &run{cluster: newCluster()}
	r.cfg = orchestrator.Config{
		Name: "join", Cluster: "zodan", Nodes: []workflow.Node{{Name: "n1"}, {Name: "n2"}, {Name: "n3"}}, Steps: steps,
		Journal: orchestrator.FileJournal{Path: filepath.Join(t.TempDir(), "run.json")}, Grace: time.Second, StallTimeout: time.Second,
		Dial: r.cluster.dial, OnEvent: func(e orchestrator.Event) { r.events = append(r.events, e) },
		Snapshot: func(_ context.Context, _ workflow.Node, slot string) (orchestrator.Snapshot, error) {
			r.cluster.mu.Lock()
			defer r.cluster.mu.Unlock()
			r.cluster.sent = append(r.cluster.sent, "held")
			return orchestrator.Snapshot{ID: "1-1-1", Slot: slot, Point: "0/1", Close: func(context.Context) {
				r.cluster.mu.Lock()
				defer r.cluster.mu.Unlock()
				r.cluster.sent = append(r.cluster.sent, "let go")
			}}, nil
		},
	}
	r.cluster.answer = func(_, sql string) *answer {
		if strings.HasPrefix(sql, "SELECT count(*) FROM spock.subscription s") {
			return &answer{result: one("count", "0")}
		}
		return nil
	}
	return r
}

// fails makes a statement fail.
func (r *run) fails(node, text, code string) {
	before := r.cluster.answer
	r.cluster.answer = func(n, sql string) *answer {
		if n == node && strings.HasPrefix(sql, text) {
			return refusal(code, "it does not work")
		}
		return before(n, sql)
	}
}

// times counts how often something was sent.
func (r *run) times(text string) int {
	n := 0
	for _, s := range r.cluster.sent {
		if strings.Contains(s, text) {
			n++
		}
	}
	return n
}

// One of two nodes that cannot join is given up and undone; the other joins.
func TestOneOfTwoIsGivenUp(t *testing.T) {
	t.Parallel()
	r := joinOf(t)
	r.fails("n3", "await n3", "XX000")
	synctest.Test(t, func(t *testing.T) {
		err := r.start(t.Context(), t)
		require.ErrorContains(t, err, "given up: n3 (J8 on node n3: ERROR: it does not work")
		require.NotContains(t, err.Error(), "left are")
	})
	for text, n := range map[string]int{
		"n3: undo of copy": 1, "n1: undo of slot of n3": 1, "n3: undo of node of n3": 1, "undo of fence": 0, "undo of node of n2": 0,
		"n1: lower": 1, "follows": 0, "held": 1, "let go": 1,
	} {
		require.Equal(t, n, r.times(text), "%s in %v", text, r.cluster.sent)
	}
	record, err := r.cfg.Journal.Load(t.Context())
	require.NoError(t, err)
	require.True(t, record.Finished)
	require.Equal(t, []string{"n3"}, record.GivenUp)
	for _, a := range record.Created {
		require.NotContains(t, a.For, "n3")
	}
}

// The last one is not given up, and neither is one for the sake of another node
// that is away: such a run is taken up again.
func TestWhoIsNotGivenUp(t *testing.T) {
	t.Parallel()
	r := joinOf(t)
	r.fails("n3", "await n3", "XX000")
	r.fails("n2", "n2 follows n3", "XX000") // is left out
	r.fails("n1", "lower", "XX000")
	synctest.Test(t, func(t *testing.T) {
		err := r.start(t.Context(), t)
		require.ErrorContains(t, err, "J16 on node n1")
	})
	r = joinOf(t)
	before := r.cluster.answer
	r.cluster.answer = func(node, sql string) *answer {
		if node == "n1" && sql == "slot of n3" {
			return &answer{err: &orchestrator.NodeError{Node: "n1", Op: "connect", Err: refusal("57P03", "starting up").err}}
		}
		return before(node, sql)
	}
	synctest.Test(t, func(t *testing.T) {
		err := r.start(t.Context(), t)
		require.ErrorContains(t, err, "J3 on node n1")
	})
	require.Zero(t, r.times("undo of"))
}

// A snapshot goes with the call that held it: the next one makes another before
// what is to be copied of it.
func TestSnapshotIsMadeAgain(t *testing.T) {
	t.Parallel()
	r := joinOf(t)
	standard := r.cluster.answer
	r.fails("n1", "noted", "XX000")
	synctest.Test(t, func(t *testing.T) { require.Error(t, r.start(t.Context(), t)) })
	require.Equal(t, 1, r.times("held"))
	require.Equal(t, 1, r.times("let go"))
	r.cluster.answer = standard
	synctest.Test(t, func(t *testing.T) { require.NoError(t, r.start(t.Context(), t)) })
	require.Equal(t, 1, r.times("held"))
	require.Equal(t, 1, r.times("let go"))
	require.Zero(t, r.times("slot of"), "what is done is not done again")
	require.Equal(t, 1, r.times("n2: copy 'slot=pgdrover_share_"))
}

// Where the source does not say what it holds, everybody copies what he sees himself.
func TestNoSharedSnapshot(t *testing.T) {
	t.Parallel()
	r := joinOf(t)
	standard := r.cluster.answer
	r.cluster.answer = func(node, sql string) *answer {
		if strings.HasPrefix(sql, "SELECT count(*) FROM spock.subscription s") {
			return &answer{result: one("count", "1")}
		}
		return standard(node, sql)
	}
	synctest.Test(t, func(t *testing.T) { require.NoError(t, r.start(t.Context(), t)) })
	require.Zero(t, r.times("held"))
	require.Equal(t, 1, r.times("n2: copy '' to n2"))
}

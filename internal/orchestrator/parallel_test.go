package orchestrator_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/orchestrator"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// beside is a run of three steps, of which the first two are at the same time.
func beside(t *testing.T) *run {
	t.Helper()
	r := newRun(t, list(sqlStep("n1", "SELECT 'a' AS a", ""), sqlStep("n2", "SELECT 'b' AS b", ""), sqlStep("n3", "SELECT $n1.a, $n2.b", "")))
	r.cfg.Steps = workflow.Parallelize(r.cfg.Steps, config(t))
	require.Equal(t, r.cfg.Steps[0].Parallel, r.cfg.Steps[1].Parallel)
	require.NotZero(t, r.cfg.Steps[0].Parallel)
	return r
}

// answers lets the two steps wait for each other: alone neither would end.
func answers(broken *bool) func(node, sql string) *answer {
	return func(_, sql string) *answer {
		switch {
		case *broken && strings.HasPrefix(sql, "SELECT 'a'"):
			return refusal("22012", "no")
		case strings.HasPrefix(sql, "SELECT 'a'"):
			return &answer{result: one("a", "1")}
		case strings.HasPrefix(sql, "SELECT 'b'"):
			return &answer{result: one("b", "2")}
		}
		return nil
	}
}

// A step beside another one that has failed is not done a second time.
func TestStepsBesideEachOther(t *testing.T) {
	t.Parallel()
	r, broken := beside(t), true
	r.cluster.answer = answers(&broken)
	var got []string
	r.cfg.OnAnswer = func(node string, a orchestrator.Result) { got = append(got, node+"."+a.Columns[0].Name) }
	r.cfg.GoOn = true
	require.ErrorContains(t, r.start(t.Context(), t), "2 steps failed", "the third one reads what the first one would have set")
	require.ElementsMatch(t, []string{"1 failed", "2 ok", "3 failed"}, r.ended())
	require.Equal(t, []string{"n2.b"}, got)

	broken, r.cfg.GoOn = false, false
	require.NoError(t, r.start(t.Context(), t))
	require.Equal(t, []string{"1 ok", "3 ok"}, r.ended())
	require.Equal(t, "n3: SELECT '1', '2'", r.cluster.sent[len(r.cluster.sent)-1])
	require.Equal(t, []string{"n2.b", "n1.a", "n3.done"}, got)
}

// A run that is told to end while steps run beside each other was cancelled; none
// of them has failed.
func TestCancelBeside(t *testing.T) {
	t.Parallel()
	r := beside(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	r.cluster.answer = func(_, sql string) *answer {
		if !strings.HasPrefix(sql, "SELECT '") {
			return nil
		}
		cancel(errGone)
		return &answer{err: context.Canceled}
	}
	err := r.start(ctx, t)
	cancelled, ok := errors.AsType[*orchestrator.CancelledError](err)
	require.True(t, ok, "%v", err)
	require.ErrorIs(t, cancelled, errGone)
	for _, e := range r.events {
		require.NotEqual(t, orchestrator.Failed, e.Status, "%s", e.Description)
	}
}

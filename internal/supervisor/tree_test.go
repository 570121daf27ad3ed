package supervisor

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// journal collects what services did, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lines)
}

func (j *journal) blocking(name string) Service {
	return Service{Name: name, Run: func(ctx context.Context) error {
		<-ctx.Done()
		time.Sleep(time.Second)
		j.add("end " + name + ": " + context.Cause(ctx).Error())
		return context.Cause(ctx)
	}}
}

func TestServicesStopInReverseOrderAndOneAfterTheOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var j journal
		tree := New(Config{Services: []Service{j.blocking("postgres"), j.blocking("node-active")}})
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Minute, func() { cancel(errors.New("SIGTERM")) })
		began := time.Now()
		require.NoError(t, tree.Run(ctx))
		require.Equal(t, []string{"end node-active: SIGTERM", "end postgres: SIGTERM"}, j.all())
		require.Equal(t, time.Minute+2*time.Second, time.Since(began))
	})
}

func TestPermanentServiceIsRestartedWithinItsBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var j journal
		runs := 0
		broken := errors.New("broken")
		tree := New(Config{Delay: 100 * time.Millisecond, Services: []Service{
			j.blocking("postgres"),
			{Name: "node-active", Run: func(context.Context) error { runs++; return broken }},
		}})
		err := tree.Run(t.Context())
		require.ErrorIs(t, err, ErrBudget)
		require.ErrorIs(t, err, broken)
		require.ErrorContains(t, err, "node-active")
		require.Equal(t, 6, runs, "once and five restarts")
		require.Len(t, j.all(), 1)
	})
}

func TestBudgetForgetsOldRestarts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		ctx, cancel := context.WithCancel(t.Context())
		tree := New(Config{Services: []Service{{Name: "a", Run: func(context.Context) error {
			if runs++; runs == 20 {
				cancel()
			}
			time.Sleep(61 * time.Second)
			return nil
		}}}})
		require.NoError(t, tree.Run(ctx))
		require.Equal(t, 20, runs)
	})
}

func TestEndOfATransientServiceEndsTheTree(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var j journal
		runs := 0
		tree := New(Config{Services: []Service{j.blocking("postgres"), {Name: "node-init", Restart: Transient, Run: func(context.Context) error {
			if runs++; runs == 1 {
				return errors.New("try again")
			}
			return nil
		}}}})
		require.NoError(t, tree.Run(t.Context()))
		require.Equal(t, 2, runs)
		require.Len(t, j.all(), 1)
	})
}

func TestTemporaryServiceIsNotRestarted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		tree := New(Config{Services: []Service{{Name: "post-init", Restart: Temporary, Run: func(context.Context) error {
			runs++
			return errors.New("broken")
		}}}})
		require.NoError(t, tree.Run(ctx))
		require.Equal(t, 1, runs)
	})
}

func TestServiceEndsTheTree(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err  error
		want error
	}{{ErrDone, nil}, {ErrFatal, ErrFatal}} {
		synctest.Test(t, func(t *testing.T) {
			var j journal
			tree := New(Config{Services: []Service{j.blocking("postgres"), {Name: "node-active", Run: func(context.Context) error { return tc.err }}}})
			require.ErrorIs(t, tree.Run(t.Context()), tc.want)
			require.Len(t, j.all(), 1)
		})
	}
}

func TestReloadReachesEveryService(t *testing.T) {
	t.Parallel()
	n := 0
	tree := New(Config{Services: []Service{{Reload: func() { n++ }}, {}, {Reload: func() { n++ }}}})
	tree.Reload()
	require.Equal(t, 2, n)
}

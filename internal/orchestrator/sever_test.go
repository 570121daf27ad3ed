package orchestrator_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/orchestrator"
	"github.com/pgdrover/pgdrover/internal/spock"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// crashing is a server that has crashed, but for one session that goes on
// waiting, and cannot be started again as long as that one is there.
type crashing struct {
	*cluster
	down   atomic.Bool
	orphan atomic.Bool
}

func (c *crashing) dial(ctx context.Context, node workflow.Node, notice func(spock.Notice)) (orchestrator.Server, error) {
	if c.down.Load() {
		return nil, errGone
	}
	server, err := c.cluster.dial(ctx, node, notice)
	return &crashingServer{Server: server, on: c}, err
}

type crashingServer struct {
	orchestrator.Server
	on     *crashing
	closed bool
}

func (s *crashingServer) Closed() bool { return s.closed }

func (s *crashingServer) Ask(ctx context.Context, sql string, args ...*string) (orchestrator.Result, error) {
	switch {
	case sql == "SELECT slot" && !s.on.orphan.Swap(true):
		s.on.down.Store(true)
		<-ctx.Done() // nobody answers any more
		s.on.down.Store(false)
		s.closed = true
		return orchestrator.Result{}, ctx.Err()
	case s.on.down.Load():
		s.closed = true
		return orchestrator.Result{}, errGone
	}
	return s.Server.Ask(ctx, sql, args...)
}

func (s *crashingServer) Run(ctx context.Context, sql string) (orchestrator.Result, error) {
	return s.Ask(ctx, sql)
}

// A session that outlives its server is not waited for: the step is done again
// when the server is back.
func TestOrphanedSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRun(t, list(sqlStep("n1", "SELECT slot", "")))
		c := &crashing{cluster: r.cluster}
		r.cfg.Dial, r.cfg.Beat = c.dial, "SELECT beat"
		r.cfg.Steps[0].Phase = "J3"
		began := time.Now()
		e, err := orchestrator.New(r.cfg)
		require.NoError(t, err)
		require.NoError(t, e.Run(t.Context()))
		require.Less(t, time.Since(began), soon)
		require.Contains(t, r.cluster.sent, "n1: SELECT slot")
		require.Equal(t, "tries again: wait for an answer on node n1: its server is gone", r.events[1].Message)
	})
}

package pgautofailover_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// refusedOnly keeps errors that no documented refusal explains: deadlocks and timeouts above all.
func refusedOnly(err error) error {
	switch pgautofailover.SQLState(err) {
	case "55000", "55006", "XX000", "42704", "42P17", "22023", "23505", "23514", "23P01":
		return nil
	}
	if errors.Is(err, pgautofailover.ErrNotFound) {
		return nil
	}
	return err
}

// crowd is fifty sessions at work on the same groups.
type crowd struct {
	monitor
	groups []pgautofailover.GroupKey
}

// act does one random thing that a keeper or an operator may do.
func (c crowd) act(ctx context.Context, db *pgautofailover.DB, rnd *rand.Rand) error {
	id := rnd.Int64N(16) + 1
	key := c.groups[rnd.IntN(len(c.groups))]
	name := fmt.Sprintf("n%d", id)
	switch rnd.IntN(16) {
	case 0:
		return db.PerformFailover(ctx, key.Formation, key.Group, rnd.IntN(2) == 0)
	case 1:
		_, err := db.PerformPromotion(ctx, key.Formation, name, false)
		return err
	case 2:
		_, err := db.StartMaintenance(ctx, id)
		return err
	case 3:
		_, err := db.StopMaintenance(ctx, id)
		return err
	case 4:
		return db.SetCandidatePriority(ctx, key.Formation, name, rnd.IntN(100))
	case 5:
		return db.SetReplicationQuorum(ctx, key.Formation, name, rnd.IntN(2) == 0)
	case 6:
		return db.SetNumberSyncStandbys(ctx, key.Formation, rnd.IntN(2))
	case 7:
		_, err := db.RemoveNode(ctx, id, rnd.IntN(2) == 0)
		return err
	case 8, 9:
		return c.join(ctx, db, key, id)
	case 10:
		return db.UpdateNodeMetadata(ctx, id, "", fmt.Sprintf("h%d", rnd.IntN(3)), 0)
	case 11:
		return db.ReportTimelineHistory(ctx, id, pg.History{{TLI: 2, Parent: 1, Switch: pg.LSN(rnd.IntN(9))}})
	case 12:
		_, err := db.CurrentState(ctx, key.Formation, nil)
		return err
	case 13:
		return db.KeepSession(ctx, id)
	default:
		return c.report(ctx, db, id, rnd)
	}
}

func (c crowd) join(ctx context.Context, db *pgautofailover.DB, key pgautofailover.GroupKey, id int64) error {
	r := pgautofailover.Registration{
		Formation: key.Formation, Host: "h", Port: int(id), DBName: "postgres", Name: fmt.Sprintf("n%d", id), SystemID: 1,
		DesiredNode: id, DesiredGroup: key.Group, Initial: fsm.Init, Priority: 50, Quorum: true,
	}
	if key.Formation != "default" {
		r.Kind = fsm.Worker
	}
	p, err := db.BeginRegistration(ctx, r)
	if err != nil {
		return err
	}
	return p.Commit(ctx)
}

func (c crowd) report(ctx context.Context, db *pgautofailover.DB, id int64, rnd *rand.Rand) error {
	n, err := db.NodeByID(ctx, id)
	if err != nil {
		return err
	}
	r := pgautofailover.Report{
		Formation: n.Formation, NodeID: id, Group: n.Group, State: n.Goal, Reached: n.GoalNumber, PgIsRunning: true, TLI: 1,
		LSN: pg.LSN(rnd.IntN(1 << 20)), Streaming: fsm.Streaming(rnd.IntN(3)),
	}
	if rnd.IntN(8) == 0 {
		r.State = fsm.States()[rnd.IntN(len(fsm.States()))]
	}
	_, err = db.Report(ctx, r)
	return err
}

// decideOne is the monitor process at work.
func (c crowd) decideOne(ctx context.Context, d *pgautofailover.Decider, rnd *rand.Rand) error {
	err := d.Decide(ctx, c.groups[rnd.IntN(len(c.groups))],
		func(g pgautofailover.LoadedGroup) (pgautofailover.Settled, error) {
			now := time.Now()
			for i := range g.Nodes {
				g.Nodes[i].Seen, g.Nodes[i].Session = now, fsm.SessionHeld
			}
			_, decisions, waiting, err := fsm.Settle(g.Group, now)
			return pgautofailover.Settled{Decisions: decisions, Waiting: waiting}, err
		})
	if err != nil {
		return err
	}
	var probes []pgautofailover.Probe
	for id := range int64(16) {
		probes = append(probes, pgautofailover.Probe{NodeID: id + 1, Health: fsm.Health(rnd.IntN(2))})
	}
	return d.SetHealth(ctx, probes...)
}

func TestNoDeadlock(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t, pgtest.ServerConfig{Settings: map[string]string{
		"max_connections": "80", "deadlock_timeout": "200ms",
	}})
	c := crowd{monitor: installAt(t, server.DSN("postgres"))}
	c.decide(t)
	c.exec(t, `INSERT INTO pgautofailover.formation (formationid, kind) VALUES ('c', 'citus')`)
	c.groups = []pgautofailover.GroupKey{
		{Formation: "default"}, {Formation: "c", Group: 1}, {Formation: "c", Group: 2}, {Formation: "c", Group: 3},
	}
	const sessions, rounds, deciders = 50, 60, 4
	group, ctx := errgroup.WithContext(t.Context())
	for i := range sessions {
		db := connect(t, c.dsn, asNode)
		rnd := rand.New(rand.NewPCG(uint64(i), 1))
		group.Go(func() error {
			for range rounds {
				if err := refusedOnly(c.act(ctx, db, rnd)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for i := range deciders {
		d := c.decider.On(connect(t, c.dsn))
		rnd := rand.New(rand.NewPCG(uint64(i), 2))
		group.Go(func() error {
			for range rounds {
				if err := refusedOnly(c.decideOne(ctx, d, rnd)); err != nil {
					return fmt.Errorf("decider: %w", err)
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	require.NotContains(t, server.Log(), "deadlock detected")
	require.NotEqual(t, "0", c.text(t, `SELECT count(*)::text FROM pgautofailover.event`))
}

// TestReportBesideADecision: a report finds its node's row locked, and the row
// changed once it has it. It must let the row go before it asks for the locks of the group.
func TestReportBesideADecision(t *testing.T) {
	t.Parallel()
	m := install(t)
	m.decide(t)
	m.register(t, 5001)
	m.report(t, 1, fsm.Single)
	row, err := m.node.NodeByID(t.Context(), 1)
	require.NoError(t, err)
	begin := func() pgx.Tx {
		tx, err := pgtest.Connect(t, m.dsn).Begin(t.Context())
		require.NoError(t, err)
		return tx
	}
	// waits returns once a session of this statement waits for a lock.
	waits := func(ctx context.Context, conn *pgx.Conn, statement string) error {
		for {
			var there bool
			err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND strpos(query, $1) > 0)`,
				statement).Scan(&there)
			if err != nil || there {
				return err
			}
		}
	}

	first := begin()
	_, err = first.Exec(t.Context(), `SELECT pgautofailover.lock_node(1, false)`)
	require.NoError(t, err)
	_, err = first.Exec(t.Context(), `UPDATE pgautofailover.node SET goalnumber = goalnumber + 1 WHERE nodeid = 1`)
	require.NoError(t, err)

	group, ctx := errgroup.WithContext(t.Context())
	next := begin()
	group.Go(func() error {
		if _, err := next.Exec(ctx, `SELECT pgautofailover.lock_group('default', 0)`); err != nil {
			return err
		}
		// By now the report waits for the group, behind us.
		if err := waits(ctx, next.Conn(), "keeper_report"); err != nil {
			return err
		}
		if _, err := next.Exec(ctx, `UPDATE pgautofailover.node SET health = 1 WHERE nodeid = 1`); err != nil {
			return err
		}
		return next.Commit(ctx)
	})
	require.NoError(t, waits(ctx, m.sql, "lock_group"))
	group.Go(func() error {
		_, err := m.node.Report(ctx, pgautofailover.Report{
			Formation: "default", NodeID: 1, State: fsm.Single, Reached: row.GoalNumber, PgIsRunning: true, TLI: 1, LSN: 0x1000,
		})
		return err
	})
	require.NoError(t, waits(ctx, m.sql, "keeper_report"))
	require.NoError(t, first.Commit(t.Context()))
	require.NoError(t, group.Wait())
}

package pgautofailover

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgtest"
)

var rewrite = flag.Bool("rewrite", false, "write the rows of sql/05_first_goal.sql anew")

// firstGoalRows asks fsm.FirstGoal about one group for each combination of facts.
func firstGoalRows(t *testing.T) string {
	t.Helper()
	var rows []string
	both := []bool{true, false}
	for _, empty := range both {
		others := both
		if empty {
			others = []bool{false}
		}
		for _, electable := range both {
			for _, secondaries := range both {
				for _, primary := range others {
					for _, source := range others {
						g := fsm.Group{Formation: fsm.Formation{ID: "f", Kind: "pgsql", OptSecondary: secondaries}}
						add := func(n fsm.Node) { n.ID = int64(len(g.Nodes) + 1); g.Nodes = append(g.Nodes, n) }
						if !empty {
							add(fsm.Node{Reported: fsm.Demoted, Goal: fsm.Demoted, Priority: 50})
						}
						if primary {
							add(fsm.Node{Reported: fsm.Primary, Goal: fsm.Primary, Priority: 50})
						}
						if source {
							add(fsm.Node{Reported: fsm.ReportLSN, Goal: fsm.ReportLSN})
						}
						priority := 0
						if electable {
							priority = 50
						}
						rows = append(rows, fmt.Sprintf("    (%-5t, %-5t, %-5t, %-5t, %-5t, %s)",
							empty, electable, secondaries, primary, source, firstGoalColumns(t, g, priority)))
					}
				}
			}
		}
	}
	return strings.Join(rows, ",\n") + ";\n"
}

func firstGoalColumns(t *testing.T, g fsm.Group, priority int) string {
	t.Helper()
	goal, refusal := fsm.FirstGoal(g, priority)
	if refusal == nil {
		return fmt.Sprintf("'%s', NULL", goal)
	}
	words, ok := map[string]string{"55000": "secondary_disallowed", "55006": "no_primary"}[refusal.Code]
	require.True(t, ok, "no word for %v", refusal)
	return fmt.Sprintf("NULL, '%s'", words)
}

func TestFirstGoalTable(t *testing.T) {
	t.Parallel()
	const file = "sql/05_first_goal.sql"
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	head, rows, ok := strings.Cut(string(text), "VALUES\n")
	require.True(t, ok)
	want := firstGoalRows(t)
	if *rewrite {
		require.NoError(t, os.WriteFile(file, []byte(head+"VALUES\n"+want), 0o644))
		return
	}
	require.Equal(t, want, rows, "run go test -run TestFirstGoalTable -rewrite")
}

// randomGroup draws whatever could stand in the tables, sensible or not.
func randomGroup(t *rapid.T) fsm.Group {
	states := rapid.SampledFrom(fsm.States())
	g := fsm.Group{Formation: fsm.Formation{
		ID: "default", OptSecondary: rapid.Bool().Draw(t, "opt_secondary"),
		NumberSyncStandbys: rapid.IntRange(0, 2).Draw(t, "number_sync_standbys"),
	}}
	for i := range rapid.IntRange(0, 5).Draw(t, "nodes") {
		n := fsm.Node{
			ID: int64(i + 1), Goal: states.Draw(t, "goal"), Priority: rapid.SampledFrom([]int{0, 50}).Draw(t, "priority"),
			Quorum: rapid.Bool().Draw(t, "quorum"), PgIsRunning: rapid.Bool().Draw(t, "running"),
			Health: fsm.Health(rapid.IntRange(-1, 1).Draw(t, "health")), GoalNumber: 2,
			Reached: rapid.Int64Range(0, 2).Draw(t, "reached"),
		}
		n.Reported = n.Goal
		if rapid.Bool().Draw(t, "moving") {
			n.Reported = states.Draw(t, "reported")
		}
		// Groups that look like groups come up often enough to meet the later checks.
		if rapid.IntRange(0, 2).Draw(t, "usual") > 0 {
			n.Goal, n.Reported = fsm.Secondary, fsm.Secondary
			if i == 0 {
				n.Goal, n.Reported = fsm.Primary, fsm.Primary
			}
		}
		g.Nodes = append(g.Nodes, n)
	}
	if rapid.Bool().Draw(t, "owned") {
		g.Record.Owner = 1
	}
	return g
}

// put writes a group into the tables.
func put(t *testing.T, tx pgx.Tx, g fsm.Group) {
	t.Helper()
	_, err := tx.Exec(t.Context(), `UPDATE pgautofailover.formation SET opt_secondary = $1, number_sync_standbys = $2`,
		g.Formation.OptSecondary, g.Formation.NumberSyncStandbys)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `INSERT INTO pgautofailover.group_state (formationid, groupid, record)
		VALUES ('default', 0, jsonb_build_object('owner', $1::bigint))`, g.Record.Owner)
	require.NoError(t, err)
	for _, n := range g.Nodes {
		_, err := tx.Exec(t.Context(), `
			INSERT INTO pgautofailover.node (nodeid, groupid, nodename, nodehost, nodeport, sysidentifier, goalstate,
			            reportedstate, candidatepriority, replicationquorum, reportedpgisrunning, health, goalnumber, reachednumber)
			VALUES ($1::int, 0, 'n' || $1::int, 'h' || $1::int, $1::int, 1, $2::text::pgautofailover.replication_state,
			        $3::text::pgautofailover.replication_state, $4, $5, $6, $7, $8, $9)`,
			n.ID, n.Goal.String(), n.Reported.String(), n.Priority, n.Quorum, n.PgIsRunning, n.Health, n.GoalNumber, n.Reached)
		require.NoError(t, err)
	}
}

// sqlRefusal asks the predicate for an intent.
func sqlRefusal(t *testing.T, tx pgx.Tx, i fsm.Intent) *fsm.Refusal {
	t.Helper()
	var check string
	args := []any{i.Node}
	switch i.Kind {
	case fsm.IntentFailover:
		check, args = `pgautofailover.check_failover('default', 0, $1)`, []any{i.AllowDataLoss}
	case fsm.IntentPromotion:
		check = `(SELECT pgautofailover.check_promotion(n, $2) FROM pgautofailover.node n WHERE nodeid = $1)`
		args = append(args, i.AllowDataLoss)
	case fsm.IntentStartMaintenance:
		check = `(SELECT pgautofailover.check_start_maintenance(n) FROM pgautofailover.node n WHERE nodeid = $1)`
	default:
		check = `(SELECT pgautofailover.check_stop_maintenance(n) FROM pgautofailover.node n WHERE nodeid = $1)`
	}
	var r fsm.Refusal
	err := tx.QueryRow(t.Context(), `SELECT coalesce(r.severity, ''), coalesce(r.code, ''), coalesce(r.message, ''),
		coalesce(r.detail, ''), coalesce(r.hint, '') FROM (SELECT (`+check+`).*) r`, args...).
		Scan(&r.Severity, &r.Code, &r.Message, &r.Detail, &r.Hint)
	require.NoError(t, err)
	if r.Code == "" {
		return nil
	}
	return &r
}

func TestPredicatesAgreeWithFSM(t *testing.T) {
	t.Parallel()
	conn := pgtest.Connect(t, pgtest.Database(t))
	db := &DB{conn: conn}
	require.NoError(t, Install(t.Context(), db))
	now := time.Now()
	rapid.Check(t, func(r *rapid.T) {
		tx, err := conn.Begin(t.Context())
		require.NoError(r, err)
		defer rollback(t.Context(), tx)
		put(t, tx, randomGroup(r))
		g, err := loadGroup(t.Context(), tx, GroupKey{Formation: "default"})
		require.NoError(r, err)
		for _, allow := range []bool{false, true} {
			require.Equal(r, fsm.CheckIntent(g.Group, fsm.Intent{Kind: fsm.IntentFailover, AllowDataLoss: allow}, now),
				sqlRefusal(t, tx, fsm.Intent{Kind: fsm.IntentFailover, AllowDataLoss: allow}))
		}
		for _, n := range g.Nodes {
			for _, kind := range []fsm.IntentKind{fsm.IntentPromotion, fsm.IntentStartMaintenance, fsm.IntentStopMaintenance} {
				i := fsm.Intent{Kind: kind, Node: n.ID}
				require.Equal(r, fsm.CheckIntent(g.Group, i, now), sqlRefusal(t, tx, i), "%s of node %d", kind, n.ID)
			}
		}
		registersAsFSMSays(t, r, tx, g.Group)
	})
}

// registersAsFSMSays compares a registration's first goal, or its refusal.
func registersAsFSMSays(t *testing.T, r *rapid.T, tx pgx.Tx, g fsm.Group) {
	t.Helper()
	for _, priority := range []int{0, 50} {
		want, refusal := fsm.FirstGoal(g, priority)
		var got string
		nested, err := tx.Begin(t.Context())
		require.NoError(r, err)
		err = nested.QueryRow(t.Context(), `SELECT assigned_group_state::text
			FROM pgautofailover.register_node('default', 'h', 99, 'postgres', desired_node_id => 99, candidate_priority => $1)`,
			priority).Scan(&got)
		if refusal == nil {
			require.NoError(r, err)
			require.Equal(r, want.String(), got)
		} else {
			require.Equal(r, refusal.Code, SQLState(err))
			require.ErrorContains(r, err, refusal.Message)
		}
		require.NoError(r, nested.Rollback(t.Context()))
	}
}

package orchestrator_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/orchestrator"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// The published file runs as it is: every pause, every variable.
func TestAddNodeFile(t *testing.T) {
	t.Parallel()
	r := example(t, "add_node.json")
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		require.NoError(t, r.start(t.Context(), t))
		require.GreaterOrEqual(t, time.Since(began), 31*time.Second, "documented pauses are kept")
	})
	require.Len(t, r.ended(), 15)
	for _, e := range r.ended() {
		require.True(t, strings.HasSuffix(e, " ok"), e)
	}
	require.Equal(t, `n2: SELECT spock.wait_for_apply_worker('777', 1000);`, r.cluster.sent[3])
	require.Equal(t, `n1: CALL spock.wait_for_sync_event(true, 'n2', '0/1A'::pg_lsn, 1200000);`, r.cluster.sent[7])
	require.Contains(t, r.cluster.sent[12], `'2026-11-21 12:00:00+00'::timestamp`)
	require.Contains(t, r.cluster.sent[0], "password=pgedge dbname=pgedge'", "the database is spelled out")
}

func TestNoSleep(t *testing.T) {
	t.Parallel()
	r := example(t, "add_node.json")
	r.cfg.NoSleep = true
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		require.NoError(t, r.start(t.Context(), t))
		require.Zero(t, time.Since(began))
	})
}

// A failed step ends the run; the second call goes on there, with the
// variables of the first, and makes nothing twice.
func TestSecondCallFinishes(t *testing.T) {
	t.Parallel()
	r := example(t, "add_node.json")
	r.cfg.NoSleep = true
	broken := true
	r.cluster.answer = func(node, sql string) *answer {
		if broken && node == "n1" && strings.HasPrefix(sql, "CALL") {
			return refusal("P0001", "Origin node 'n2' not found")
		}
		return nil
	}
	err := r.start(t.Context(), t)
	require.EqualError(t, err, "step 8 on node n1: ERROR: Origin node 'n2' not found (SQLSTATE P0001)")
	var step *orchestrator.StepError
	require.ErrorAs(t, err, &step)
	require.False(t, step.TimedOut)
	require.Len(t, r.ended(), 8)
	broken = false
	require.NoError(t, r.start(t.Context(), t))
	require.Equal(t, "8 ok", r.ended()[0])
	require.Equal(t, `n1: CALL spock.wait_for_sync_event(true, 'n2', '0/1A'::pg_lsn, 1200000);`, r.cluster.sent[0])
	require.Len(t, r.ended(), 8)

	// What is finished begins anew.
	require.NoError(t, r.start(t.Context(), t))
	require.Len(t, r.ended(), 15)
}

// Whatever was removed by hand between the two calls is made again.
func TestResumeMissesWhatIsGone(t *testing.T) {
	t.Parallel()
	r := example(t, "add_node.json")
	r.cfg.NoSleep = true
	broken := true
	r.cluster.answer = func(_, sql string) *answer {
		if broken && strings.HasPrefix(sql, "CALL") {
			return refusal("P0001", "no")
		}
		return nil
	}
	require.Error(t, r.start(t.Context(), t))
	broken = false
	delete(r.cluster.objects, "n3 sub_n2_n3")
	require.NoError(t, r.start(t.Context(), t))
	require.Equal(t, "5 ok", r.ended()[0])
}

func TestRollback(t *testing.T) {
	t.Parallel()
	r := example(t, "add_node.json")
	r.cfg.NoSleep = true
	r.cluster.answer = func(node, sql string) *answer {
		switch {
		case node == "n1" && strings.HasPrefix(sql, "CALL"):
			return refusal("P0001", "no")
		case node == "n1" && strings.HasPrefix(sql, "SELECT s.sub_id"):
			// It was there before.
			result := boolean("enabled", true)
			result.Columns = append([]orchestrator.Column{{Name: "sub_id"}, {Name: "if_dsn"}}, result.Columns...)
			id, dsn := "5", "user=pgedge port=5433 host=127.0.0.1 password=spockpass"
			result.Rows[0] = append([]*string{&id, &dsn}, result.Rows[0]...)
			return &answer{result: result}
		}
		return nil
	}
	require.Error(t, r.start(t.Context(), t))
	require.Equal(t, "2 exists", r.ended()[1])
	r.cluster.sent, r.events = nil, nil
	e, err := orchestrator.New(r.cfg)
	require.NoError(t, err)
	require.NoError(t, e.Rollback(t.Context()))
	require.Equal(t, []string{
		"n3: SELECT spock.sub_drop('sub_n2_n3', true)", "n2: SELECT spock.sub_drop('sub_n3_n2', true)",
		"n2: " + orchestrator.DropSlotSQL("spk_pgedge_n2_sub_n2_n3"), "n3: SELECT spock.node_drop('n3', true)",
	}, r.cluster.sent)
	require.Empty(t, r.cluster.objects)
	record, err := r.cfg.Journal.Load(t.Context())
	require.NoError(t, err)
	require.Nil(t, record)
	e, err = orchestrator.New(r.cfg)
	require.NoError(t, err)
	require.NoError(t, e.Rollback(t.Context()), "nothing to undo is no error")
}

// A cancelled run leaves a journal, or nothing at all when it is to clean up.
func TestCancel(t *testing.T) {
	t.Parallel()
	for _, rollback := range []bool{false, true} {
		r := example(t, "add_node.json")
		r.cfg.NoSleep, r.cfg.Rollback = true, rollback
		ctx, cancel := context.WithCancelCause(t.Context())
		r.cluster.answer = func(node, sql string) *answer {
			if node == "n1" && strings.HasPrefix(sql, "CALL") {
				cancel(errGone)
				return &answer{err: errGone}
			}
			return nil
		}
		err := r.start(ctx, t)
		var cancelled *orchestrator.CancelledError
		require.ErrorAs(t, err, &cancelled)
		require.Equal(t, "step 8", cancelled.Step)
		require.ErrorIs(t, err, errGone)
		require.Equal(t, rollback, len(r.cluster.objects) == 0)
	}
}

func TestIgnoredErrors(t *testing.T) {
	t.Parallel()
	r := newRun(t, list(sqlStep("n1", "SELECT 1/0", `, "ignore_errors": true`),
		`{"spock": {"node": "n1", "command": "CREATE REPSET", "ignore_errors": true, "args": ["--set_name=s"]}}`, sqlStep("n1", "SELECT 2", "")))
	r.cluster.answer = func(_, sql string) *answer {
		if sql == "SELECT 1/0" {
			return refusal("22012", "division by zero")
		}
		return nil
	}
	require.NoError(t, r.start(t.Context(), t))
	require.Equal(t, []string{"1 ignored", "2 ok", "3 ok"}, r.ended(), "the second one is executed, whatever it may ignore")
}

func TestGoOnFailsAtTheEnd(t *testing.T) {
	t.Parallel()
	r := newRun(t, list(sqlStep("n1", "SELECT 1/0", ""), sqlStep("n1", "SELECT 2", "")))
	r.cfg.GoOn = true
	r.cluster.answer = func(_, sql string) *answer {
		if sql == "SELECT 1/0" {
			return refusal("22012", "division by zero")
		}
		return nil
	}
	require.EqualError(t, r.start(t.Context(), t), "1 steps failed")
	require.Equal(t, []string{"1 failed", "2 ok"}, r.ended())
}

// A wait that answers false has failed, and a worker gets its time to start.
func TestFalseWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRun(t, list(sqlStep("n1", "CALL spock.wait_for_sync_event(true, 'n2', '0/1', 5)", "")))
		r.cluster.answer = func(_, sql string) *answer {
			if strings.HasPrefix(sql, "CALL") {
				return &answer{result: boolean("result", false)}
			}
			return nil
		}
		err := r.start(t.Context(), t)
		require.EqualError(t, err, "step 1 on node n1: it did not come in time: result is false")
		require.ErrorIs(t, err, orchestrator.ErrTimeout)

		r = newRun(t, list(sqlStep("n1", "SELECT spock.wait_for_apply_worker(5, 1000)", "")))
		asked := 0
		r.cluster.answer = func(_, sql string) *answer {
			if !strings.Contains(sql, "wait_for_apply_worker") {
				return nil
			}
			asked++
			return &answer{result: boolean("wait_for_apply_worker", asked > 3)}
		}
		require.NoError(t, r.start(t.Context(), t))
		require.Equal(t, 4, asked)
	})
}

func TestStepTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRun(t, list(sqlStep("n1", "SELECT spock.wait_for_apply_worker(5)", "")))
		r.cfg.StepTimeout = time.Second
		r.cluster.answer = func(_, sql string) *answer {
			if strings.Contains(sql, "wait_for_apply_worker") {
				return &answer{result: boolean("wait_for_apply_worker", false)}
			}
			return nil
		}
		err := r.start(t.Context(), t)
		require.ErrorIs(t, err, orchestrator.ErrTimeout)
	})
}

func TestFollows(t *testing.T) {
	t.Parallel()
	r := newRun(t, `{"steps": [`+strings.Join([]string{
		`{"sql": {"name": "a", "node": "n1", "args": ["--sql=SELECT bad"], "on_failure": {"steps": [` + sqlStep("n2", "SELECT repair", "") + `], "goto": "c"}}}`,
		sqlStep("n1", "SELECT never", ""),
		`{"sql": {"name": "c", "node": "n1", "args": ["--sql=SELECT good"], "on_success": {"stop": true}}}`,
		sqlStep("n1", "SELECT never", ""),
	}, ",")+`], "success_step": {"command": "SQL", "args": ["--node=n3", "--sql=SELECT last"]}}`)
	r.cluster.answer = func(_, sql string) *answer {
		if sql == "SELECT bad" {
			return refusal("XX000", "bad")
		}
		return nil
	}
	err := r.start(t.Context(), t)
	require.EqualError(t, err, "1 steps failed", "a failure that was handled is still one")
	require.Equal(t, []string{"n1: SELECT bad", "n2: SELECT repair", "n1: SELECT good"}, r.cluster.sent)
	r.cluster.answer, r.cfg.Restart = nil, true
	require.NoError(t, r.start(t.Context(), t))
	require.Equal(t, "n3: SELECT last", r.cluster.sent[len(r.cluster.sent)-1])
}

func TestLockKeepsOthersOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRun(t, list(sqlStep("n1", "SELECT 1", "")))
		r.cluster.answer = func(node, sql string) *answer {
			switch {
			case node == "n2" && sql == "connect":
				return &answer{err: errGone}
			case strings.Contains(sql, "pg_stat_activity"):
				return &answer{result: one("format", "process 7 of ann")}
			case node != "n1" && strings.Contains(sql, "pg_try_advisory_lock"):
				return &answer{result: boolean("x", false)}
			}
			return nil
		}
		r.cfg.Nodes = append([]workflow.Node{{Name: "n4"}}, r.cfg.Nodes...)
		began := time.Now()
		err := r.start(t.Context(), t)
		require.EqualError(t, err, "lock on node n3: another run works on this cluster", "a node without a step need not be there")
		require.LessOrEqual(t, time.Since(began), 16*time.Second, "nodes are not waited for one after the other")
		require.Equal(t, "another run works on this cluster, its end is waited for, at most 15s: on n3 process 7 of ann", r.events[len(r.events)-1].Message)
		r.cluster.answer = func(node, sql string) *answer {
			if node == "n1" && sql == "connect" {
				return &answer{err: errors.New("connection refused password=secret")}
			}
			return nil
		}
		require.EqualError(t, r.start(t.Context(), t), "connect on node n1: connection refused password=***")
	})
}

// A new run looks once more before it begins, when it has the cluster for
// itself; what was planned before another run ended is not done.
func TestFit(t *testing.T) {
	t.Parallel()
	r := newRun(t, list(sqlStep("n1", "SELECT 1", "")))
	changed := &orchestrator.Changed{What: "n4 has joined"}
	locked := 0
	r.cluster.answer = func(_, sql string) *answer {
		if strings.Contains(sql, "pg_try_advisory_lock") {
			locked++
		}
		return nil
	}
	r.cfg.Fit = func(context.Context) error {
		require.Positive(t, locked)
		return changed
	}
	require.ErrorIs(t, r.start(t.Context(), t), changed)
	require.Empty(t, r.ended())
	record, err := r.cfg.Journal.Load(t.Context())
	require.NoError(t, err)
	require.Nil(t, record, "nothing is left of it")
	r.cfg.Fit = func(context.Context) error { return nil }
	require.NoError(t, r.start(t.Context(), t))
}

// Whoever waits hears why an engine does not get on, each reason once; what does
// not pass ends the wait. A run that fails says what it has made.
func TestTroubledWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRun(t, list(sqlStep("n1", "SELECT 1", "")))
		r.cfg.StallTimeout = 10 * time.Minute
		r.cfg.Steps = []workflow.Step{
			{Type: workflow.TypeSQL, Path: "1", Phase: "J1", Node: "n1", SQL: "SELECT fence", Description: "Raise it", Undo: "SELECT lower"},
			{Type: workflow.TypeWait, Path: "2", Phase: "J8", Node: "n1", SQL: "SELECT copied", Trouble: "SELECT trouble"},
		}
		asked := 0
		r.cluster.answer = func(_, sql string) *answer {
			switch sql {
			case "SELECT copied":
				return &answer{result: boolean("copied", false)}
			case "SELECT trouble":
				asked++
				row := two("trouble", "it is away, password=secret", "in_vain", "f")
				if asked > 20 {
					row = two("trouble", "t is there already", "in_vain", "t")
				}
				return &answer{result: row}
			}
			return nil
		}
		err := r.start(t.Context(), t)
		require.EqualError(t, err, "J8 on node n1: t is there already")
		var told []string
		for _, e := range r.events {
			if e.Message != "" {
				told = append(told, e.Message)
			}
		}
		require.Equal(t, []string{"the engine of n1 tries again: it is away, password=***", `made so far on n1: "Raise it"`}, told)

		// Another release has other steps under these numbers.
		r.cfg.Steps[0].Description = "Something else"
		require.ErrorContains(t, r.start(t.Context(), t), `its J1 was "Raise it", now that is "Something else"`)
	})
}

// Attempts that fail one after the other are no progress, whatever they change
// meanwhile; rows that were never there before are.
func TestFailingAttemptsStall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRun(t, list(sqlStep("n1", "SELECT 1", "")))
		r.cfg.StallTimeout = 10 * time.Minute
		r.cfg.Poll = 5 * time.Second
		r.cfg.Steps = []workflow.Step{{Type: workflow.TypeWait, Path: "1", Phase: "J8", Node: "n1", SQL: "SELECT copied", Trouble: "SELECT trouble", Bar: "SELECT bar"}}
		began, turn := time.Now(), 0
		r.cluster.answer = func(_, sql string) *answer {
			turn++
			switch sql {
			case "SELECT copied":
				return &answer{result: two("copied", "f", "state", []string{"i", "s", "d"}[turn%3])}
			case "SELECT trouble":
				if turn%2 == 0 {
					return &answer{} // an attempt has just begun
				}
				return &answer{result: two("trouble", fmt.Sprintf("attempt %d failed", turn), "in_vain", "f")}
			case "SELECT bar": // each attempt copies the same again, for half an hour one more row
				done := turn % 7
				if time.Since(began) < 30*time.Minute {
					done = int(time.Since(began) / time.Second)
				}
				return &answer{result: two("done", strconv.Itoa(done), "of", "10000")}
			}
			return nil
		}
		require.ErrorIs(t, r.start(t.Context(), t), orchestrator.ErrTimeout)
		require.Greater(t, time.Since(began), 35*time.Minute)
		require.Less(t, time.Since(began), soon)
	})
}

// A query is repeated until it says true; it ends when nothing moves any more.
func TestWaitSteps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRun(t, list(sqlStep("n1", "SELECT 1", "")))
		r.cfg.Steps = []workflow.Step{{
			Type: workflow.TypeWait, Path: "1", Phase: "J5", Node: "n1", SQL: "SELECT reached", Progress: "SELECT progress", Blockers: "SELECT blockers",
		}}
		asked := 0
		r.cluster.answer = func(_, sql string) *answer {
			switch sql {
			case "SELECT reached":
				asked++
				if asked%100 == 50 {
					return &answer{err: errGone} // it starts again
				}
				return &answer{result: boolean("reached", asked > 3000)}
			case "SELECT progress":
				return &answer{result: one("at", time.Now().Truncate(time.Minute).String())}
			case "SELECT blockers":
				return &answer{result: one("pid", "process 7, open for 60 s")}
			}
			return nil
		}
		require.NoError(t, r.start(t.Context(), t))
		require.Equal(t, orchestrator.Waiting, r.events[1].Status)
		require.Equal(t, "waits for process 7, open for 60 s", r.events[1].Message)

		asked = -1 << 40
		r.cfg.Steps[0].Progress, r.cfg.Restart = "", true
		r.cluster.answer = func(_, sql string) *answer {
			if sql == "SELECT reached" {
				return &answer{result: boolean("reached", false)}
			}
			return nil
		}
		began := time.Now()
		err := r.start(t.Context(), t)
		require.ErrorIs(t, err, orchestrator.ErrTimeout)
		require.Less(t, time.Since(began), soon)
	})
}

func TestParallelSteps(t *testing.T) {
	t.Parallel()
	r := newRun(t, list(sqlStep("n1", "SELECT 1", ""), sqlStep("n2", "SELECT 2", ""), sqlStep("n3", "SELECT 3", "")))
	for i := range 2 {
		r.cfg.Steps[i].Parallel = 1
	}
	require.NoError(t, r.start(t.Context(), t))
	require.ElementsMatch(t, []string{"n1: SELECT 1", "n2: SELECT 2"}, r.cluster.sent[:2])
	require.Equal(t, "n3: SELECT 3", r.cluster.sent[2])
	r.cfg.Restart = true
	r.cluster.answer = func(_, sql string) *answer {
		if sql == "SELECT 2" {
			return refusal("XX000", "no")
		}
		return nil
	}
	require.ErrorContains(t, r.start(t.Context(), t), "step 2 on node n2: ERROR: no")
	require.NotContains(t, r.cluster.sent, "n3: SELECT 3")
}

func TestShellAndPlan(t *testing.T) {
	t.Parallel()
	r := newRun(t, list(sqlStep("n1", "SELECT spock.sync_event()", ""), `{"shell": {"command": "date"}}`, sqlStep("n2", "SELECT $n1.sync_event", "")))
	e, err := orchestrator.New(r.cfg)
	require.NoError(t, err)
	plan := e.Plan()
	require.Equal(t, "SELECT $n1.sync_event", plan[2].Statement)
	require.Equal(t, []string{"$n1.sync_event"}, plan[2].Reads)
	require.Equal(t, []string{"$n1.…"}, plan[0].Writes)
	require.ErrorContains(t, e.Run(t.Context()), "commands of the shell are not allowed")
	var env []string
	r.cfg.Shell = func(_ context.Context, command string, e []string) error {
		require.Equal(t, "date", command)
		env = e
		return nil
	}
	require.NoError(t, r.start(t.Context(), t))
	require.Equal(t, []string{"PGDROVER_NODE=", "PGDROVER_STEP=2", "PGDROVER_VAR_n1_sync_event=0/1A"}, env)
}

func TestDamagedJournal(t *testing.T) {
	t.Parallel()
	r := newRun(t, list(sqlStep("n1", "SELECT 1", "")))
	require.NoError(t, r.cfg.Journal.Save(t.Context(), &orchestrator.Record{Version: 99}))
	require.ErrorContains(t, r.start(t.Context(), t), "its version is 99, not 1")
	r.cfg.Restart = true
	require.NoError(t, r.start(t.Context(), t))
}

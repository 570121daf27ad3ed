package pgautofailover_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

func BenchmarkUnchangedReport(b *testing.B) {
	m := install(b)
	m.register(b, 5001)
	m.report(b, 1, fsm.Single)
	r := pgautofailover.Report{
		Formation: "default", NodeID: 1, State: fsm.Single, Reached: 1, PgIsRunning: true, TLI: 1,
	}
	for b.Loop() {
		r.LSN += pg.LSN(1)
		_, err := m.node.Report(b.Context(), r)
		require.NoError(b, err)
	}
}

func BenchmarkChangedReport(b *testing.B) {
	m := install(b)
	m.register(b, 5001)
	r := pgautofailover.Report{
		Formation: "default", NodeID: 1, State: fsm.Single, Reached: 1, PgIsRunning: true, TLI: 1,
	}
	for b.Loop() {
		r.PgIsRunning = !r.PgIsRunning
		_, err := m.node.Report(b.Context(), r)
		require.NoError(b, err)
	}
}

// thousand makes a monitor of a thousand nodes in five hundred formations.
func thousand(b *testing.B) monitor {
	b.Helper()
	m := install(b)
	m.decide(b)
	m.exec(b, `INSERT INTO pgautofailover.formation (formationid) SELECT 'f' || g FROM generate_series(0, 499) g`)
	m.exec(b, `INSERT INTO pgautofailover.node (formationid, groupid, nodename, nodehost, nodeport, sysidentifier,
	                       reportedstate, goalstate, reachednumber)
	           SELECT 'f' || g % 500, 0, 'n' || g, 'h', g, g % 500,
	                  (CASE WHEN g <= 500 THEN 'primary' ELSE 'secondary' END)::pgautofailover.replication_state,
	                  (CASE WHEN g <= 500 THEN 'primary' ELSE 'secondary' END)::pgautofailover.replication_state, 1
	             FROM generate_series(1, 1000) g`)
	m.exec(b, `INSERT INTO pgautofailover.group_state (formationid, groupid) SELECT 'f' || g, 0 FROM generate_series(0, 499) g`)
	m.exec(b, `ANALYZE`)
	return m
}

func BenchmarkPulsesOfThousandNodes(b *testing.B) {
	m := thousand(b)
	for b.Loop() {
		all, err := m.decider.Pulses(b.Context())
		require.NoError(b, err)
		require.Len(b, all, 1000)
	}
}

func BenchmarkDecideNothing(b *testing.B) {
	m := thousand(b)
	for b.Loop() {
		require.NoError(b, m.decider.Decide(b.Context(), pgautofailover.GroupKey{Formation: "f7"},
			func(pgautofailover.LoadedGroup) (pgautofailover.Settled, error) {
				return pgautofailover.Settled{}, nil
			}))
	}
}

func BenchmarkLoad(b *testing.B) {
	m := thousand(b)
	for b.Loop() {
		_, err := m.decider.Load(b.Context(), pgautofailover.GroupKey{Formation: "f7"})
		require.NoError(b, err)
	}
}

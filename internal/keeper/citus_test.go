package keeper

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

var (
	citusNow = citusCatalog{Functions: map[string]int{
		"citus_add_node": 5, "citus_add_inactive_node": 5, "citus_activate_node": 2, "citus_update_node": 5, "citus_remove_node": 2,
		"master_add_node": 5, "master_add_inactive_node": 5, "master_activate_node": 2, "master_update_node": 5, "master_remove_node": 2,
	}, PoolInfo: true}
	citusOld = citusCatalog{Functions: map[string]int{
		"master_add_node": 5, "master_add_inactive_node": 5, "master_activate_node": 2, "master_update_node": 5, "master_remove_node": 2,
	}}
	citusOldest = citusCatalog{Functions: map[string]int{"master_update_node": 3}}
)

func TestStatementsForEachVersionOfCitus(t *testing.T) {
	t.Parallel()
	sql, forced, err := citusNow.updateSQL()
	require.NoError(t, err)
	require.Equal(t, "SELECT pg_catalog.citus_update_node($1, $2, $3, true, $4)", sql)
	require.True(t, forced)
	sql, forced, err = citusOld.updateSQL()
	require.NoError(t, err)
	require.Equal(t, "SELECT pg_catalog.master_update_node($1, $2, $3, true, $4)", sql)
	require.True(t, forced)
	sql, forced, err = citusOldest.updateSQL()
	require.NoError(t, err)
	require.Equal(t, "SELECT pg_catalog.master_update_node($1, $2, $3)", sql)
	require.False(t, forced)

	for _, c := range []struct {
		catalog citusCatalog
		build   func(citusCatalog) (string, error)
		want    string // "" for an error
	}{
		{citusNow, func(c citusCatalog) (string, error) { return c.addSQL(true) }, "SELECT true FROM pg_catalog.citus_add_node($1, $2, $3, $4::text::noderole, $5)"},
		{citusNow, func(c citusCatalog) (string, error) { return c.addSQL(false) }, "SELECT true FROM pg_catalog.citus_add_inactive_node($1, $2, $3, $4::text::noderole, $5)"},
		{citusOld, func(c citusCatalog) (string, error) { return c.addSQL(true) }, "SELECT true FROM pg_catalog.master_add_node($1, $2, $3, $4::text::noderole, $5)"},
		{citusOld, func(c citusCatalog) (string, error) { return c.addSQL(false) }, "SELECT true FROM pg_catalog.master_add_inactive_node($1, $2, $3, $4::text::noderole, $5)"},
		{citusNow, citusCatalog.activateSQL, "SELECT true FROM pg_catalog.citus_activate_node($1, $2)"},
		{citusOld, citusCatalog.activateSQL, "SELECT true FROM pg_catalog.master_activate_node($1, $2)"},
		{citusNow, citusCatalog.removeSQL, "SELECT pg_catalog.citus_remove_node($1, $2)"},
		{citusOld, citusCatalog.removeSQL, "SELECT pg_catalog.master_remove_node($1, $2)"},
		{citusOldest, citusCatalog.removeSQL, ""},
		{citusOldest, citusCatalog.activateSQL, ""},
	} {
		got, err := c.build(c.catalog)
		require.Equal(t, c.want == "", err != nil)
		if c.want != "" {
			require.Equal(t, c.want, got)
		}
	}
}

// TestPromotionGoesOnSoonAfterTheCoordinator: however long the coordinator was away, and whatever was the
// trouble with it, a worker that waits for it tries again within a fraction of a second, and says so now and then.
func TestPromotionGoesOnSoonAfterTheCoordinator(t *testing.T) {
	t.Parallel()
	for _, away := range []time.Duration{0, 10 * time.Millisecond, 7*time.Second + 31*time.Millisecond, 20 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			var log strings.Builder
			began := time.Now()
			n := &node{log: slog.New(slog.NewTextHandler(&log, nil)), clock: func() time.Duration { return time.Since(began) }}
			err := n.persist(t.Context(), "prepare the promotion", func(context.Context) error {
				if time.Since(began) < away {
					return errNoCoordinator
				}
				return nil
			})
			require.NoError(t, err)
			require.LessOrEqual(t, time.Since(began)-away, coordinatorAgain)
			told := strings.Count(log.String(), "waiting for the coordinator")
			require.LessOrEqual(t, told, 1+int(away/coordinatorTold))
			require.Equal(t, away > 0, strings.Contains(log.String(), "the coordinator has answered"))
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		n := &node{log: slog.New(slog.DiscardHandler), clock: func() time.Duration { return 0 }}
		time.AfterFunc(time.Minute, func() { cancel(errSuperseded) })
		require.ErrorIs(t, n.persist(ctx, "prepare the promotion", func(context.Context) error { return errNoCoordinator }), errSuperseded)
	})
}

var (
	workerSelf = citusSelf{Group: 2, Host: "b", Port: 5432, Role: citusPrimary, Cluster: defaultCluster}
	coordRow   = distNode{ID: 1, Group: 0, Host: "c", Port: 5432, Role: citusPrimary, Cluster: defaultCluster, Active: true}
	otherRow   = distNode{ID: 2, Group: 1, Host: "x", Port: 5432, Role: citusPrimary, Cluster: defaultCluster, Active: true}
	oldRow     = distNode{ID: 3, Group: 2, Host: "a", Port: 5432, Role: citusPrimary, Cluster: defaultCluster, Active: true}
	rightRow   = distNode{ID: 3, Group: 2, Host: "b", Port: 5432, Role: citusPrimary, Cluster: defaultCluster, Active: true}
	idleRow    = distNode{ID: 3, Group: 2, Host: "b", Port: 5432, Role: citusPrimary, Cluster: defaultCluster}
	replicaRow = distNode{ID: 4, Group: 2, Host: "r", Port: 5432, Role: citusSecondary, Cluster: "readers", Active: true}
)

func TestPlanEntry(t *testing.T) {
	t.Parallel()
	coordinator := citusSelf{Group: 0, Host: "c2", Port: 5432, Role: citusPrimary, Cluster: defaultCluster}
	replica := citusSelf{Group: 2, Host: "r", Port: 5432, Role: citusSecondary, Cluster: "readers"}
	for name, c := range map[string]struct {
		rows []distNode
		self citusSelf
		want entryAction
		id   int
	}{
		"a worker nobody knows":               {[]distNode{coordRow, otherRow}, workerSelf, entryAddFirst, 0},
		"known by another address":            {[]distNode{coordRow, oldRow}, workerSelf, entryMove, 3},
		"as it should be":                     {[]distNode{coordRow, rightRow}, workerSelf, entryRight, 3},
		"added and never activated":           {[]distNode{coordRow, idleRow}, workerSelf, entryActivate, 3},
		"a group with a replica only":         {[]distNode{replicaRow}, workerSelf, entryAddFirst, 0},
		"the replica does not hide its group": {[]distNode{replicaRow, oldRow}, workerSelf, entryMove, 3},
		"a coordinator nobody knows":          {nil, coordinator, entryAdd, 0},
		"a coordinator that failed over":      {[]distNode{coordRow}, coordinator, entryMove, 1},
		"a replica nobody knows":              {[]distNode{coordRow, oldRow}, replica, entryAdd, 0},
		"a replica that is known":             {[]distNode{oldRow, replicaRow}, replica, entryRight, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, row := planEntry(c.rows, c.self)
			require.Equal(t, c.want, got)
			require.Equal(t, c.id, row.ID)
		})
	}
}

func TestPlanPreparation(t *testing.T) {
	t.Parallel()
	ours := prepared{GID: "master_update_node 2", At: "now"}
	older := prepared{GID: "master_update_node 2", At: "before"}
	other := prepared{GID: "master_update_node 1", At: "now"}
	old, right := []distNode{coordRow, oldRow}, []distNode{coordRow, rightRow}
	for name, c := range map[string]struct {
		list []prepared
		rows []distNode
		mine prepared
		want preparation
	}{
		"nothing is prepared":                   {nil, old, prepared{}, prepareNew},
		"another group's is":                    {[]prepared{other}, old, other, prepareNew},
		"ours is":                               {[]prepared{other, ours}, old, ours, prepareNothing},
		"another candidate's is":                {[]prepared{older}, old, prepared{}, prepareInstead},
		"what is there is not what we prepared": {[]prepared{older}, old, ours, prepareInstead},
		"writes are led here already":           {nil, right, prepared{}, prepareNothing},
		"led here, and away by what is there":   {[]prepared{older}, right, prepared{}, prepareInstead},
		"the group is not known":                {nil, []distNode{coordRow}, prepared{}, prepareNothing},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, planPreparation(c.list, c.rows, workerSelf, c.mine))
		})
	}
}

func TestGroupOfGID(t *testing.T) {
	t.Parallel()
	for gid, want := range map[string]int{"master_update_node 0": 0, "master_update_node 12": 12} {
		got, ok := groupOfGID(gid)
		require.True(t, ok, gid)
		require.Equal(t, want, got)
		require.Equal(t, gid, updateGID(got))
	}
	for _, gid := range []string{"", "master_update_node", "master_update_node -1", "master_update_node 01", "master_update_node 1 ", "citus_0_1_2"} {
		_, ok := groupOfGID(gid)
		require.False(t, ok, gid)
	}
}

func TestAbandoned(t *testing.T) {
	t.Parallel()
	p := func(age time.Duration) prepared { return prepared{GID: "master_update_node 2", Age: age} }
	row := func(group int, reported, goal fsm.State) pgautofailover.NodeRow {
		return pgautofailover.NodeRow{Group: group, Reported: reported, Goal: goal, Health: fsm.HealthGood}
	}
	lost := func(n pgautofailover.NodeRow) pgautofailover.NodeRow {
		n.Health = fsm.HealthBad
		return n
	}
	for name, c := range map[string]struct {
		p     prepared
		nodes []pgautofailover.NodeRow
		want  bool
	}{
		"just prepared":                {p(time.Second), nil, false},
		"the group is at rest":         {p(10 * time.Second), []pgautofailover.NodeRow{row(2, fsm.Primary, fsm.Primary), row(2, fsm.Secondary, fsm.Secondary)}, true},
		"the group is gone":            {p(10 * time.Second), []pgautofailover.NodeRow{row(1, fsm.PreparePromotion, fsm.PreparePromotion)}, true},
		"a candidate gets ready":       {p(10 * time.Second), []pgautofailover.NodeRow{row(2, fsm.Secondary, fsm.PreparePromotion)}, false},
		"a candidate is promoted":      {p(10 * time.Second), []pgautofailover.NodeRow{row(2, fsm.PreparePromotion, fsm.StopReplication)}, false},
		"a candidate opens":            {p(10 * time.Second), []pgautofailover.NodeRow{row(2, fsm.StopReplication, fsm.WaitPrimary)}, false},
		"the last node opens":          {p(10 * time.Second), []pgautofailover.NodeRow{row(2, fsm.Secondary, fsm.Single)}, false},
		"the new primary has said so":  {p(10 * time.Second), []pgautofailover.NodeRow{row(2, fsm.WaitPrimary, fsm.WaitPrimary)}, true},
		"the candidate is lost":        {p(10 * time.Second), []pgautofailover.NodeRow{row(2, fsm.Primary, fsm.Demoted), lost(row(2, fsm.PreparePromotion, fsm.StopReplication))}, true},
		"it was lost a moment ago":     {p(time.Second), []pgautofailover.NodeRow{lost(row(2, fsm.PreparePromotion, fsm.StopReplication))}, false},
		"the old primary is lost":      {p(10 * time.Second), []pgautofailover.NodeRow{lost(row(2, fsm.Primary, fsm.Demoted)), row(2, fsm.PreparePromotion, fsm.StopReplication)}, false},
		"a candidate takes for ever":   {p(2 * time.Minute), []pgautofailover.NodeRow{row(2, fsm.StopReplication, fsm.WaitPrimary)}, true},
		"somebody else's of like name": {prepared{GID: "master_update_node x", Age: time.Hour}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, abandoned(c.p, c.nodes))
			require.Equal(t, c.want && c.p.Age > preparedBound, overdue(c.p), "whatever the monitor says")
		})
	}
}

func TestStrangersAndLeaving(t *testing.T) {
	t.Parallel()
	nodes := []pgautofailover.NodeRow{
		{ID: 1, Group: 0, Cluster: "default"}, {ID: 2, Group: 2, Cluster: ""}, {ID: 3, Group: 2, Cluster: "default"},
	}
	require.Equal(t, []distNode{otherRow, replicaRow}, strangers([]distNode{coordRow, otherRow, oldRow, replicaRow}, nodes))

	self := citusSelf{Group: 2, Host: "a", Port: 5432, Role: citusPrimary, Cluster: defaultCluster}
	_, ok := leaving([]distNode{coordRow, oldRow}, nodes, self, 2)
	require.False(t, ok, "another node of the group stays, and the entry is the group's")
	nodes[2].Goal = fsm.Dropped
	row, ok := leaving([]distNode{coordRow, oldRow}, nodes, self, 2)
	require.True(t, ok)
	require.Equal(t, 3, row.ID)
	replica := citusSelf{Group: 2, Host: "r", Port: 5432, Role: citusSecondary, Cluster: "readers"}
	nodes[2].Goal = fsm.Secondary
	row, ok = leaving([]distNode{oldRow, replicaRow}, nodes, replica, 3)
	require.True(t, ok)
	require.Equal(t, 4, row.ID)
}

func TestUnfit(t *testing.T) {
	t.Parallel()
	require.NoError(t, unfit("citus", 200, 100))
	require.NoError(t, unfit(`"citus", pg_stat_statements`, 100, 100))
	for libraries, prepared := range map[string]int{"": 200, "pg_stat_statements,citus": 200, "citus_columnar": 200, "citus": 99, "citus,x": 0} {
		err := unfit(libraries, prepared, 100)
		require.Error(t, err, libraries)
		require.NotEmpty(t, hintOf(err))
	}
}

func TestCareIsDueForPrimariesNowAndThen(t *testing.T) {
	t.Parallel()
	var none care
	require.Nil(t, none.job(fsm.Primary, time.Hour))
	n := &node{file: File{NodeKind: "worker"}}
	c := n.citusCare()
	require.Nil(t, c.job(fsm.Secondary, time.Second))
	require.NotNil(t, c.job(fsm.WaitPrimary, 2*time.Second), "as soon as it takes writes")
	require.Nil(t, c.job(fsm.WaitPrimary, 3*time.Second))
	require.NotNil(t, c.job(fsm.Primary, 4*time.Second), "in another state again")
	require.Nil(t, c.job(fsm.Primary, 5*time.Second))
	require.NotNil(t, c.job(fsm.Primary, 5*time.Second+workerCare))
}

// TestCareHasItsTurn: what a node does for the others fails again and again, as
// it does while the monitor is away; the log says so now and then.
func TestCareHasItsTurn(t *testing.T) {
	looks := 0
	var log bytes.Buffer
	prepare := func(w *world) {
		w.log = slog.NewTextHandler(&log, nil)
		w.monitor.peers = []peer{{ID: 2}}
		w.care = care{kind: fsm.Coordinator, do: func(context.Context) error {
			w.server.edit(func() { looks++ })
			return nil
		}}
	}
	inWorld(t, fsm.Primary, prepare, func(t *testing.T, w *world) {
		w.pass(5 * time.Second)
		w.server.edit(func() {
			w.server.broken[fsm.StepSlots], looks = errDown, 0
		})
		w.pass(time.Minute + slotsEvery)
		before := len(w.server.done())
		w.pass(time.Minute)
		require.GreaterOrEqual(t, len(w.server.done())-before, 30, "it is tried again and again")
		w.server.edit(func() { require.GreaterOrEqual(t, looks, 2*int(time.Minute/coordinatorCare)) })
		require.Contains(t, []int{2, 3}, strings.Count(log.String(), "could not prepare for the other nodes"), log.String())
	})
}

func TestReplaced(t *testing.T) {
	t.Parallel()
	row := func(host string, reported, goal fsm.State, health fsm.Health) pgautofailover.NodeRow {
		return pgautofailover.NodeRow{Group: 2, Host: host, Port: 5432, Reported: reported, Goal: goal, Health: health}
	}
	candidate := row("b", fsm.Secondary, fsm.PreparePromotion, fsm.HealthGood)
	for name, c := range map[string]struct {
		rows  []distNode
		nodes []pgautofailover.NodeRow
		want  int
	}{
		"at rest":                          {[]distNode{oldRow}, []pgautofailover.NodeRow{row("a", fsm.Primary, fsm.Primary, fsm.HealthBad)}, 0},
		"it hangs and is replaced":         {[]distNode{coordRow, otherRow, oldRow}, []pgautofailover.NodeRow{row("a", fsm.Primary, fsm.Draining, fsm.HealthBad), candidate}, 3},
		"nobody has looked at it":          {[]distNode{oldRow}, []pgautofailover.NodeRow{row("a", fsm.Primary, fsm.Draining, fsm.HealthUnknown), candidate}, 3},
		"it answers, and stops by itself":  {[]distNode{oldRow}, []pgautofailover.NodeRow{row("a", fsm.Primary, fsm.Draining, fsm.HealthGood), candidate}, 0},
		"it has stopped":                   {[]distNode{oldRow}, []pgautofailover.NodeRow{row("a", fsm.Draining, fsm.Draining, fsm.HealthBad), candidate}, 0},
		"nobody takes its place":           {[]distNode{oldRow}, []pgautofailover.NodeRow{row("a", fsm.Primary, fsm.Draining, fsm.HealthBad)}, 0},
		"writes are led elsewhere already": {[]distNode{rightRow}, []pgautofailover.NodeRow{row("a", fsm.Primary, fsm.Draining, fsm.HealthBad), candidate}, 0},
		"a read replica":                   {[]distNode{replicaRow}, []pgautofailover.NodeRow{row("r", fsm.Secondary, fsm.Demoted, fsm.HealthBad), candidate}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := replaced(c.rows, c.nodes)
			if c.want == 0 {
				require.Empty(t, got)
				return
			}
			require.Len(t, got, 1)
			require.Equal(t, c.want, got[0].ID)
		})
	}
}

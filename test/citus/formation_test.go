package citus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

const database = "citus"

// formation is a coordinator's group and some groups of workers, two nodes each.
type formation struct {
	*group.Group
	genuine bool
	workers int
	alone   bool // the coordinator has no standby
	brisk   bool // nodes are given up as soon as by default
	net     *pgtest.Network
	// options of a node's creation, and read replicas, which come after all others.
	options  map[string][]string
	replicas []string
	created  func(m *group.Member) // is told of each node, may be nil
	// apart is the group of a worker that has no metadata of its own, 0 when all have.
	apart int

	mu      sync.Mutex
	dropped []string
}

// names are those of a group's nodes.
func (f *formation) names(number int) []string {
	all := []string{"coordinator-a", "coordinator-b"}
	switch {
	case number > 0:
		all = []string{fmt.Sprintf("worker%d-a", number), fmt.Sprintf("worker%d-b", number)}
	case f.alone:
		all = all[:1]
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(all, func(name string) bool { return slices.Contains(f.dropped, name) })
}

// drop removes a node, as an operator does on its host.
func (f *formation) drop(t testing.TB, m *group.Member) {
	t.Helper()
	f.Must(t, "drop", "node", "--pgdata", m.Dir)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dropped = append(f.dropped, m.Name)
}

// allNames are those of all nodes.
func (f *formation) allNames() []string {
	var all []string
	for number := range f.workers + 1 {
		all = append(all, f.names(number)...)
	}
	return append(all, f.replicas...)
}

// members are a group's nodes.
func (f *formation) members(number int) []*group.Member {
	var all []*group.Member
	for _, name := range f.names(number) {
		all = append(all, f.Node(name))
	}
	return all
}

// address is what the metadata call a node.
func address(m *group.Member) string {
	host := "localhost"
	if m.Host != nil {
		host = m.IP()
	}
	return fmt.Sprintf("%s:%d", host, m.Port)
}

func groupOf(name string) int {
	var number int
	_, _ = fmt.Sscanf(name, "worker%d-", &number)
	return number
}

// dial is how clients reach the formation: from the monitor's host.
func (f *formation) dial() func(ctx context.Context, network, address string) (net.Conn, error) {
	if f.net != nil {
		return f.Monitor.Host.DialContext
	}
	return new(net.Dialer).DialContext
}

// start makes a formation and waits until every group is whole.
func start(t testing.TB, bin string, genuine bool, workers int) *formation {
	t.Helper()
	f := &formation{genuine: genuine, workers: workers}
	f.start(t, bin)
	return f
}

func (f *formation) start(t testing.TB, bin string) {
	t.Helper()
	settings := map[string]string{"startup_grace_period": "1s"}
	if !f.brisk {
		// A small machine under many tests is silent for seconds by itself.
		settings["node_considered_unhealthy_timeout"], settings["health_check_timeout"] = "6s", "4s"
	}
	g := group.New(t, group.Config{Bin: bin, Network: f.net, MonitorSettings: settings})
	f.Group = g
	for number := range f.workers + 1 {
		for i, name := range f.names(number) {
			m := f.create(t, name)
			if i == 0 {
				g.WaitState(t, m, "single")
			}
		}
	}
	for _, name := range f.replicas {
		f.create(t, name)
	}
	f.waitWhole(t)
}

func (f *formation) create(t testing.TB, name string) *group.Member {
	t.Helper()
	kind, options := "coordinator", f.options[name]
	if number := groupOf(name); number > 0 {
		kind, options = "worker", append([]string{"--group", fmt.Sprint(number)}, options...)
	}
	m := f.CreateKind(t, kind, name, options...)
	if f.created != nil {
		f.created(m)
	}
	return m
}

// waitWhole waits until every group has a primary and secondaries; a node that is alone is single.
func (f *formation) waitWhole(t testing.TB) {
	t.Helper()
	f.WaitFor(t, "every group to be whole", func(all []group.Status) error {
		if len(all) != len(f.allNames()) {
			return fmt.Errorf("%d nodes are registered", len(all))
		}
		primaries, size := make(map[int]int), make(map[int]int)
		for _, name := range f.allNames() {
			size[groupOf(name)]++
		}
		for _, s := range all {
			open := "primary"
			if size[groupOf(s.Name)] == 1 {
				open = "single"
			}
			switch {
			case s.Reported != s.Goal || s.Goal != open && s.Goal != "secondary":
				return fmt.Errorf("%s is not at rest", s.Name)
			case s.Goal == open:
				primaries[groupOf(s.Name)]++
			}
		}
		for number := range f.workers + 1 {
			if primaries[number] != min(1, size[number]) {
				return fmt.Errorf("group %d has %d primaries", number, primaries[number])
			}
		}
		return nil
	})
}

// primary waits until a group has a node that is open, other than this one, and returns it.
func (f *formation) primary(t testing.TB, number int, not *group.Member) *group.Member {
	t.Helper()
	var name string
	f.WaitFor(t, fmt.Sprintf("group %d to have a primary", number), func(all []group.Status) error {
		for _, s := range all {
			open := s.Reported == s.Goal && slices.Contains([]string{"single", "wait_primary", "primary"}, s.Goal)
			if groupOf(s.Name) == number && open && (not == nil || s.Name != not.Name) {
				name = s.Name
				return nil
			}
		}
		return errors.New("it has none")
	})
	return f.Node(name)
}

// query runs one query on a node's database.
func query[T any](t testing.TB, m *group.Member, sql string, args ...any) []T {
	t.Helper()
	list, err := ask[T](m, sql, args...)
	if err != nil {
		t.Fatalf("ask %s: %v", m.Name, err)
	}
	return list
}

func ask[T any](m *group.Member, sql string, args ...any) ([]T, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := m.Connect(ctx, pgtest.Superuser, database)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[T])
}

func run(t testing.TB, m *group.Member, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), group.Patience)
	defer cancel()
	conn, err := m.Connect(ctx, pgtest.Superuser, database)
	if err != nil {
		t.Fatalf("connect to %s: %v", m.Name, err)
	}
	defer conn.Close(ctx)
	if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		t.Fatalf("execute %q on %s: %v", sql, m.Name, err)
	}
}

// createLedger makes the table that writers fill, and on every worker one that
// clients write straight to.
func (f *formation) createLedger(t testing.TB) {
	t.Helper()
	const table = "CREATE TABLE ledger (id bigint PRIMARY KEY)"
	if f.genuine {
		run(t, f.primary(t, 0, nil), table+"; SELECT create_distributed_table('ledger', 'id', shard_count => 12)")
	}
	for number := 1; number <= f.workers; number++ {
		w := f.primary(t, number, nil)
		if !f.genuine {
			run(t, w, table)
		}
		sql := "CREATE TABLE direct (id bigint PRIMARY KEY)"
		if f.genuine {
			sql = "SET citus.enable_ddl_propagation TO off; " + sql
		}
		run(t, w, sql)
	}
}

// ids reads all rows.
func (f *formation) ids(t testing.TB) map[int64]bool {
	t.Helper()
	there := make(map[int64]bool)
	from := []*group.Member{f.primary(t, 0, nil)}
	if !f.genuine {
		from = nil
		for number := 1; number <= f.workers; number++ {
			from = append(from, f.primary(t, number, nil))
		}
	}
	for _, m := range from {
		for _, id := range query[int64](t, m, "SELECT id FROM ledger") {
			there[id] = true
		}
	}
	return there
}

// requireHealed waits until all is whole and checks what must hold then: writes
// go on, every acknowledged row is there, the metadata name the primaries, and
// nothing is left prepared.
func (f *formation) requireHealed(t testing.TB, w *writer) {
	t.Helper()
	began := time.Now()
	var took []string
	done := func(what string) {
		took = append(took, fmt.Sprintf("%s %.2f s", what, time.Since(began).Seconds()))
	}
	if _, test := t.(*testing.T); test { // a benchmark keeps a few lines only
		// What is not reached is said by the test's end; this says how far it came, and when.
		defer func() { t.Logf("healed: %s", strings.Join(took, ", ")) }()
	}
	f.waitWhole(t)
	done("whole")
	w.waitAck(t, time.Now())
	done("written to")
	f.requireRows(t, w)
	done("every row found")
	f.requireLed(t)
	done("led to")
	f.requireNothingPrepared(t)
	done("nothing prepared")
	if f.genuine {
		f.requireSynchronised(t, w)
		done("workers' metadata")
	}
}

// requireRows looks for every acknowledged row.
func (f *formation) requireRows(t testing.TB, w *writer) {
	t.Helper()
	acks := w.acknowledged()
	there := f.ids(t)
	for _, id := range acks {
		if !there[id] {
			t.Fatalf("row %d of %d acknowledged ones is lost", id, len(acks))
		}
	}
}

// requireLed waits until the metadata name every group's primary.
func (f *formation) requireLed(t testing.TB) {
	t.Helper()
	coordinator := f.primary(t, 0, nil)
	for number := range f.workers + 1 {
		want := address(f.primary(t, number, nil))
		pgtest.Eventually(t, group.Patience, func() error {
			got, err := ask[string](coordinator, "SELECT nodename || ':' || nodeport FROM pg_dist_node WHERE groupid = $1 AND noderole = 'primary' AND isactive", number)
			if err == nil && !slices.Equal(got, []string{want}) {
				err = fmt.Errorf("the metadata lead group %d to %v and not to %s", number, got, want)
			}
			return err
		})
	}
}

// requireSynchronised waits until every worker that has metadata has the coordinator's, and reads the
// table through it; a worker without metadata stays one.
func (f *formation) requireSynchronised(t testing.TB, w *writer) {
	t.Helper()
	const entries = "SELECT groupid || ' ' || nodename || ':' || nodeport FROM pg_dist_node WHERE noderole = 'primary' ORDER BY groupid"
	coordinator := f.primary(t, 0, nil)
	for number := 1; number <= f.workers; number++ {
		m := f.primary(t, number, nil)
		pgtest.Eventually(t, group.Patience, func() error {
			want, err := ask[string](coordinator, entries)
			if number == f.apart {
				want = nil
			}
			if err != nil {
				return err
			}
			got, err := ask[string](m, entries)
			if err == nil && !slices.Equal(got, want) {
				err = fmt.Errorf("%s has the entries %q and the coordinator %q", m.Name, got, want)
			}
			return err
		})
		has := query[bool](t, coordinator, "SELECT hasmetadata FROM pg_dist_node WHERE groupid = $1 AND noderole = 'primary'", number)
		if !slices.Equal(has, []bool{number != f.apart}) {
			t.Fatalf("group %d has metadata: %v", number, has)
		}
		if number == f.apart {
			continue
		}
		there := make(map[int64]bool)
		acks := w.acknowledged()
		for _, id := range query[int64](t, m, "SELECT id FROM ledger") {
			there[id] = true
		}
		for _, id := range acks {
			if !there[id] {
				t.Fatalf("row %d of %d acknowledged ones is not to be seen through %s", id, len(acks), m.Name)
			}
		}
	}
}

// requireNothingPrepared waits until no server has a prepared transaction. Those
// of the extension itself end when it next looks for them.
func (f *formation) requireNothingPrepared(t testing.TB) {
	t.Helper()
	for number := range f.workers + 1 {
		if len(f.names(number)) == 0 {
			continue
		}
		m := f.primary(t, number, nil)
		pgtest.Eventually(t, group.Patience, func() error {
			gids, err := ask[string](m, "SELECT gid FROM pg_prepared_xacts")
			if err == nil && len(gids) > 0 {
				err = fmt.Errorf("%s has prepared transactions: %s", m.Name, strings.Join(gids, ", "))
			}
			return err
		})
	}
}

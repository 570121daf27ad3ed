package citus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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
}

// pair are the names of a group's nodes.
func pair(number int) [2]string {
	if number == 0 {
		return [2]string{"coordinator-a", "coordinator-b"}
	}
	return [2]string{fmt.Sprintf("worker%d-a", number), fmt.Sprintf("worker%d-b", number)}
}

func groupOf(name string) int {
	var number int
	_, _ = fmt.Sscanf(name, "worker%d-", &number)
	return number
}

// start makes a formation and waits until every group is whole.
func start(t *testing.T, bin string, genuine bool, workers int) *formation {
	t.Helper()
	g := group.New(t, group.Config{Bin: bin, MonitorSettings: map[string]string{
		"startup_grace_period": "1s",
		// A small machine under many tests is silent for seconds by itself.
		"node_considered_unhealthy_timeout": "6s",
		"health_check_timeout":              "4s",
	}})
	f := &formation{Group: g, genuine: genuine, workers: workers}
	for number := range workers + 1 {
		for _, name := range pair(number) {
			kind, options := "coordinator", []string(nil)
			if number > 0 {
				kind, options = "worker", []string{"--group", fmt.Sprint(number)}
			}
			m := g.CreateKind(t, kind, name, options...)
			if name == pair(number)[0] {
				g.WaitState(t, m, "single")
			}
		}
	}
	f.waitWhole(t)
	return f
}

// waitWhole waits until every group has a primary and a secondary.
func (f *formation) waitWhole(t *testing.T) {
	t.Helper()
	f.WaitFor(t, "every group to be whole", func(all []group.Status) error {
		if len(all) != 2*(f.workers+1) {
			return fmt.Errorf("%d nodes are registered", len(all))
		}
		primaries := make(map[int]int)
		for _, s := range all {
			switch {
			case s.Reported != s.Goal || s.Goal != "primary" && s.Goal != "secondary":
				return fmt.Errorf("%s is not at rest", s.Name)
			case s.Goal == "primary":
				primaries[groupOf(s.Name)]++
			}
		}
		for number := range f.workers + 1 {
			if primaries[number] != 1 {
				return fmt.Errorf("group %d has %d primaries", number, primaries[number])
			}
		}
		return nil
	})
}

// primary waits until a group has a node that is open, other than this one, and returns it.
func (f *formation) primary(t *testing.T, number int, not *group.Member) *group.Member {
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
func query[T any](t *testing.T, m *group.Member, sql string, args ...any) []T {
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

func run(t *testing.T, m *group.Member, sql string) {
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
func (f *formation) createLedger(t *testing.T) {
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
func (f *formation) ids(t *testing.T) map[int64]bool {
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
func (f *formation) requireHealed(t *testing.T, w *writer) {
	t.Helper()
	f.waitWhole(t)
	w.waitAck(t, time.Now())
	acks := w.acknowledged()
	there := f.ids(t)
	for _, id := range acks {
		if !there[id] {
			t.Fatalf("row %d of %d acknowledged ones is lost", id, len(acks))
		}
	}
	coordinator := f.primary(t, 0, nil)
	for number := range f.workers + 1 {
		port := f.primary(t, number, nil).Port
		pgtest.Eventually(t, group.Patience, func() error {
			ports, err := ask[int32](coordinator, "SELECT nodeport FROM pg_dist_node WHERE groupid = $1 AND noderole = 'primary' AND isactive", number)
			if err == nil && !slices.Equal(ports, []int32{int32(port)}) {
				err = fmt.Errorf("the metadata lead group %d to %v and not to %d", number, ports, port)
			}
			return err
		})
	}
	f.requireNothingPrepared(t)
}

// requireNothingPrepared waits until no server has a prepared transaction. Those
// of the extension itself end when it next looks for them.
func (f *formation) requireNothingPrepared(t *testing.T) {
	t.Helper()
	for number := range f.workers + 1 {
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

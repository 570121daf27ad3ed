package group

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
)

// Status is what the monitor says about a node.
type Status struct {
	Name     string
	Port     int
	Reported string
	Goal     string
	Health   int
	Timeline int
	LSN      string
}

func (s Status) String() string {
	return fmt.Sprintf("%s %s/%s health=%d %d:%s", s.Name, s.Reported, s.Goal, s.Health, s.Timeline, s.LSN)
}

// settled means that the node has reached this state and keeps it.
func (s Status) settled(state string) bool { return s.Reported == state && s.Goal == state }

// Nodes' states in which a node may take writes.
var primaryStates = []string{"single", "wait_primary", "primary", "join_primary", "apply_settings"}

// States asks the monitor about all nodes of the default formation.
func (g *Group) States() ([]Status, error) {
	var all []Status
	err := g.query(func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT nodename, nodeport, reportedstate::text, goalstate::text, health,
			reportedtli, reportedlsn::text FROM pgautofailover.node ORDER BY nodeid`)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (Status, error) {
			var s Status
			err := row.Scan(&s.Name, &s.Port, &s.Reported, &s.Goal, &s.Health, &s.Timeline, &s.LSN)
			return s, err
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask the monitor: %w", err)
	}
	return all, nil
}

func describe(all []Status) string {
	lines := make([]string, len(all))
	for i, s := range all {
		lines[i] = s.String()
	}
	return strings.Join(lines, "; ")
}

// WaitFor waits until the states of all nodes please a condition, which says
// what it still misses.
func (g *Group) WaitFor(t testing.TB, what string, look func([]Status) error) []Status {
	t.Helper()
	var last []Status
	pgtest.Eventually(t, Patience, func() error {
		all, err := g.States()
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		last = all
		if err := look(all); err != nil {
			return fmt.Errorf("%s: %w: %s%s", what, err, describe(all), g.ended())
		}
		return nil
	})
	return last
}

// ended names the members without a process of the program.
func (g *Group) ended() string {
	var names []string
	for _, m := range append([]*Member{g.Monitor}, g.Nodes...) {
		if m.Alive() != nil {
			names = append(names, m.Name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "; no process: " + strings.Join(names, " ")
}

// WaitLost waits until the group goes on without a node: the monitor wants it
// to be something else than secondary, and the primary has applied that.
func (g *Group) WaitLost(t testing.TB, lost *Member) {
	t.Helper()
	g.WaitFor(t, lost.Name+" to be left out", func(all []Status) error {
		for _, s := range all {
			if s.Name == lost.Name && s.Goal == "secondary" {
				return errors.New("it still counts")
			}
			if slices.Contains(primaryStates, s.Goal) && s.Goal != s.Reported {
				return errors.New("the primary is on its way")
			}
		}
		return nil
	})
	g.WaitPrimary(t, lost)
}

// WaitState waits until a node has reached one of these states as its goal.
func (g *Group) WaitState(t testing.TB, m *Member, states ...string) {
	t.Helper()
	g.WaitFor(t, fmt.Sprintf("%s to be %s", m.Name, strings.Join(states, " or ")), func(all []Status) error {
		for _, s := range all {
			if s.Name == m.Name && slices.ContainsFunc(states, s.settled) {
				return nil
			}
		}
		return fmt.Errorf("it is not")
	})
}

// WaitWhole waits until one node is primary (single when it is alone) and all
// others are secondary, and returns the primary.
func (g *Group) WaitWhole(t testing.TB) *Member {
	t.Helper()
	return g.WaitPrimary(t)
}

// WaitReady waits until the group is whole, every keeper reports and every server
// lets clients in: what the monitor says may be older than what has just happened
// to a node.
func (g *Group) WaitReady(t testing.TB) *Member {
	t.Helper()
	for _, m := range g.Nodes {
		pgtest.Eventually(t, Patience, func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			conn, err := m.Connect(ctx, pgtest.Superuser, "postgres")
			if err != nil {
				return fmt.Errorf("connect to %s: %w%s", m.Name, err, g.ended())
			}
			return conn.Close(ctx)
		})
	}
	g.waitHeard(t)
	return g.WaitWhole(t)
}

// waitHeard waits until the monitor has had a report of every node from now on.
func (g *Group) waitHeard(t testing.TB) {
	t.Helper()
	var since time.Time
	pgtest.Eventually(t, Patience, func() error {
		return g.query(func(ctx context.Context, conn *pgx.Conn) error {
			return conn.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&since)
		})
	})
	pgtest.Eventually(t, Patience, func() error {
		var silent string
		err := g.query(func(ctx context.Context, conn *pgx.Conn) error {
			return conn.QueryRow(ctx, `SELECT coalesce(string_agg(nodename, ', ' ORDER BY nodeid), '')
				FROM pgautofailover.node WHERE reporttime <= $1`, since).Scan(&silent)
		})
		if err == nil && silent != "" {
			err = fmt.Errorf("no report yet from %s%s", silent, g.ended())
		}
		return err
	})
}

// WaitPrimary waits until one node is primary (single when it is alone) and all
// others are secondary, except the ones named, which may be anything. It
// returns the primary.
func (g *Group) WaitPrimary(t testing.TB, except ...*Member) *Member {
	t.Helper()
	var primary string
	g.WaitFor(t, "the group to be primary", func(all []Status) error {
		primary = ""
		if len(all) != len(g.Nodes) {
			return fmt.Errorf("%d of %d nodes are registered", len(all), len(g.Nodes))
		}
		want := "primary"
		if len(all)-len(except) == 1 {
			want = "wait_primary"
		}
		for _, s := range all {
			switch {
			case slices.ContainsFunc(except, func(m *Member) bool { return m.Name == s.Name }):
			case s.settled(want), len(all) == 1 && s.settled("single"):
				if primary != "" {
					return fmt.Errorf("%s and %s are both primary", primary, s.Name)
				}
				primary = s.Name
			case !s.settled("secondary"):
				return fmt.Errorf("%s is neither", s.Name)
			}
		}
		if primary == "" {
			return fmt.Errorf("no node is")
		}
		return nil
	})
	return g.Node(primary)
}

// Node returns the node of that name.
func (g *Group) Node(name string) *Member {
	for _, m := range g.Nodes {
		if m.Name == name {
			return m
		}
	}
	panic("group: no node is named " + name)
}

// Others lists the nodes except one.
func (g *Group) Others(m *Member) []*Member {
	return slices.DeleteFunc(slices.Clone(g.Nodes), func(o *Member) bool { return o == m })
}

// NewPrimary waits until another node than the old one has become a primary,
// whole or not.
func (g *Group) NewPrimary(t testing.TB, old *Member) *Member {
	t.Helper()
	var name string
	g.WaitFor(t, "a new primary after "+old.Name, func(all []Status) error {
		for _, s := range all {
			if s.Name != old.Name && slices.ContainsFunc(primaryStates, s.settled) {
				name = s.Name
				return nil
			}
		}
		return fmt.Errorf("there is none")
	})
	return g.Node(name)
}

// Events returns the monitor's events, the oldest first.
func (g *Group) Events(t testing.TB) []string {
	t.Helper()
	var all []string
	err := g.query(func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT format('%s node %s %s/%s %s', eventid, nodeid, reportedstate, goalstate, description) "+
			"FROM pgautofailover.event ORDER BY eventid")
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		t.Fatalf("read events: %v", err)
	}
	return all
}

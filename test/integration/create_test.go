package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// randomKills is how often a creation is killed at a random moment, apart from
// the kills after each line that it logs.
const randomKills = 30

// TestCreateKilledAndRepeated kills "create postgres" without warning, after
// each of its log lines and at random moments, and runs the same command again:
// it finishes, whatever the first one left behind.
func TestCreateKilledAndRepeated(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]func(t *testing.T, g *group.Group, i int) []string{
		"standby": func(*testing.T, *group.Group, int) []string { return []string{"--maximum-backup-rate", "50M"} },
		"first node": func(t *testing.T, g *group.Group, i int) []string {
			t.Helper()
			formation := fmt.Sprintf("f%d", i)
			g.Must(t, "create", "formation", "--pgdata", g.Monitor.Dir, "--formation", formation, "--kind", "pgsql")
			return []string{"--formation", formation}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := group.Start(t, group.Config{Nodes: 1})
			g.Nodes[0].Exec(t, "CREATE TABLE bulk AS SELECT i, repeat('x', 500) AS text FROM generate_series(1, 20000) i")
			server := g.Nodes[0].Postmaster(t)
			n := 0
			// again runs one creation, which kill may end, and the same again.
			again := func(kill func(m *group.Member)) *group.Member {
				n++
				m := g.Outsider(t, fmt.Sprintf("%s%d", strings.ReplaceAll(name, " ", "_"), n))
				options := options(t, g, n)
				if kill != nil {
					m.Create(t, options...)
					kill(m)
					m.Process().Wait(t, group.Patience)
				}
				m.Create(t, options...)
				require.Zero(t, m.Process().Wait(t, group.Patience), "the same command again:\n%s", m.Process().Tail(30))
				return m
			}
			drop := func(m *group.Member) { g.Must(t, "drop", "node", "--pgdata", m.Dir, "--destroy") }

			start := time.Now()
			m := again(nil)
			whole, lines := time.Since(start), strings.Count(m.Log(), "\n")
			drop(m)
			t.Logf("a creation takes %s and logs %d lines", whole.Round(time.Millisecond), lines)
			require.Positive(t, lines)

			for line := 1; line <= lines; line++ {
				drop(again(func(m *group.Member) { killAfterLine(t, m, line) }))
			}
			for range randomKills / 2 {
				delay := rand.N(whole)
				drop(again(func(m *group.Member) { killAfter(t, m, delay) }))
			}
			g.WaitWhole(t)
			require.Equal(t, server, g.Nodes[0].Postmaster(t), "the first node must not notice")
		})
	}
}

// killAfterLine kills the member's process when it has logged so many lines.
func killAfterLine(t *testing.T, m *group.Member, line int) {
	t.Helper()
	pgtest.Eventually(t, group.Patience, func() error {
		if n := strings.Count(m.Log(), "\n"); n < line && m.Alive() == nil {
			return fmt.Errorf("%d of %d lines are logged", n, line)
		}
		return nil
	})
	kill(t, m)
}

// killAfter kills the member's process after a while, unless it has ended.
func killAfter(t *testing.T, m *group.Member, delay time.Duration) {
	t.Helper()
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		kill(t, m)
	case <-m.Process().Done():
	}
}

// kill kills the member's process. One that has just ended by itself, after its
// last line, need not be known to have.
func kill(t *testing.T, m *group.Member) {
	t.Helper()
	if err := m.Process().Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}

package citus

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// TestBadInput: what an operator can get wrong is refused in one sentence with
// a hint, and changes nothing.
func TestBadInput(t *testing.T) {
	t.Parallel()
	bin, _ := pgtest.Citus(t)
	g := group.New(t, group.Config{Bin: bin})
	first := g.Create(t, "node1")
	g.WaitState(t, first, "single")
	g.Must(t, "create", "formation", "--formation", "sharded", "--kind", "citus", "--dbname", database, "--pgdata", g.Monitor.Dir)

	// The same programs, of an installation that has no such extension.
	without := g.Path("without")
	pgtest.Mkdir(t, without)
	for _, name := range []string{"pg_ctl", "postgres", "initdb", "pg_controldata"} {
		require.NoError(t, os.Symlink(filepath.Join(bin, name), filepath.Join(without, name)))
	}
	require.NoError(t, os.WriteFile(filepath.Join(without, "pg_config"), []byte("#!/bin/sh\necho "+without+"\n"), 0o755))

	for name, c := range map[string]struct {
		args []string
		code int
		says []string
	}{
		"a worker before any coordinator": {
			[]string{"create", "worker", "--formation", "sharded"},
			7,
			[]string{`formation "sharded" has no coordinator that takes writes: a worker can not join it`, "HINT: create the coordinator first"},
		},
		"a coordinator in a formation of another kind": {
			[]string{"create", "coordinator"},
			3,
			[]string{`a coordinator node can not join formation "default", which is of kind pgsql`, "HINT: create a formation for it with"},
		},
		"a formation that does not exist": {
			[]string{"create", "coordinator", "--formation", "nowhere"},
			6,
			[]string{`formation "nowhere" does not exist`, "HINT: "},
		},
		"the coordinator's group": {
			[]string{"create", "worker", "--group", "0"},
			1,
			[]string{"Group 0 is the coordinator's", "HINT: groups of workers are numbered from 1"},
		},
		"an installation without the extension": {
			[]string{"create", "coordinator", "--formation", "sharded", "--pgctl", filepath.Join(without, "pg_ctl")},
			3,
			[]string{"extension citus is not installed for the PostgreSQL in", "HINT: install Citus"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := g.Outsider(t, "refused")
			before := g.Footprint(t, m.Dir)
			// The later of two options counts.
			args := slices.Concat(c.args[:2], m.CreateArgs()[2:], c.args[2:])
			// For so long a command waits for the monitor, and a worker for a coordinator that will not come.
			patience := "PGCONNECT_TIMEOUT=60"
			if c.code == 7 {
				patience = "PGCONNECT_TIMEOUT=10"
			}
			res := g.RunCommand(t, pgtest.Command{Args: args, Env: []string{patience}})
			require.Equal(t, c.code, res.Code, res.Stderr)
			for _, text := range c.says {
				require.Contains(t, res.Stderr, text)
			}
			require.Empty(t, before.Diff(g.Footprint(t, m.Dir)))
		})
	}
}

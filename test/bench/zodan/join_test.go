package zodan

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// The ways to copy a database.
const (
	piped    = "pg_dump | psql"
	parallel = "pg_dump -j2 -Fd, pg_restore -j2"
	addNode  = "zodan add_node"
)

const (
	database = "app"
	// patience bounds each command.
	patience = 30 * time.Minute
)

// number is that of a variable, or the usual one.
func number(name string, usual int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return usual
}

// newServer starts a server that keeps what it is told, as one in production.
func newServer(b *testing.B, name string) *pgtest.Server {
	b.Helper()
	s := pgtest.NewServer(b, pgtest.ServerConfig{Name: name, Settings: map[string]string{
		"track_commit_timestamp": "on", "fsync": "on", "full_page_writes": "on", "shared_buffers": "256MB", "max_wal_size": "4GB",
		"maintenance_work_mem": "128MB",
	}})
	s.Exec(b, "postgres", "CREATE DATABASE "+database)
	return s
}

func run(b *testing.B, path string, args ...string) {
	b.Helper()
	res := pgtest.Run(b, patience, pgtest.Command{Path: path, Args: args})
	require.Zero(b, res.Code, "%s %v\n%s%s", path, args, res.Stdout, res.Stderr)
}

// engine makes a database ready to be a node, and serves it.
func engine(b *testing.B, name string, s *pgtest.Server) (dsn string) {
	b.Helper()
	run(b, group.Program(b), "spock", "install", "--dsn", s.DSN(database))
	pgtest.Start(b, pgtest.Command{Name: "engine-" + name, Path: group.Program(b), Args: []string{
		"spock", "run", "--dsn", s.DSN(database), "--pgctl", filepath.Join(s.Bin, "pg_ctl"),
	}})
	return fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s", s.Port, pgtest.Superuser, database)
}

// BenchmarkAddNode lets a second node join a database of pgbench, beside the
// bare copies of the same database. BENCH_SCALE and BENCH_ROUNDS change what is
// usual.
func BenchmarkAddNode(b *testing.B) {
	scale, rounds := number("BENCH_SCALE", 100), number("BENCH_ROUNDS", 1)
	measured.scale = scale
	source := newServer(b, "source")
	sourceDSN := engine(b, "source", source)
	pgbench, err := exec.LookPath("pgbench")
	if err != nil {
		pgbench = filepath.Join(source.Bin, "pgbench")
	}
	run(b, pgbench, "-i", "-q", "-s", strconv.Itoa(scale), source.DSN(database))
	source.Exec(b, database, "SELECT spock.node_create('n1', '"+sourceDSN+"')")
	source.Exec(b, database, `SELECT spock.repset_add_table('default', c.oid) FROM pg_class c WHERE c.relname IN ('pgbench_accounts', 'pgbench_branches', 'pgbench_tellers')`)
	source.Exec(b, database, "SELECT spock.repset_add_table('default_insert_only', 'pgbench_history')")
	for range b.N * rounds {
		for _, way := range []struct {
			name string
			copy func(b *testing.B, source, target *pgtest.Server) time.Duration
		}{
			{piped, func(b *testing.B, source, target *pgtest.Server) time.Duration {
				b.Helper()
				return timed(func() {
					run(b, "/bin/sh", "-c", fmt.Sprintf("'%[1]s/pg_dump' -d '%[2]s' -N spock -N pgdrover | '%[1]s/psql' -q -v ON_ERROR_STOP=0 -d '%[3]s'",
						source.Bin, source.DSN(database), target.DSN(database)))
				})
			}},
			{parallel, func(b *testing.B, source, target *pgtest.Server) time.Duration {
				b.Helper()
				dir := filepath.Join(pgtest.Dir(b), "dump")
				return timed(func() {
					run(b, filepath.Join(source.Bin, "pg_dump"), "-j2", "-Fd", "-N", "spock", "-N", "pgdrover", "-f", dir, "-d", source.DSN(database))
					// Our event triggers are in the dump, their functions are not.
					res := pgtest.Run(b, patience, pgtest.Command{Path: filepath.Join(source.Bin, "pg_restore"), Args: []string{"-j2", "-d", target.DSN(database), dir}})
					require.LessOrEqual(b, res.Code, 1, res.Stderr)
				})
			}},
			{addNode, func(b *testing.B, _, target *pgtest.Server) time.Duration {
				b.Helper()
				dsn := engine(b, "target", target)
				took := timed(func() {
					run(b, group.Program(b), "zodan", "add_node", "--src-node-name=n1", "--src-dsn="+sourceDSN, "--new-node-name=n2", "--new-node-dsn="+dsn,
						"--state-dir="+pgtest.Dir(b))
				})
				defer run(b, group.Program(b), "zodan", "remove_node", "--target-node-name=n2", "--target-node-dsn="+dsn, "--state-dir="+pgtest.Dir(b))
				return took
			}},
		} {
			// Each in a benchmark of its own: its server goes before the next one comes.
			b.Run(way.name, func(b *testing.B) {
				target := newServer(b, "target")
				source.Exec(b, "postgres", "CHECKPOINT")
				target.Exec(b, "postgres", "CHECKPOINT")
				took := way.copy(b, source, target)
				measured.add(way.name, took)
				require.Equal(b, strconv.Itoa(100000*scale), rows(b, target))
			})
		}
	}
}

func timed(do func()) time.Duration {
	began := time.Now()
	do()
	return time.Since(began)
}

func rows(b *testing.B, s *pgtest.Server) string {
	b.Helper()
	var n string
	require.NoError(b, s.Connect(b, database).QueryRow(b.Context(), "SELECT count(*)::text FROM pgbench_accounts").Scan(&n))
	return n
}

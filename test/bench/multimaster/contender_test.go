package multimaster

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

const (
	ours      = "pgdrover"
	native    = "native"
	pglogical = "pglogical"
	dump      = "pg_dump"
	bare      = "bare SQL"
)

// contender is a way to follow a database. It has one of its own name on the
// subscriber.
type contender struct {
	name string
	// join makes the subscription, with a copy of the data; following answers t
	// when that is done.
	join, following string
	// pause and resume stop and start it; paused answers t when it has stopped.
	pause, resume, paused string
	// whole means that it brings the tables' definitions as well.
	whole bool
	leave string
}

const app = "app" // the database that all follow

func contenders(b *testing.B, dsn string) []contender {
	b.Helper()
	all := []contender{
		{
			name: ours, whole: true,
			join: fmt.Sprintf("SELECT spock.sub_create('ours', '%s', synchronize_structure := true, synchronize_data := true)", dsn),
			following: "SELECT coalesce(bool_and(sync_status = 'r'), false) AND EXISTS (SELECT FROM spock.sub_show_status() WHERE status = 'replicating')" +
				" FROM spock.local_sync_status",
			pause: "SELECT spock.sub_disable('ours')", resume: "SELECT spock.sub_enable('ours')",
			paused: "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name LIKE 'spock apply %')",
			leave:  "SELECT spock.sub_drop('ours')",
		},
		{
			name: native,
			join: fmt.Sprintf("CREATE SUBSCRIPTION native CONNECTION '%s' PUBLICATION everything WITH (binary)", dsn),
			following: "SELECT coalesce(bool_and(srsubstate = 'r'), false) AND EXISTS (SELECT FROM pg_stat_subscription WHERE pid IS NOT NULL)" +
				" FROM pg_subscription_rel",
			pause: "ALTER SUBSCRIPTION native DISABLE", resume: "ALTER SUBSCRIPTION native ENABLE",
			paused: "SELECT NOT EXISTS (SELECT FROM pg_stat_subscription WHERE pid IS NOT NULL)",
			leave:  "DROP SUBSCRIPTION native",
		},
	}
	if err := havePglogical(); err != nil {
		b.Logf("measuring without %s: %v", pglogical, err)
		return all
	}
	return append(all, contender{
		name: pglogical,
		join: fmt.Sprintf("SELECT pglogical.create_subscription('plain', '%s')", dsn),
		following: "SELECT coalesce(bool_and(sync_status = 'r'), false) AND EXISTS (SELECT FROM pglogical.show_subscription_status() WHERE status = 'replicating')" +
			" FROM pglogical.local_sync_status",
		pause: "SELECT pglogical.alter_subscription_disable('plain', true)", resume: "SELECT pglogical.alter_subscription_enable('plain', true)",
		paused: "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name LIKE 'pglogical apply %')",
		leave:  "SELECT pglogical.drop_subscription('plain')",
	})
}

// havePglogical installs Debian's package when this is a Debian-like machine and
// we are root.
func havePglogical() error {
	const control = "/usr/share/postgresql/15/extension/pglogical.control"
	if _, err := os.Stat(control); err == nil {
		return nil
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("it is not installed, and only root can do that: apt-get install %s", pglogicalPackage)
	}
	install := exec.Command("apt-get", "install", "-qy", "--no-install-recommends", pglogicalPackage)
	install.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := install.CombinedOutput(); err != nil {
		return fmt.Errorf("install it: %w\n%s", err, out)
	}
	_, err := os.Stat(control)
	return err
}

const pglogicalPackage = "postgresql-15-pglogical"

// field is where they compete: two servers, and the engine of ours.
type field struct {
	provider, subscriber *pgtest.Server
	contenders           []contender
	engine               *pgtest.Process
	scale                int
	joined               map[string]bool // by contender
}

// known tells whether the servers have a setting: a minor release brought it.
func known(b *testing.B, setting string) bool {
	b.Helper()
	out, err := exec.CommandContext(b.Context(), filepath.Join(pgtest.Bin(b), "postgres"), "--describe-config").Output()
	if err != nil {
		b.Fatal(err)
	}
	return bytes.Contains(out, []byte("\n"+setting+"\t"))
}

// tables that pgbench does not make.
const tables = `
CREATE TABLE marker (id int PRIMARY KEY, n int NOT NULL);
INSERT INTO marker VALUES (1, 0);
CREATE TABLE big (id int PRIMARY KEY, v text);
CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL, v text);
INSERT INTO item SELECT i, 0, 'item ' || i FROM generate_series(1, 100000) i;
CREATE TABLE beat (id bigserial PRIMARY KEY, applied timestamptz);`

func newField(b *testing.B) *field {
	b.Helper()
	settings := map[string]string{
		"fsync": "on", "full_page_writes": "on", "shared_buffers": "256MB", "max_wal_size": "16GB", "checkpoint_timeout": "30min",
		"track_commit_timestamp": "on", "max_connections": "60", "max_worker_processes": "20", "synchronous_commit": "off",
	}
	if havePglogical() == nil {
		settings["shared_preload_libraries"] = "'pglogical'"
		if known(b, "output_plugin_libraries") {
			settings["output_plugin_libraries"] = "'pgoutput, pglogical_output'"
		}
	}
	config := func(name string) pgtest.ServerConfig { return pgtest.ServerConfig{Name: name, Settings: settings} }
	f := &field{scale: number("BENCH_SCALE", 10), joined: map[string]bool{}}
	f.provider, f.subscriber = pgtest.NewServer(b, config("provider")), pgtest.NewServer(b, config("subscriber"))
	f.contenders = contenders(b, f.address(f.provider, app))
	f.exec(b, f.provider, "postgres", "CREATE DATABASE "+app)
	if len(f.contenders) > 2 {
		f.exec(b, f.provider, app, fmt.Sprintf("CREATE EXTENSION pglogical; SELECT pglogical.create_node('provider', '%s')", f.address(f.provider, app)))
	}
	f.pgbench(b, "-i", "-q", "-s", fmt.Sprint(f.scale))
	f.exec(b, f.provider, app, tables)
	f.node(b, f.provider, app)
	f.exec(b, f.provider, app, `SELECT spock.repset_add_table('default', c.oid::regclass) FROM pg_class c
			WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname <> 'pgbench_history';
		SELECT spock.repset_add_table('default_insert_only', 'public.pgbench_history');
		CREATE PUBLICATION everything FOR TABLES IN SCHEMA public`)
	if len(f.contenders) > 2 {
		f.exec(b, f.provider, app, `SELECT pglogical.replication_set_add_table('default', c.oid::regclass) FROM pg_class c
				WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname <> 'pgbench_history';
			SELECT pglogical.replication_set_add_table('default_insert_only', 'public.pgbench_history')`)
	}
	f.exec(b, f.provider, app, "CHECKPOINT")
	f.exec(b, f.subscriber, "postgres", "CREATE DATABASE "+ours)
	f.node(b, f.subscriber, ours)
	f.startEngine(b)
	return f
}

func (f *field) address(s *pgtest.Server, database string) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s", s.Port, pgtest.Superuser, database)
}

// node makes a database a node of ours.
func (f *field) node(b *testing.B, s *pgtest.Server, database string) {
	b.Helper()
	res := pgtest.Run(b, patience, pgtest.Command{Path: group.Program(b), Args: []string{"spock", "install", "--dsn", s.DSN(database)}})
	if res.Code != 0 {
		b.Fatalf("install the schema: %s%s", res.Stdout, res.Stderr)
	}
	f.exec(b, s, database, fmt.Sprintf("SELECT spock.node_create('%s', '%s')", database, f.address(s, database)))
}

// startEngine runs one engine for both nodes, as in earnest two would run.
func (f *field) startEngine(b *testing.B) {
	b.Helper()
	f.engine = pgtest.Start(b, pgtest.Command{
		Name: "engine", Path: group.Program(b),
		Args: []string{
			"spock", "run", "--dsn", f.provider.DSN(app), "--dsn", f.subscriber.DSN(ours),
			"--pgctl", filepath.Join(f.subscriber.Bin, "pg_ctl"),
		},
	})
}

// pgbench runs against the provider.
func (f *field) pgbench(b *testing.B, args ...string) {
	b.Helper()
	args = append(args, "-h", f.provider.Socket, "-p", fmt.Sprint(f.provider.Port), "-U", pgtest.Superuser, app)
	out, err := exec.Command(filepath.Join(f.provider.Bin, "pgbench"), args...).CombinedOutput()
	if err != nil {
		b.Fatalf("pgbench: %v\n%s", err, out)
	}
}

// exec runs SQL, however long it takes.
func (f *field) exec(b *testing.B, s *pgtest.Server, database, sql string) {
	b.Helper()
	conn := s.Connect(b, database)
	defer func() { _ = conn.Close(b.Context()) }()
	if _, err := conn.PgConn().Exec(b.Context(), sql).ReadAll(); err != nil {
		b.Fatalf("%s: %s: %v", database, sql, err)
	}
}

// shell runs a pipe of commands.
func (f *field) shell(b *testing.B, text string) {
	b.Helper()
	out, err := exec.Command("sh", "-c", text).CombinedOutput()
	if err != nil {
		b.Fatalf("%s: %v\n%s", text, err, out)
	}
}

// copyDefinitions makes the tables, without what ours has put on them.
func (f *field) copyDefinitions(b *testing.B, database string) {
	b.Helper()
	f.shell(b, fmt.Sprintf("%[1]s/pg_dump -s -n public --no-publications '%[2]s' | grep -v pgdrover_ | %[1]s/psql -qX '%[3]s'", f.provider.Bin,
		f.provider.DSN(app), f.subscriber.DSN(database)))
}

// ticks is the unit of times in /proc.
const ticks = 10 * time.Millisecond

// applied is what applying costs: the time that the subscriber's server and the
// engine have spent so far.
func (f *field) applied(b *testing.B) time.Duration {
	b.Helper()
	postmaster := f.subscriber.Process().Pid
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		b.Fatal(err)
	}
	var sum time.Duration
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// The name is in parentheses and may hold anything.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		value := func(n int) int {
			v, _ := strconv.Atoi(fields[n-3])
			return v
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if pid == postmaster || value(4) == postmaster || pid == f.engine.Pid {
			sum += time.Duration(value(14)+value(15)) * ticks
		}
		if pid == postmaster { // and the sessions that have ended
			sum += time.Duration(value(16)+value(17)) * ticks
		}
	}
	return sum
}

// memory is what a process has used at most, in megabytes.
func memory(b *testing.B, pid int) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for l := range strings.SplitSeq(string(text), "\n") {
		var kb float64
		if _, err := fmt.Sscanf(l, "VmHWM: %f kB", &kb); err == nil {
			return kb / 1024
		}
	}
	return 0
}

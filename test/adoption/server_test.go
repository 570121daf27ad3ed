package adoption

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

// TestServerTakenOver has a group made of what was there before: a server of
// Debian's layout, with its configuration in /etc, an archive and a tablespace;
// and a copy of it that its owner made. Nothing is copied again, and what the
// owner has set stays set.
func TestServerTakenOver(t *testing.T) {
	t.Parallel()
	g := group.New(t, group.Config{MonitorSettings: patientMonitor()})
	o := &owner{group: g, spaces: g.Path("space"), archive: g.Path("archive")}
	pgtest.Mkdir(t, o.archive)
	pgtest.Mkdir(t, o.spaces)

	first := o.place(t, "node1")
	etc := o.debianCluster(t, first)
	o.startServer(t, first, etc)
	first.Exec(t, "CREATE ROLE app LOGIN; CREATE TABLE ledger (id bigint PRIMARY KEY, written timestamptz DEFAULT clock_timestamp()); "+
		"GRANT SELECT, INSERT ON ledger TO app; INSERT INTO ledger SELECT -i FROM generate_series(1, 1000) i")
	first.Exec(t, "CREATE TABLESPACE space LOCATION '"+o.spaces+"'")
	first.Exec(t, "CREATE TABLE spacious TABLESPACE space AS SELECT generate_series(1, 1000) i")
	first.Exec(t, "ALTER SYSTEM SET archive_timeout TO '1h'")
	system := first.Ask(t, "SELECT system_identifier::text FROM pg_control_system()")
	second := o.place(t, "node2")
	o.copyServer(t, first, second)

	// A server that runs is its owner's.
	res := g.RunCommand(t, pgtest.Command{Path: first.Program, Root: true, Args: first.CreateArgs()})
	require.Equal(t, 3, res.Code, res.Stderr)
	require.Contains(t, res.Stderr, "HINT:")
	require.Equal(t, "1000", first.Ask(t, "SELECT count(*)::text FROM ledger"))
	require.FileExists(t, filepath.Join(etc, "postgresql.conf"))

	o.stopServer(t, first)
	for _, m := range []*group.Member{first, second} {
		m.Create(t, "--run")
		g.Nodes = append(g.Nodes, m)
		if m == first {
			g.WaitState(t, m, "single")
		}
	}
	require.Equal(t, first, g.WaitWhole(t))
	for _, m := range g.Nodes {
		requireNoCopy(t, m)
		o.requireKept(t, m, system)
	}
	require.NoFileExists(t, filepath.Join(etc, "postgresql.conf"), "Debian's tools must not start it any more")
	text, err := os.ReadFile(filepath.Join(etc, "start.conf"))
	require.NoError(t, err)
	require.Contains(t, string(text), "disabled")

	w := g.Write(t, group.WriterConfig{})
	w.WaitAck(t, time.Now())
	failover(t, g, w)
	requireNoCopy(t, first)
	switchover(t, g, w)
	finish(t, g, w)
	for _, m := range g.Nodes {
		requireNoCopy(t, m)
		o.requireKept(t, m, system)
	}
	o.requireArchiving(t, g)
}

// owner is whose servers they were.
type owner struct {
	group   *group.Group
	spaces  string // the path of the tablespace, on every host
	archive string
}

// place makes a member that sees a directory of its own as the tablespace, as
// it would on a host of its own.
func (o *owner) place(t *testing.T, name string) *group.Member {
	t.Helper()
	m := o.group.Outsider(t, name)
	m.Dir = filepath.Join(o.group.Path(name+".d"), strconv.Itoa(major(t)), fmt.Sprintf("pgdrover_%s_%d", name, m.Port))
	require.NoError(t, os.MkdirAll(m.Dir, 0o700))
	private := o.group.Path(name + ".space")
	require.NoError(t, os.MkdirAll(private, 0o700))
	pgtest.GiveToServerUser(t, o.group.Path(name+".d"))
	pgtest.GiveToServerUser(t, private)
	script := filepath.Join(pgtest.Dir(t), "as-on-its-host")
	text := fmt.Sprintf("#!/bin/sh\nset -e\nprogram=${PROGRAM:-%s}\n"+
		"exec unshare --mount sh -c 'mount --bind %s %s && exec setpriv --reuid=postgres --regid=postgres --init-groups \"$@\"' sh \"$program\" \"$@\"\n",
		group.Program(t), private, o.spaces)
	require.NoError(t, os.WriteFile(script, []byte(text), 0o755))
	m.Program, m.Root = script, true
	if out, err := exec.CommandContext(t.Context(), "env", "PROGRAM=/bin/true", script).CombinedOutput(); err != nil {
		t.Skipf("a tablespace at one path on two hosts needs mount namespaces: %v: %s", err, out)
	}
	return m
}

func major(t *testing.T) int {
	t.Helper()
	for _, b := range pgtest.AllBinaries() {
		if b.Dir == pgtest.Bin(t) {
			return b.Major
		}
	}
	return 0
}

// debianCluster makes a cluster as Debian's tools do and returns the directory
// of its configuration.
func (o *owner) debianCluster(t *testing.T, m *group.Member) string {
	t.Helper()
	const tool = "/usr/bin/pg_createcluster"
	if _, err := os.Stat(tool); err != nil {
		t.Skip("this is no Debian: " + err.Error())
	}
	version, name := filepath.Base(filepath.Dir(m.Dir)), filepath.Base(m.Dir)
	out, err := exec.CommandContext(t.Context(), tool, "--user=postgres", "--datadir="+m.Dir, "--port="+strconv.Itoa(m.Port), "--start-conf=manual",
		"--socketdir="+o.group.Path(""), version, name, "--", "--no-sync", "--auth=trust").CombinedOutput()
	require.NoError(t, err, string(out))
	etc := filepath.Join("/etc/postgresql", version, name)
	t.Cleanup(func() {
		_ = os.RemoveAll(etc)
		_ = os.Remove(fmt.Sprintf("/var/log/postgresql/postgresql-%s-%s.log", version, name))
	})
	o.configure(t, m, filepath.Join(etc, "postgresql.conf"))
	return etc
}

// configure writes what an owner writes.
func (o *owner) configure(t *testing.T, m *group.Member, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = fmt.Fprintf(f, "archive_mode = on\narchive_command = '%s'\nrestore_command = '%s'\nwork_mem = '5MB'\nmax_slot_wal_keep_size = '3GB'\n", o.command(m, "archive"), o.command(m, "restore"))
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// command is what archives or restores; each node has its own.
func (o *owner) command(m *group.Member, what string) string {
	if what == "archive" {
		return fmt.Sprintf("cp %%p %s/%%f # %s", o.archive, m.Name)
	}
	return fmt.Sprintf("cp %s/%%f %%p # %s", o.archive, m.Name)
}

// copyServer makes a standby of a running server, as its owner does.
func (o *owner) copyServer(t *testing.T, from, to *group.Member) {
	t.Helper()
	bin := pgtest.Bin(t)
	res := o.run(t, to, filepath.Join(bin, "pg_basebackup"), "--pgdata="+to.Dir, "--host=localhost", "--port="+strconv.Itoa(from.Port),
		"--username="+pgtest.Superuser, "--wal-method=stream", "--checkpoint=fast", "--no-sync")
	require.Zero(t, res.Code, res.Stderr)
	// Debian's copy has no configuration: its owner writes one.
	require.NoError(t, os.WriteFile(filepath.Join(to.Dir, "postgresql.conf"), fmt.Appendf(nil, "port = %d\n", to.Port), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(to.Dir, "pg_hba.conf"), []byte("local all,replication all trust\nhost all,replication all localhost trust\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(to.Dir, "pg_ident.conf"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(to.Dir, "standby.signal"), nil, 0o600))
	o.configure(t, to, filepath.Join(to.Dir, "postgresql.conf"))
	pgtest.GiveToServerUser(t, to.Dir)
}

// run runs a program as on a member's host.
func (o *owner) run(t *testing.T, m *group.Member, program string, args ...string) pgtest.Result {
	t.Helper()
	return pgtest.Run(t, group.Patience, pgtest.Command{Path: m.Program, Root: true, Env: []string{"PROGRAM=" + program}, Args: args})
}

// startServer starts a server of Debian's as their tools do: by its configuration.
func (o *owner) startServer(t *testing.T, m *group.Member, etc string) {
	t.Helper()
	res := o.run(t, m, filepath.Join(pgtest.Bin(t), "pg_ctl"), "start", "--silent", "--wait", "--pgdata="+etc, "--log="+o.group.Path("debian.log"))
	text, _ := os.ReadFile(o.group.Path("debian.log"))
	require.Zero(t, res.Code, "%s%s%s", res.Stdout, res.Stderr, text)
}

func (o *owner) stopServer(t *testing.T, m *group.Member) {
	t.Helper()
	res := o.run(t, m, filepath.Join(pgtest.Bin(t), "pg_ctl"), "stop", "--mode=fast", "--wait", "--pgdata="+m.Dir)
	require.Zero(t, res.Code, res.Stderr)
}

// requireKept looks at what an owner has set, and at the data.
func (o *owner) requireKept(t *testing.T, m *group.Member, system string) {
	t.Helper()
	for setting, want := range map[string]string{
		"archive_mode": "on", "archive_command": o.command(m, "archive"),
		"restore_command": o.command(m, "restore"), "work_mem": "5MB", "archive_timeout": "1h", "max_slot_wal_keep_size": "3GB",
	} {
		require.Equal(t, want, m.Ask(t, "SELECT current_setting($1)", setting), "%s of %s", setting, m.Name)
	}
	require.Equal(t, system, m.Ask(t, "SELECT system_identifier::text FROM pg_control_system()"))
	require.Equal(t, "1000 1000 "+o.spaces, m.Ask(t, "SELECT concat_ws(' ', (SELECT count(*) FROM ledger WHERE id < 0), (SELECT count(*) FROM spacious), "+
		"(SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'space'))"))
}

// requireArchiving waits for a file in the archive of the primary.
func (o *owner) requireArchiving(t *testing.T, g *group.Group) {
	t.Helper()
	primary := g.WaitWhole(t)
	segment := primary.Ask(t, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
	primary.Exec(t, "CREATE TABLE filler (); SELECT pg_switch_wal()")
	pgtest.Eventually(t, group.Patience, func() error {
		_, err := os.Stat(filepath.Join(o.archive, segment))
		return err
	})
}

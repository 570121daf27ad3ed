package apply

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/spock"
)

// A dump of a node's database that is restored says that it is the node, and on
// the same server even the origins bear its names. Nothing that is done there
// reaches for what is the node's.
func TestCopyOfANodeIsNotTheNode(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text); SELECT spock.repset_add_table('default', 't')")
	}
	b.subscribe(t, a, "")
	arrives := func() {
		t.Helper()
		lsn := a.text(t, "SELECT spock.sync_event()")
		b.eventually(t, fmt.Sprintf("SELECT (max(remote_lsn) >= '%s')::text FROM pg_replication_origin_status", lsn), "true")
	}
	a.exec(t, "INSERT INTO t SELECT i, 'before' FROM generate_series(1, 10) i")
	arrives()
	b.halt(t)
	b.exec(t, "CREATE DATABASE copy")
	dump := filepath.Join(t.TempDir(), "dump.sql")
	for _, words := range [][]string{{"pg_dump", "-f", dump, b.server.DSN(database)}, {"psql", "-Xqv", "ON_ERROR_STOP=1", "-f", dump, b.server.DSN("copy")}} {
		out, err := exec.Command(filepath.Join(b.server.Bin, words[0]), words[1:]...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	a.exec(t, "INSERT INTO t SELECT i, 'after' FROM generate_series(11, 20) i; UPDATE t SET v = 'later' WHERE id = 1")

	info, err := pg.ParseConnInfo(b.server.DSN("copy"))
	require.NoError(t, err)
	_, log := runLogged(t, b, info)
	heard := func(what string) {
		t.Helper()
		require.NoError(t, pgtest.WaitFor(patience, func() error {
			if text := log.all(); !strings.Contains(text, what) {
				return fmt.Errorf("%q is not there:\n%s", what, text)
			}
			return nil
		}))
	}
	heard("is a copy of node")
	require.Contains(t, log.all(), "pgdrover spock uninstall", "what to do")

	var warned []spock.Notice
	db, err := spock.Connect(t.Context(), spock.ConnectConfig{ConnInfo: info, OnNotice: func(n spock.Notice) { warned = append(warned, n) }})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close(context.WithoutCancel(t.Context()))) }()
	for _, sql := range []string{
		"SELECT spock.sub_drop('sub_n1_n2')", "SELECT spock.sub_disable('sub_n1_n2')", "SELECT spock.sub_enable('sub_n1_n2')",
		"SELECT spock.sub_create('other', '" + a.dsn() + "')", "SELECT spock.sub_resync_table('sub_n1_n2', 'public.t')",
		"SELECT spock.node_drop('n2')", "SELECT spock.node_create('n3', '" + b.dsn() + "')",
	} {
		_, err := db.Conn().Exec(t.Context(), sql)
		require.ErrorContains(t, err, `database "copy" is a copy of node "n2"`, sql)
	}
	// An upgrade makes no node of it, nor does what users do there.
	_, err = db.Conn().Exec(t.Context(), "UPDATE spock.pgdrover_schema_version SET version = version - 1")
	require.NoError(t, err)
	require.NoError(t, spock.Upgrade(t.Context(), db))
	require.ErrorContains(t, spock.CheckPlace(t.Context(), db.Conn()), "is a copy")
	_, err = db.Conn().Exec(t.Context(), "CREATE TABLE public.mine (id int PRIMARY KEY); INSERT INTO public.t VALUES (100); DELETE FROM public.t WHERE id = 2")
	require.NoError(t, err)

	warned = nil
	require.NoError(t, spock.Uninstall(t.Context(), db))
	require.Len(t, warned, 1)
	require.Contains(t, warned[0].Detail, b.text(t, "SELECT sub_slot_name FROM spock.subscription"))
	heard("wait for the database to become a node")
	require.NotContains(t, log.all(), "engine started")

	// The node has lost nothing, and the other database can be a node of its own.
	b.start(t)
	arrives()
	equal(t, "SELECT * FROM t ORDER BY id", a, b)
	require.NoError(t, spock.Install(t.Context(), db))
	_, err = db.Conn().Exec(t.Context(), "SELECT spock.node_create('n3', $1)", b.server.DSN("copy"))
	require.NoError(t, err)
	heard("engine started")
}

package zodan

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/workflow"
)

// stopAt starts the tool and stops it, without ending it, where it begins a
// phase. What is returned lets it go on.
func stopAt(t testing.TB, phase string, words ...string) (tl *tool, goOn func()) {
	t.Helper()
	stopped := make(chan struct{})
	var once atomic.Bool
	tl = begin(t, func(tl *tool, e event) {
		if e.Status == "running" && e.Phase == phase && once.CompareAndSwap(false, true) {
			_ = tl.cmd.Process.Signal(syscall.SIGSTOP)
			close(stopped)
		}
	}, words...)
	select {
	case <-stopped:
	case <-tl.ended:
		t.Fatalf("it ended before %s:\n%s", phase, tl.said())
	}
	return tl, func() { _ = tl.cmd.Process.Signal(syscall.SIGCONT) }
}

// refusedSQL runs SQL that must fail with that text.
func (n *node) refusedSQL(t testing.TB, sql, text string) {
	t.Helper()
	_, err := n.try(sql)
	require.ErrorContains(t, err, text, "%s: %s", n.name, sql)
}

// What could make nodes differ is refused, or noticed; and nothing stays behind.
// The names and connection strings are awkward on purpose.
func TestGuards(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bin := saidDisks(t)
	a := first(t, "datacenter-east-1", nil)
	b, c := newNodeFrom(t, "New York-Capital", bin, nil), newNodeFrom(t, "n3-with-a-long-name", bin, nil)
	b.odd = true
	ready(t, a, b, c)
	must(t, 0, add(dir, a, b)...)
	all := []*node{a, b, c}
	before := footprints(t, all...)
	undo := func(t *testing.T) {
		t.Helper()
		must(t, 0, append(add(dir, a, c), "--rollback")...)
		requireFootprints(t, before, all...)
	}

	// Each part begins where the one before has ended.
	part := func(name string, test func(t *testing.T)) {
		t.Helper()
		ready(t, all...)
		if !t.Run(name, test) {
			t.FailNow()
		}
	}
	part("definitions are kept", func(t *testing.T) {
		tl, goOn := stopAt(t, "J8", add(dir, a, c)...)
		for _, n := range []*node{a, b} {
			n.exec(t, "UPDATE spock.pgdrover_fence SET heartbeat = now() + interval '1 hour'") // the stopped tool cannot
			n.refusedSQL(t, "CREATE TABLE public.late (id int)", "cannot execute CREATE TABLE while n3-with-a-long-name joins the cluster")
			n.refusedSQL(t, "ALTER TABLE shop.item ADD late int", "cannot execute ALTER TABLE")
			n.refusedSQL(t, "DROP TABLE contested", "cannot execute DROP TABLE")
			n.exec(t, "CREATE TEMP TABLE scratch (id serial PRIMARY KEY); ALTER TABLE scratch ADD v text; CREATE INDEX ON scratch (v); DROP TABLE scratch")
			n.exec(t, "BEGIN; CREATE TEMP TABLE gone ON COMMIT DROP AS SELECT 1 AS x; COMMIT")
		}
		c.disconnect()
		c.refusedSQL(t, "CREATE TABLE mine (id int)", "read-only transaction")
		b.exec(t, "SET pgdrover.fence = off; CREATE TABLE public.late (id int); RESET pgdrover.fence")
		require.Contains(t, b.text(t, "SELECT tag, statement FROM spock.pgdrover_fence_bypass"), "CREATE TABLE|SET pgdrover.fence = off")
		goOn()
		require.Equal(t, 1, tl.wait(), tl.said())
		require.Contains(t, tl.said(), "definitions on New York-Capital have changed since the copy was taken: new relation public.late")
		require.Contains(t, tl.said(), "made so far on New York-Capital: ")
		b.exec(t, "SET pgdrover.fence = off; DROP TABLE public.late; RESET pgdrover.fence")
		undo(t)
	})
	part("an object in the way", func(t *testing.T) {
		c.disconnect() // its session may have begun while the node was closed
		c.exec(t, "CREATE SEQUENCE alone_id_seq")
		tl := must(t, 1, append(add(dir, a, c), "--skip-check")...)
		require.Contains(t, tl.said(), `ERROR: relation "alone_id_seq" already exists`)
		must(t, 0, append(add(dir, a, c), "--rollback")...)
		c.disconnect()
		c.exec(t, "DROP SEQUENCE alone_id_seq")
		requireFootprints(t, before, all...)
	})
	part("a slot that was moved", func(t *testing.T) {
		tl, goOn := stopAt(t, "J12", add(dir, a, c)...)
		b.exec(t, "INSERT INTO journal VALUES ('b', 0)")
		b.exec(t, "SELECT pg_replication_slot_advance(slot_name, pg_current_wal_flush_lsn()) FROM pg_replication_slots WHERE NOT active")
		goOn()
		require.Equal(t, 1, tl.wait(), tl.said())
		require.Contains(t, tl.said(), "was advanced past the copy: changes would be missing")
		undo(t)
	})
	part("what an earlier attempt has left", func(t *testing.T) { leftBefore(t, dir, a, b, c, before) })
	part("an open transaction", func(t *testing.T) { openTransaction(t, dir, a, b, c, before) })
	part("a function that is not there", func(t *testing.T) {
		for _, gone := range []struct {
			n                  *node
			schema, name, args string
		}{
			{a, "spock", "sync_event", "boolean"},
			{b, "pg_catalog", "pg_replication_slot_advance", "name, pg_lsn"},
			{a, "spock", "sub_create", "name, text, text[], boolean, boolean, text[], interval, boolean, boolean, text[]"},
		} {
			rename := func(from, to string) {
				gone.n.exec(t, fmt.Sprintf("SET pgdrover.fence = off; SET allow_system_table_mods = on; ALTER FUNCTION %s.%s(%s) RENAME TO %s; "+
					"RESET allow_system_table_mods; RESET pgdrover.fence", gone.schema, from, gone.args, to))
			}
			rename(gone.name, "hidden")
			tl := must(t, 1, add(dir, a, c)...)
			require.Regexp(t, "function "+strings.ReplaceAll(gone.schema+"."+gone.name, "pg_catalog", ".*")+`\(.*\) does not exist`, tl.said())
			rename("hidden", gone.name)
			undo(t)
			ready(t, all...)
		}
	})
	part("a disk that gets full", func(t *testing.T) { fullDisks(t, dir, a, b, c, before) })
	part("a half added node", func(t *testing.T) {
		for _, phase := range []string{"J8", "J13"} {
			tl := begin(t, func(tl *tool, e event) {
				if e.Status == "running" && e.Phase == phase {
					tl.kill()
				}
			}, add(dir, a, c)...)
			require.Equal(t, -1, tl.wait(), tl.said())
			must(t, 0, remove(dir, c)...)
			requireFootprints(t, before, all...)
			ready(t, all...)
		}
	})
	part("a half added node that is gone", func(t *testing.T) {
		tl := begin(t, func(tl *tool, e event) {
			if e.Status == "running" && e.Phase == "J14" {
				tl.kill()
			}
		}, add(dir, a, c)...)
		require.Equal(t, -1, tl.wait(), tl.said())
		c.disconnect()
		c.server.Stop(t, syscall.SIGKILL)
		must(t, 0, call(dir, "remove_node", "--target-node-name="+c.name, "--target-node-dsn="+c.dsn(), "--survivor-dsn="+a.dsn())...)
		requireFootprints(t, before, a, b)
	})
}

// subscriptionOf is the name of a subscription, slotOf that of its slot, as both servers compute them.
func subscriptionOf(provider, subscriber *node) string {
	return workflow.SubscriptionName(provider.name, subscriber.name)
}

func slotOf(t *testing.T, provider, subscriber *node) string {
	t.Helper()
	return subscriber.text(t, fmt.Sprintf("SELECT spock.spock_gen_slot_name(current_database(), '%s', '%s')", provider.name, subscriptionOf(provider, subscriber)))
}

// leftBefore: what bears the names that a join gives is refused, with what it is
// and how to go on, or goes before anything is made in its place.
func leftBefore(t *testing.T, dir string, a, b, c *node, before map[string]string) {
	t.Helper()
	c.disconnect() // its session may have begun while the node was closed
	toA, toB, fromA, fromB := slotOf(t, c, a), slotOf(t, c, b), slotOf(t, a, c), slotOf(t, b, c)
	for at, origin := range map[*node]string{a: toA, b: toB, c: fromB} { // as the engine of a database that is gone leaves them: far ahead
		at.exec(t, fmt.Sprintf("SELECT pg_replication_origin_create('%s'), pg_replication_origin_advance('%[1]s', 'FFFF/0')", origin))
	}
	b.exec(t, fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s', 'pgoutput')", fromB))
	c.exec(t, fmt.Sprintf("SELECT spock.node_create('%s', %s)", c.name, quote(c.dsn())))
	c.exec(t, fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s', 'pgoutput')", toB))
	c.exec(t, fmt.Sprintf("SELECT spock.sub_create('%s', %s, enabled := false)", subscriptionOf(a, c), quote(a.dsn())))
	left := footprints(t, a, b, c)
	var list []string
	for _, x := range []workflow.Leftover{
		{Kind: "subscription", Name: subscriptionOf(a, c), Node: c.name},
		{Kind: "node", Name: c.name, Node: c.name},
		{Kind: "node", Name: a.name, Node: c.name},
		{Kind: "origin", Name: toA, Node: a.name},
		{Kind: "slot", Name: fromB, Node: b.name},
		{Kind: "origin", Name: toB, Node: b.name},
		{Kind: "slot", Name: toB, Node: c.name},
		{Kind: "origin", Name: fromB, Node: c.name},
	} {
		list = append(list, x.String())
	}
	refusal := func(tl *tool) {
		t.Helper()
		require.Contains(t, tl.said(), "left by an earlier attempt: ")
		for _, x := range list {
			require.Contains(t, tl.said(), x)
		}
		require.Contains(t, tl.said(), "--adopt-stale=drop drops it before the node joins")
		require.Equal(t, left, footprints(t, a, b, c), "nothing was changed")
	}
	refusal(must(t, 5, add(dir, a, c)...))
	refusal(must(t, 5, append(add(dir, a, c), "--skip-check")...))
	require.Contains(t, must(t, 2, append(add(dir, a, c), "--adopt-stale=keep")...).said(), `--adopt-stale must be drop, not "keep"`)
	words := append(add(dir, a, c), "--adopt-stale=drop")
	// What is used is no left-over, whatever its name.
	a.server.Exec(t, "postgres", fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s_', 'pgoutput')", fromA))
	require.NotContains(t, must(t, 0, append(words, "--dry-run")...).said(), "FAIL")
	a.server.Exec(t, "postgres", fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s', 'pgoutput'), pg_drop_replication_slot('%[1]s_')", fromA))
	require.Contains(t, must(t, 5, words...).said(), fmt.Sprintf("slot %s on %s (used by database postgres)", fromA, a.name))
	a.server.Exec(t, "postgres", fmt.Sprintf("SELECT pg_drop_replication_slot('%s')", fromA))
	require.Equal(t, left, footprints(t, a, b, c), "nothing was changed")

	must(t, 0, words...)
	c.disconnect() // its session may have begun while the node was closed
	c.exec(t, "INSERT INTO journal VALUES ('from the new node', 1)")
	settle(t, a, b, c)
	for _, sql := range compared {
		equal(t, sql, a, b, c)
	}
	equal(t, "SELECT count(*) FROM journal WHERE node = 'from the new node'", a, b, c)
	must(t, 0, remove(dir, c)...)
	requireFootprints(t, before, a, b, c)
}

// openTransaction has a transaction open on a peer for as long as it likes: the
// wait says whom it waits for, nothing else stands still, and a tool that is
// killed meanwhile is no harm.
func openTransaction(t *testing.T, dir string, a, b, c *node, before map[string]string) {
	t.Helper()
	rolesAreCreated(t, dir, a, c)
	onPeer, onSource := openOn(t, b), openOn(t, a)
	// What is not copied: a schema that the new node has already.
	a.exec(t, "CREATE SCHEMA archive; CREATE TABLE archive.old AS SELECT 1 AS id; ALTER TABLE archive.old ADD PRIMARY KEY (id); "+
		"SELECT spock.repset_add_table('default', 'archive.old')")
	c.disconnect() // its session may have begun while the node was closed
	c.exec(t, "CREATE SCHEMA archive")
	meanwhile := 0
	// Whatever waits, what one node writes reaches the other.
	goesOn := func() {
		for began := time.Now(); ; {
			meanwhile++
			b.exec(t, fmt.Sprintf("INSERT INTO journal VALUES ('meanwhile', %d)", meanwhile))
			a.eventually(t, "SELECT max(number) FROM journal WHERE node = 'meanwhile'", strconv.Itoa(meanwhile))
			if time.Since(began) >= openFor() || !pause(t.Context(), time.Second) {
				return
			}
		}
	}
	words := append(add(dir, a, c), "--create-roles")
	tl := begin(t, nil, words...)
	tl.waitsFor(t, "J3")
	goesOn()
	tl.kill()
	tl.wait()
	tl = begin(t, nil, words...)
	tl.waitsFor(t, "J3")
	onPeer()
	tl.waitsFor(t, "J8")
	goesOn()
	onSource()
	require.Zero(t, tl.wait(), tl.said())
	settle(t, a, b, c)
	for _, sql := range compared {
		equal(t, sql, a, b, c)
	}
	require.Equal(t, fmt.Sprintf("2|%d", meanwhile), c.text(t, "SELECT count(*) FILTER (WHERE node ~ 'long'), count(*) FILTER (WHERE node = 'meanwhile') FROM journal"))
	require.Equal(t, "0", c.text(t, "SELECT count(*) FROM pg_class WHERE relnamespace = 'archive'::regnamespace"), "what lies in an excluded schema")
	require.Equal(t, "0|0", c.text(t, "SELECT count(*), (SELECT count(*) FROM spock.replication_set_table WHERE set_reloid = 'kept_out'::regclass) FROM kept_out"))
	a.exec(t, "DROP SCHEMA archive CASCADE")
	c.disconnect() // its session began while the node was closed
	require.Equal(t, "t", c.text(t, "SELECT nextval('alone_id_seq') > 1000"), "sequences are past those of the source")
	require.Equal(t, "extra|{id,open}|open", c.text(t, `SELECT s.set_name, t.set_att_list, pg_get_expr(t.set_row_filter, t.set_reloid)
		FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id) WHERE t.set_reloid = 'part'::regclass`))
	require.Equal(t, rolesOfSource, c.text(t, qRoles))
	a.exec(t, "DROP OWNED BY clerk; DROP ROLE clerk, keepers")
	must(t, 0, remove(dir, c)...)
	c.disconnect()
	c.exec(t, "DROP SCHEMA archive; DROP ROLE clerk, keepers")
	requireFootprints(t, before, a, b, c)
}

// qRoles are the roles of the next test, with what they may, and whose members they are.
const qRoles = `SELECT string_agg(concat_ws(' ', r.rolname, r.rolcanlogin, r.rolcreatedb, r.rolconnlimit, g.rolname), ', ' ORDER BY r.rolname)
	FROM pg_roles r LEFT JOIN pg_auth_members m ON m.member = r.oid LEFT JOIN pg_roles g ON g.oid = m.roleid WHERE r.rolname IN ('clerk', 'keepers')`

const rolesOfSource = "clerk t t 7 keepers, keepers f f -1"

// rolesAreCreated: what the new node's server lacks of roles is refused, or
// created, and goes again when the join is undone. The source keeps them.
func rolesAreCreated(t *testing.T, dir string, a, c *node) {
	t.Helper()
	a.exec(t, "CREATE ROLE keepers; CREATE ROLE clerk LOGIN CREATEDB CONNECTION LIMIT 7 IN ROLE keepers; GRANT SELECT ON contested TO clerk")
	tl := must(t, 5, add(dir, a, c)...)
	require.Contains(t, tl.said(), "new node "+c.name+" lacks the roles clerk, keepers")
	words := append(add(dir, a, c), "--create-roles")
	tl = begin(t, func(tl *tool, e event) {
		if e.Status == "running" && e.Phase == "J6" {
			tl.kill()
		}
	}, words...)
	require.Equal(t, -1, tl.wait(), tl.said())
	require.Equal(t, rolesOfSource, c.text(t, qRoles))
	must(t, 0, append(words, "--rollback")...)
	require.Empty(t, c.text(t, qRoles))
}

// openVar makes transactions stay open for that time while a join waits for them.
const openVar = "PGDROVER_TEST_OPEN_TRANSACTION"

func openFor() time.Duration {
	d, _ := time.ParseDuration(os.Getenv(openVar)) // nothing is no time
	return d
}

// openOn opens a transaction on a node that has written; what is returned commits it.
func openOn(t *testing.T, n *node) (commit func()) {
	t.Helper()
	long, err := pgx.Connect(t.Context(), n.server.DSN(database))
	require.NoError(t, err)
	t.Cleanup(func() { _ = long.Close(context.WithoutCancel(t.Context())) })
	_, err = long.Exec(t.Context(), "BEGIN")
	require.NoError(t, err)
	_, err = long.Exec(t.Context(), "INSERT INTO journal VALUES ('long on ' || $1, 1)", n.name)
	require.NoError(t, err)
	return func() {
		_, err := long.Exec(t.Context(), "COMMIT")
		require.NoError(t, err)
	}
}

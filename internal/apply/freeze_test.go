package apply

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// A table that came with the copy is frozen: who builds its index finds that all
// see its rows, and has nothing to write. The rows keep the copy's stamp, and
// later changes find them. Where a publication of others would tell of it, the
// table is copied like any other.
func TestTablesThatComeWithACopyAreFrozen(t *testing.T) {
	t.Parallel()
	for name, told := range map[string]bool{"by itself": false, "with a publication of all tables": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
			a.exec(t, `CREATE TABLE whole (id int, v text, j jsonb, PRIMARY KEY (id)) PARTITION BY RANGE (id);
				CREATE TABLE part PARTITION OF whole FOR VALUES FROM (0) TO (1000000); CREATE TABLE small (id int PRIMARY KEY REFERENCES whole);
				INSERT INTO whole SELECT i, 'row ' || i, '{"a": 1}' FROM generate_series(1, 20000) i; INSERT INTO small SELECT generate_series(1, 10);
				SELECT spock.repset_add_table('default', t::regclass) FROM unnest('{whole,small}'::text[]) t`)
			b.stopEngine()
			b.frozen = frozenMost
			b.start(t)
			if told {
				b.exec(t, "CREATE PUBLICATION native FOR ALL TABLES")
			}
			b.subscribe(t, a, ", synchronize_structure := true, synchronize_data := true")
			require.Equal(t, fmt.Sprint(!told), b.text(t, "SELECT (relallvisible > 0)::text FROM pg_class WHERE relname = 'part'"))
			require.Equal(t, "1970|t", b.text(t, `SELECT DISTINCT extract(year FROM s."timestamp"), s.roident <> 0 FROM part
				CROSS JOIN LATERAL pg_xact_commit_timestamp_origin(part.xmin) s`))
			require.Equal(t, "1", b.text(t, "SELECT count(DISTINCT xmin::text) FROM small"))
			a.exec(t, "UPDATE whole SET v = 'new' WHERE id % 100 = 0; DELETE FROM whole WHERE id % 100 = 1 AND id > 10; INSERT INTO whole VALUES (0, 'zero')")
			lsn := a.text(t, "SELECT spock.sync_event()")
			b.eventually(t, fmt.Sprintf("SELECT (max(remote_lsn) >= '%s')::text FROM pg_replication_origin_status", lsn), "true")
			equal(t, "SELECT count(*), sum(hashtext(w::text)::bigint) FROM whole w", a, b)
		})
	}
}

// A table that somebody reads, or has written, is not emptied.
func TestTablesInUseAreNotFrozen(t *testing.T) {
	t.Parallel()
	s := newServer(t, "n1", nil)
	user := s.Connect(t, database)
	l := &lane{local: s.Connect(t, database).PgConn()}
	fresh := copied{schema: "public", name: "t"}
	ask := func(text string) {
		t.Helper()
		_, err := user.Exec(t.Context(), text)
		require.NoError(t, err)
	}
	take := func() error {
		require.NoError(t, runAll(t.Context(), l.local, "BEGIN"))
		defer func() { require.NoError(t, l.rollback(t.Context())) }()
		return l.takeFresh(t.Context(), fresh)
	}
	ask("CREATE TABLE t (id int)")
	require.NoError(t, take())
	ask("BEGIN")
	ask("SELECT FROM t")
	require.ErrorIs(t, take(), errTouched)
	ask("INSERT INTO t VALUES (1)")
	require.ErrorIs(t, take(), errTouched)
	ask("COMMIT")
	require.ErrorIs(t, take(), errTouched)
	ask("DROP TABLE t")
	require.Error(t, take())
	require.NotErrorIs(t, take(), errTouched)
}

// A table's pieces expect together what the table has, also what is stored aside.
func TestShareOfAPiece(t *testing.T) {
	t.Parallel()
	table := copied{pages: 100, size: 100 * 50_000}
	require.Equal(t, table.size, table.cut(1000)[0].share())
	var sum int64
	for _, p := range table.cut(30) {
		sum += p.share()
	}
	require.Equal(t, table.size, sum)
	require.Zero(t, copied{}.cut(30)[0].share())
}

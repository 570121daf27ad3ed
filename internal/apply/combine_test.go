package apply

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// Transactions that look alike are written with few statements. Their rows and
// stamps are as if each change had been written alone, also where one of them is
// in conflict, lost to a delete, or on a table with a trigger that looks around.
func TestAlikeTransactions(t *testing.T) {
	t.Parallel()
	const schema = `CREATE TABLE x (id int PRIMARY KEY, n int); CREATE TABLE y (id int PRIMARY KEY, v text); CREATE TABLE z (id int PRIMARY KEY, v text);
		CREATE TABLE log (n int); CREATE TABLE seen (id int PRIMARY KEY, rows bigint);
		CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.rows := (SELECT count(*) FROM public.log); RETURN NEW; END';
		CREATE TRIGGER look BEFORE INSERT ON seen FOR EACH ROW EXECUTE FUNCTION look(); ALTER TABLE seen ENABLE ALWAYS TRIGGER look;
		SELECT spock.repset_add_table('default', c::regclass) FROM unnest('{x,y,z,seen}'::text[]) c;
		SELECT spock.repset_add_table('default_insert_only', 'log');`
	a, b := pairOf(t, schema, "", nil)
	a.exec(t, "INSERT INTO x SELECT i, 0 FROM generate_series(1, 100) i; INSERT INTO y SELECT i, 'old' FROM generate_series(1, 100) i")
	settle(t, a, b)
	a.halt(t)
	b.halt(t)
	for i := range 60 {
		a.exec(t, fmt.Sprintf(`BEGIN; UPDATE x SET n = n + 1 WHERE id = %[1]d; UPDATE y SET v = 'a' WHERE id = %[1]d; INSERT INTO z VALUES (%[1]d, 'a');
			INSERT INTO log VALUES (%[1]d); INSERT INTO seen (id) VALUES (%[1]d); UPDATE x SET n = n + 1 WHERE id = %[1]d; DELETE FROM y WHERE id = %[1]d + 40 AND id > 60; COMMIT`, i+1))
	}
	// Later: an update that wins, a row that is gone, a key that was deleted again.
	b.exec(t, "UPDATE y SET v = 'b' WHERE id = 10; DELETE FROM x WHERE id = 20; INSERT INTO z VALUES (30, 'b'); DELETE FROM z WHERE id = 30")
	a.start(t)
	b.start(t)
	settle(t, a, b)
	for _, table := range []string{"x", "y", "z"} {
		equal(t, "SELECT * FROM "+table+" ORDER BY id", a, b)
		equal(t, "SELECT id, pg_xact_commit_timestamp(xmin) FROM "+table+" ORDER BY id", a, b)
	}
	equal(t, "SELECT id, rows FROM seen ORDER BY id", a, b)
	require.Equal(t, "60|60", b.text(t, "SELECT count(*), count(DISTINCT n) FROM log"))
	require.Equal(t, "b", b.text(t, "SELECT v FROM y WHERE id = 10"))
	require.Equal(t, "0|0", b.text(t, "SELECT (SELECT count(*) FROM x WHERE id = 20), (SELECT count(*) FROM z WHERE id = 30)"))
	require.Equal(t, "0", b.text(t, "SELECT count(*) FROM spock.exception_log"))
}

// A provider's clock was set back: what it writes then is older than its own
// rows, and is applied all the same.
func TestRowsFromTheFutureOfTheirAuthor(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, keyed, "", nil)
	a.exec(t, "INSERT INTO t SELECT i, 'first' FROM generate_series(1, 20) i")
	settle(t, a, b)
	b.halt(t)
	// On the subscriber the rows get a later stamp of the same author.
	b.exec(t, `SELECT pg_replication_origin_session_setup(sub_slot_name) FROM spock.subscription;
		BEGIN; SET LOCAL session_replication_role = replica; UPDATE t SET v = v;
		SELECT pg_replication_origin_xact_setup('0/0', now() + interval '1 hour'); COMMIT; SELECT pg_replication_origin_session_reset()`)
	for i := range 20 {
		a.exec(t, fmt.Sprintf("UPDATE t SET v = 'second' WHERE id = %d", i+1))
	}
	b.start(t)
	settle(t, a, b)
	equal(t, "SELECT * FROM t ORDER BY id", a, b)
}

func TestShapes(t *testing.T) {
	t.Parallel()
	part := func(m *parameters, number int, time, _ string) (tables, counted string) {
		return fmt.Sprintf("w%d AS (UPDATE t SET v = %s WHERE %s RETURNING 1)", number, m.add(textOID), time), fmt.Sprintf("w%d", number)
	}
	rows := []waiting{{plan: &plan{id: 1, part: part}}, {plan: &plan{id: 2, part: part}}}
	session := &session{prepared: map[string]string{}}
	var s shapes
	for range commonShape - 1 {
		require.Nil(t, s.find(session, partsShape, rows, true), "it is not known to be common yet")
	}
	known := s.find(session, partsShape, rows, true)
	require.NotNil(t, known)
	require.Equal(t, []uint32{timestamptzOID, pgLSNOID, pgLSNOID, textOID, textOID}, known.types)
	require.True(t, strings.HasSuffix(known.text, ", pg_replication_origin_xact_setup($3, $1)"), known.text)
	require.Nil(t, s.find(session, partsShape, rows, false), "without a stamp it is another one")

	// What was prepared is taken back before too many are known.
	session.execute(known.text, known.types, make([]pgoutput.Value, len(known.types)), op{})
	require.Contains(t, session.prepared, known.text)
	for i := range maxShapes {
		s.find(session, partsShape, []waiting{{plan: &plan{id: i + 3, part: part}}}, false)
	}
	require.NotContains(t, session.prepared, known.text)
}

package apply

import "testing"

// A row that is here stands upon an older one of the same author, since what
// that author wrote over has yet to come: an update brings what its author has,
// also in a column that the server lets no update write.
func TestColumnsThatNoUpdateWrites(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, `CREATE TABLE t (id int PRIMARY KEY, v text, serial bigint GENERATED ALWAYS AS IDENTITY, more int);
		SELECT spock.repset_add_table('default', 't')`, "", nil)
	a.exec(t, "INSERT INTO t (id, v) SELECT i, 'first' FROM generate_series(1, 40) i")
	settle(t, a, b)
	b.halt(t)
	b.exec(t, `SELECT pg_replication_origin_session_setup(sub_slot_name) FROM spock.subscription;
		BEGIN; SET LOCAL session_replication_role = replica;
		WITH gone AS (DELETE FROM t RETURNING *) INSERT INTO t OVERRIDING SYSTEM VALUE SELECT id, v, serial + 1000, more FROM gone;
		SELECT pg_replication_origin_xact_setup('0/0', now() - interval '1 minute'); COMMIT; SELECT pg_replication_origin_session_reset()`)
	for _, sql := range []string{
		"UPDATE t SET v = 'one' WHERE id = 1", // alone
		"UPDATE t SET v = 'run' WHERE id BETWEEN 2 AND 30",
		"BEGIN; UPDATE t SET v = 'first of two' WHERE id = 31; UPDATE t SET more = 7 WHERE id = 31; UPDATE t SET v = 'other' WHERE id = 32; COMMIT",
	} {
		a.exec(t, sql)
	}
	b.start(t)
	settle(t, a, b)
	equal(t, "SELECT * FROM t WHERE id <= 32 ORDER BY id", a, b)
}

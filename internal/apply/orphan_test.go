package apply

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A node that joins gets rows that refer to none, and the foreign keys without a
// check of them; the others are checked as ever.
func TestJoinWithOrphans(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	a.exec(t, `CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE "a kid" (id int PRIMARY KEY, p int CONSTRAINT "its parent" REFERENCES parent ON DELETE CASCADE, q int CONSTRAINT good REFERENCES parent);
		COMMENT ON CONSTRAINT "its parent" ON "a kid" IS 'said'; CREATE INDEX ON "a kid" (q); COMMENT ON INDEX "a kid_q_idx" IS 'said as well';
		CREATE TABLE parted (id int PRIMARY KEY, p int) PARTITION BY RANGE (id); CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (100);
		ALTER TABLE parted ADD CONSTRAINT whole FOREIGN KEY (p) REFERENCES parent;
		SELECT spock.repset_add_table('default', r) FROM unnest(ARRAY['parent', '"a kid"', 'parted']::regclass[]) r;
		INSERT INTO parent VALUES (1), (2); INSERT INTO "a kid" VALUES (1, 1, 1), (2, 2, 1); INSERT INTO parted VALUES (1, 2);
		SET session_replication_role = replica; DELETE FROM parent WHERE id = 2; RESET session_replication_role`)
	b.subscribe(t, a, wholeCopy)
	require.Equal(t, "2|1|1", b.text(t, `SELECT (SELECT count(*) FROM "a kid"), (SELECT count(*) FROM parent), (SELECT count(*) FROM parted)`))
	require.Equal(t, "good t ,its parent f said", b.text(t, `SELECT string_agg(concat_ws(' ', conname, convalidated::text::"char", coalesce(obj_description(oid), '')), ',' ORDER BY conname)
		FROM pg_constraint WHERE contype = 'f' AND conrelid = '"a kid"'::regclass`))
	require.Equal(t, "said as well", b.text(t, `SELECT obj_description('"a kid_q_idx"'::regclass)`))
	require.Regexp(t, `without a check.*ALTER TABLE ONLY public..*its parent.*NOT VALID`, b.warnings())
	_, err := b.try(t, `INSERT INTO "a kid" VALUES (3, 7, 1)`)
	require.ErrorContains(t, err, "its parent")
	b.exec(t, `DELETE FROM "a kid" WHERE id = 2; ALTER TABLE "a kid" VALIDATE CONSTRAINT "its parent"`)
}

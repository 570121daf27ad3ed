package pgautofailover

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// SchemaNumber is the version of the schema that this program installs and needs.
const SchemaNumber = 2

// CompatVersion is the version of the pgautofailover extension that old
// keepers are told by default; setting pgautofailover.extension_version changes it.
const CompatVersion = "2.2"

//go:embed sql/*.sql sql/upgrade/*.sql
var sqlFiles embed.FS

// installOrder lists the files of an installation; each may use what those before it made.
func installOrder() []string { return slices.Concat(tableFiles(), functionFiles(), lastFiles()) }

// tableFiles make what holds data: an upgrade changes it by statements of its own.
func tableFiles() []string { return []string{"01_schema.sql", "02_table.sql"} }

// functionFiles make what follows from the program alone: an upgrade runs them
// again over what is there. Views and grants of the operator's on our functions
// thus stay.
func functionFiles() []string {
	return []string{
		"03_lock.sql", "04_notify.sql", "05_first_goal.sql", "06_check.sql",
		"07_formation.sql", "08_register.sql", "09_report.sql", "10_request.sql", "11_setting.sql", "12_read.sql",
		"13_decider.sql", "14_introspect.sql",
	}
}

// lastFiles follow when only the functions of this version are left.
func lastFiles() []string { return []string{"20_grant.sql"} }

// upgrade brings a schema from one version to the next.
type upgrade struct {
	from int
	file string
}

// upgrades lists the steps between versions, oldest first; the first version needs none.
func upgrades() []upgrade { return []upgrade{{from: 1, file: "upgrade/1--2.sql"}} }

// dropOld takes away the functions that this transaction has not written: those
// of the version before. Functions of an extension stay, which may have been put
// into our schema.
const dropOld = `
DO $$
DECLARE
    fn regprocedure;
BEGIN
    FOR fn IN
        SELECT p.oid FROM pg_catalog.pg_proc p
         WHERE p.pronamespace = 'pgautofailover'::regnamespace
           AND p.xmin <> pg_catalog.pg_current_xact_id()::xid
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                            WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
    LOOP
        EXECUTE pg_catalog.format('DROP ROUTINE %s', fn);
    END LOOP;
END
$$`

var (
	// ErrNotInstalled says that the database has no schema pgautofailover of ours.
	ErrNotInstalled = errors.New("read the version of schema pgautofailover: it is not installed")
	errForeign      = hinted{
		"install schema pgautofailover: a schema of this name is there already and was not made by this program",
		"Use another database, or drop the schema if nothing in it is needed.",
	}
)

// hinted is an error that an operator can fix.
type hinted struct{ text, hint string }

func (e hinted) Error() string { return e.text }

// Hint says what to do.
func (e hinted) Hint() string { return e.hint }

const (
	qInstallLock   = `SELECT pg_advisory_xact_lock(727400001, 0)`
	qSchemaExists  = `SELECT to_regnamespace('pgautofailover') IS NOT NULL, to_regclass('pgautofailover.schema_version') IS NOT NULL`
	qSchemaVersion = `SELECT version FROM pgautofailover.schema_version`
	qStoreVersion  = `UPDATE pgautofailover.schema_version SET version = $1, installed_at = now()`
)

// Install creates the schema in the database of db, or upgrades an older one;
// one that is current is left alone. It runs in one transaction, and
// concurrent calls wait for each other.
func Install(ctx context.Context, db *DB) error {
	return change(ctx, db, true)
}

// Upgrade brings an installed schema to this program's version; ErrNotInstalled when there is none.
func Upgrade(ctx context.Context, db *DB) error {
	return change(ctx, db, false)
}

// SchemaVersion returns the version of the installed schema, or ErrNotInstalled.
func SchemaVersion(ctx context.Context, db *DB) (int, error) {
	return schemaVersion(ctx, db.conn)
}

func schemaVersion(ctx context.Context, q querier) (int, error) {
	const op = "read the version of schema pgautofailover"
	var schema, ours bool
	if err := q.QueryRow(ctx, qSchemaExists).Scan(&schema, &ours); err != nil {
		return 0, wrap(op, err)
	}
	if !schema {
		return 0, ErrNotInstalled
	}
	if !ours {
		return 0, errForeign
	}
	var version int
	err := q.QueryRow(ctx, qSchemaVersion).Scan(&version)
	return version, wrap(op, err)
}

func change(ctx context.Context, db *DB, install bool) error {
	const op = "install schema pgautofailover"
	tx, err := db.conn.Begin(ctx)
	if err != nil {
		return wrap(op, err)
	}
	defer rollback(ctx, tx)
	// Somebody else's installation may take longer than a session's usual patience.
	if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = '60s'`); err != nil {
		return wrap(op, err)
	}
	if _, err := tx.Exec(ctx, qInstallLock); err != nil {
		return wrap(op, err)
	}
	version, err := schemaVersion(ctx, tx)
	switch {
	case errors.Is(err, ErrNotInstalled) && install:
		err = runFiles(ctx, tx, installOrder())
	case errors.Is(err, errForeign) && !install:
		err = takeOver(ctx, tx)
	case err == nil && version < SchemaNumber:
		err = raise(ctx, tx, version)
	case err == nil && version > SchemaNumber:
		err = hinted{
			fmt.Sprintf("upgrade schema pgautofailover: it has version %d, this program knows %d", version, SchemaNumber),
			"Use the program that installed it, or a newer one.",
		}
	}
	if err != nil {
		return err
	}
	if err := storeTables(ctx, tx); err != nil {
		return err
	}
	if version != SchemaNumber {
		if _, err := tx.Exec(ctx, qStoreVersion, SchemaNumber); err != nil {
			return wrap(op, err)
		}
	}
	return wrap(op, tx.Commit(ctx))
}

// raise brings the schema from a version to this program's.
func raise(ctx context.Context, tx pgx.Tx, version int) error {
	var files []string
	for _, u := range upgrades() {
		if u.from >= version {
			files = append(files, u.file)
		}
	}
	if err := runFiles(ctx, tx, append(files, functionFiles()...)); err != nil {
		return inTheWay(err)
	}
	if _, err := tx.Conn().PgConn().Exec(ctx, dropOld).ReadAll(); err != nil {
		return inTheWay(wrap("drop the functions of the version before", err))
	}
	return runFiles(ctx, tx, lastFiles())
}

// inTheWay says what to do about somebody's view that needs a function which has to go.
func inTheWay(err error) error {
	server, ok := errors.AsType[*ServerError](err)
	if !ok || server.Code != pgerrcode.DependentObjectsStillExist {
		return err
	}
	return hinted{
		fmt.Sprintf("upgrade schema pgautofailover: %s: %s", server.Message, strings.ReplaceAll(server.Detail, "\n", ", ")),
		"Drop what depends on it, start the monitor again, and make it anew.",
	}
}

func runFiles(ctx context.Context, tx pgx.Tx, files []string) error {
	for _, file := range files {
		text, err := sqlFiles.ReadFile("sql/" + file)
		if err != nil {
			return fmt.Errorf("read embedded %s: %w", file, err)
		}
		// Without arguments the simple protocol runs a whole script.
		if _, err := tx.Conn().PgConn().Exec(ctx, string(text)).ReadAll(); err != nil {
			return wrap("run "+file, err)
		}
	}
	return nil
}

const (
	qStoreRules = `
WITH gone AS (DELETE FROM pgautofailover.fsm_rule r WHERE r.rank > cardinality($1::int[]))
INSERT INTO pgautofailover.fsm_rule AS r (rank, pos, section, name, comment)
SELECT t.rank, t.pos, t.section, t.name, t.comment
  FROM unnest($1::int[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS t(pos, section, name, comment, rank)
    ON CONFLICT (rank) DO UPDATE
   SET pos = excluded.pos, section = excluded.section, name = excluded.name, comment = excluded.comment
 WHERE (r.pos, r.section, r.name, r.comment) IS DISTINCT FROM (excluded.pos, excluded.section, excluded.name, excluded.comment)`
	qStoreOrders = `
WITH new AS (
    SELECT f::pgautofailover.replication_state AS current_state, t::pgautofailover.replication_state AS assigned_state
      FROM unnest($1::text[], $2::text[]) AS e(f, t)
), gone AS (
    DELETE FROM pgautofailover.fsm_order o WHERE (o.current_state, o.assigned_state) NOT IN (SELECT * FROM new)
)
INSERT INTO pgautofailover.fsm_order SELECT * FROM new ON CONFLICT DO NOTHING`
)

// storeTables shows this program's state machine in the database.
func storeTables(ctx context.Context, tx pgx.Tx) error {
	var pos []int
	var sections, names, comments, from, to []string
	for _, r := range fsm.RuleDocs() {
		pos, sections = append(pos, r.Pos), append(sections, ruleSection(r.Pos))
		names, comments = append(names, r.Name), append(comments, r.Text)
	}
	for _, e := range fsm.Orders() {
		from, to = append(from, e.From.String()), append(to, e.To.String())
	}
	if _, err := tx.Exec(ctx, qStoreRules, pos, sections, names, comments); err != nil {
		return wrap("store the state machine's rules", err)
	}
	_, err := tx.Exec(ctx, qStoreOrders, from, to)
	return wrap("store the state machine's orders", err)
}

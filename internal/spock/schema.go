package spock

import (
	"context"
	"embed"
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
)

// SchemaNumber is the version of the schema that this program installs and needs.
const SchemaNumber = 10

// CompatVersion is the version of Spock that the schema says it is.
const CompatVersion = "5.0.11"

//go:embed sql/*.sql sql/upgrade/*.sql
var sqlFiles embed.FS

// installOrder lists the files of an installation; each may use what those before it made.
func installOrder() []string {
	return append([]string{"01_schema.sql", "02_table.sql", "03_private.sql"}, repeatable()...)
}

// repeatable lists the files that may run again over what they made: functions, views, triggers, rights, and tables that
// came later. Every upgrade runs them all.
func repeatable() []string {
	return []string{
		"04_name.sql", "05_setting.sql", "06_text.sql", "07_key.sql",
		"08_tombstone.sql", "09_origin.sql", "10_remote.sql", "11_node.sql", "12_repset.sql", "13_row_filter.sql",
		"14_sequence.sql", "15_subscription.sql", "16_sync.sql", "17_event.sql", "18_ddl.sql", "19_drop.sql",
		"20_delta.sql", "21_view.sql", "22_run.sql", "23_fence.sql", "24_inventory.sql", "25_zodan.sql", "30_trigger.sql", "31_fence_trigger.sql",
		"40_grant.sql",
	}
}

// upgradeOrder lists the files that bring a schema of an older version up to date: for each version on the way what
// running the repeatable files again cannot do (another shape of a table, a function that takes other arguments), then
// these, then what follows every upgrade.
func upgradeOrder(from int) []string {
	var files []string
	for v := from; v < SchemaNumber; v++ {
		files = append(files, fmt.Sprintf("upgrade/%d--%d.sql", v, v+1))
	}
	return append(append(files, repeatable()...), "upgrade/each.sql")
}

const (
	qInstallLock  = `SELECT pg_advisory_xact_lock(727400010, 0)`
	qSchemaExists = `
SELECT to_regnamespace('spock') IS NOT NULL, to_regclass('spock.pgdrover_schema_version') IS NOT NULL,
       EXISTS (SELECT FROM pg_extension WHERE extname = 'spock')`
	qSchemaVersion = `SELECT version FROM spock.pgdrover_schema_version`
	qIsCopy        = `SELECT pgdrover.is_copy()`
	qRefuseCopy    = `SELECT pgdrover.refuse_copy()`
	qStoreVersion  = `UPDATE spock.pgdrover_schema_version SET version = $1, installed_at = now()`
	qQuiet         = `SELECT set_config('pgdrover.internal', 'on', true)`
	// What applies is between two transactions as long as this one lasts: nobody holds a table that an upgrade changes.
	qPauseForUpgrade = `SELECT set_config('client_min_messages', 'warning', true), pg_advisory_xact_lock(727400012, 0)`
)

// AwaitSchemaChange waits until no installation, upgrade or removal is under way.
const AwaitSchemaChange = `SELECT pg_advisory_xact_lock_shared(727400010, 0)`

// errForeign says whose the schema is.
func errForeign(extension bool) error {
	if extension {
		return hinted{
			"install schema spock: the extension spock of pgEdge is installed",
			"Use another database, or drop the extension first: DROP EXTENSION spock.",
		}
	}
	return hinted{
		"install schema spock: a schema of this name is there already and was not made by this program",
		"Use another database, or drop the schema if nothing in it is needed.",
	}
}

// Install creates the schema in the database of db, or upgrades an older one;
// one that is current is left alone. It runs in one transaction, and
// concurrent calls wait for each other.
func Install(ctx context.Context, db *DB) error { return change(ctx, db, true) }

// Upgrade brings an installed schema to this program's version; ErrNotInstalled when there is none.
func Upgrade(ctx context.Context, db *DB) error { return change(ctx, db, false) }

// SchemaVersion returns the version of the installed schema, or ErrNotInstalled.
func SchemaVersion(ctx context.Context, db *DB) (int, error) { return schemaVersion(ctx, db.conn) }

func schemaVersion(ctx context.Context, q querier) (int, error) {
	const op = "read the version of schema spock"
	var schema, ours, extension bool
	if err := q.QueryRow(ctx, qSchemaExists).Scan(&schema, &ours, &extension); err != nil {
		return 0, wrap(op, err)
	}
	if !schema {
		return 0, ErrNotInstalled
	}
	if !ours {
		return 0, errForeign(extension)
	}
	var version int
	err := q.QueryRow(ctx, qSchemaVersion).Scan(&version)
	return version, wrap(op, err)
}

// CheckVersion returns nil when the schema is the one that this program works with, ErrNotInstalled when there is none,
// and else an error that says what to do.
func CheckVersion(ctx context.Context, conn *pgx.Conn) error {
	version, err := schemaVersion(ctx, conn)
	switch {
	case err != nil:
		return err
	case version < SchemaNumber:
		return hinted{
			fmt.Sprintf("read schema spock: it has version %d, this program needs %d", version, SchemaNumber),
			"Bring it up to date: pgdrover spock upgrade.",
		}
	case version > SchemaNumber:
		return errNewer("read", version)
	}
	return nil
}

// CheckPlace returns nil where the database is the one in which its node was made, or no node. A restored dump or a clone
// of a node's database also says that it is that node; the slots and origins that it knows are not its own, and the error
// says so. The schema must be current.
func CheckPlace(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, qRefuseCopy)
	return wrap("work as the node", err)
}

// IsCopy reports what CheckPlace refuses.
func (db *DB) IsCopy(ctx context.Context) (bool, error) {
	return db.ask(ctx, "look whether the database is the node", qIsCopy)
}

func errNewer(what string, version int) error {
	return hinted{
		fmt.Sprintf("%s schema spock: it has version %d, this program knows %d", what, version, SchemaNumber),
		"Use the program that installed it, or a newer one.",
	}
}

func change(ctx context.Context, db *DB, install bool) error {
	const op = "install schema spock"
	return db.schemaChange(ctx, op, func(tx pgx.Tx) error {
		version, err := schemaVersion(ctx, tx)
		switch {
		case errors.Is(err, ErrNotInstalled) && install:
			return runFiles(ctx, tx, installOrder())
		case err != nil:
			return err
		case version > SchemaNumber:
			return errNewer("upgrade", version)
		case version == SchemaNumber:
			return nil
		}
		if _, err := tx.Exec(ctx, qPauseForUpgrade); err != nil {
			return wrap("pause the engine for the upgrade", err)
		}
		if err := runFiles(ctx, tx, upgradeOrder(version)); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, qStoreVersion, SchemaNumber)
		return wrap(op, err)
	})
}

// schemaChange runs f alone and in one transaction, with our own event triggers silent.
func (db *DB) schemaChange(ctx context.Context, op string, f func(tx pgx.Tx) error) error {
	// Also where a read-only mode is on.
	tx, err := db.conn.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadWrite})
	if err != nil {
		return wrap(op, err)
	}
	defer rollback(ctx, tx)
	for _, sql := range []string{
		// Somebody else's installation may take longer than a session's usual patience.
		`SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = '300s'`, qInstallLock, qQuiet,
	} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return lockedOut(wrap(op, err))
		}
	}
	if err := f(tx); err != nil {
		return lockedOut(err)
	}
	return wrap(op, tx.Commit(ctx))
}

// lockedOut says what to do where a lock was waited for in vain. Who held it
// cannot be asked any more; but he has been at it for longer than we have waited.
func lockedOut(err error) error {
	if server, ok := errors.AsType[*ServerError](err); ok && server.Code == pgerrcode.LockNotAvailable && server.hint == "" {
		server.hint = "Nothing was changed. Transactions hold what this needs: end them, and repeat this. They are among those of " +
			"SELECT pid, usename, application_name, state, xact_start, query FROM pg_stat_activity WHERE datname = current_database() " +
			"AND xact_start < now() - interval '1 minute' ORDER BY xact_start; or are prepared: SELECT gid, owner, prepared FROM pg_prepared_xacts."
	}
	return err
}

// rollback ends a transaction that was not committed; after a commit it does nothing.
func rollback(ctx context.Context, tx pgx.Tx) {
	_ = tx.Rollback(context.WithoutCancel(ctx)) // the connection is closed when it fails
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

package spock

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

const (
	qSubscriptionNames = `SELECT sub_name::text FROM spock.subscription ORDER BY 1`
	qActiveSlot        = `
SELECT slot_name::text FROM pg_replication_slots
 WHERE database = current_database() AND slot_name LIKE 'spk\_%' AND plugin IN ('pgoutput', 'spock_output') AND active
 ORDER BY 1 LIMIT 1`
	qGiveWay = `
SELECT set_config('deadlock_timeout', '30s', true) FROM pg_roles WHERE rolname = current_user AND rolsuper`
	qWritable = `
SELECT pgdrover.enforce_readonly('off')
 WHERE EXISTS (SELECT FROM pg_trigger t JOIN spock.pgdrover_watch w ON w.relid = t.tgrelid WHERE t.tgname = 'pgdrover_readonly')`
	qKnowsCopies      = `SELECT to_regprocedure('pgdrover.leave_original()') IS NOT NULL`
	qLeaveOriginal    = `SELECT pgdrover.leave_original()`
	qUnwatchAll       = `SELECT pgdrover.unwatch(relid) FROM spock.pgdrover_watch`
	qDropPublications = `SELECT pgdrover.drop_publications()`
	qDropSlots        = `
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
 WHERE database = current_database() AND slot_name LIKE 'spk\_%' AND plugin IN ('pgoutput', 'spock_output')`
	qDropOrigins = `
SELECT pg_replication_origin_drop(o.roname)
  FROM pg_replication_origin o JOIN spock.pgdrover_origin r ON r.roident = o.roident AND o.roname IN (r.roname, 'pgdrover_retired_' || r.roident)`
)

// dropSchemas are the statements that remain; the event triggers go first,
// because they would look for the schema while it goes.
func dropSchemas() []string {
	return []string{
		// That so many objects go is no news.
		`SET LOCAL client_min_messages = error`,
		`DROP EXTENSION IF EXISTS spock CASCADE`,
		`DROP EVENT TRIGGER IF EXISTS pgdrover_ddl_start`,
		`DROP EVENT TRIGGER IF EXISTS pgdrover_sql_drop`,
		`DROP EVENT TRIGGER IF EXISTS pgdrover_sql_caller`,
		`DROP EVENT TRIGGER IF EXISTS pgdrover_table_rewrite`,
		`DROP EVENT TRIGGER IF EXISTS pgdrover_ddl_end`,
		`DROP EVENT TRIGGER IF EXISTS pgdrover_ddl_caller`,
		`DROP EVENT TRIGGER IF EXISTS pgdrover_ddl_upkeep`,
		`DROP EVENT TRIGGER IF EXISTS pgdrover_fence_drop`,
		`DROP EVENT TRIGGER IF EXISTS pgdrover_fence_end`,
		`DROP SCHEMA IF EXISTS spock, pgdrover CASCADE`,
	}
}

// Uninstall removes the schema and everything that came with it: triggers on
// user tables, publications, slots, origins, and the slots that subscriptions
// have on their providers (a provider that cannot be reached keeps its own,
// with a warning). User data stays. Without the schema there is nothing to do.
// While another node still receives from this one it refuses. Of a copy of a
// node's database it takes away the same, but not what is the node's: slots and
// origins.
func Uninstall(ctx context.Context, db *DB) error {
	const op = "uninstall schema spock"
	return db.schemaChange(ctx, op, func(tx pgx.Tx) error {
		if _, err := schemaVersion(ctx, tx); err != nil {
			if errors.Is(err, ErrNotInstalled) {
				return nil
			}
			return err
		}
		var slot string
		err := tx.QueryRow(ctx, qActiveSlot).Scan(&slot)
		if err == nil {
			return hinted{
				fmt.Sprintf("%s: replication slot %q is active: another node receives from this one", op, slot),
				"Drop the subscription on that node first.",
			}
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return wrap(op, err)
		}
		// An engine that reads the tables in another order gives way, not we.
		if _, err := tx.Exec(ctx, qGiveWay); err != nil {
			return wrap(op, err)
		}
		statements := []string{qDropPublications}
		copied, err := leaveOriginal(ctx, tx)
		if err != nil {
			return wrap(op, err)
		}
		if !copied {
			if err := dropSubscriptions(ctx, tx); err != nil {
				return err
			}
			// In a copy tables have other numbers; there the triggers go with the schema that their functions are in.
			statements = []string{qWritable, qUnwatchAll, qDropPublications, qDropSlots, qDropOrigins}
		}
		for _, sql := range append(statements, dropSchemas()...) {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return wrap(op, err)
			}
		}
		return nil
	})
}

// leaveOriginal reports whether the database is a copy of a node's, and warns of what then stays with the node.
func leaveOriginal(ctx context.Context, tx pgx.Tx) (copied bool, err error) {
	// A schema of an older version may have to go as well.
	if err := tx.QueryRow(ctx, qKnowsCopies).Scan(&copied); err != nil || !copied {
		return false, err
	}
	err = tx.QueryRow(ctx, qLeaveOriginal).Scan(&copied)
	return copied, err
}

func dropSubscriptions(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, qSubscriptionNames)
	if err != nil {
		return wrap("list the subscriptions", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return wrap("list the subscriptions", err)
	}
	for _, name := range names {
		if _, err := tx.Exec(ctx, qSubDrop, name, true); err != nil {
			return wrap("drop subscription "+name, err)
		}
	}
	return nil
}

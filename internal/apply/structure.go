package apply

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// restoreTables restores the structure before data, unless an earlier attempt
// has done it: that was one transaction, and none of its tables was there before.
func (w *Worker) restoreTables(ctx context.Context, c *copier, d *dump, status string) error {
	if status != "i" && status != "s" {
		return nil
	}
	there, err := w.tablesThere(ctx, c)
	switch {
	case err != nil:
		return err
	case len(there) > 0 && status == "s":
		return nil
	case len(there) > 0:
		return &refusal{
			fmt.Errorf("copy structure: table %s is here already", strings.Join(there, ", ")),
			"Drop it here; or drop the subscription, see to it that all tables are here, and create it without synchronize_structure: then rows are merged.",
		}
	}
	if err := w.subState(ctx, "s", c.point); err != nil {
		return err
	}
	return d.restoreTables(ctx)
}

// assignTables puts the tables that came with the structure into the sets of
// this node that suit them, as automatic DDL replication does with new tables: the
// restore goes past its triggers. Where that is not wanted it says what is missing.
func (w *Worker) assignTables(ctx context.Context, c *copier) error {
	there, err := w.tablesThere(ctx, c)
	if err != nil {
		return err
	}
	var left int
	err = pgx.BeginFunc(ctx, w.db, func(tx pgx.Tx) error {
		// Membership is news to whom this node provides.
		if _, err := tx.Exec(ctx, "SET LOCAL session_replication_role = origin"); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "SELECT pgdrover.assign_table(t::regclass) FROM unnest($1::text[]) t WHERE pgdrover.flag('spock.include_ddl_repset')", there); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT count(*) FROM unnest($1::text[]) t WHERE NOT EXISTS (SELECT FROM spock.replication_set_table m JOIN spock.replication_set s USING (set_id)
			WHERE m.set_reloid = t::regclass AND s.set_nodeid = $2)
			AND (SELECT c.relpersistence = 'p' FROM pg_class c WHERE c.oid = t::regclass)`, there, uint32(w.engine.node)).Scan(&left)
	})
	if err != nil {
		return fmt.Errorf("add copied tables to replication sets: %w", err)
	}
	if left > 0 {
		w.log.InfoContext(ctx, "tables came that are in no replication set of this node: what is written to them here stays here", "tables", left,
			"hint", "Add them with spock.repset_add_table or repset_add_all_tables, or set spock.include_ddl_repset = on before the copy.")
	}
	return nil
}

// tablesThere lists the tables of the provider's that are here, too, of those
// that its dump has.
func (w *Worker) tablesThere(ctx context.Context, c *copier) ([]string, error) {
	result := c.provider.ExecParams(ctx, `SELECT coalesce(array_agg(quote_ident(n.nspname) || '.' || quote_ident(r.relname) ORDER BY 1), '{}')::text
		FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace
		WHERE r.relkind IN ('r', 'p') AND r.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND n.nspname <> ALL ($1::text[])
		  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.deptype = 'e')`,
		[][]byte{[]byte(arrayText(w.leftOut()))}, nil, nil, nil).Read()
	if result.Err != nil {
		return nil, fmt.Errorf("read tables of provider: %w", result.Err)
	}
	var there []string
	if err := w.db.QueryRow(ctx, "SELECT coalesce(array_agg(t ORDER BY t), '{}') FROM unnest($1::text::text[]) t WHERE to_regclass(t) IS NOT NULL",
		string(result.Rows[0][0])).Scan(&there); err != nil {
		return nil, fmt.Errorf("look for tables of provider: %w", err)
	}
	return there, nil
}

// sayOutside names tables with rows whose rows stay on the provider, since they
// are in none of the sets: a copy with nothing in it looks like success.
func (c *copier) sayOutside(ctx context.Context) error {
	result := c.provider.ExecParams(ctx, `SELECT count(*), coalesce(array_to_string((array_agg(x.t ORDER BY x.t))[:5], ', '), '')
		FROM (SELECT quote_ident(n.nspname) || '.' || quote_ident(r.relname) AS t
			FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace CROSS JOIN spock.local_node l
			WHERE r.relkind = 'r' AND r.relpersistence = 'p' AND pg_relation_size(r.oid) > 0
			  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND n.nspname <> ALL ($1::text[])
			  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.deptype = 'e')
			  AND NOT EXISTS (SELECT FROM spock.replication_set_table m JOIN spock.replication_set s USING (set_id)
				WHERE m.set_reloid = r.oid AND s.set_nodeid = l.node_id AND s.set_name = ANY ($2::text[]))) x`,
		[][]byte{[]byte(arrayText(c.w.leftOut())), []byte(arrayText(c.w.sub.sets))}, nil, nil, nil).Read()
	row, err := one(result)
	if err != nil {
		return fmt.Errorf("read tables of provider: %w", err)
	}
	if string(row[0]) != "0" {
		c.w.log.WarnContext(ctx, "tables of the provider are in none of the subscribed replication sets: their rows are not copied, and do not follow", "tables", string(row[0]),
			"first", string(row[1]), "hint", "Add them there: SELECT spock.repset_add_table('default', '…', true), or to default_insert_only those without a key; true has them copied.")
	}
	return nil
}

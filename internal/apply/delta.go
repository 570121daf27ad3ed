package apply

import (
	"context"
	"fmt"
	"slices"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// copyDeltas declares the columns of copied tables that take differences, as
// they are on the provider at the snapshot. The stream that follows must find
// them: a difference that is applied as a value makes nodes differ.
func (c *copier) copyDeltas(ctx context.Context) error {
	there, err := one(c.provider.ExecParams(ctx, "SELECT to_regclass('spock.pgdrover_delta_column') IS NOT NULL", nil, nil, nil, nil).Read())
	if err != nil || string(there[0]) == "f" {
		return err // another engine keeps them with the columns, which are copied
	}
	result := c.provider.ExecParams(ctx, `SELECT n.nspname, r.relname, d.column_name FROM spock.pgdrover_delta_column d
		JOIN pg_class r ON r.oid = d.relid JOIN pg_namespace n ON n.oid = r.relnamespace ORDER BY 1, 2, 3`, nil, nil, nil, nil).Read()
	if result.Err != nil {
		return fmt.Errorf("read delta columns of provider: %w", result.Err)
	}
	for _, row := range result.Rows {
		schema, table, column := string(row[0]), string(row[1]), string(row[2])
		if slices.Contains(c.w.sub.schemas, schema) {
			continue
		}
		if _, err := c.w.db.Exec(ctx, "SELECT pgdrover.delta_column_add(x, $2) FROM to_regclass($1) x WHERE x IS NOT NULL",
			pg.QuoteIdent(schema)+"."+pg.QuoteIdent(table), column); err != nil {
			return fmt.Errorf("declare delta column %s of %s.%s: %w", column, schema, table, err)
		}
	}
	return nil
}

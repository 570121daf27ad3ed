package apply

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgdrover/pgdrover/internal/conflict"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// truncate empties tables: of rows that are newer and another author's it
// leaves.
func (c *carefully) truncate(ctx context.Context, tables []*remoteTable, m *pgoutput.Truncate) error {
	var whole []*target
	for _, t := range tables {
		g, err := c.target(ctx, t)
		if err != nil {
			return err
		}
		if err := c.session.run(ctx, "LOCK TABLE "+g.name+" IN ACCESS EXCLUSIVE MODE"); err != nil {
			return err
		}
		g.Amended = c.amended.has(g.OID)
		when, older := int64Value(int64(c.tx.commitTime)), c.olderRows(g)
		reply, err := c.session.query(ctx, fmt.Sprintf("SELECT EXISTS (SELECT FROM %s AS k WHERE NOT %s)", g.only(), older),
			[]uint32{timestamptzOID}, when)
		if err != nil {
			return err
		}
		if conflict.Truncate(string(reply.rows[0][0].Data) == "t", c.rules) == conflict.TruncateAll {
			whole = append(whole, g)
		} else if _, err := c.session.query(ctx, fmt.Sprintf("DELETE FROM %s AS k WHERE %s", g.only(), older),
			[]uint32{timestamptzOID}, when); err != nil {
			return err
		}
		if _, err := c.session.query(ctx, "INSERT INTO spock.pgdrover_tombstone (relid, author, author_lsn) VALUES ($1, $2, $3)",
			[]uint32{26, 26, pgLSNOID}, uint32Value(g.OID), uint32Value(uint32(c.author)), lsnValue(c.tx.final+1)); err != nil {
			return err
		}
	}
	return c.empty(ctx, whole, m.RestartIdentity)
}

// olderRows is the test whether the change wins over a row of alias k; $1 is its
// time. The stamp of some rows stands beside them.
func (c *carefully) olderRows(g *target) string {
	v := c.verdict
	v.strict = false
	plain := fmt.Sprintf(`(%s OR EXISTS (SELECT FROM pg_xact_commit_timestamp_origin(k.xmin) s CROSS JOIN LATERAL (SELECT %s AS at) t
		WHERE $1 > t.at OR $1 = t.at AND s.roident IN (%s)) OR %s)`, v.over("$1", false), bundledTime(fmt.Sprint(g.OID), g.rowName(), "k.xmin"),
		v.beaten, rewritten("k"))
	if !g.Amended && !g.Counters || g.KeyBytes == nil {
		return plain
	}
	return fmt.Sprintf(`coalesce((SELECT $1 > o.commit_time OR coalesce(o.author, pgdrover.local_node_id()) = %d OR $1 = o.commit_time AND
		coalesce(o.author, pgdrover.local_node_id()) IN (SELECT pgdrover.origin_node(b.roident) FROM unnest(ARRAY[%s]::oid[]) b (roident))
		FROM spock.pgdrover_stamp o WHERE o.relid = %d AND o.key = %s AND o.written_by = k.xmin), %s)`, v.node, v.beaten, g.OID, *g.KeyBytes, plain)
}

// empty empties whole tables. The server truncates none that a foreign key of
// another table refers to, be that table replicated or not; from such ones all
// rows are deleted, which asks no foreign key here.
func (c *carefully) empty(ctx context.Context, tables []*target, restart bool) error {
	var deleted []*target
	for {
		bound, err := c.referred(ctx, tables)
		if err != nil {
			return err
		}
		left := slices.DeleteFunc(slices.Clone(tables), func(g *target) bool { return bound[g.OID] })
		if len(left) == len(tables) {
			break
		}
		for _, g := range tables {
			if bound[g.OID] {
				deleted = append(deleted, g)
			}
		}
		tables = left
	}
	var names []string
	for _, g := range tables {
		names = append(names, g.name)
	}
	if len(names) > 0 {
		text := "TRUNCATE " + strings.Join(names, ", ")
		if restart {
			text += " RESTART IDENTITY"
		}
		if err := c.session.run(ctx, text+" RESTRICT"); err != nil {
			return err
		}
	}
	for _, g := range deleted {
		if err := c.session.run(ctx, "DELETE FROM "+g.only()); err != nil {
			return err
		}
		if !restart {
			continue
		}
		if err := c.restartSequences(ctx, g); err != nil {
			return err
		}
	}
	for _, g := range append(tables, deleted...) {
		if _, err := c.session.query(ctx, "DELETE FROM spock.pgdrover_stamp WHERE relid = $1", []uint32{oidOID}, uint32Value(g.OID)); err != nil {
			return err
		}
	}
	return nil
}

// referred are those of the tables to which a foreign key of a table refers that
// is not one of them.
func (c *carefully) referred(ctx context.Context, tables []*target) (map[uint32]bool, error) {
	bound := map[uint32]bool{}
	if len(tables) == 0 {
		return bound, nil
	}
	oids := make([]string, len(tables))
	for i, g := range tables {
		oids[i] = fmt.Sprint(g.OID)
	}
	reply, err := c.session.query(ctx, `WITH RECURSIVE tree (root, oid) AS (SELECT w, w FROM unnest($1::oid[]) w
		UNION SELECT t.root, i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.oid)
		SELECT DISTINCT t.root FROM tree t JOIN pg_constraint x ON x.contype = 'f' AND x.confrelid = t.oid
		WHERE x.conrelid NOT IN (SELECT u.oid FROM tree u)`, []uint32{textOID}, textValue("{"+strings.Join(oids, ",")+"}"))
	if err != nil {
		return nil, fmt.Errorf("look for foreign keys: %w", err)
	}
	for _, row := range reply.rows {
		var oid uint32
		if _, err := fmt.Sscan(string(row[0].Data), &oid); err != nil {
			return nil, fmt.Errorf("look for foreign keys: %w", err)
		}
		bound[oid] = true
	}
	return bound, nil
}

// restartSequences does to the sequences of a table's columns what TRUNCATE
// would have done.
func (c *carefully) restartSequences(ctx context.Context, g *target) error {
	reply, err := c.session.query(ctx, `SELECT n.nspname, s.relname FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
		JOIN pg_namespace n ON n.oid = s.relnamespace WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
		AND d.refobjid = $1 AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')`, []uint32{oidOID}, uint32Value(g.OID))
	if err != nil {
		return fmt.Errorf("look for sequences of %s: %w", g.plain, err)
	}
	for _, row := range reply.rows {
		name := pg.QuoteIdent(string(row[0].Data)) + "." + pg.QuoteIdent(string(row[1].Data))
		if err := c.session.run(ctx, "ALTER SEQUENCE "+name+" RESTART"); err != nil {
			return fmt.Errorf("restart sequence %s: %w", name, err)
		}
	}
	return nil
}

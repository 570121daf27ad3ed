package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// fields reads a row of one of the provider's tables by column name.
type fields struct {
	rel      *pgoutput.Relation
	row, old pgoutput.Tuple
	gone     bool
}

func (f *fields) value(row pgoutput.Tuple, name string) pgoutput.Value {
	for i, c := range f.rel.Columns {
		if c.Name == name && i < len(row) {
			return row[i]
		}
	}
	return pgoutput.Value{Kind: pgoutput.Null}
}

var errNumber = errors.New("not a number")

// oid reads an oid, which in text form may also be that of a table.
func (f *fields) oid(row pgoutput.Tuple, name string) (uint32, error) {
	v := f.value(row, name)
	if v.Kind == pgoutput.Binary && len(v.Data) == 4 {
		return be32(v.Data), nil
	}
	var n uint32
	if _, err := fmt.Sscan(string(v.Data), &n); err != nil {
		return 0, fmt.Errorf("read %s: %w", name, errNumber)
	}
	return n, nil
}

func (f *fields) flag(name string) bool {
	v := f.value(f.row, name)
	return v.Kind == pgoutput.Binary && len(v.Data) == 1 && v.Data[0] == 1 || v.Kind == pgoutput.Text && string(v.Data) == "t"
}

func (w *Worker) setChanged(f *fields) error {
	id, err := f.oid(f.old, "set_id")
	if err != nil {
		return err
	}
	if f.gone {
		delete(w.sets.all, id)
		w.current.add(change{set: w.sql("DELETE FROM spock.pgdrover_remote_set WHERE sub_id = $1 AND set_id = $2", []uint32{26, 26},
			uint32Value(w.sub.id), uint32Value(id))})
		return nil
	}
	node, err := f.oid(f.row, "set_nodeid")
	if err != nil {
		return err
	}
	if node != uint32(w.sub.provider) {
		return nil // it knows sets of other nodes, too
	}
	s := replicationSet{
		name: string(f.value(f.row, "set_name").Data), insert: f.flag("replicate_insert"), update: f.flag("replicate_update"),
		delete: f.flag("replicate_delete"), truncate: f.flag("replicate_truncate"),
	}
	w.sets.all[id] = s
	w.current.add(change{set: w.sql(storeSet, []uint32{26, 26, nameOID, 16, 16, 16, 16}, uint32Value(w.sub.id), uint32Value(id), textValue(s.name),
		boolValue(s.insert), boolValue(s.update), boolValue(s.delete), boolValue(s.truncate))})
	return nil
}

const storeSet = `INSERT INTO spock.pgdrover_remote_set (sub_id, set_id, set_name, replicate_insert, replicate_update, replicate_delete,
	replicate_truncate) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (sub_id, set_id) DO UPDATE SET set_name = excluded.set_name,
	replicate_insert = excluded.replicate_insert, replicate_update = excluded.replicate_update,
	replicate_delete = excluded.replicate_delete, replicate_truncate = excluded.replicate_truncate`

func boolValue(b bool) pgoutput.Value {
	if b {
		return textValue("t")
	}
	return textValue("f")
}

func (w *Worker) member(table, set uint32) member { return w.sets.members[table][set] }

func (w *Worker) setMember(table, set uint32, m *member) {
	if m == nil {
		delete(w.sets.members[table], set)
		return
	}
	if w.sets.members[table] == nil {
		w.sets.members[table] = map[uint32]member{}
	}
	w.sets.members[table][set] = *m
}

func (w *Worker) memberChanged(ctx context.Context, f *fields) error {
	set, err := f.oid(f.old, "set_id")
	if err != nil {
		return err
	}
	table, known, err := w.memberTable(ctx, f)
	if err != nil || !known {
		return err
	}
	keys := []pgoutput.Value{uint32Value(w.sub.id), uint32Value(set), uint32Value(table)}
	if f.gone {
		w.setMember(table, set, nil)
		w.current.add(change{set: w.sql("DELETE FROM spock.pgdrover_remote_table WHERE sub_id = $1 AND set_id = $2 AND set_reloid = $3",
			[]uint32{26, 26, 26}, keys...)})
		return nil
	}
	list := f.value(f.row, "set_att_list")
	columns, err := textArray(list)
	if err != nil {
		return err
	}
	m := w.member(table, set)
	m.columns = columns
	w.setMember(table, set, &m)
	w.current.add(change{set: w.sql(`INSERT INTO spock.pgdrover_remote_table (sub_id, set_id, set_reloid, att_list) VALUES ($1, $2, $3, $4)
		ON CONFLICT (sub_id, set_id, set_reloid) DO UPDATE SET att_list = excluded.att_list`, []uint32{26, 26, 26, 1009}, append(keys, list)...)})
	return nil
}

// memberTable is the table whose membership has changed. In a stream of texts it
// comes by its name, which says nothing any more where the table was renamed or
// dropped since: then its memberships are asked for when it is written next.
func (w *Worker) memberTable(ctx context.Context, f *fields) (id uint32, known bool, err error) {
	id, err = f.oid(f.old, "set_reloid")
	if !errors.Is(err, errNumber) {
		return id, true, err
	}
	conn, err := w.applier.peers.connect(ctx, w.sub.provider)
	if err != nil {
		return 0, false, err
	}
	result := w.applier.peers.ask(ctx, conn, "SELECT to_regclass($1)::oid::text", f.value(f.old, "set_reloid").Data)
	if result.Err != nil {
		return 0, false, fmt.Errorf("%w for a table of its replication sets: %w", errPeer, result.Err)
	}
	if result.Rows[0][0] == nil {
		return 0, false, nil
	}
	_, err = fmt.Sscan(string(result.Rows[0][0]), &id)
	return id, err == nil, err
}

func (w *Worker) filterChanged(f *fields) error {
	set, err := f.oid(f.old, "set_id")
	if err != nil {
		return err
	}
	table, err := f.oid(f.old, "set_reloid")
	if err != nil {
		return err
	}
	text := pgoutput.Value{Kind: pgoutput.Null}
	m := w.member(table, set)
	m.filter = ""
	if !f.gone {
		text = f.value(f.row, "row_filter")
		m.filter = string(text.Data)
	}
	if _, known := w.sets.members[table][set]; known || !f.gone {
		w.setMember(table, set, &m)
	}
	statement := `INSERT INTO spock.pgdrover_remote_table (sub_id, set_id, set_reloid, row_filter) VALUES ($1, $2, $3, $4)
		ON CONFLICT (sub_id, set_id, set_reloid) DO UPDATE SET row_filter = excluded.row_filter`
	if f.gone {
		statement = "UPDATE spock.pgdrover_remote_table SET row_filter = $4 WHERE sub_id = $1 AND set_id = $2 AND set_reloid = $3"
	}
	w.current.add(change{set: w.sql(statement, []uint32{26, 26, 26, textOID}, uint32Value(w.sub.id), uint32Value(set), uint32Value(table), text)})
	return nil
}

// loadSets reads the copy of the provider's sets. Without one, as for a
// subscription whose slot somebody else has made, it starts with what the
// provider has now.
func (w *Worker) loadSets(ctx context.Context) (*sets, error) {
	var known bool
	if err := w.db.QueryRow(ctx, "SELECT EXISTS (SELECT FROM spock.pgdrover_remote_set WHERE sub_id = $1)", w.sub.id).Scan(&known); err != nil {
		return nil, fmt.Errorf("read replication sets: %w", err)
	}
	if !known {
		conn, err := w.applier.peers.connect(ctx, w.sub.provider)
		if err != nil {
			return nil, err
		}
		if err := w.copySets(ctx, conn); err != nil {
			return nil, err
		}
	}
	s := &sets{all: map[uint32]replicationSet{}, members: map[uint32]map[uint32]member{}, wanted: w.sub.sets}
	rows, err := w.db.Query(ctx, `SELECT set_id, set_name::text, replicate_insert, replicate_update, replicate_delete, replicate_truncate
		FROM spock.pgdrover_remote_set WHERE sub_id = $1`, w.sub.id)
	if err != nil {
		return nil, fmt.Errorf("read replication sets: %w", err)
	}
	defer rows.Close()
	have := map[string]bool{}
	for rows.Next() {
		var id uint32
		var r replicationSet
		if err := rows.Scan(&id, &r.name, &r.insert, &r.update, &r.delete, &r.truncate); err != nil {
			return nil, fmt.Errorf("read replication sets: %w", err)
		}
		s.all[id], have[r.name] = r, true
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read replication sets: %w", err)
	}
	missing := slices.DeleteFunc(slices.Clone(w.sub.sets), func(name string) bool { return have[name] })
	if err := w.requireSets(ctx, missing); err != nil {
		return nil, err
	}
	w.sets = s
	return s, w.loadMembers(ctx)
}

// requireSets refuses sets that the provider does not have. One that it has and
// that is not known here was made further on in the stream.
func (w *Worker) requireSets(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	conn, err := w.applier.peers.connect(ctx, w.sub.provider)
	if err != nil {
		return err
	}
	result := conn.ExecParams(ctx, `SELECT n FROM unnest($1::text[]) n WHERE NOT EXISTS (SELECT FROM spock.replication_set s
		JOIN spock.local_node l ON l.node_id = s.set_nodeid WHERE s.set_name = n::name) LIMIT 1`, [][]byte{[]byte(arrayText(names))}, nil, nil, nil).Read()
	if result.Err != nil {
		return fmt.Errorf("read replication sets of provider: %w", result.Err)
	}
	if len(result.Rows) > 0 {
		return &refusal{
			fmt.Errorf("start replication: replication set %s not found on the provider", result.Rows[0][0]),
			"Create it there, or take it out of the subscription with spock.sub_remove_repset.",
		}
	}
	return nil
}

func (w *Worker) loadMembers(ctx context.Context) error {
	rows, err := w.db.Query(ctx, "SELECT set_id, set_reloid, att_list, coalesce(row_filter, '') FROM spock.pgdrover_remote_table WHERE sub_id = $1", w.sub.id)
	if err != nil {
		return fmt.Errorf("read members of replication sets: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var set, table uint32
		var m member
		if err := rows.Scan(&set, &table, &m.columns, &m.filter); err != nil {
			return fmt.Errorf("read members of replication sets: %w", err)
		}
		w.setMember(table, set, &m)
	}
	return rows.Err()
}

// copySets takes over the provider's sets as its session sees them.
func (w *Worker) copySets(ctx context.Context, from *pgconn.PgConn) error {
	tx, err := w.db.Begin(ctx)
	if err != nil {
		return fmt.Errorf("copy replication sets: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	for _, step := range []struct{ clear, read, write string }{
		{
			"DELETE FROM spock.pgdrover_remote_set WHERE sub_id = $1",
			`SELECT s.set_id, s.set_name, s.replicate_insert, s.replicate_update, s.replicate_delete, s.replicate_truncate
				FROM spock.replication_set s JOIN spock.local_node l ON l.node_id = s.set_nodeid`,
			"INSERT INTO spock.pgdrover_remote_set VALUES ($1, $2::text::oid, $3::text, $4::text::bool, $5::text::bool, $6::text::bool, $7::text::bool)",
		},
		{
			"DELETE FROM spock.pgdrover_remote_table WHERE sub_id = $1",
			`SELECT t.set_id, t.set_reloid::oid, t.set_att_list, f.row_filter FROM spock.replication_set_table t
				JOIN spock.replication_set s USING (set_id) JOIN spock.local_node l ON l.node_id = s.set_nodeid
				LEFT JOIN spock.pgdrover_row_filter f ON f.set_id = t.set_id AND f.set_reloid = t.set_reloid::oid`,
			"INSERT INTO spock.pgdrover_remote_table VALUES ($1, $2::text::oid, $3::text::oid, $4::text::text[], $5::text)",
		},
	} {
		if _, err := tx.Exec(ctx, step.clear, w.sub.id); err != nil {
			return fmt.Errorf("copy replication sets: %w", err)
		}
		result := from.ExecParams(ctx, step.read, nil, nil, nil, nil).Read()
		if result.Err != nil {
			return fmt.Errorf("read replication sets of provider: %w", result.Err)
		}
		for _, row := range result.Rows {
			args := []any{w.sub.id}
			for _, v := range row {
				if v == nil {
					args = append(args, nil)
				} else {
					args = append(args, strings.Clone(string(v)))
				}
			}
			if _, err := tx.Exec(ctx, step.write, args...); err != nil {
				return fmt.Errorf("copy replication sets: %w", err)
			}
		}
	}
	return tx.Commit(ctx)
}

// askMembers takes over the memberships that a table has on the provider now. A
// provider that leaves out all that came to it by replication also leaves out
// the memberships that replicated DDL has made there; and a stream of texts does
// not say for certain whose they are.
func (w *Worker) askMembers(ctx context.Context, table uint32) error {
	conn, err := w.applier.peers.connect(ctx, w.sub.provider)
	if err != nil {
		return err
	}
	result := w.applier.peers.ask(ctx, conn, `SELECT t.set_id, t.set_att_list, f.row_filter FROM spock.replication_set_table t
		JOIN spock.replication_set s USING (set_id) JOIN spock.local_node l ON l.node_id = s.set_nodeid
		LEFT JOIN spock.pgdrover_row_filter f ON f.set_id = t.set_id AND f.set_reloid = t.set_reloid::oid
		WHERE t.set_reloid::oid = $1::text::oid`, fmt.Append(nil, table))
	if result.Err != nil {
		return fmt.Errorf("%w for replication sets of table %d: %w", errPeer, table, result.Err)
	}
	for _, row := range result.Rows {
		var set uint32
		if _, err := fmt.Sscan(string(row[0]), &set); err != nil {
			return fmt.Errorf("read replication sets of provider: %w", err)
		}
		m := member{filter: string(row[2])}
		var list, filter *string
		if row[1] != nil {
			if m.columns, err = parseTextArray(string(row[1])); err != nil {
				return err
			}
			text := string(row[1])
			list = &text
		}
		if row[2] != nil {
			filter = &m.filter
		}
		w.setMember(table, set, &m)
		if w.current != nil && w.current.begun {
			// What is written of the transaction so far may hold the very row, and
			// would wait for us. The next stream asks again.
			continue
		}
		if _, err := w.db.Exec(ctx, `INSERT INTO spock.pgdrover_remote_table (sub_id, set_id, set_reloid, att_list, row_filter)
			VALUES ($1, $2, $3, $4::text::text[], $5) ON CONFLICT (sub_id, set_id, set_reloid)
			DO UPDATE SET att_list = excluded.att_list, row_filter = excluded.row_filter`, w.sub.id, set, table, list, filter); err != nil {
			return fmt.Errorf("store replication sets: %w", err)
		}
	}
	return nil
}

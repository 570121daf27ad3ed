package apply

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pgdrover/pgdrover/internal/conflict"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// step is what writes one step of an outcome.
func (c *carefully) step(ctx context.Context, r *rowChange, step conflict.Step) ([]*ask, error) {
	switch step.Kind {
	case conflict.InsertRow:
		return []*ask{c.insertRow(r, step)}, nil
	case conflict.UpdateRow, conflict.AmendRow:
		return c.updateRow(ctx, r, step)
	case conflict.DeleteRow:
		var p parameters
		where, values := r.held[step.Ref].place(&p)
		return []*ask{{text: "DELETE FROM " + r.g.name + " AS k WHERE " + where, types: p.types, values: values, one: true}}, nil
	case conflict.Bury:
		return []*ask{c.bury(r, step)}, nil
	default:
		return nil, fmt.Errorf("write %s: unknown step %d", r.g.plain, step.Kind)
	}
}

// place finds a row that is locked; its address is "table ctid".
func (h *held) place(p *parameters) (string, []pgoutput.Value) {
	oid, ctid, _ := strings.Cut(h.ctid, " ")
	return fmt.Sprintf("k.tableoid = %s AND k.ctid = %s", p.add(oidOID), p.add(tidOID)), []pgoutput.Value{textValue(oid), textValue(ctid)}
}

// assignment is the expression that a step writes into a column, or none.
func (c *carefully) assignment(r *rowChange, step conflict.Step, s sent, at int, p *parameters) (string, []pgoutput.Value) {
	col := r.g.Columns[s.local]
	v := r.row[s.remote]
	oldKnown := r.oldKind == pgoutput.OldFull || r.oldKind == pgoutput.OldKey && r.g.remote.Columns[s.remote].Key
	source := step.Assign(conflict.Column{
		Unchanged: v.Kind == pgoutput.Unchanged, Detachable: col.Detached, Counter: col.Counter, OldKnown: oldKnown,
	})
	value := r.g.value(s, v)
	name := "k." + pg.QuoteIdent(col.Name)
	switch source {
	case conflict.TakeNew:
		return s.bind(p), []pgoutput.Value{value}
	case conflict.TakeFetch:
		return p.add(col.Type), []pgoutput.Value{r.fetched[at]}
	case conflict.AddChange:
		return fmt.Sprintf("%s + (%s - %s)", name, s.bind(p), s.bind(p)), []pgoutput.Value{value, r.g.value(s, r.old[s.remote])}
	case conflict.AddNew:
		return fmt.Sprintf("%s + %s", name, s.bind(p)), []pgoutput.Value{value}
	case conflict.TakeChange:
		return fmt.Sprintf("%s - %s", s.bind(p), s.bind(p)), []pgoutput.Value{value, r.g.value(s, r.old[s.remote])}
	default:
		return "", nil
	}
}

// fill is assignment for a column that the provider does not have yet: there it
// is a constant, which no change changes.
func (r *rowChange) fill(step conflict.Step, f fill) string {
	col := r.g.Columns[f.local]
	name := "k." + pg.QuoteIdent(col.Name)
	switch step.Assign(conflict.Column{Counter: col.Counter, OldKnown: true}) {
	case conflict.TakeNew:
		return f.value
	case conflict.AddNew:
		return name + " + " + f.value
	case conflict.TakeChange:
		return f.value + " - " + f.value
	default:
		return ""
	}
}

func (c *carefully) insertRow(r *rowChange, step conflict.Step) *ask {
	var p parameters
	var names, exprs []string
	var values []pgoutput.Value
	for at, s := range r.g.sent {
		expr, v := c.assignment(r, step, s, at, &p)
		if expr == "" {
			continue
		}
		names = append(names, pg.QuoteIdent(r.g.Columns[s.local].Name))
		exprs = append(exprs, expr)
		values = append(values, v...)
	}
	for _, f := range r.g.behind {
		if expr := r.fill(step, f); expr != "" {
			names, exprs = append(names, pg.QuoteIdent(r.g.Columns[f.local].Name)), append(exprs, expr)
		}
	}
	text := "INSERT INTO " + r.g.name
	if len(names) == 0 {
		text += " DEFAULT VALUES"
	} else {
		text += " (" + strings.Join(names, ", ") + ") OVERRIDING SYSTEM VALUE VALUES (" + strings.Join(exprs, ", ") + ")"
	}
	return &ask{text: text, types: p.types, values: values}
}

func (c *carefully) updateRow(ctx context.Context, r *rowChange, step conflict.Step) ([]*ask, error) {
	h := &r.held[step.Ref]
	if differs, err := c.differs(ctx, r, step, h, func(c column) bool { return c.Always }); err != nil {
		return nil, err
	} else if differs {
		return []*ask{c.replaceRow(r, step, h)}, nil
	}
	var p parameters
	var set []string
	var values []pgoutput.Value
	for at, s := range r.g.sent {
		if r.g.Columns[s.local].Always {
			continue // the server takes no value for it
		}
		expr, v := c.assignment(r, step, s, at, &p)
		if expr == "" {
			continue
		}
		set = append(set, pg.QuoteIdent(r.g.Columns[s.local].Name)+" = "+expr)
		values = append(values, v...)
	}
	for _, f := range r.g.behind {
		if expr := r.fill(step, f); expr != "" {
			set = append(set, pg.QuoteIdent(r.g.Columns[f.local].Name)+" = "+expr)
		}
	}
	if step.Kind == conflict.AmendRow {
		// Mostly the row has what was fetched.
		if differs, err := c.differs(ctx, r, step, h, func(column) bool { return true }); err != nil || !differs || len(set) == 0 {
			return nil, err
		}
		c.amended.add(r.g.OID)
		c.tx.amends = append(c.tx.amends, r.g.OID)
	}
	if len(set) == 0 {
		// The row's stamp must become the change's all the same.
		name := pg.QuoteIdent(r.g.Columns[r.g.key[0]].Name)
		set = append(set, name+" = k."+name)
	}
	where, at := h.place(&p)
	write := &ask{text: "UPDATE " + r.g.name + " AS k SET " + strings.Join(set, ", ") + " WHERE " + where, values: append(values, at...), one: true}
	if step.Kind == conflict.AmendRow && h.stamp != "" {
		c.counts.counter(c.subID, r.g.OID)
		c.keepStamp(r, h, write, &p)
	}
	write.types = p.types
	return []*ask{write}, nil
}

// keepStamp makes what writes a row store the stamp that it had: it counts as it
// did before. The row tells by whom it was written: that is the savepoint, not
// the transaction.
func (c *carefully) keepStamp(r *rowChange, h *held, write *ask, p *parameters) {
	table, key, at, author := p.add(oidOID), p.add(byteaOID), p.add(timestamptzOID), p.add(oidOID)
	write.text = fmt.Sprintf(`WITH w AS (%s RETURNING k.xmin AS written_by)
		INSERT INTO spock.pgdrover_stamp (relid, key, written_by, commit_time, author, author_lsn)
		SELECT %s, %s, w.written_by, %s, %s, %s FROM w ON CONFLICT (relid, key)
		DO UPDATE SET written_by = excluded.written_by, commit_time = excluded.commit_time, author = excluded.author,
		author_lsn = excluded.author_lsn`, write.text, table, key, at, author, fmt.Sprintf(behind, author))
	write.values = append(write.values, uint32Value(r.g.OID), h.key, int64Value(int64(h.row.Stamp.CommitTime)), uint32Value(uint32(h.row.Stamp.Origin)))
}

// replaceRow writes a row anew, for the sake of a column that the server lets
// only an insert write.
func (c *carefully) replaceRow(r *rowChange, step conflict.Step, h *held) *ask {
	var p parameters
	var names, exprs []string
	where, values := h.place(&p)
	given := map[int]string{}
	for at, s := range r.g.sent {
		if expr, v := c.assignment(r, step, s, at, &p); expr != "" {
			given[s.local] = expr
			values = append(values, v...)
		}
	}
	for _, f := range r.g.behind {
		if expr := r.fill(step, f); expr != "" {
			given[f.local] = expr
		}
	}
	for i, col := range r.g.Columns {
		if col.Generated {
			continue
		}
		name := pg.QuoteIdent(col.Name)
		expr := given[i]
		if expr == "" {
			expr = "k." + name
		}
		names, exprs = append(names, name), append(exprs, expr)
	}
	return &ask{
		text: fmt.Sprintf("WITH k AS (DELETE FROM %[1]s AS k WHERE %[2]s RETURNING k.*) INSERT INTO %[1]s (%[3]s) OVERRIDING SYSTEM VALUE"+
			" SELECT %[4]s FROM k", r.g.name, where, strings.Join(names, ", "), strings.Join(exprs, ", ")),
		types: p.types, values: values, one: true,
	}
}

// differs tells whether a step would change some of a row's columns.
func (c *carefully) differs(ctx context.Context, r *rowChange, step conflict.Step, h *held, which func(column) bool) (bool, error) {
	var p parameters
	var tests []string
	var values []pgoutput.Value
	for at, s := range r.g.sent {
		if !which(r.g.Columns[s.local]) {
			continue
		}
		expr, v := c.assignment(r, step, s, at, &p)
		if expr == "" {
			continue
		}
		col := r.g.Columns[s.local]
		tests = append(tests, fmt.Sprintf("k.%s::text IS DISTINCT FROM (%s)::%s::text", pg.QuoteIdent(col.Name), expr, col.TypeName))
		values = append(values, v...)
	}
	for _, f := range r.g.behind {
		if expr := r.fill(step, f); expr != "" && which(r.g.Columns[f.local]) {
			tests = append(tests, fmt.Sprintf("k.%s::text IS DISTINCT FROM (%s)::text", pg.QuoteIdent(r.g.Columns[f.local].Name), expr))
		}
	}
	if len(tests) == 0 {
		return false, nil
	}
	where, at := h.place(&p)
	reply, err := c.session.query(ctx, "SELECT "+strings.Join(tests, " OR ")+" FROM "+r.g.name+" AS k WHERE "+where, p.types,
		append(values, at...)...)
	if err != nil {
		return false, err
	}
	return len(reply.rows) == 1 && string(reply.rows[0][0].Data) == "t", nil
}

// bury writes a tombstone. That of the change itself takes its stamp from the
// transaction; another's stands in the row, with a position of its author's log
// that is not before the delete.
func (c *carefully) bury(r *rowChange, step conflict.Step) *ask {
	var p parameters
	key, from, values := r.keySource(&p, step.Ref)
	table := p.add(oidOID)
	values = append(values, uint32Value(r.g.OID))
	if step.Stamp.Origin == c.author && step.Stamp.CommitTime == c.tx.commitTime {
		text := fmt.Sprintf("INSERT INTO spock.pgdrover_tombstone (relid, key, author, author_lsn) SELECT %s, %s, %s, %s FROM %s",
			table, key, p.add(oidOID), p.add(pgLSNOID), from)
		return &ask{text: text, types: p.types, values: append(values, uint32Value(uint32(c.author)), lsnValue(c.tx.final+1))}
	}
	when, author := p.add(timestamptzOID), p.add(oidOID)
	text := fmt.Sprintf(`INSERT INTO spock.pgdrover_tombstone (relid, key, commit_time, author, author_lsn)
		SELECT %s, %s, %s, %[4]s, %[5]s FROM %[6]s`, table, key, when, author, fmt.Sprintf(behind, author), from)
	return &ask{text: text, types: p.types, values: append(values, int64Value(int64(step.Stamp.CommitTime)), uint32Value(uint32(step.Stamp.Origin)))}
}

// behind is a position of an author's log that is not before anything of it that
// is here.
const behind = `CASE WHEN %[1]s = pgdrover.local_node_id() THEN pg_current_wal_insert_lsn() ELSE
	coalesce((SELECT max(s.remote_lsn) FROM spock.pgdrover_origin o JOIN pg_replication_origin_status s ON s.local_id = o.roident
	WHERE o.node_id = %[1]s), 'FFFFFFFF/FFFFFFFF') END`

// now runs what need not be gathered.
func (c *carefully) now(ctx context.Context, asks []*ask) error {
	if len(asks) == 0 {
		return nil
	}
	return c.session.together(ctx, asks...)
}

// keyless writes a change of a table whose rows have no key: a row is found by
// all its values.
func (c *carefully) keyless(ctx context.Context, r *rowChange) error {
	if r.action == conflict.Insert {
		return c.now(ctx, []*ask{c.insertRow(r, conflict.Step{Kind: conflict.InsertRow})})
	}
	if r.oldKind != pgoutput.OldFull {
		return fmt.Errorf("find row of %s: the table has no key here, and the provider does not send whole rows", r.g.plain)
	}
	var p parameters
	var tests []string
	var values []pgoutput.Value
	for _, s := range r.g.sent {
		col := r.g.Columns[s.local]
		name := "k." + pg.QuoteIdent(col.Name)
		switch {
		case r.old[s.remote].Kind == pgoutput.Null:
			tests = append(tests, name+" IS NULL")
			continue
		case col.Exact:
			tests = append(tests, name+" = "+s.bind(&p))
		default: // some types have no equality
			tests = append(tests, fmt.Sprintf("%s::text = %s::%s::text", name, s.bind(&p), col.TypeName))
		}
		values = append(values, r.g.value(s, r.old[s.remote]))
	}
	find := fmt.Sprintf("SELECT k.tableoid::text || ' ' || k.ctid::text FROM %s AS k WHERE %s LIMIT 1 FOR UPDATE",
		r.g.only(), strings.Join(tests, " AND "))
	reply, err := c.session.query(ctx, find, p.types, values...)
	if err != nil {
		return err
	}
	if len(reply.rows) == 0 {
		if r.action == conflict.Update && c.rules.UpdateMissing == conflict.FailMissing {
			return fmt.Errorf("%w (%s)", conflict.ErrMissing, r.g.plain)
		}
		typ := conflict.DeleteMissing
		if r.action == conflict.Update {
			typ = conflict.UpdateMissing
		}
		conflicts := []conflict.Conflict{{Type: typ, Resolution: conflict.Skipped, Lost: conflict.RemoteLost, Stored: true}}
		c.note(ctx, r, conflicts)
		return c.now(ctx, c.records(r, conflicts))
	}
	r.held = append(r.held, held{ctid: string(reply.rows[0][0].Data)})
	if r.action == conflict.Delete {
		asks, err := c.step(ctx, r, conflict.Step{Kind: conflict.DeleteRow})
		return errors.Join(err, c.now(ctx, asks))
	}
	return c.updateKeyless(ctx, r)
}

func (c *carefully) updateKeyless(ctx context.Context, r *rowChange) error {
	var p parameters
	var set []string
	var values []pgoutput.Value
	for at, s := range r.g.sent {
		if expr, v := c.assignment(r, conflict.Step{Kind: conflict.UpdateRow}, s, at, &p); expr != "" && !r.g.Columns[s.local].Always {
			set = append(set, pg.QuoteIdent(r.g.Columns[s.local].Name)+" = "+expr)
			values = append(values, v...)
		}
	}
	if len(set) == 0 {
		return nil
	}
	where, at := r.held[0].place(&p)
	return c.now(ctx, []*ask{{
		text:  "UPDATE " + r.g.name + " AS k SET " + strings.Join(set, ", ") + " WHERE " + where,
		types: p.types, values: append(values, at...), one: true,
	}})
}

// fetch reads the values that the change lacks from another node.
func (c *carefully) fetch(ctx context.Context, r *rowChange, f conflict.Fetch) (conflict.Fetched, error) {
	row := r.keyRow
	if f.Key == conflict.NewKey {
		row = r.row
	}
	values, err := c.peers.row(ctx, f.From, r.g, row, f.Since)
	switch {
	case errors.Is(err, errNoPeer):
		// Nobody to ask: what is known has to do.
		return conflict.FetchedGone, nil
	case err != nil:
		return conflict.NotFetched, err
	case values == nil:
		return conflict.FetchedGone, nil
	}
	r.fetched = values
	return conflict.FetchedRow, nil
}

// records is what stores conflicts.
func (c *carefully) records(r *rowChange, conflicts []conflict.Conflict) []*ask {
	var asks []*ask
	for _, x := range conflicts {
		if x.Stored && c.options.saveResolutions {
			asks = append(asks, c.store(r, x))
		}
	}
	return asks
}

// note counts and logs conflicts.
func (c *carefully) note(ctx context.Context, r *rowChange, conflicts []conflict.Conflict) {
	for _, x := range conflicts {
		c.counts.conflict(c.subID, r.g.OID, x)
		c.log.Log(ctx, c.options.conflictLevel, "conflict", "detail", x.Message(r.g.name, r.g.keyIndex),
			"lsn", c.tx.final.String(), "origin", uint32(c.author))
	}
}

func (c *carefully) store(r *rowChange, x conflict.Conflict) *ask {
	var p parameters
	null := pgoutput.Value{Kind: pgoutput.Null}
	localOrigin, localTuple, localXID, localTime, index := null, null, null, null, null
	if r.g.keyIndex != "" {
		index = textValue(r.g.keyIndex)
	}
	if x.Row != nil {
		h := r.held[x.Row.Ref]
		localTuple, localXID = textValue(h.json), textValue(fmt.Sprint(x.Row.XID))
		if x.Row.Index != "" {
			index = textValue(x.Row.Index)
		}
		if origin, ok := x.LocalOrigin(c.self); ok {
			localOrigin, localTime = textValue(fmt.Sprint(origin)), textValue(h.stamp)
		}
	}
	row, columns := r.row, r.g.allColumns()
	if row == nil {
		row, columns = r.keyRow, r.g.key
	}
	values := []pgoutput.Value{
		textValue(r.g.name), index, textValue(x.Type.Release5()), textValue(x.Resolution.String()), localOrigin, localTuple,
		localXID, localTime, textValue(fmt.Sprint(c.author)), textValue(fmt.Sprint(c.tx.xid)),
		int64Value(int64(c.tx.commitTime)), lsnValue(c.tx.final),
	}
	for _, oid := range []uint32{textOID, textOID, textOID, textOID, 23, textOID, 28, timestamptzOID, 23, 28, timestamptzOID, pgLSNOID} {
		p.add(oid)
	}
	from, more := r.g.literalRow(&p, row, columns)
	text := fmt.Sprintf(`INSERT INTO spock.resolutions (node_name, log_time, relname, idxname, conflict_type,
		conflict_resolution, local_origin, local_tuple, local_xid, local_timestamp, remote_origin, remote_tuple, remote_xid,
		remote_timestamp, remote_lsn)
		SELECT (SELECT n.node_name FROM spock.node n JOIN spock.local_node l USING (node_id)), clock_timestamp(),
		$1, $2, $3, $4, $5, $6, $7, $8, $9, row_to_json(k.*)::text, $10, $11, $12 FROM %s k`, from)
	return &ask{text: text, types: p.types, values: append(values, more...)}
}

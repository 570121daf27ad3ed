package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pgdrover/pgdrover/internal/conflict"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// handle takes one message of the stream.
func (w *Worker) handle(ctx context.Context, data []byte) error {
	m, err := w.decoder.Decode(data)
	if err != nil {
		return err
	}
	switch m := m.(type) {
	case *pgoutput.Begin:
		if w.current != nil {
			return wholly("a transaction comes between the blocks of another")
		}
		w.beginTransaction(m)
		return nil
	case *pgoutput.Origin:
		return w.comesFrom(ctx, m.Name)
	case *pgoutput.Commit:
		return w.endTransaction(ctx, m)
	case *pgoutput.Relation:
		if w.applier.binary && m.Namespace != "spock" && numbered(m) {
			return &rereadError{text: true, cause: fmt.Errorf("table %s.%s has a column that names objects by their numbers", m.Namespace, m.Name)} //nolint:err113 // for the log
		}
		if (w.major >= 16 || !w.applier.binary) && m.Namespace != "spock" {
			if err := w.askMembers(ctx, m.ID); err != nil {
				return err
			}
		}
		w.relations[m.ID] = &remoteTable{relation: m, types: w.typesOf(m), rule: w.sets.rule(m.ID)}
		return nil
	case *pgoutput.Type:
		w.types[m.ID] = m
		return nil
	case *pgoutput.StreamStart:
		return w.startBlock(ctx, m)
	case *pgoutput.StreamCommit:
		return w.endBlocks(ctx, m)
	case *pgoutput.StreamAbort:
		return wholly("a part of the transaction was rolled back")
	case *pgoutput.StreamStop:
		return nil
	case *pgoutput.LogicalMessage:
		return w.message(ctx, m)
	}
	if w.current == nil {
		return fmt.Errorf("handle %s message: it stands outside of a transaction", m.Kind())
	}
	if w.repairing || w.current.skipped || w.dropping && !w.setRow(m) {
		return nil
	}
	if err := w.remembers(ctx, w.current); err != nil {
		return err
	}
	if err := w.change(ctx, m, data); err != nil {
		return err
	}
	if w.current.size > w.limit && w.limit > 0 && len(w.current.changes) > 0 || w.current.begun && len(w.current.changes) >= 2*runRows {
		return w.put(ctx, w.current)
	}
	return nil
}

// numbered tells whether values of a table are numbers of objects, which are
// others on each node; as text they are names. Types that are made of such ones
// are not seen.
func numbered(m *pgoutput.Relation) bool {
	return slices.ContainsFunc(m.Columns, func(c pgoutput.Column) bool {
		switch c.Type {
		case 24, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191, // regproc and its like
			1008, 2207, 2208, 2209, 2210, 2211, 3735, 3770, 4090, 4097, 4192: // arrays of them
			return true
		}
		return false
	})
}

// typesOf are the types of a table's columns that are the provider's own.
func (w *Worker) typesOf(m *pgoutput.Relation) map[uint32]*pgoutput.Type {
	var types map[uint32]*pgoutput.Type
	for _, c := range m.Columns {
		if t := w.types[c.Type]; t != nil {
			if types == nil {
				types = map[uint32]*pgoutput.Type{}
			}
			types[c.Type] = t
		}
	}
	return types
}

func (w *Worker) beginTransaction(m *pgoutput.Begin) {
	tx := &transaction{final: m.FinalLSN, commitTime: m.CommitTime, xid: m.XID, arena: w.applier.arena()}
	w.current, w.dropping, w.repairing, w.author = tx, false, false, w.sub.provider
	if f := w.forced[m.FinalLSN]; f != nil {
		tx.mode, tx.cause, tx.failedAt, tx.reread, tx.attempts = f.mode, f.cause, f.failedAt, f.reread, f.attempts
	}
	tx.skipped = w.skip != 0 && m.FinalLSN == w.skip
}

// setRow tells whether a change is one of the provider's own replication sets.
// Those also change in transactions that came from elsewhere, where DDL is
// replicated: they are the provider's all the same.
func (w *Worker) setRow(m pgoutput.Message) bool {
	var id uint32
	switch m := m.(type) {
	case *pgoutput.Insert:
		id = m.Relation
	case *pgoutput.Update:
		id = m.Relation
	case *pgoutput.Delete:
		id = m.Relation
	}
	t := w.relations[id]
	return t != nil && t.relation.Namespace == "spock" && t.relation.Name != "queue"
}

// comesFrom takes the origin of a transaction that came to the provider by
// replication itself. Without forwarding it is none of ours.
func (w *Worker) comesFrom(ctx context.Context, origin string) error {
	w.author = 0
	if len(w.sub.forward) == 0 {
		w.dropping = true
		return nil
	}
	if _, known := w.authors[origin]; !known && !w.strangers[origin] { // it may be new there
		if err := w.loadAuthors(ctx); err != nil {
			return err
		}
		w.strangers[origin] = true // is not asked for again
	}
	w.writtenBy(w.authors[origin])
	return nil
}

// writtenBy takes the author of a forwarded transaction, where one is known. What
// is this node's own goes no further: where nodes forward in a circle, it would
// go round for ever.
func (w *Worker) writtenBy(author conflict.NodeID) {
	w.author = author
	w.dropping = w.dropping || author == w.engine.node
	if w.current != nil {
		w.current.author = author
	}
}

// authorPrefix marks messages with the author of what comes over several nodes:
// an origin only tells whom the provider has it from.
const authorPrefix = "pgdrover/a"

// hearAuthor takes such a message, where the provider's engine has put it: before
// all else in a transaction that came to it by replication. Everybody may write
// messages.
func (w *Worker) hearAuthor(m *pgoutput.LogicalMessage) {
	if len(w.sub.forward) == 0 || w.current == nil || w.current.author == 0 || w.current.begun || len(w.current.changes) > 0 {
		return
	}
	if author, err := strconv.ParseUint(string(m.Content), 10, 32); err == nil {
		w.writtenBy(conflict.NodeID(author))
	}
}

// passAuthor tells those to whom a forwarded transaction is forwarded in turn who
// has written it.
func passAuthor(s *session, tx *transaction) {
	if tx.author != 0 {
		s.execute("SELECT pg_logical_emit_message(true, $1, $2)", []uint32{textOID, textOID}, []pgoutput.Value{textValue(authorPrefix), textValue(fmt.Sprint(uint32(tx.author)))}, op{tx: tx})
	}
}

func (w *Worker) endTransaction(ctx context.Context, m *pgoutput.Commit) error {
	tx := w.current
	if tx == nil {
		return fmt.Errorf("handle %s message: no transaction has begun", m.Kind())
	}
	w.current = nil
	tx.end, tx.complete = m.EndLSN, true
	delete(w.forced, tx.final)
	if !w.dropping && w.author != 0 && tx.commitTime > 0 { // copies bear a time that is none
		// What a provider forwards has the times of others.
		if back, stepped := conflict.SteppedBack(w.before[w.author], tx.commitTime); stepped && w.before[w.author] != 0 {
			w.applier.counts.add(w.sub.id, "clock_stepped_back", 1)
			w.log.WarnContext(ctx, "commit times of the stream fell", "lsn", tx.final.String(), "by", back)
		}
		w.before[w.author] = tx.commitTime
	}
	if w.skip != 0 && !w.dropping && (tx.skipped || m.EndLSN == w.skip || len(tx.changes) > 0 || tx.begun) {
		if m.EndLSN == w.skip && !tx.begun {
			tx.skipped, tx.changes = true, nil
		}
		w.skip = 0
		w.log.WarnContext(ctx, "skip-LSN of subscription cleared", "lsn", m.EndLSN.String(), "skipped", tx.skipped)
		tx.add(change{set: w.sql("UPDATE spock.subscription SET sub_skip_lsn = '0/0' WHERE sub_id = $1", []uint32{26}, uint32Value(w.sub.id))})
		tx.mode = max(tx.mode, careful)
	}
	if len(tx.changes) > 0 || tx.begun {
		if err := w.put(ctx, tx); err != nil {
			return err
		}
	}
	w.idle = max(w.idle, tx.end)
	return nil
}

// change keeps what is to be applied of a change.
func (w *Worker) change(ctx context.Context, m pgoutput.Message, data []byte) error {
	switch m := m.(type) {
	case *pgoutput.Insert:
		return w.row(ctx, m.Kind(), m.Relation, m.New, nil, data)
	case *pgoutput.Update:
		return w.row(ctx, m.Kind(), m.Relation, m.New, m.Old, data)
	case *pgoutput.Delete:
		return w.row(ctx, m.Kind(), m.Relation, nil, m.Old, data)
	case *pgoutput.Truncate:
		if w.current.early {
			return wholly(unfit(nil, m.Kind()))
		}
		var tables []*remoteTable
		for _, id := range m.Relations {
			t := w.relations[id]
			if t == nil {
				return fmt.Errorf("handle truncate: relation %d was not announced", id)
			}
			if t.rule.truncate && w.follows(t) {
				tables = append(tables, t)
			}
		}
		if len(tables) > 0 {
			w.current.add(change{kind: pgoutput.KindTruncate, tables: tables, data: w.current.keep(data)})
		}
		return nil
	default:
		return fmt.Errorf("handle %s message: not expected here", m.Kind())
	}
}

func (w *Worker) row(ctx context.Context, kind pgoutput.Kind, id uint32, row, old pgoutput.Tuple, data []byte) error {
	t := w.relations[id]
	if t == nil {
		return fmt.Errorf("handle %s message: relation %d was not announced", kind, id)
	}
	if w.current.early {
		if reason := unfit(t, kind); reason != "" {
			return wholly(reason)
		}
	}
	if t.relation.Namespace == "spock" {
		return w.system(ctx, t.relation, kind, row, old)
	}
	allowed := kind == pgoutput.KindInsert && t.rule.insert || kind == pgoutput.KindUpdate && t.rule.update ||
		kind == pgoutput.KindDelete && t.rule.delete
	if !allowed || !w.follows(t) {
		return nil
	}
	if len(t.rule.filters) > 0 {
		judged := row
		if kind == pgoutput.KindDelete {
			judged = old
		}
		pass, err := w.applier.peers.filter(ctx, w.sub.provider, t, judged)
		if fault, ok := errors.AsType[*filterError](err); ok {
			// Nobody knows whether the change is to be applied: it is an exception.
			t, pass, err = &remoteTable{relation: t.relation, types: t.types, rule: t.rule, fault: fault}, true, nil
		}
		if err != nil || !pass {
			return err
		}
	}
	w.current.add(change{kind: kind, table: t, data: w.current.keepChange(data)})
	return nil
}

// follows tells whether a table is past its synchronisation at this point.
func (w *Worker) follows(t *remoteTable) bool {
	s, ok := w.syncing[t.relation.Namespace+"."+t.relation.Name]
	return !ok || s.at != 0 && w.current.final >= s.at
}

// system takes a row of the provider's spock schema.
func (w *Worker) system(ctx context.Context, rel *pgoutput.Relation, kind pgoutput.Kind, row, old pgoutput.Tuple) error {
	switch rel.Name {
	case "queue":
		q, err := parseQueued(rel, row)
		if err != nil {
			return err
		}
		if w.sets.overlap(q.sets, q.all) {
			w.current.add(change{queue: q})
		}
		return nil
	case "replication_set", "replication_set_table", "pgdrover_row_filter", "pgdrover_applied":
	default:
		return nil
	}
	if len(old) == 0 {
		old = row
	}
	r := fields{rel: rel, row: row, old: old, gone: kind == pgoutput.KindDelete}
	if rel.Name == "pgdrover_applied" {
		w.vectors = append(w.vectors, vector{text: string(r.value(row, "vector").Data), behind: w.applier.last()})
		return nil
	}
	var err error
	switch rel.Name {
	case "replication_set":
		err = w.setChanged(&r)
	case "replication_set_table":
		err = w.memberChanged(ctx, &r)
	default:
		err = w.filterChanged(&r)
	}
	if err != nil {
		return fmt.Errorf("follow %s: %w", rel.Name, err)
	}
	for id, t := range w.relations {
		w.relations[id] = &remoteTable{relation: t.relation, types: t.types, rule: w.sets.rule(id)}
	}
	return nil
}

// message takes what pg_logical_emit_message wrote there.
func (w *Worker) message(ctx context.Context, m *pgoutput.LogicalMessage) error {
	if m.Prefix == authorPrefix {
		w.hearAuthor(m)
	}
	if m.Prefix != "Spock" || len(m.Content) < 4 {
		return nil
	}
	switch m.Content[0] {
	case 1, 2:
		w.repairing = m.Content[0] == 1 && w.current != nil
	case 3:
		if m.Transactional || w.current != nil {
			return nil // the commit is behind it
		}
		w.idle = max(w.idle, m.LSN)
		if m.LSN <= w.applier.reached {
			return nil
		}
		return w.put(ctx, &transaction{position: true, complete: true, end: m.LSN, commitTime: w.applier.time})
	}
	return nil
}

// vector is what the provider says that it has applied. It speaks of what comes
// behind it in the stream: nothing older than the deletes that it has seen. What
// came before it may still need their tombstones, until it has committed here.
type vector struct {
	text   string
	behind *transaction // nil when nothing was on its way
}

// storeVectors keeps those whose time has come; the last one has it all.
func (w *Worker) storeVectors(ctx context.Context) error {
	n := 0
	for n < len(w.vectors) && (w.vectors[n].behind == nil || w.vectors[n].behind.finished) {
		n++
	}
	if n == 0 {
		return nil
	}
	text := w.vectors[n-1].text
	w.vectors = append(w.vectors[:0], w.vectors[n:]...)
	return w.storeVector(ctx, text)
}

func (w *Worker) storeVector(ctx context.Context, text string) error {
	nodes, at := []uint32{}, []string{} // of no node, too: NULL would be another question
	for part := range strings.SplitSeq(text, ",") {
		node, lsn, ok := strings.Cut(part, "=")
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(node, 10, 32)
		if err != nil {
			return fmt.Errorf("read vector of provider: %w", err)
		}
		if _, err := pg.ParseLSN(lsn); err != nil {
			return fmt.Errorf("read vector of provider: %w", err)
		}
		nodes, at = append(nodes, uint32(n)), append(at, lsn)
	}
	// A provider that follows a node by several subscriptions has seen of it what
	// the last of them has. Whom it does not name any more, it has left: one that
	// comes under that name later may be another, whose log begins anew.
	if _, err := w.db.Exec(ctx, `WITH left_behind AS (DELETE FROM spock.pgdrover_vector
			WHERE provider_id = $1 AND origin_id <> ALL ($2::oid[]) AND lsn > '0/0')
		INSERT INTO spock.pgdrover_vector (provider_id, origin_id, lsn)
		SELECT $1, v.node, min(v.at::pg_lsn) FROM unnest($2::oid[], $3::text[]) v (node, at) GROUP BY v.node
		ON CONFLICT (provider_id, origin_id) DO UPDATE SET lsn = excluded.lsn, received_at = now()`,
		uint32(w.sub.provider), nodes, at); err != nil {
		return fmt.Errorf("store vector of provider: %w", err)
	}
	return nil
}

// sql is a change that runs a statement in the transaction.
func (w *Worker) sql(text string, types []uint32, values ...pgoutput.Value) func(context.Context, *session) error {
	values = slices.Clone(values)
	for i := range values {
		values[i].Data = slices.Clone(values[i].Data)
	}
	return func(ctx context.Context, s *session) error {
		_, err := s.query(ctx, text, types, values...)
		return err
	}
}

package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// options are settings of the node that say what is logged and what becomes of
// a transaction that cannot be applied.
type options struct {
	behaviour       string // discard, transdiscard, sub_disable
	logging         string // none, discard, all
	saveResolutions bool
	conflictLevel   slog.Level
	bundles         bool // several transactions may be written as one
}

// trial is what became of one action in the exception form.
type trial struct {
	action          int
	operation       string
	schema, table   *string
	old, new        *string // as JSON
	statement, role *string
	err             error
}

// errDisabled ends a worker whose subscription its exceptions have disabled.
var errDisabled = errors.New("subscription disabled because of an exception")

// attemptLimit is how often a transaction is tried at once that meets what may
// go away. After that the worker ends, which shows, and starts again a while later.
const attemptLimit = 5

// delayed is what keeps a transaction from being applied without being its
// fault.
type delayed struct {
	name  string
	at    pg.LSN
	cause error
}

func (d *delayed) Error() string {
	return fmt.Sprintf("apply transaction %s: %v (it is tried again)", d.at, d.cause)
}

func (d *delayed) Unwrap() error { return d.cause }

// Hint says what to do.
func (d *delayed) Hint() string {
	hint := fmt.Sprintf("Mend what it says; or leave the transaction out: SELECT spock.sub_alter_skiplsn('%s', '%s').", d.name, d.at)
	if server := hintOf(d.cause); server != "" {
		return strings.TrimSuffix(server, ".") + ". " + hint
	}
	return hint
}

// passing tells whether an error is none of the change: of resources, of the
// machine, of others at work. However long it lasts, it leaves nothing out.
func passing(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return false
	}
	switch {
	case pgErr.Code == pgerrcode.SerializationFailure, pgErr.Code == pgerrcode.DeadlockDetected,
		pgErr.Code == pgerrcode.LockNotAvailable, pgErr.Code == pgerrcode.QueryCanceled,
		pgErr.Code == "0A000" && strings.Contains(pgErr.Message, "cached plan"):
		return true
	}
	// A file that DDL names and this machine lacks is the DDL's.
	return pgerrcode.IsInsufficientResources(pgErr.Code) || pgerrcode.IsOperatorIntervention(pgErr.Code) ||
		pgErr.Code == pgerrcode.SystemError || pgErr.Code == pgerrcode.IOError ||
		pgErr.Code == pgerrcode.DataCorrupted || pgErr.Code == pgerrcode.IndexCorrupted
}

// isSessionError tells whether an error is one of the connection, or of the
// order of things, rather than of a change.
func isSessionError(err error) bool {
	if err == nil || errors.Is(err, errPeer) {
		return err != nil
	}
	if _, ok := errors.AsType[*delayed](err); ok {
		return true
	}
	if _, ok := errors.AsType[*rereadError](err); ok {
		return true
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		// Of a value that does not fit its type the server says that the protocol is violated.
		return pgerrcode.IsConnectionException(pgErr.Code) && pgErr.Code != pgerrcode.ProtocolViolation || pgErr.Severity == "FATAL"
	}
	return errors.Is(err, errPipeline) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, errBroken)
}

// errBroken is wrapped by what ends a session.
var errBroken = errors.New("connection to local database lost")

// blame sends a transaction the exception's way, unless its error may go away:
// an error of its own says that this takes longer.
func (a *applier) blame(tx *transaction, err error, action int) error {
	tx.attempts++
	tx.cause = err
	if !passing(err) {
		tx.mode, tx.failedAt = exception, action
		return nil
	}
	return a.patience(tx, err)
}

// patience is at an end with what was tried often enough for now.
func (a *applier) patience(tx *transaction, err error) error {
	if tx.attempts < attemptLimit {
		return nil
	}
	return &delayed{name: a.name, at: tx.final, cause: err}
}

// sendCareful writes one change and waits for it.
func (a *applier) sendCareful(ctx context.Context, tx *transaction, i int) error {
	c := &carefully{applier: a, tx: tx}
	ch := &tx.changes[i]
	tx.actions++
	if tx.mode == exception {
		return c.try(ctx, ch)
	}
	err := c.change(ctx, ch)
	if err == nil || isSessionError(err) {
		return err
	}
	if ch.row() && !tx.reread {
		// Its table may have been changed since it was read. It is read again, and held.
		tx.reread = true
		a.epoch++
		a.log.DebugContext(ctx, "read table again", "lsn", tx.final.String(), "error", err)
		return errPipeline
	}
	if err := a.blame(tx, err, tx.actions); err != nil {
		return err
	}
	return errPipeline
}

// try writes a change in a subtransaction and remembers what became of it.
func (c *carefully) try(ctx context.Context, ch *change) error {
	if ch.set != nil {
		return ch.set(ctx, c.session)
	}
	t := trial{action: c.tx.actions}
	if c.options.logging != "none" && c.tx.described < describedLimit {
		t = c.describe(ctx, ch)
		c.tx.described += t.size()
	}
	if err := c.session.run(ctx, "SAVEPOINT pgdrover_trial"); err != nil {
		return err
	}
	c.tx.saved = false
	t.err = c.change(ctx, ch)
	if isSessionError(t.err) {
		return t.err // the worker starts again
	}
	if passing(t.err) {
		if err := c.patience(c.tx, t.err); err != nil {
			return err
		}
		return &rereadError{final: c.tx.final, mode: exception, cause: t.err, failedAt: c.tx.failedAt, attempts: c.tx.attempts + 1}
	}
	end := "RELEASE SAVEPOINT pgdrover_trial"
	if t.err != nil {
		end = "ROLLBACK TO SAVEPOINT pgdrover_trial; " + end
	}
	c.tx.failed = c.tx.failed || t.err != nil
	c.tx.saved = false
	if err := c.session.run(ctx, end); err != nil {
		return err
	}
	if t.operation == "" && t.err != nil && c.options.logging != "none" && c.tx.described < 2*describedLimit { // what has failed is told as long as may be
		failed := c.describe(ctx, ch)
		failed.err = t.err
		t = failed
		c.tx.described += t.size()
	}
	if t.operation != "" {
		c.tx.trials = append(c.tx.trials, t)
	} else {
		c.tx.untold++
	}
	return nil
}

// describedLimit bounds what is kept in memory to be logged of a transaction, in
// bytes: of a very large one the log has the beginning.
const describedLimit = 32 << 20

// size is about what a trial takes in memory.
func (t *trial) size() int {
	n := 200
	for _, s := range []*string{t.old, t.new, t.statement} {
		if s != nil {
			n += len(*s)
		}
	}
	return n
}

// describe is the change as the exception log shows it.
func (c *carefully) describe(ctx context.Context, ch *change) trial {
	t := trial{action: c.tx.actions}
	if ch.queue != nil {
		t.operation, t.statement, t.role = "DDL", &ch.queue.text, &ch.queue.role
		return t
	}
	m, err := c.decoder.DecodeOne(ch.data, false)
	if err != nil {
		return t
	}
	switch m := m.(type) {
	case *pgoutput.Insert:
		t.operation, t.new = "INSERT", c.json(ctx, ch.table, m.New)
	case *pgoutput.Update:
		row, old, sent := clone(m.New), clone(m.Old), m.OldTuple != pgoutput.OldNone
		t.operation, t.new = "UPDATE", c.json(ctx, ch.table, row)
		if sent {
			t.old = c.json(ctx, ch.table, old)
		}
	case *pgoutput.Delete:
		t.operation, t.old = "DELETE", c.json(ctx, ch.table, m.Old)
	case *pgoutput.Truncate:
		t.operation = "TRUNCATE"
	}
	table := ch.table
	if table == nil && len(ch.tables) > 0 {
		table = ch.tables[0]
	}
	if table != nil {
		t.schema, t.table = &table.relation.Namespace, &table.relation.Name
	}
	return t
}

// json is a row in the form of the exception log: an array of values with the
// names and types of their columns.
func (c *carefully) json(ctx context.Context, table *remoteTable, row pgoutput.Tuple) *string {
	var p parameters
	var parts []string
	var values []pgoutput.Value
	for i, v := range row {
		if i >= len(table.relation.Columns) || v.Kind == pgoutput.Unchanged {
			continue
		}
		col := table.relation.Columns[i]
		typ := uint32(textOID)
		switch {
		case col.Type < firstOwnOID:
			typ = col.Type
		case v.Kind == pgoutput.Binary:
			typ = byteaOID // nobody here knows better
		}
		expr := p.add(typ) + "::text"
		switch col.Type {
		case 20, 21, 23, 700, 701, 1700:
			expr = fmt.Sprintf("$%d", len(p.types))
		}
		values = append(values, v)
		parts = append(parts, fmt.Sprintf("json_build_object('value', %s, 'attname', %s::text, 'atttype', format_type(%d, NULL))",
			expr, pg.QuoteLiteral(col.Name), col.Type))
	}
	// Each savepoint is released: many that stand in each other cost the server
	// locks, of which there are few.
	q := &ask{text: "SELECT to_json(ARRAY[" + strings.Join(parts, ", ") + "]::json[])::text", types: p.types, values: values}
	err := c.session.together(ctx, &ask{text: "SAVEPOINT pgdrover_json"}, q, &ask{text: "RELEASE SAVEPOINT pgdrover_json"})
	if err != nil {
		// A broken session shows at the next statement.
		_ = c.session.run(ctx, "ROLLBACK TO SAVEPOINT pgdrover_json; RELEASE SAVEPOINT pgdrover_json")
		return nil
	}
	text := string(q.rows()[0][0].Data)
	return &text
}

// conclude ends the exception form: the behaviour that was chosen decides what
// stays, and the log says what does not.
func (a *applier) conclude(ctx context.Context, tx *transaction) error {
	behaviour := a.options.behaviour
	whole := behaviour != "discard" // or only what has failed
	if !tx.failed || !whole {
		// Checks that wait for the end have their say now, while something can be done.
		switch err := a.session.run(ctx, "SAVEPOINT pgdrover_trial; SET CONSTRAINTS ALL IMMEDIATE"); {
		case isSessionError(err):
			return err
		case err != nil:
			tx.cause, tx.failedAt, whole = err, 0, true
		case !tx.failed:
			return nil // this time it works
		}
	}
	if whole {
		if err := a.session.run(ctx, "ROLLBACK TO SAVEPOINT pgdrover_start"); err != nil {
			return err
		}
		for _, set := range tx.sets {
			if err := set(ctx, a.session); err != nil {
				return err
			}
		}
	}
	a.log.WarnContext(ctx, "transaction could not be applied", "behaviour", behaviour, "lsn", tx.final.String(),
		"origin", uint32(a.author), "error", tx.cause)
	if err := a.storeTrials(ctx, tx, whole); err != nil {
		return fmt.Errorf("store exceptions: %w", err)
	}
	a.counts.exception(a.subID)
	if behaviour == "sub_disable" {
		return a.disable(ctx, tx)
	}
	return nil
}

func (a *applier) storeTrials(ctx context.Context, tx *transaction, whole bool) error {
	if a.options.logging == "none" {
		return nil
	}
	if tx.untold > 0 {
		a.log.WarnContext(ctx, "transaction is too large to be logged as a whole", "lsn", tx.final.String(), "actions", tx.untold)
	}
	for _, t := range tx.trials {
		if t.err == nil && a.options.logging == "discard" && !whole {
			continue
		}
		if err := a.storeTrial(ctx, tx, t, a.message(tx, t)); err != nil {
			return err
		}
	}
	return nil
}

// message says why a row stands in the log.
func (a *applier) message(tx *transaction, t trial) string {
	what := "tuple"
	if t.operation == "DDL" {
		what = "statement"
	}
	switch {
	case t.err != nil:
		return errorText(t.err)
	case t.action == tx.failedAt && tx.cause != nil:
		return errorText(tx.cause)
	case tx.failedAt > 0:
		return fmt.Sprintf("%s: %s discarded due to exception at command_counter %d", a.options.behaviour, what, tx.failedAt)
	case tx.cause != nil:
		return fmt.Sprintf("%s: %s discarded due to exception: %s", a.options.behaviour, what, errorText(tx.cause))
	default:
		return fmt.Sprintf("%s: %s discarded due to exception (root cause not captured)", a.options.behaviour, what)
	}
}

func errorText(err error) string {
	var pgErr *pgconn.PgError
	switch {
	case errors.Is(err, errNoTable):
		return errNoTable.Error()
	case errors.As(err, &pgErr) && pgErr.Code != pgerrcode.InternalError:
		return fmt.Sprintf("[SQLSTATE %s] %s", pgErr.Code, pgErr.Message)
	case pgErr != nil:
		return pgErr.Message
	default:
		return err.Error()
	}
}

func (a *applier) storeTrial(ctx context.Context, tx *transaction, t trial, message string) error {
	text := func(s *string) pgoutput.Value {
		if s == nil {
			return pgoutput.Value{Kind: pgoutput.Null}
		}
		return textValue(*s)
	}
	empty := ""
	if errors.Is(t.err, errNoTable) {
		t.schema, t.table = &empty, &empty
	}
	_, err := a.session.query(ctx, `INSERT INTO spock.exception_log (remote_origin, remote_commit_ts, command_counter, retry_errored_at,
		remote_xid, table_schema, table_name, operation, remote_old_tup, remote_new_tup, ddl_statement, ddl_user, error_message)
		VALUES ($1, $2, $3, clock_timestamp(), $4, $5, $6, $7, $8, $9, $10, $11, $12)`,
		[]uint32{26, timestamptzOID, int8OID, int8OID, textOID, textOID, textOID, 3802, 3802, textOID, textOID, textOID},
		uint32Value(uint32(a.author)), int64Value(int64(tx.commitTime)), int64Value(a.counts.logged()), int64Value(int64(tx.xid)),
		text(t.schema), text(t.table), textValue(t.operation), text(t.old), text(t.new), text(t.statement), text(t.role),
		textValue(message))
	return err
}

// disable switches the subscription off and leaves its position where it is.
func (a *applier) disable(ctx context.Context, tx *transaction) error {
	message := fmt.Sprintf("disabling subscription %s due to exception(s) - skip_lsn = %s", a.name, tx.final)
	if a.options.logging != "none" {
		if err := a.storeTrial(ctx, tx, trial{operation: "SUB_DISABLE"}, message); err != nil {
			return err
		}
	}
	a.log.WarnContext(ctx, "disable subscription", "lsn", tx.final.String(), "error", tx.cause)
	if _, err := a.session.query(ctx, "UPDATE spock.subscription SET sub_enabled = false WHERE sub_id = $1", []uint32{26},
		uint32Value(a.subID)); err != nil {
		return fmt.Errorf("disable subscription: %w", err)
	}
	if err := a.session.run(ctx, "SELECT pg_replication_origin_xact_reset(); COMMIT"); err != nil {
		return fmt.Errorf("disable subscription: %w", err)
	}
	return &disabled{name: a.name, at: tx.final, cause: tx.cause}
}

// disabled is why a subscription is.
type disabled struct {
	name  string
	at    pg.LSN
	cause error
}

func (d *disabled) Error() string { return fmt.Sprintf("apply transaction %s: %v", d.at, d.cause) }

func (d *disabled) Is(target error) bool { return target == errDisabled }

func (d *disabled) Unwrap() error { return d.cause }

// Hint says what to do.
func (d *disabled) Hint() string {
	return fmt.Sprintf("Mend what it says and enable the subscription: SELECT spock.sub_enable('%[1]s'); "+
		"or leave the transaction out: SELECT spock.sub_alter_skiplsn('%[1]s', '%[2]s'), and enable it.", d.name, d.at)
}

package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// queued is a row of spock.queue: what a provider wants done.
type queued struct {
	role string
	kind string
	sets []string
	all  bool   // it is for every subscription
	text string // of the message: a statement, or JSON
}

// parseQueued reads a row of the queue. Its columns are of types whose binary
// form is their text, but for the sets.
func parseQueued(rel *pgoutput.Relation, row pgoutput.Tuple) (*queued, error) {
	q := &queued{}
	for i, col := range rel.Columns {
		if i >= len(row) {
			break
		}
		v := row[i]
		switch col.Name {
		case "role":
			q.role = string(v.Data)
		case "message_type":
			q.kind = string(v.Data)
		case "replication_sets":
			q.all = v.Kind == pgoutput.Null
			var err error
			if q.sets, err = textArray(v); err != nil {
				return nil, fmt.Errorf("read replication sets of queued message: %w", err)
			}
		case "message":
			q.text = string(v.Data)
		}
	}
	if q.kind == "Q" || q.kind == "D" {
		if err := json.Unmarshal([]byte(q.text), &q.text); err != nil {
			return nil, fmt.Errorf("read queued statement: %w", err)
		}
	}
	return q, nil
}

// execute does what a queued message says.
func (c *carefully) execute(ctx context.Context, q *queued) error {
	var do func(context.Context, *queued) error
	switch q.kind {
	case "A":
		return c.wantTable(ctx, q) // the wish goes no further: the rows do
	case "Q", "D":
		do = c.ddl
	case "S":
		do = c.setSequence
	default:
		return fmt.Errorf("execute queued message: unknown type %q", q.kind)
	}
	if err := c.passQueued(ctx, q); err != nil {
		return err
	}
	return do(ctx, q)
}

// passQueued hands a message on to those to whom this node forwards what comes
// from others, with its place among the rows.
func (c *carefully) passQueued(ctx context.Context, q *queued) error {
	message := q.text
	if q.kind != "S" {
		text, err := json.Marshal(q.text)
		if err != nil {
			return fmt.Errorf("pass queued message on: %w", err)
		}
		message = string(text)
	}
	sets := pgoutput.Value{Kind: pgoutput.Null}
	if !q.all {
		text, err := json.Marshal(q.sets)
		if err != nil {
			return fmt.Errorf("pass queued message on: %w", err)
		}
		sets = textValue(string(text))
	}
	_, err := c.session.query(ctx, `INSERT INTO spock.queue (queued_at, role, replication_sets, message_type, message)
		VALUES (pg_catalog.now(), $1, (SELECT pg_catalog.array_agg(s) FROM pg_catalog.json_array_elements_text($2::pg_catalog.json) s), $3::pg_catalog."char", $4::pg_catalog.json)`,
		[]uint32{nameOID, textOID, textOID, textOID}, textValue(q.role), sets, textValue(q.kind), textValue(message))
	if err != nil {
		return fmt.Errorf("pass queued message on: %w", err)
	}
	return nil
}

// usual is what a queued text expects where it does not say otherwise:
// pgdrover.statement_settings writes the rest before it. Queries of its author's
// see what policies let him see, as they did there.
const usual = `; SET LOCAL timezone TO 'UTC'; SET LOCAL datestyle TO 'ISO, MDY'; SET LOCAL intervalstyle TO 'postgres'; ` +
	`SET LOCAL xmloption TO 'content'; SET LOCAL array_nulls TO 'on'; SET LOCAL bytea_output TO 'hex'; SET LOCAL extra_float_digits TO '1'; ` +
	`SET LOCAL transform_null_equals TO 'off'; SET LOCAL xmlbinary TO 'base64'; SET LOCAL row_security TO 'on'`

// ddl runs a statement as the role that ran it there. The text sets the search
// path itself.
//
// Code of the role's own may run with it: defaults, checks, functions of a
// query. It must not become what we are, by taking the role back; so the text
// runs in a function that belongs to the role, in which the server refuses to
// change roles.
func (c *carefully) ddl(ctx context.Context, q *queued) error {
	const look = `SELECT coalesce((SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = $1::text), false)::text,
		EXISTS (SELECT FROM pg_locks l WHERE l.pid = pg_backend_pid() AND l.locktype = 'advisory' AND l.granted
			AND l.classid = $2 AND l.objid = 0 AND l.objsubid = 2)::text`
	reply, err := c.session.query(ctx, look, []uint32{textOID, oidOID}, textValue(q.role), uint32Value(lockGate))
	if err != nil {
		return fmt.Errorf("look for role: %w", err)
	}
	super, gated := string(reply.rows[0][0].Data) == "true", string(reply.rows[0][1].Data) == "true"
	if err := c.session.run(ctx, "SET LOCAL pgdrover.applying = "+pg.QuoteLiteral(q.kind)+usual); err != nil {
		return err
	}
	if super {
		err = c.ddlAsSuperuser(ctx, q)
	} else {
		err = c.ddlConfined(ctx, q)
	}
	if err != nil {
		return err
	}
	// What the text has set for the session, the path with it, must not stay, nor
	// a cursor whose query would go on with our rights, nor temporary objects.
	if err := c.session.run(ctx, "RESET ROLE; RESET ALL; CLOSE ALL; DISCARD TEMP"); err != nil {
		return err
	}
	if err := c.relock(ctx, gated); err != nil {
		return err
	}
	if !super {
		if err := c.refuseDeferred(ctx); err != nil {
			return err
		}
	}
	c.tx.deferred = true
	c.epoch++
	return c.session.forget(ctx)
}

// relock takes the session's advisory locks again: the text may have given them
// up, or taken others that would outlive it.
func (c *carefully) relock(ctx context.Context, gated bool) error {
	text := fmt.Sprintf("SELECT (pg_try_advisory_lock(%d, %d) AND (NOT %t OR pg_try_advisory_lock_shared(%d, 0)))::text",
		lockWorker, int32(c.subID), gated, lockGate) //nolint:gosec // the number wraps around, as in SQL
	if err := c.session.run(ctx, "SELECT pg_advisory_unlock_all()"); err != nil {
		return err
	}
	reply, err := c.session.query(ctx, text, nil)
	if err != nil {
		return fmt.Errorf("take the subscription's lock again: %w", err)
	}
	if string(reply.rows[0][0].Data) != "true" {
		return &delayed{name: c.name, at: c.tx.final, cause: errLockTaken}
	}
	return nil
}

var (
	errLockTaken = errors.New("the subscription's lock was asked for meanwhile")
	errDeferred  = errors.New("execute queued statement: its triggers put themselves off to the end of the transaction, where they would run with the engine's rights")
)

// refuseDeferred refuses a text whose triggers wait for the end of the
// transaction though they were asked not to: there they would run as what we
// are. The server tells of such only when it is asked to alter their table; what
// it is asked for is nothing that it does.
func (c *carefully) refuseDeferred(ctx context.Context) error {
	const look = `SELECT l.relation::regclass::text FROM pg_locks l
		WHERE l.locktype = 'relation' AND l.pid = pg_backend_pid() AND l.mode = 'RowExclusiveLock' AND l.granted
		AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
		AND EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = l.relation AND t.tgdeferrable)`
	reply, err := c.session.query(ctx, look, nil)
	if err != nil {
		return fmt.Errorf("look for triggers that wait: %w", err)
	}
	for _, row := range reply.rows {
		probe := "ALTER TABLE " + string(row[0].Data) + " SET (pgdrover_nothing = 1)"
		err := c.session.run(ctx, "DO "+pg.QuoteLiteral("BEGIN EXECUTE "+pg.QuoteLiteral(probe)+"; EXCEPTION WHEN invalid_parameter_value OR wrong_object_type THEN NULL; END"))
		switch {
		case sqlState(err) == pgerrcode.ObjectInUse:
			return fmt.Errorf("%w: table %s", errDeferred, row[0].Data)
		case err != nil:
			return fmt.Errorf("look for triggers that wait: %w", err)
		}
	}
	return nil
}

func (c *carefully) ddlAsSuperuser(ctx context.Context, q *queued) error {
	if err := c.session.run(ctx, "SET LOCAL ROLE "+pg.QuoteIdent(q.role)); err != nil {
		return err
	}
	return c.session.run(ctx, q.text)
}

func (c *carefully) ddlConfined(ctx context.Context, q *queued) error {
	// Triggers that wait for the end fire there, too.
	const definition = `CREATE FUNCTION pg_temp.pgdrover_ddl(text[]) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS
		$pgdrover$ DECLARE pgdrover_text pg_catalog.text; BEGIN FOREACH pgdrover_text IN ARRAY $1 LOOP EXECUTE pgdrover_text; END LOOP;
		SET CONSTRAINTS ALL IMMEDIATE; END $pgdrover$;
		ALTER FUNCTION pg_temp.pgdrover_ddl(text[]) OWNER TO %s`
	if err := c.session.run(ctx, fmt.Sprintf(definition, pg.QuoteIdent(q.role))); err != nil {
		return err
	}
	// A function of that language runs no SELECT INTO; one of this does, as event
	// triggers see. All of them go with what else is temporary.
	const into = `SELECT format('CREATE FUNCTION pg_temp.pgdrover_into_%1$s() RETURNS void LANGUAGE sql SECURITY DEFINER AS %2$L;
		ALTER FUNCTION pg_temp.pgdrover_into_%1$s() OWNER TO %3$I', x.n, x.s, $2::text)
		FROM unnest(pgdrover.split_statements($1)) WITH ORDINALITY x (s, n) WHERE pgdrover.bare_text(x.s) ~* '^(select|with)\M'`
	reply, err := c.session.query(ctx, into, []uint32{textOID, textOID}, textValue(q.text), textValue(q.role))
	if err != nil {
		return err
	}
	for _, row := range reply.rows {
		if err := c.session.run(ctx, string(row[0].Data)); err != nil {
			return err
		}
	}
	const call = `SELECT pg_temp.pgdrover_ddl(coalesce(array_agg(CASE WHEN pgdrover.bare_text(x.s) ~* '^(select|with)\M'
		THEN 'SELECT pg_temp.pgdrover_into_' || x.n || '()' ELSE x.s END ORDER BY x.n), '{}'))
		FROM unnest(pgdrover.split_statements($1)) WITH ORDINALITY x (s, n)`
	_, err = c.session.query(ctx, call, []uint32{textOID}, textValue(q.text))
	return err
}

type named struct {
	Schema    string `json:"schema_name"`
	Table     string `json:"table_name"`
	Sequence  string `json:"sequence_name"`
	LastValue string `json:"last_value"`
}

func (q *queued) named() (named, error) {
	var n named
	if err := json.Unmarshal([]byte(q.text), &n); err != nil {
		return n, fmt.Errorf("read queued message: %w", err)
	}
	return n, nil
}

// wantTable asks for the copy of a table.
func (c *carefully) wantTable(ctx context.Context, q *queued) error {
	n, err := q.named()
	if err != nil {
		return err
	}
	_, err = c.session.query(ctx, `INSERT INTO spock.local_sync_status (sync_kind, sync_subid, sync_nspname, sync_relname, sync_status, sync_statuslsn)
		VALUES ('d', $1, $2, $3, 'i', '0/0') ON CONFLICT (sync_subid, sync_nspname, sync_relname)
		DO UPDATE SET sync_status = 'i', sync_statuslsn = '0/0'`, []uint32{26, nameOID, nameOID},
		uint32Value(c.subID), textValue(n.Schema), textValue(n.Table))
	return err
}

func (c *carefully) setSequence(ctx context.Context, q *queued) error {
	n, err := q.named()
	if err != nil {
		return err
	}
	name := pg.QuoteIdent(n.Schema) + "." + pg.QuoteIdent(n.Sequence)
	_, err = c.session.query(ctx, "SELECT pgdrover.follow_sequence($1::text::regclass, $2)", []uint32{textOID, int8OID}, textValue(name), textValue(n.LastValue))
	return err
}

var errArray = errors.New("not a list of names")

// textArray reads an array of text or name.
func textArray(v pgoutput.Value) ([]string, error) {
	switch v.Kind {
	case pgoutput.Text:
		return parseTextArray(string(v.Data))
	case pgoutput.Binary:
		return parseBinaryArray(v.Data)
	default:
		return nil, nil
	}
}

func parseBinaryArray(d []byte) ([]string, error) {
	if len(d) < 12 {
		return nil, errArray
	}
	if be32(d) == 0 {
		return nil, nil
	}
	if be32(d) != 1 || len(d) < 20 {
		return nil, errArray
	}
	n, d := be32(d[12:]), d[20:]
	var out []string
	for range n {
		if len(d) < 4 {
			return nil, errArray
		}
		size := be32(d)
		d = d[4:]
		if size == 0xFFFFFFFF {
			continue
		}
		if uint64(len(d)) < uint64(size) {
			return nil, errArray
		}
		out = append(out, string(d[:size]))
		d = d[size:]
	}
	return out, nil
}

func be32(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// parseTextArray reads {a,"b c"}.
func parseTextArray(s string) ([]string, error) {
	if len(s) < 2 || s[0] != '{' || s[len(s)-1] != '}' {
		return nil, errArray
	}
	s = s[1 : len(s)-1]
	var out []string
	var item []byte
	quoted, inside := false, false
	for i := 0; i < len(s); i++ {
		switch ch := s[i]; {
		case ch == '\\' && i+1 < len(s):
			i++
			item = append(item, s[i])
		case ch == '"':
			inside, quoted = !inside, true
		case ch == ',' && !inside:
			out = append(out, string(item))
			item, quoted = item[:0], false
		default:
			item = append(item, ch)
		}
	}
	if len(item) > 0 || quoted {
		out = append(out, string(item))
	}
	return out, nil
}

// sqlState is an error's code, or "".
func sqlState(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	return ""
}

package apply

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/conflict"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// errNoPeer: this node has no way to ask that one.
var errNoPeer = errors.New("no interface to the node is known")

// errPeer is wrapped by what goes wrong when another node is asked: nothing is
// wrong with the change for which it was asked.
var errPeer = errors.New("ask node")

// peers are connections to other nodes, for questions.
type peers struct {
	dsn  func(context.Context, conflict.NodeID) (string, error)
	name string // the connections' application_name
	open map[conflict.NodeID]*pgconn.PgConn
}

func (p *peers) close(ctx context.Context) {
	for _, conn := range p.open {
		_ = conn.Close(ctx)
	}
	clear(p.open)
}

// connect returns a connection to a node, the one it has if that still works.
func (p *peers) connect(ctx context.Context, node conflict.NodeID) (*pgconn.PgConn, error) {
	if conn := p.open[node]; conn != nil && !conn.IsClosed() {
		return conn, nil
	}
	dsn, err := p.dsn(ctx, node)
	if err != nil {
		return nil, err
	}
	conn, err := dial(ctx, dsn, p.name, nil)
	if err != nil {
		return nil, fmt.Errorf("%w %d: %w", errPeer, node, err)
	}
	p.open[node] = conn
	return conn, nil
}

// dial opens a connection that answers in the forms that a stream in text mode
// has.
func dial(ctx context.Context, dsn, name string, settings map[string]string) (*pgconn.PgConn, error) {
	config, err := dialConfig(dsn, name, settings)
	if err != nil {
		return nil, err
	}
	return pgconn.ConnectConfig(ctx, config)
}

// dialCopy opens one that is good at copying out.
func dialCopy(ctx context.Context, dsn, name string) (*pgconn.PgConn, error) {
	config, err := dialConfig(dsn, name, nil)
	if err != nil {
		return nil, err
	}
	config.DialFunc, config.BuildFrontend = dialCalm(config.DialFunc), gatherFrontend
	return pgconn.ConnectConfig(ctx, config)
}

func dialConfig(dsn, name string, settings map[string]string) (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("parse connection string: %w", err)
	}
	ordinary(config, map[string]string{"application_name": name})
	maps.Copy(config.RuntimeParams, settings)
	return config, nil
}

// peerTime bounds a question: one that is not answered must not hold up the
// stream, and the keys that it has claimed, for ever.
const peerTime = 30 * time.Second

// ask puts a question with values in text form.
func (p *peers) ask(ctx context.Context, conn *pgconn.PgConn, text string, values ...[]byte) *pgconn.Result {
	return p.askWith(ctx, conn, text, values, nil, nil)
}

func (*peers) askWith(ctx context.Context, conn *pgconn.PgConn, text string, values [][]byte, types []uint32, formats []int16) *pgconn.Result {
	ctx, cancel := context.WithTimeoutCause(ctx, peerTime, fmt.Errorf("no answer within %s", peerTime))
	defer cancel()
	result := conn.ExecParams(ctx, text, values, types, formats, nil).Read()
	if result.Err != nil && ctx.Err() != nil {
		result.Err = context.Cause(ctx)
	}
	return result
}

// row reads a row from a node by the key that a change's row holds: its values
// as text, in the order of the target's sent columns. Nil means that there is no
// such row, or one that was written before that time.
func (p *peers) row(ctx context.Context, node conflict.NodeID, g *target, key pgoutput.Tuple, since pg.Timestamp) ([]pgoutput.Value, error) {
	conn, err := p.connect(ctx, node)
	if err != nil {
		return nil, err
	}
	var columns, tests []string
	for _, s := range g.sent {
		columns = append(columns, pg.QuoteIdent(g.Columns[s.local].Name)+"::text")
	}
	var values [][]byte
	var types []uint32
	var formats []int16
	for _, k := range g.key {
		s := g.sent[g.place[k]]
		v := key[s.remote]
		typ := s.typ
		if typ >= firstOwnOID {
			typ = 0 // it has another number there
		}
		values, types = append(values, v.Data), append(types, typ)
		format := int16(0)
		if v.Kind == pgoutput.Binary {
			format = 1
		}
		formats = append(formats, format)
		tests = append(tests, fmt.Sprintf("%s = $%d", pg.QuoteIdent(g.Columns[k].Name), len(types)))
	}
	values, types, formats = append(values, []byte(since.Time().UTC().Format("2006-01-02 15:04:05.999999+00"))), append(types, timestamptzOID), append(formats, 0)
	text := fmt.Sprintf(`SELECT %s FROM ONLY %s AS k WHERE %s AND coalesce(greatest(pg_xact_commit_timestamp(k.xmin),
		(SELECT max(o.commit_time) FROM spock.pgdrover_stamp o WHERE o.relid = k.tableoid AND o.written_by = k.xmin)), 'infinity') >= $%d`,
		strings.Join(columns, ", "), g.name, strings.Join(tests, " AND "), len(types))
	result := p.askWith(ctx, conn, text, values, types, formats)
	if result.Err != nil {
		return nil, fmt.Errorf("%w %d for row of %s: %w", errPeer, node, g.plain, result.Err)
	}
	if len(result.Rows) == 0 {
		return nil, nil
	}
	return textRow(result.Rows[0]), nil
}

// filter asks the provider whether a row passes filters: what a filter uses may
// exist there alone.
func (p *peers) filter(ctx context.Context, node conflict.NodeID, t *remoteTable, row pgoutput.Tuple) (bool, error) {
	conn, err := p.connect(ctx, node)
	if err != nil {
		return false, err
	}
	name := pg.QuoteIdent(t.relation.Namespace) + "." + pg.QuoteIdent(t.relation.Name)
	var fields []string
	var values [][]byte
	var types []uint32
	var formats []int16
	for i, col := range t.relation.Columns {
		v := row[i]
		if v.Kind == pgoutput.Unchanged {
			// Not in the stream. The filter sees what the row holds by now.
			return p.filterCurrent(ctx, conn, t, row, name)
		}
		values, types = append(values, v.Data), append(types, col.Type)
		format := int16(0)
		if v.Kind == pgoutput.Binary {
			format = 1
		}
		formats = append(formats, format)
		fields = append(fields, fmt.Sprintf("$%d AS %s", i+1, pg.QuoteIdent(col.Name)))
	}
	text := fmt.Sprintf("SELECT ((%s)) IS TRUE FROM (SELECT %s) AS %s", strings.Join(t.rule.filters, ") AND ("),
		strings.Join(fields, ", "), pg.QuoteIdent(t.relation.Name))
	result := p.askWith(ctx, conn, text, values, types, formats)
	if result.Err != nil {
		return false, fmt.Errorf("%w for row filter of %s: %w", errPeer, name, result.Err)
	}
	return string(result.Rows[0][0]) == "t", nil
}

// filterCurrent evaluates filters on the row as it is on the provider now.
func (p *peers) filterCurrent(ctx context.Context, conn *pgconn.PgConn, t *remoteTable, row pgoutput.Tuple, name string) (bool, error) {
	var tests []string
	var values [][]byte
	var types []uint32
	var formats []int16
	for i, col := range t.relation.Columns {
		if !col.Key {
			continue
		}
		values, types = append(values, row[i].Data), append(types, col.Type)
		format := int16(0)
		if row[i].Kind == pgoutput.Binary {
			format = 1
		}
		formats = append(formats, format)
		tests = append(tests, fmt.Sprintf("%s = $%d", pg.QuoteIdent(col.Name), len(types)))
	}
	text := fmt.Sprintf("SELECT ((%s)) IS TRUE FROM ONLY %s WHERE %s", strings.Join(t.rule.filters, ") AND ("), name,
		strings.Join(tests, " AND "))
	result := p.askWith(ctx, conn, text, values, types, formats)
	if result.Err != nil {
		return false, fmt.Errorf("%w for row filter of %s: %w", errPeer, name, result.Err)
	}
	return len(result.Rows) > 0 && string(result.Rows[0][0]) == "t", nil
}

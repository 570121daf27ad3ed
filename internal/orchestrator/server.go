package orchestrator

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgdrover/pgdrover/internal/spock"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// Result is the answer to a statement, as text.
type Result struct {
	Columns []Column
	Rows    [][]*string // nil is NULL
	Tag     string
}

// Column is one column of a result.
type Column struct {
	Name string
	Type uint32 // the type's number on the server
}

// Server is one session with a node. It is for one goroutine at a time.
type Server interface {
	// Run sends SQL that may hold several statements, in the protocol in which
	// procedures may commit; the last result counts.
	Run(ctx context.Context, sql string) (Result, error)
	// Ask sends one statement with its values.
	Ask(ctx context.Context, sql string, args ...*string) (Result, error)
	// Closed reports whether the session is known to be gone.
	Closed() bool
	Close(ctx context.Context) error
}

// Dialer opens a session with a node; notice receives what the server says
// besides errors.
type Dialer func(ctx context.Context, node workflow.Node, notice func(spock.Notice)) (Server, error)

// Dial opens sessions with real servers. Times are read and written in UTC and
// ISO form, so that a position in time means the same on every node.
func Dial(ctx context.Context, node workflow.Node, notice func(spock.Notice)) (Server, error) {
	db, err := spock.ConnectSession(ctx, spock.ConnectConfig{
		ConnInfo: node.ConnInfo, ApplicationName: "pgdrover", OnNotice: notice,
		Settings: map[string]string{
			"TimeZone": "UTC", "DateStyle": "ISO", "standard_conforming_strings": "on", "default_transaction_read_only": "off",
			// A statement that waits ends soon after the program that waits for it.
			"client_connection_check_interval": "2000",
		},
	})
	if err != nil {
		return nil, err
	}
	return &session{db: db}, nil
}

type session struct{ db *spock.DB }

func (s *session) Run(ctx context.Context, sql string) (Result, error) {
	reader := s.db.Conn().PgConn().Exec(ctx, sql)
	var last Result
	for reader.NextResult() {
		last, _ = readResult(reader.ResultReader()) // Close has the error
	}
	return last, serverError(reader.Close())
}

func (s *session) Ask(ctx context.Context, sql string, args ...*string) (Result, error) {
	values := make([][]byte, len(args))
	for i, a := range args {
		if a != nil {
			values[i] = []byte(*a)
		}
	}
	answer, err := readResult(s.db.Conn().PgConn().ExecParams(ctx, sql, values, nil, nil, nil))
	return answer, serverError(err)
}

func (s *session) Closed() bool { return s.db.Closed() }

func (s *session) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return s.db.Close(ctx)
}

// readResult reads rows; the columns are told even when there is none.
func readResult(reader *pgconn.ResultReader) (Result, error) {
	var r Result
	for reader.NextRow() {
		row := reader.Values()
		values := make([]*string, len(row))
		for i, v := range row {
			if v != nil {
				values[i] = new(string(v))
			}
		}
		r.Rows = append(r.Rows, values)
	}
	for _, f := range reader.FieldDescriptions() {
		r.Columns = append(r.Columns, Column{Name: f.Name, Type: f.DataTypeOID})
	}
	tag, err := reader.Close()
	r.Tag = tag.String()
	return r, err
}

// serverError hides passwords and keeps what the server hinted at.
func serverError(err error) error {
	if err == nil {
		return nil
	}
	e := &ServerError{message: workflow.Mask(err.Error()), err: err}
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok {
		e.message = workflow.Mask(answer.Message)
		e.detail, e.hint = workflow.Mask(answer.Detail), workflow.Mask(answer.Hint)
	}
	return e
}

// ServerError is what a server, or the way to it, answered.
type ServerError struct {
	message, detail, hint string
	err                   error
}

// Error returns the server's message, and its detail when there is one.
func (e *ServerError) Error() string {
	if e.detail != "" {
		return e.message + " (" + e.detail + ")"
	}
	return e.message
}

// Hint returns the server's hint, which may be empty.
func (e *ServerError) Hint() string { return e.hint }

// Unwrap returns the driver's error.
func (e *ServerError) Unwrap() error { return e.err }

// text is the value of a column in the first row, "" for NULL and for none.
func (r Result) text(column int) string {
	if len(r.Rows) == 0 || column >= len(r.Rows[0]) || r.Rows[0][column] == nil {
		return ""
	}
	return *r.Rows[0][column]
}

// is reports whether the first value is true.
func (r Result) is() bool { return r.text(0) == "t" }

func isBool(c Column) bool { return c.Type == pgtype.BoolOID }

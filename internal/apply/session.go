package apply

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// errBehind is the answer to a statement that the server skipped because one
// before it had failed.
var errBehind = errors.New("an earlier statement of the pipeline failed")

type opKind uint8

const (
	opParse   opKind = iota
	opExecute        // answered by one CommandComplete
	opBorder         // Sync or a simple query: answered by ReadyForQuery
)

// op is something sent that the server has not answered yet.
type op struct {
	kind   opKind
	commit bool         // the last statement of tx
	tx     *transaction // whose statement it is; nil for those that wait for their reply
	reply  *reply
}

// reply is the answer to a statement that somebody waits for.
type reply struct {
	rows [][]pgoutput.Value
	tag  string
	err  error
	done chan struct{} // closed when the answer is complete; only on borders
}

// session is one connection to the local database, in pipeline mode: what is
// sent is not waited for. One goroutine sends; another, its reader, takes the
// answers.
type session struct {
	conn  net.Conn
	front *pgproto3.Frontend
	pid   uint32
	buf   []byte
	aside []aside // what goes out between parts of buf
	// prepared maps texts to statement names of the server.
	prepared map[string]string
	unsure   []string // texts sent since the last good border: prepared or not
	names    int
	// ending is a transaction that has all but its COMMIT: the next one may begin
	// with the same statement.
	ending *transaction

	wake   chan struct{} // holds 1: something was answered
	reader sync.WaitGroup

	mu       sync.Mutex
	pending  []op
	head     int
	done     []*transaction // committed, not yet taken
	failed   *failure       // the pipeline has stopped here
	skipping bool           // until the next border is answered
	status   byte           // of the transaction, at the last border
	broken   error          // the connection is gone
}

// aside is a large value that is not copied. Nobody writes into it any more.
type aside struct {
	at   int // where it stands in buf
	data []byte
}

// failure is the first error of the pipeline, and the transaction it hit.
type failure struct {
	tx  *transaction
	err error
}

// openSession connects. The configuration holds the settings of the session;
// wake is where it tells of answers.
func openSession(ctx context.Context, config *pgconn.Config, wake chan struct{}) (*session, error) {
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to local database: %w", err)
	}
	raw, err := conn.Hijack()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("take over connection: %w", err), conn.Close(ctx))
	}
	s := &session{
		conn: raw.Conn, front: raw.Frontend, pid: raw.PID, status: raw.TxStatus,
		prepared: map[string]string{}, wake: wake,
	}
	s.reader.Go(s.read)
	return s, nil
}

// close ends the connection and waits for the reader.
func (s *session) close() {
	// A goodbye lets the server end at once; a dead connection does not matter.
	_, _ = s.conn.Write([]byte{'X', 0, 0, 0, 4})
	_ = s.conn.Close()
	s.reader.Wait()
}

// inTransaction tells whether a transaction was open when the server last said.
func (s *session) inTransaction() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status == 'T'
}

func (s *session) read() {
	for {
		msg, err := s.front.Receive()
		if err != nil {
			s.breakOff(fmt.Errorf("%w: %w", errBroken, err))
			return
		}
		s.mu.Lock()
		notify := s.take(msg)
		s.mu.Unlock()
		if notify {
			s.signal()
		}
	}
}

func (s *session) signal() {
	select {
	case s.wake <- struct{}{}:
	default: // the sender has not looked since the last one
	}
}

func (s *session) breakOff(err error) {
	s.mu.Lock()
	s.broken = err
	for s.head < len(s.pending) {
		s.pop(err)
	}
	s.mu.Unlock()
	s.signal()
}

// pop takes the oldest unanswered statement from the queue.
func (s *session) pop(err error) op {
	o := s.pending[s.head]
	s.pending[s.head] = op{}
	s.head++
	if s.head == len(s.pending) {
		s.pending, s.head = s.pending[:0], 0
	}
	if o.reply != nil {
		if err != nil && o.reply.err == nil {
			o.reply.err = err
		}
		if o.reply.done != nil && (o.kind == opBorder || s.broken != nil) {
			close(o.reply.done)
		}
	}
	return o
}

// take handles one message and tells whether the sender should look.
func (s *session) take(msg pgproto3.BackendMessage) bool {
	if s.head == len(s.pending) {
		if e, ok := msg.(*pgproto3.ErrorResponse); ok { // the server says goodbye
			s.broken = fmt.Errorf("%w: %w", errBroken, pgconn.ErrorResponseToPgError(e))
		}
		return false
	}
	switch m := msg.(type) {
	case *pgproto3.ParseComplete:
		s.pop(nil)
	case *pgproto3.DataRow:
		if r := s.pending[s.head].reply; r != nil {
			r.rows = append(r.rows, textRow(m.Values))
		}
	case *pgproto3.CommandComplete:
		if r := s.pending[s.head].reply; r != nil {
			r.tag = string(m.CommandTag)
		}
		if s.pending[s.head].kind == opBorder {
			return false // of a simple query
		}
		if o := s.pop(nil); o.commit {
			s.done = append(s.done, o.tx)
			return true
		}
	case *pgproto3.ErrorResponse:
		return s.takeError(pgconn.ErrorResponseToPgError(m))
	case *pgproto3.ReadyForQuery:
		s.status = m.TxStatus
		for s.pending[s.head].kind != opBorder {
			s.pop(errBehind)
		}
		s.skipping = false
		s.pop(nil)
		return true
	}
	return false
}

func (s *session) takeError(err *pgconn.PgError) bool {
	o := &s.pending[s.head]
	if o.reply != nil {
		if o.reply.err == nil {
			o.reply.err = err
		}
	} else if s.failed == nil {
		s.failed = &failure{tx: o.tx, err: err}
	}
	if o.kind != opBorder {
		s.pop(err)
		s.skipping = true
	}
	return true
}

func textRow(values [][]byte) []pgoutput.Value {
	row := make([]pgoutput.Value, len(values))
	for i, v := range values {
		row[i] = pgoutput.Value{Kind: pgoutput.Null}
		if v != nil {
			row[i] = pgoutput.Value{Kind: pgoutput.Text, Data: append([]byte{}, v...)}
		}
	}
	return row
}

func (s *session) push(o op) {
	s.mu.Lock()
	s.pending = append(s.pending, o)
	s.mu.Unlock()
}

// state is what became of the pipeline since the last look: the transactions
// that committed, and whether it stopped.
func (s *session) state() (done []*transaction, failed *failure, broken error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	done, s.done = s.done, nil
	return done, s.failed, s.broken
}

// peek is state, and leaves the transactions to be taken.
func (s *session) peek() (failed *failure, broken error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed, s.broken
}

// statement sends the text to be prepared unless it is already.
func (s *session) statement(text string, types []uint32, tx *transaction, r *reply) string {
	if name, ok := s.prepared[text]; ok {
		return name
	}
	s.names++
	name := "a" + strconv.Itoa(s.names)
	s.prepared[text] = name
	s.unsure = append(s.unsure, text)
	at := s.begin('P')
	s.buf = append(s.buf, name...)
	s.buf = append(s.buf, 0)
	s.buf = append(s.buf, text...)
	s.buf = append(s.buf, 0)
	s.buf = binary.BigEndian.AppendUint16(s.buf, uint16(len(types))) //nolint:gosec // at most 65535 parameters
	for _, oid := range types {
		s.buf = binary.BigEndian.AppendUint32(s.buf, oid)
	}
	s.end(at)
	s.push(op{kind: opParse, tx: tx, reply: r})
	return name
}

// drop takes back a prepared statement that will hardly come again.
func (s *session) drop(text string) {
	name, ok := s.prepared[text]
	if !ok {
		return
	}
	delete(s.prepared, text)
	at := s.begin('C')
	s.buf = append(s.buf, 'S')
	s.buf = append(s.buf, name...)
	s.buf = append(s.buf, 0)
	s.end(at)
}

func (s *session) begin(kind byte) int {
	s.buf = append(s.buf, kind, 0, 0, 0, 0)
	return len(s.buf) - 4
}

func (s *session) end(at int) {
	size := len(s.buf) - at
	for i := len(s.aside) - 1; i >= 0 && s.aside[i].at > at; i-- {
		size += len(s.aside[i].data)
	}
	binary.BigEndian.PutUint32(s.buf[at:], uint32(size)) //nolint:gosec // messages are below 1 GB
}

// value adds a value that is not null, with its length.
func (s *session) value(data []byte) {
	s.buf = binary.BigEndian.AppendUint32(s.buf, uint32(len(data))) //nolint:gosec // below 1 GB
	if len(data) < asideSize {
		s.buf = append(s.buf, data...)
		return
	}
	s.aside = append(s.aside, aside{len(s.buf), data})
}

// open begins a transaction.
func (s *session) open(tx *transaction) {
	if ended := s.ending; ended != nil {
		s.ending = nil
		s.execute("COMMIT AND CHAIN", nil, nil, op{tx: ended, commit: true})
		return
	}
	s.execute("BEGIN", nil, nil, op{tx: tx})
}

// commit ends a transaction. The statement itself goes out with what is sent
// next.
func (s *session) commit(tx *transaction) { s.ending = tx }

// conclude sends the COMMIT that was held back.
func (s *session) conclude() {
	if ended := s.ending; ended != nil {
		s.ending = nil
		s.execute("COMMIT", nil, nil, op{tx: ended, commit: true})
	}
}

// execute sends one statement with its values.
func (s *session) execute(text string, types []uint32, values []pgoutput.Value, o op) {
	s.conclude()
	name := s.statement(text, types, o.tx, o.reply)
	at := s.begin('B')
	s.buf = append(s.buf, 0) // the unnamed portal
	s.buf = append(s.buf, name...)
	s.buf = append(s.buf, 0)
	s.buf = binary.BigEndian.AppendUint16(s.buf, uint16(len(values))) //nolint:gosec // as many as parameters
	for i := range values {
		format := uint16(0)
		if values[i].Kind == pgoutput.Binary {
			format = 1
		}
		s.buf = binary.BigEndian.AppendUint16(s.buf, format)
	}
	s.buf = binary.BigEndian.AppendUint16(s.buf, uint16(len(values))) //nolint:gosec // as many as parameters
	for i := range values {
		if values[i].Kind == pgoutput.Null {
			s.buf = append(s.buf, 0xFF, 0xFF, 0xFF, 0xFF)
			continue
		}
		s.value(values[i].Data)
	}
	s.buf = append(s.buf, 0, 0) // results as text
	s.end(at)
	s.buf = append(s.buf, 'E', 0, 0, 0, 9, 0, 0, 0, 0, 0)
	o.kind = opExecute
	s.push(o)
}

// copyRows writes rows, given by column, with a COPY in binary form: in it a
// value stands as the provider has sent it. The server takes the rows without
// being waited for; when the COPY fails it leaves them out, as it does with
// everything up to the next Sync.
func (s *session) copyRows(text string, columns [][]pgoutput.Value, rows int, o op) {
	s.execute(text, nil, nil, o)
	at := s.begin('d')
	s.buf = append(s.buf, "PGCOPY\n\xff\r\n\x00"...)
	s.buf = append(s.buf, 0, 0, 0, 0, 0, 0, 0, 0) // no flags, no extension
	for n := range rows {
		s.buf = binary.BigEndian.AppendUint16(s.buf, uint16(len(columns))) //nolint:gosec // at most 1600 columns
		for i := range columns {
			v := &columns[i][n]
			if v.Kind == pgoutput.Null {
				s.buf = append(s.buf, 0xFF, 0xFF, 0xFF, 0xFF)
				continue
			}
			s.value(v.Data)
		}
	}
	s.buf = append(s.buf, 0xFF, 0xFF) // the end
	s.end(at)
	s.buf = append(s.buf, 'c', 0, 0, 0, 4)
}

const (
	// writeLimit is how much may wait in memory before it goes to the socket.
	writeLimit = 64 << 10
	// asideSize is the size of a value that is worth a write of its own.
	asideSize = 256 << 10
)

// full tells that it is time to write.
func (s *session) full() bool { return len(s.buf) >= writeLimit || len(s.aside) > 0 }

// flush writes what was sent and asks the server for the answers.
func (s *session) flush() error {
	s.conclude()
	if len(s.buf) == 0 {
		return nil
	}
	s.buf = append(s.buf, 'H', 0, 0, 0, 4)
	return s.write()
}

func (s *session) write() error {
	var err error
	if len(s.aside) == 0 {
		_, err = s.conn.Write(s.buf)
	} else {
		var parts net.Buffers
		from, size := 0, 0
		for _, a := range s.aside {
			size += len(a.data)
			parts = append(parts, s.buf[from:a.at], a.data)
			from = a.at
		}
		parts = append(parts, s.buf[from:])
		_, err = parts.WriteTo(s.conn)
		s.aside = nil
		sweep(size)
	}
	s.buf = s.buf[:0]
	if cap(s.buf) > 16*writeLimit { // one huge row must not stay for ever
		s.buf = nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	return nil
}

// border sends a Sync and waits until everything before it is answered.
func (s *session) border(ctx context.Context) error {
	s.conclude()
	s.buf = append(s.buf, 'S', 0, 0, 0, 4)
	err := s.await(ctx, &reply{done: make(chan struct{})})
	s.mu.Lock()
	good := err == nil && s.failed == nil
	s.mu.Unlock()
	if good {
		s.unsure = s.unsure[:0]
	}
	return err
}

func (s *session) await(ctx context.Context, r *reply) error {
	s.mu.Lock()
	broken := s.broken
	if broken == nil {
		s.pending = append(s.pending, op{kind: opBorder, reply: r})
	}
	s.mu.Unlock()
	if broken != nil {
		return broken
	}
	if err := s.write(); err != nil {
		return err
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return s.broken
	}
	return r.err
}

// ask is a statement whose answer somebody waits for.
type ask struct {
	text   string
	types  []uint32
	values []pgoutput.Value
	one    bool // it must touch one row: another number is errAgain
	reply  reply
}

func (a *ask) rows() [][]pgoutput.Value { return a.reply.rows }

// together runs statements one after the other, and waits once. The first that
// fails ends them.
func (s *session) together(ctx context.Context, asks ...*ask) error {
	for _, a := range asks {
		a.reply = reply{}
		s.execute(a.text, a.types, a.values, op{reply: &a.reply})
	}
	if err := s.border(ctx); err != nil {
		return err
	}
	var failed error
	for _, a := range asks {
		switch {
		case a.reply.err != nil:
			// Whether the statement was prepared is not known.
			delete(s.prepared, a.text)
			if failed == nil {
				failed = a.reply.err
			}
		case failed == nil && a.one && !strings.HasSuffix(a.reply.tag, " 1"):
			failed = errAgain
		}
	}
	return failed
}

// query runs one statement and waits for its answer.
func (s *session) query(ctx context.Context, text string, types []uint32, values ...pgoutput.Value) (*reply, error) {
	a := &ask{text: text, types: types, values: values}
	if err := s.together(ctx, a); err != nil {
		return nil, err
	}
	return &a.reply, nil
}

// run runs statements by the simple protocol, for what needs no values.
func (s *session) run(ctx context.Context, text string) error {
	s.conclude()
	at := s.begin('Q')
	s.buf = append(s.buf, text...)
	s.buf = append(s.buf, 0)
	s.end(at)
	return s.await(ctx, &reply{done: make(chan struct{})})
}

// recover leaves a stopped pipeline: everything unanswered is forgotten, and the
// open transaction rolled back.
func (s *session) recover(ctx context.Context) error { return s.retreat(ctx, "ROLLBACK") }

// retreat is recover to a point that a statement says.
func (s *session) retreat(ctx context.Context, text string) error {
	if err := s.border(ctx); err != nil {
		return err
	}
	if err := s.run(ctx, text); err != nil {
		return fmt.Errorf("roll back: %w", err)
	}
	for _, text := range s.unsure {
		delete(s.prepared, text)
	}
	s.unsure = s.unsure[:0]
	s.mu.Lock()
	s.failed = nil
	s.mu.Unlock()
	return nil
}

// forget drops all prepared statements.
func (s *session) forget(ctx context.Context) error {
	clear(s.prepared)
	if err := s.run(ctx, "DEALLOCATE ALL"); err != nil {
		return fmt.Errorf("drop prepared statements: %w", err)
	}
	return nil
}

func textValue(s string) pgoutput.Value {
	return pgoutput.Value{Kind: pgoutput.Text, Data: []byte(s)}
}

func int64Value(n int64) pgoutput.Value {
	return pgoutput.Value{Kind: pgoutput.Binary, Data: binary.BigEndian.AppendUint64(nil, uint64(n))} //nolint:gosec // two's complement is the wire's form
}

package postgres

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// SystemInfo is what another server says of itself on a replication connection.
type SystemInfo struct {
	SystemID pg.SystemID
	TLI      pg.Timeline
	LSN      pg.LSN // flushed, or on a standby replayed
	History  pg.History
}

// Identify asks another server for its identity, position and history.
func Identify(ctx context.Context, source pg.ConnInfo) (SystemInfo, error) {
	conn, err := connectReplication(ctx, source, "true")
	if err != nil {
		return SystemInfo{}, err
	}
	defer closeQuietly(ctx, conn)
	return identify(ctx, conn)
}

// Remote is a connection to another server that is asked several things.
type Remote struct {
	Info   SystemInfo
	source pg.ConnInfo
	conn   *pgconn.PgConn
	sql    bool // it takes queries as well
}

// Meet asks another server what Identify does, and keeps the connection.
func Meet(ctx context.Context, source pg.ConnInfo) (*Remote, error) {
	r := &Remote{source: source, sql: true}
	var err error
	if r.conn, err = connectReplication(ctx, source, "database"); err != nil {
		// Its access rules may know replication connections of one kind only.
		if r.conn, r.sql = nil, false; ctx.Err() == nil && answered(err) {
			r.conn, err = connectReplication(ctx, source, "true")
		}
		if err != nil {
			return nil, err
		}
	}
	if r.Info, err = identify(ctx, r.conn); err != nil {
		r.Close(ctx)
		return nil, err
	}
	return r, nil
}

// Close ends the connection.
func (r *Remote) Close(ctx context.Context) { closeQuietly(ctx, r.conn) }

// readWAL returns up to n bytes at an offset of a segment; none when the segment is gone.
func (r *Remote) readWAL(ctx context.Context, name string, offset int64, n int) ([]byte, error) {
	if !r.sql {
		return readRemoteWAL(ctx, r.source, name, offset, n)
	}
	// No parameters on a replication connection; the name is one of ours.
	query := fmt.Sprintf(`SELECT pg_catalog.pg_read_binary_file('pg_wal/%s', %d, %d, true)`, name, offset, n)
	row, err := commandRow(ctx, r.conn, query, 1)
	if err != nil || row[0] == nil {
		return nil, err
	}
	return hex.DecodeString(strings.TrimPrefix(string(row[0]), `\x`))
}

// answered reports whether an error is a server's answer.
func answered(err error) bool {
	_, ok := errors.AsType[*pgconn.PgError](err)
	return ok
}

// connectReplication opens a replication connection: "true" for replication
// alone, "database" for one that takes queries as well.
func connectReplication(ctx context.Context, source pg.ConnInfo, mode string) (*pgconn.PgConn, error) {
	if mode == "true" {
		source = source.With("dbname", "")
	}
	cfg, err := pgconn.ParseConfig(source.With("target_session_attrs", "any").DriverDSN())
	if err != nil {
		return nil, fmt.Errorf("connect to %s: the connection string is not valid", source)
	}
	cfg.RuntimeParams["replication"] = mode
	cfg.RuntimeParams["bytea_output"] = "hex"
	cfg.DialFunc = dialer().DialContext
	if source.Get("connect_timeout") == "" {
		cfg.ConnectTimeout = connectTimeout
	}
	if err := checkRevoked(cfg, source.Get("sslcrl")); err != nil {
		return nil, err
	}
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open a replication connection: %w", err)
	}
	return conn, nil
}

func identify(ctx context.Context, conn *pgconn.PgConn) (SystemInfo, error) {
	row, err := commandRow(ctx, conn, "IDENTIFY_SYSTEM", 3)
	if err != nil {
		return SystemInfo{}, err
	}
	var info SystemInfo
	if info.SystemID, err = pg.ParseSystemID(string(row[0])); err != nil {
		return SystemInfo{}, err
	}
	if info.TLI, err = pg.ParseTimeline(string(row[1])); err != nil {
		return SystemInfo{}, err
	}
	if info.LSN, err = pg.ParseLSN(string(row[2])); err != nil {
		return SystemInfo{}, err
	}
	var text []byte
	if info.TLI > 1 {
		row, err := commandRow(ctx, conn, "TIMELINE_HISTORY "+strconv.FormatUint(uint64(info.TLI), 10), 2)
		if err != nil {
			return SystemInfo{}, err
		}
		text = row[1]
	}
	info.History, err = pg.ParseHistory(info.TLI, string(text))
	return info, err
}

func commandRow(ctx context.Context, conn *pgconn.PgConn, command string, columns int) ([][]byte, error) {
	results, err := conn.Exec(ctx, command).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", command, err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < columns {
		return nil, fmt.Errorf("ask %s: unexpected answer", command)
	}
	return results[0].Rows[0], nil
}

func closeQuietly(ctx context.Context, conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = conn.Close(ctx)
}

// A host that vanishes is noticed within these.
const (
	keepIdle     = 5 * time.Second
	keepInterval = 2 * time.Second
	keepCount    = 3
	userTimeout  = 10 * time.Second
)

func dialer() *net.Dialer {
	return &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepIdle, Interval: keepInterval, Count: keepCount},
		Control: func(network, _ string, c syscall.RawConn) error {
			if !strings.HasPrefix(network, "tcp") {
				return nil
			}
			var err error
			controlErr := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
			})
			return errors.Join(controlErr, err)
		},
	}
}

// toolSource is a source as the installation's programs get it: without the
// password, and so that they too notice a host that vanished.
func toolSource(source pg.ConnInfo) string {
	return source.With("password", "").With("connect_timeout", "").
		With("keepalives_idle", seconds(keepIdle)).With("keepalives_interval", seconds(keepInterval)).
		With("keepalives_count", strconv.Itoa(keepCount)).With("tcp_user_timeout", milliseconds(userTimeout)).DSN()
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d.Seconds())) }

// withRemote runs f on an SQL session on another server.
func withRemote(ctx context.Context, source pg.ConnInfo, f func(*Session) error) error {
	conn, err := connect(ctx, source, map[string]string{"statement_timeout": milliseconds(statementTimeout)})
	if err != nil {
		return err
	}
	s := &Session{conn: conn}
	defer s.Close(ctx)
	return f(s)
}

// Ask puts one query to another server and reads its one row.
func Ask(ctx context.Context, source pg.ConnInfo, query string, dest ...any) error {
	return withRemote(ctx, source, func(s *Session) error { return s.conn.QueryRow(ctx, query).Scan(dest...) })
}

// InRecovery asks another server whether it is a standby.
func InRecovery(ctx context.Context, source pg.ConnInfo) (in bool, err error) {
	err = withRemote(ctx, source, func(s *Session) error {
		in, err = s.inRecovery(ctx)
		return err
	})
	return in, err
}

// SlotExists reports whether another server has a physical slot of this name.
func SlotExists(ctx context.Context, source pg.ConnInfo, name string) (bool, error) {
	_, found, err := remoteSlot(ctx, source, name)
	return found, err
}

// SlotLost reports whether another server has given a physical slot up: WAL that
// it held is gone. Servers from version 18 on let nobody stream through it any more.
func SlotLost(ctx context.Context, source pg.ConnInfo, name string) (bool, error) {
	slot, found, err := remoteSlot(ctx, source, name)
	return found && slot.Lost, err
}

func remoteSlot(ctx context.Context, source pg.ConnInfo, name string) (slot Slot, found bool, err error) {
	err = withRemote(ctx, source, func(s *Session) error {
		slots, err := s.Slots(ctx)
		if at := slices.IndexFunc(slots, func(slot Slot) bool { return slot.Name == name }); at >= 0 {
			slot, found = slots[at], true
		}
		return err
	})
	return slot, found, err
}

// Stir has another server write a little WAL. A receiver knows that it is
// served only once it has heard something, and a server that has nothing to
// send says nothing for half of its wal_sender_timeout.
func Stir(ctx context.Context, source pg.ConnInfo) error {
	return withRemote(ctx, source, func(s *Session) error {
		// It commits, for nothing else would be flushed and sent at once, and waits for nobody.
		const settings = `SET synchronous_commit = local; SET default_transaction_read_only = off`
		if err := s.exec(ctx, "prepare to write", settings); err != nil {
			return err
		}
		return s.exec(ctx, "write a message", `SELECT pg_catalog.pg_logical_emit_message(true, 'pgdrover', '')`)
	})
}

// sourceCheckpointed has the other server's control file on the timeline that it
// writes: pg_rewind reads its timeline there, and finds the old one until the first
// checkpoint after a promotion.
func sourceCheckpointed(ctx context.Context, source pg.ConnInfo, tli pg.Timeline) error {
	return withRemote(ctx, source, func(s *Session) error {
		var have uint32
		const query = `SELECT timeline_id FROM pg_control_checkpoint()`
		if err := s.conn.QueryRow(ctx, query).Scan(&have); err != nil {
			return fmt.Errorf("ask for the timeline of the last checkpoint: %w", err)
		}
		if pg.Timeline(have) == tli {
			return nil
		}
		return s.Checkpoint(ctx)
	})
}

// Lineage says how a data directory relates to the line of another server.
type Lineage int

// The relations, in the order in which they are looked for.
const (
	// LineageForeign: another database system.
	LineageForeign Lineage = iota
	// LineageAmbiguous: both are on a timeline of the same number that began at
	// different places, or share no timeline at all; only a copy helps.
	LineageAmbiguous
	// LineageDiverged: we hold WAL that the other line left out; a rewind helps.
	LineageDiverged
	// LineageAhead: same line, and we hold more of it.
	LineageAhead
	// LineageFollows: we hold nothing that the other line does not: following is enough.
	LineageFollows
)

// String names the relation.
func (l Lineage) String() string {
	return [...]string{"foreign", "ambiguous", "diverged", "ahead", "follows"}[l]
}

// Relate compares a local line that ends at a position with another server's.
func Relate(local pg.History, end pg.LSN, other SystemInfo) Lineage {
	tli, at, open := local.Fork(other.History)
	localTLI := local.TLI()
	switch {
	case tli == 0:
		return LineageAmbiguous
	case open && end > other.LSN:
		return LineageAhead
	case open:
		return LineageFollows
	case localTLI == other.History.TLI():
		// The same number for two timelines: pg_rewind would find nothing to do.
		return LineageAmbiguous
	case tli == localTLI && end <= at:
		return LineageFollows
	default:
		return LineageDiverged
	}
}

// Compare relates the data directory of a stopped server to another server, as
// far as its control file knows: a standby may hold more WAL than that.
// For a server that ended as a primary the checkpoint must lie before the
// fork, not on it: the record begins there.
func (i *Instance) Compare(ctx context.Context, other SystemInfo) (Lineage, error) {
	control, err := i.ControlData(ctx)
	if err != nil {
		return LineageForeign, err
	}
	if control.SystemID != other.SystemID {
		return LineageForeign, nil
	}
	local, err := i.HistoryOf(max(control.TLI, control.MinRecoveryTLI))
	if err != nil {
		return LineageForeign, err
	}
	end := max(control.Checkpoint, control.MinRecovery)
	if control.CleanShutdown() {
		end = control.Checkpoint + 1
	}
	lineage := Relate(local, end, other)
	if lineage != LineageFollows || control.RanAsPrimary() {
		return lineage, nil
	}
	startable, err := i.startable(control)
	if err == nil && !startable {
		lineage = LineageAmbiguous
	}
	return lineage, err
}

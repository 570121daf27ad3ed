package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Observation is what one look at a running server shows.
type Observation struct {
	InRecovery bool
	TLI        pg.Timeline
	// LSN is the flush position of a primary and, on a standby, the larger of
	// what was received and what was replayed: after a restart the received
	// position is the start of a segment, below the replayed one. When nothing
	// comes in any more, because replay has ended and waits or because there is no
	// upstream, it is what was replayed: a promotion would have no more.
	LSN      pg.LSN
	Received pg.LSN
	Replayed pg.LSN
	Receiver Receiver
	// ReplayIdle says that the startup process has come to the end of what the
	// server holds and waits for more.
	ReplayIdle bool
	// Paused says that the replay is paused, by an operator or because of settings
	// that are too small: see CheckLimits. Held, that it is paused or delayed.
	Paused, Held bool
	// SyncState is the best state of our standbys here: quorum, sync, potential, async, or empty.
	SyncState string
	Standbys  []Standby
	// SyncNames is the synchronous_standby_names that this session has in force.
	SyncNames string
}

// Receiver is the WAL receiver of a standby; zero when there is none.
type Receiver struct {
	Status      string // starting, connecting, streaming, waiting, restarting, stopping
	TLI         pg.Timeline
	Slot        string
	Host        string
	Port        int
	LastMessage time.Time
}

// Streaming reports whether WAL flows in.
func (r Receiver) Streaming() bool { return r.Status == "streaming" }

// Standby is one of our nodes as a WAL sender of this server sees it.
type Standby struct {
	ID        int64
	PID       int
	State     string // startup, catchup, streaming, backup, stopping
	SyncState string
	Sent      pg.LSN
	Flush     pg.LSN
	Replay    pg.LSN
	// ReplyTime is the standby's own clock at its last message: whether it
	// moves says that the standby lives, its value says nothing.
	ReplyTime time.Time
}

// receiverStatus is the status of pg_stat_wal_receiver r. A receiver calls
// itself streaming as soon as it is connected, also when the upstream refuses it a moment later
// because it does not have the WAL any more. Until its first message the
// two times are one, and we say connecting.
const receiverStatus = `CASE WHEN r.status = 'streaming' AND r.last_msg_send_time = r.last_msg_receipt_time THEN 'connecting' ELSE coalesce(r.status, '') END`

// The timeline of a primary is the one it writes, which the control file learns
// only at the next checkpoint. A standby without a receiver is on the highest
// timeline of which it has replayed or could replay something: that of the
// newest segment around its position, or what its control file says.
// Whether replay is idle is read before its position: what it has reached by
// then is at least what it had when it became idle.
const observeQuery = `
SELECT pg_is_in_recovery(),
  coalesce((SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup' LIMIT 1), ''),
  CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_receive_lsn(), '0/0')::text ELSE '0/0' END,
  CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_replay_lsn(), '0/0')::text ELSE '0/0' END,
  CASE WHEN pg_is_in_recovery() THEN '0/0' ELSE pg_current_wal_flush_lsn()::text END,
  CASE WHEN pg_is_in_recovery() THEN '' ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END,
  ` + receiverStatus + `, coalesce(r.received_tli, 0), coalesce(r.slot_name, ''), coalesce(r.sender_host, ''), coalesce(r.sender_port, 0),
  r.last_msg_receipt_time,
  CASE WHEN pg_is_in_recovery() AND coalesce(r.received_tli, 0) = 0
    THEN (SELECT greatest(c.timeline_id, coalesce(m.min_recovery_end_timeline, 0)) FROM pg_control_checkpoint() c, pg_control_recovery() m) ELSE 0 END,
  current_setting('synchronous_standby_names'), current_setting('primary_conninfo') = '', current_setting('recovery_min_apply_delay')
FROM (SELECT 1) one LEFT JOIN pg_stat_wal_receiver r ON true`

const standbysQuery = `
SELECT application_name, pid, coalesce(state, ''), coalesce(sync_state, ''), coalesce(sent_lsn, '0/0')::text,
  coalesce(flush_lsn, '0/0')::text, coalesce(replay_lsn, '0/0')::text, reply_time
FROM pg_stat_replication WHERE application_name LIKE 'pgautofailover\_standby\_%' ORDER BY pid`

const newestSegmentQuery = `
SELECT coalesce(max(substr(name, 1, 8)), '') FROM pg_ls_waldir()
WHERE name ~ '^[0-9A-F]{24}$' AND substr(name, 9) = $1`

// Observe looks at the server once. A session that is kept prepares the queries once.
func (s *Session) Observe(ctx context.Context) (Observation, error) {
	var o Observation
	var wait, received, replayed, flushed, walTLI, delay string
	var receiverTLI, controlTLI uint32
	var message *time.Time
	var alone bool
	err := s.conn.QueryRow(ctx, observeQuery, pgx.QueryExecModeCacheStatement).Scan(&o.InRecovery, &wait, &received, &replayed, &flushed, &walTLI,
		&o.Receiver.Status, &receiverTLI, &o.Receiver.Slot, &o.Receiver.Host, &o.Receiver.Port, &message,
		&controlTLI, &o.SyncNames, &alone, &delay)
	if err != nil {
		return Observation{}, fmt.Errorf("observe PostgreSQL: %w", err)
	}
	o.ReplayIdle, o.Paused = wait == waitsForWAL, wait == waitsPaused
	o.Held = o.Paused || o.InRecovery && delay != delayLifted
	if message != nil {
		o.Receiver.LastMessage = *message
	}
	o.Receiver.TLI = pg.Timeline(receiverTLI)
	var flush pg.LSN
	if err := parseLSNs([]string{received, replayed, flushed}, &o.Received, &o.Replayed, &flush); err != nil {
		return Observation{}, err
	}
	o.LSN = max(flush, o.Received, o.Replayed)
	if o.InRecovery && (o.ReplayIdle || alone) && o.Receiver.Status == "" {
		// What was received beyond it is not replayed yet, or no valid WAL: a piece of a record, say.
		o.LSN = o.Replayed
	}
	if o.TLI, err = s.timeline(ctx, o, walTLI, pg.Timeline(controlTLI)); err != nil {
		return Observation{}, err
	}
	if o.Standbys, err = s.standbys(ctx); err != nil {
		return Observation{}, err
	}
	for _, standby := range o.Standbys {
		if syncRank(standby.SyncState) > syncRank(o.SyncState) {
			o.SyncState = standby.SyncState
		}
	}
	return o, nil
}

func syncRank(state string) int {
	switch state {
	case "quorum":
		return 4
	case "sync":
		return 3
	case "potential":
		return 2
	case "async":
		return 1
	default:
		return 0
	}
}

func (s *Session) timeline(ctx context.Context, o Observation, walTLI string, control pg.Timeline) (pg.Timeline, error) {
	switch {
	case !o.InRecovery:
		return parseHexTimeline(walTLI)
	case o.Receiver.TLI > 0:
		return o.Receiver.TLI, nil
	case o.LSN == 0:
		return control, nil
	}
	var segmentSize int64
	if err := s.conn.QueryRow(ctx, `SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'`).Scan(&segmentSize); err != nil {
		return 0, fmt.Errorf("ask for the size of a WAL segment: %w", err)
	}
	var newest string
	if err := s.conn.QueryRow(ctx, newestSegmentQuery, segmentSuffix(o.LSN-1, segmentSize)).Scan(&newest); err != nil {
		return 0, fmt.Errorf("look for WAL segments: %w", err)
	}
	if newest == "" {
		return control, nil
	}
	tli, err := parseHexTimeline(newest)
	return max(tli, control), err
}

// segmentSuffix is the name of the segment that holds a position, without its timeline.
func segmentSuffix(at pg.LSN, size int64) string {
	bytes := uint64(size) //nolint:gosec // a power of two
	number := uint64(at) / bytes
	perID := uint64(0x100000000) / bytes
	return fmt.Sprintf("%08X%08X", number/perID, number%perID)
}

// segmentOffset is where in its segment a position lies.
func segmentOffset(at pg.LSN, size int64) int64 {
	return int64(uint64(at) % uint64(size)) //nolint:gosec // smaller than size
}

func (s *Session) standbys(ctx context.Context) ([]Standby, error) {
	rows, err := s.conn.Query(ctx, standbysQuery, pgx.QueryExecModeCacheStatement)
	if err != nil {
		return nil, fmt.Errorf("ask for standbys: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Standby, error) {
		var one Standby
		var name, sent, flush, replay string
		var reply *time.Time
		if err := row.Scan(&name, &one.PID, &one.State, &one.SyncState, &sent, &flush, &replay, &reply); err != nil {
			return Standby{}, err
		}
		if reply != nil {
			one.ReplyTime = *reply
		}
		one.ID, _ = pg.ParseStandbyName(name)
		return one, parseLSNs([]string{sent, flush, replay}, &one.Sent, &one.Flush, &one.Replay)
	})
	if err != nil {
		return nil, fmt.Errorf("ask for standbys: %w", err)
	}
	return found, nil
}

func parseLSNs(texts []string, into ...*pg.LSN) error {
	for n, text := range texts {
		v, err := pg.ParseLSN(text)
		if err != nil {
			return err
		}
		*into[n] = v
	}
	return nil
}

func parseHexTimeline(s string) (pg.Timeline, error) {
	var v uint32
	if _, err := fmt.Sscanf(s, "%08X", &v); err != nil {
		return 0, fmt.Errorf("parse timeline %q: %w", s, err)
	}
	return pg.Timeline(v), nil
}

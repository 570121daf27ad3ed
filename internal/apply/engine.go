package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/conflict"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/spock"
)

// Config says which database an engine serves.
type Config struct {
	ConnInfo pg.ConnInfo // of the database
	Logger   *slog.Logger
	// BinDir is where pg_dump and pg_restore are; empty is the search path.
	BinDir string
	// Map translates peers' addresses: the DSNs in the schema are those that the
	// servers use, and an engine elsewhere may need others. host:port → host:port.
	Map map[string]string
}

// Engine serves one database: a worker for each enabled subscription.
type Engine struct {
	cfg     Config
	log     *slog.Logger
	claims  *claims
	counts  *counts
	amended *amended

	piece    int64         // blocks of a table that are copied in one transaction
	frozen   int64         // blocks that a table may have which is copied as a whole, frozen
	margin   time.Duration // for clocks that are compared, and commits that take a while
	beside   int           // rows of a transaction that is worth to be written beside others
	backlog  pg.LSN        // bytes of a provider's log that are one
	slow     time.Duration // that a transaction may be written before the log says so
	database uint32        // its oid
	node     conflict.NodeID
	skew     atomic.Int64           // nanoseconds
	last     string                 // the vector that was sent last
	delay    atomic.Int64           // nanoseconds, the longest pause before a worker's next life
	bundling atomic.Bool            // several transactions of a provider may be written as one
	followed atomic.Pointer[string] // settings that workers go by
	defined  atomic.Uint64          // counts the changes of tables here of which we were told
	readonly string
	attached string // what ALTER DATABASE and ALTER ROLE say of settings of ours

	said   string // why it did not start, when it was last said
	saidAt time.Time

	purged    time.Time
	retention time.Time
	sequences time.Time
}

// New returns an engine; it does nothing until Run.
func New(cfg Config) (*Engine, error) {
	if cfg.ConnInfo.IsZero() {
		return nil, errors.New("configure engine: no database is given")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Engine{cfg: cfg, log: cfg.Logger, claims: newClaims(), counts: newCounts(), amended: newAmended(), piece: piecePages, frozen: frozenMost, margin: seenMargin, beside: crewRows, backlog: earlyBacklog, slow: slowAfter, readonly: "off"}, nil
}

func (e *Engine) maxSkew() time.Duration { return time.Duration(e.skew.Load()) }

// connect opens an ordinary session on the database.
func (e *Engine) connect(ctx context.Context, name string, settings map[string]string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(e.cfg.ConnInfo.DSN())
	if err != nil {
		return nil, fmt.Errorf("parse connection string: %w", err)
	}
	ordinary(&config.Config, map[string]string{
		"application_name": name, "timezone": "UTC", "synchronous_commit": "off",
		// What the engine writes into its own tables is no news to itself.
		"session_replication_role": "replica",
	})
	maps.Copy(config.RuntimeParams, settings)
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to local database: %w", err)
	}
	return conn, nil
}

// peerDSN is a peer's connection string as this engine uses it.
func (e *Engine) peerDSN(dsn string) string {
	info, err := pg.ParseConnInfo(dsn)
	if err != nil {
		return dsn // the connection attempt will say what is wrong
	}
	if info.Get("user") == "" && e.cfg.ConnInfo.Get("user") != "" {
		info = info.With("user", e.cfg.ConnInfo.Get("user"))
	}
	if hosts := info.Hosts(); len(hosts) == 1 && len(e.cfg.Map) > 0 {
		if to, ok := e.cfg.Map[fmt.Sprintf("%s:%s", info.Get("host"), info.Get("port"))]; ok {
			if mapped, err := pg.ParseConnInfo("postgresql://" + to); err == nil {
				info = info.With("host", mapped.Get("host")).With("port", mapped.Get("port"))
			}
		}
	}
	if info.Get("connect_timeout") == "" {
		info = info.With("connect_timeout", "30")
	}
	return info.DSN()
}

// sayAgain is the pause before the log says once more what keeps an engine from its work.
const sayAgain = time.Minute

// Run serves the database until the context ends.
func (e *Engine) Run(ctx context.Context) error {
	for {
		err := e.serve(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // asked to stop, it has
		}
		switch {
		case errors.Is(err, errSettings):
			e.log.InfoContext(ctx, "engine starts again", "reason", err.Error())
			continue
		case e.removed(ctx, err):
			e.log.InfoContext(ctx, "schema spock was removed from the database")
			continue
		case ctx.Err() != nil:
			return nil //nolint:nilerr // asked to stop meanwhile
		case err.Error() == e.said && time.Since(e.saidAt) < sayAgain:
		default:
			e.said, e.saidAt = err.Error(), time.Now()
			e.log.WarnContext(ctx, "engine stopped, starts again", told(err)...)
		}
		if !sleep(ctx, jitter(time.Second)) {
			return nil
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// jitter keeps many that failed together from coming back together.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + time.Duration(rand.Int64N(int64(d)/2+1)) //nolint:gosec // no secret
}

// live is a worker that was started.
type live struct {
	changed string
	stop    context.CancelCauseFunc
	done    chan struct{}
}

// Notices that tell of tables: what a worker knows of them it reads again.
const (
	changedDelta      = "pgdrover_delta_column"
	changedDefinition = "definition"
)

// serve holds one session with the database, and the workers.
func (e *Engine) serve(ctx context.Context) error {
	db, err := e.connect(ctx, "spock manager", map[string]string{"session_replication_role": "origin"})
	if sqlState(err) == pgerrcode.InsufficientPrivilege {
		return &refusal{err, "The engine needs a superuser of this database: name one in --dsn."}
	}
	if err != nil {
		return err
	}
	defer func() { _ = db.Close(context.WithoutCancel(ctx)) }()
	if err := e.awaitNode(ctx, db); err != nil {
		return err
	}
	if e.attached, err = attachedSettings(ctx, db); err != nil {
		return err
	}
	var group sync.WaitGroup
	workers := map[uint32]*live{}
	var kept time.Time
	asked := map[uint32]time.Time{}
	defer func() {
		for _, l := range workers {
			l.stop(errStopped)
		}
		group.Wait()
	}()
	for {
		if time.Since(kept) >= time.Second {
			if err := e.housekeeping(ctx, db); err != nil {
				return err
			}
			kept = time.Now()
		}
		subs, err := subscriptions(ctx, db)
		if err != nil {
			return err
		}
		e.adjust(ctx, &group, workers, subs)
		e.resolveAll(ctx, db, subs, asked)
		waitCtx, cancel := context.WithTimeout(ctx, time.Second)
		notice, err := db.WaitForNotification(waitCtx)
		cancel()
		if err == nil && (notice.Payload == changedDelta || notice.Payload == changedDefinition) {
			e.defined.Add(1)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) && db.IsClosed() {
			return fmt.Errorf("wait for notification: %w", err)
		}
	}
}

var (
	errStopped = errors.New("engine stops")
	errChanged = errors.New("subscription was changed")
	// errSettings: a session has what ALTER DATABASE and ALTER ROLE said when it began.
	errSettings = errors.New("settings of the database or the role were changed")
)

// awaitNode waits until the database has the schema and is a node, and becomes
// its engine.
func (e *Engine) awaitNode(ctx context.Context, db *pgx.Conn) error {
	said := false
	for {
		ready, err := e.isNode(ctx, db)
		if err != nil {
			return err
		}
		if ready {
			break
		}
		if !said {
			e.log.InfoContext(ctx, "wait for the database to become a node")
			said = true
		}
		if !sleep(ctx, 500*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
	var locked, standby bool
	var track string
	if err := db.QueryRow(ctx, "SELECT pg_try_advisory_lock($1, 0), current_setting('track_commit_timestamp'), pg_is_in_recovery()", lockEngine).
		Scan(&locked, &track, &standby); err != nil {
		return fmt.Errorf("become the engine: %w", err)
	}
	if standby {
		return &refusal{
			errors.New("start engine: the server is a standby"),
			"It starts when the server is promoted. To follow the primary name all servers: host=a,b target_session_attrs=read-write.",
		}
	}
	if !locked {
		return errors.New("become the engine: another one serves this database")
	}
	if track != "on" {
		return &refusal{errors.New("start engine: track_commit_timestamp is off"), "Set track_commit_timestamp = on and restart the server, before anybody writes: " +
			"rows that are written without it have no time to be compared by, and nodes may stay different."}
	}
	name := fmt.Sprintf("spock manager %d", e.database)
	if _, err := db.Exec(ctx, "SELECT set_config('application_name', $1, false)", name); err != nil {
		return fmt.Errorf("become the engine: %w", err)
	}
	if _, err := db.Exec(ctx, "LISTEN spock_change"); err != nil {
		return fmt.Errorf("listen for changes: %w", err)
	}
	e.said = ""
	e.log.InfoContext(ctx, "engine started", "node", uint32(e.node))
	return nil
}

func (e *Engine) isNode(ctx context.Context, db *pgx.Conn) (bool, error) {
	var there bool
	if err := db.QueryRow(ctx, `SELECT to_regclass('spock.local_node') IS NOT NULL AND to_regprocedure('pgdrover.settings()') IS NOT NULL,
		(SELECT d.oid FROM pg_database d WHERE d.datname = current_database())`).Scan(&there, &e.database); err != nil {
		return false, fmt.Errorf("look for schema: %w", err)
	}
	if !there {
		return false, nil
	}
	switch err := spock.CheckVersion(ctx, db); {
	case errors.Is(err, spock.ErrNotInstalled):
		return false, nil // it is being installed
	case err != nil:
		return false, err
	}
	var node uint32
	err := db.QueryRow(ctx, "SELECT node_id FROM spock.local_node").Scan(&node)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for node: %w", err)
	}
	if err := spock.CheckPlace(ctx, db); err != nil {
		return false, err
	}
	e.node = conflict.NodeID(node)
	// What was enforced last, by whichever engine: a mode that was changed while none ran is changed now.
	if err := db.QueryRow(ctx, "SELECT coalesce((SELECT mode FROM spock.pgdrover_readonly), 'off')").Scan(&e.readonly); err != nil {
		return false, fmt.Errorf("look for read-only mode: %w", err)
	}
	return true, nil
}

// adjust starts and stops workers, so that those run that should.
func (e *Engine) adjust(ctx context.Context, group *sync.WaitGroup, workers map[uint32]*live, subs []subscription) {
	wanted := map[uint32]subscription{}
	for _, s := range subs {
		if s.enabled && !s.pending && e.readonly != "all" {
			wanted[s.id] = s
		}
	}
	for id, l := range workers {
		select {
		case <-l.done:
			delete(workers, id)
			continue
		default:
		}
		if s, ok := wanted[id]; !ok || s.changed != l.changed {
			l.stop(errChanged)
			<-l.done
			delete(workers, id)
		}
	}
	for id, s := range wanted {
		if workers[id] != nil {
			continue
		}
		workerCtx, stop := context.WithCancelCause(ctx)
		l := &live{changed: s.changed, stop: stop, done: make(chan struct{})}
		workers[id] = l
		group.Go(func() {
			defer close(l.done)
			e.keep(workerCtx, s)
		})
	}
}

// keep runs a subscription's worker, one life after the other.
func (e *Engine) keep(ctx context.Context, s subscription) {
	log := e.log.With("subscription", s.name)
	w := &Worker{engine: e, sub: s, log: log, forced: map[pg.LSN]*rereadError{}, postponed: postponed{}}
	failures := 0
	for {
		began := time.Now()
		err := w.run(ctx)
		if ctx.Err() != nil {
			return
		}
		var again *rereadError
		switch {
		case errors.As(err, &again):
			if again.text {
				w.textual = true
				log.InfoContext(ctx, "receive values as text", "reason", again.cause)
				continue
			}
			if again.whole {
				w.whole = true
				log.InfoContext(ctx, "receive large transactions as a whole", "reason", again.cause)
				continue
			}
			w.forced[again.final] = again
			log.InfoContext(ctx, "receive transaction again", "lsn", again.final.String(), "error", again.cause)
			if again.attempts > 0 && !sleep(ctx, e.restartDelay(err, again.attempts)) {
				return
			}
			continue
		case errors.Is(err, errDisabled):
			e.noteError(ctx, s, err, 1)
			return
		case e.removed(ctx, err), ctx.Err() != nil: // the manager may hear of the removal meanwhile
			return
		}
		if time.Since(began) > time.Minute {
			failures = 0
		}
		failures++
		delay := e.restartDelay(err, failures)
		if errors.Is(err, errAsked) {
			delay = 300 * time.Millisecond
		} else {
			log.With("sqlstate", sqlState(err), "delay", delay).WarnContext(ctx, "worker stopped, starts again", told(err)...)
			e.noteError(ctx, s, err, failures)
		}
		if !sleep(ctx, delay) {
			return
		}
	}
}

// restartDelay is the pause before the next life: longer after each failure,
// up to the configured one.
func (e *Engine) restartDelay(err error, failures int) time.Duration {
	limit := time.Duration(e.delay.Load())
	if _, ok := errors.AsType[*refusal](err); ok {
		return limit
	}
	d := 100 * time.Millisecond << min(failures-1, 10)
	return jitter(min(d, limit))
}

// hintOf says what to do about an error, where that is known: by us, or by the server.
func hintOf(err error) string {
	if hinted, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		return hinted.Hint()
	}
	if server, ok := errors.AsType[*pgconn.PgError](err); ok {
		return server.Hint
	}
	return ""
}

// told is an error as the log has it.
func told(err error) []any {
	if hint := hintOf(err); hint != "" {
		return []any{"error", err, "hint", hint}
	}
	return []any{"error", err}
}

// noteError keeps a worker's last error for the operator.
func (e *Engine) noteError(ctx context.Context, s subscription, err error, failures int) {
	db, cerr := e.connect(ctx, "pgdrover worker "+s.name, nil)
	if cerr != nil {
		return // the next life says it again
	}
	defer func() { _ = db.Close(context.WithoutCancel(ctx)) }()
	state := "down"
	if _, ok := errors.AsType[*refusal](err); ok {
		state = "refused"
	}
	if _, cerr := db.Exec(ctx, `INSERT INTO spock.pgdrover_subscription (sub_id, state, state_since, last_error, last_error_code, last_error_at, failures, last_hint)
		SELECT $1, $2, clock_timestamp(), $3, $4, clock_timestamp(), $5, nullif($6, '') WHERE EXISTS (SELECT FROM spock.subscription WHERE sub_id = $1)
		ON CONFLICT (sub_id) DO UPDATE SET state = excluded.state, state_since = excluded.state_since, last_error = excluded.last_error,
		last_error_code = excluded.last_error_code, last_error_at = excluded.last_error_at, failures = excluded.failures, last_hint = excluded.last_hint`,
		s.id, state, err.Error(), sqlState(err), failures, hintOf(err)); cerr != nil {
		e.log.DebugContext(ctx, "last error was not stored", "error", cerr)
	}
}

// housekeeping is what the engine does for the node, once a second.
func (e *Engine) housekeeping(ctx context.Context, db *pgx.Conn) error {
	s, err := readSettings(ctx, db, e.log)
	if err != nil {
		return err
	}
	e.skew.Store(int64(s.milliseconds("spock.max_clock_skew")))
	e.delay.Store(int64(s.milliseconds("spock.restart_delay_default")))
	followed := s.followed()
	e.followed.Store(&followed)
	if mode := s.values["spock.readonly"]; mode != e.readonly {
		if _, err := db.Exec(ctx, "SELECT pgdrover.enforce_readonly($1)", mode); err != nil {
			return fmt.Errorf("enforce read-only mode: %w", err)
		}
		e.readonly = mode
	}
	switch attached, err := attachedSettings(ctx, db); {
	case err != nil:
		return err
	case attached != e.attached:
		return errSettings
	}
	var alone bool
	if err := db.QueryRow(ctx, "SELECT "+unfollowed).Scan(&alone); err != nil {
		return fmt.Errorf("look for slots: %w", err)
	}
	e.bundling.Store(alone)
	if err := e.counts.store(ctx, db); err != nil {
		return fmt.Errorf("store counters: %w", err)
	}
	if _, err := db.Exec(ctx, "SELECT pgdrover.stamp_tombstones()"); err != nil {
		return fmt.Errorf("stamp tombstones: %w", err)
	}
	if err := e.sendVector(ctx, db); err != nil {
		return err
	}
	now := time.Now()
	if now.Sub(e.purged) > 5*time.Second {
		e.purged = now
		if _, err := db.Exec(ctx, "SELECT pgdrover.purge_tombstones()"); err != nil {
			return fmt.Errorf("purge tombstones: %w", err)
		}
		version := e.amended.now()
		var tables []uint32
		if err := db.QueryRow(ctx, "SELECT coalesce(array_agg(DISTINCT relid), '{}') FROM spock.pgdrover_stamp").Scan(&tables); err != nil {
			return fmt.Errorf("read stamps: %w", err)
		}
		e.amended.replace(version, tables)
	}
	if now.Sub(e.sequences) > 10*time.Second {
		e.sequences = now
		if _, err := db.Exec(ctx, "SELECT pgdrover.sync_sequences(), pgdrover.drop_retired_origins()"); err != nil {
			return fmt.Errorf("look after sequences and origins: %w", err)
		}
	}
	if now.Sub(e.retention) > 24*time.Hour {
		e.retention = now
		if _, err := db.Exec(ctx, "SELECT spock.cleanup_resolutions()"); err != nil {
			return fmt.Errorf("clean up resolutions: %w", err)
		}
	}
	return nil
}

// sendVector tells the peers how far this node has applied whose changes, when
// that has changed. It goes through the log: whoever receives it knows that
// what it speaks of is on disk here. An author of whom nothing has come yet is
// named all the same: what is not named counts as never to come.
func (e *Engine) sendVector(ctx context.Context, db *pgx.Conn) error {
	var vector string
	// Of a node that is followed by several subscriptions that is known to have been applied which
	// all of them have, of one with several sessions what the furthest has; origins of copies say nothing.
	// A stream leaves out what comes for a table that waits for its copy: of it nothing is known.
	if err := db.QueryRow(ctx, `SELECT coalesce(string_agg(v.node_id::text || '=' || v.at::text, ',' ORDER BY v.node_id), '') FROM (
		SELECT p.node_id, min(p.at) AS at FROM (
			SELECT o.node_id, CASE WHEN EXISTS (SELECT FROM spock.local_sync_status y WHERE y.sync_subid = o.sub_id AND y.sync_relname IS NOT NULL
				AND y.sync_status NOT IN ('r', 'y')) THEN '0/0' ELSE max(coalesce(s.remote_lsn, '0/0')) END AS at
			  FROM spock.pgdrover_origin o LEFT JOIN pg_replication_origin_status s ON s.external_id = o.roname
			 WHERE o.retired_at IS NULL AND o.worker < 100 GROUP BY o.node_id, o.sub_id, coalesce(o.sub_id, o.roident)) p GROUP BY p.node_id) v`).Scan(&vector); err != nil {
		return fmt.Errorf("read progress: %w", err)
	}
	if vector == e.last {
		return nil
	}
	if _, err := db.Exec(ctx, "INSERT INTO spock.pgdrover_applied (vector) VALUES ($1) ON CONFLICT (one) DO UPDATE SET vector = excluded.vector", vector); err != nil {
		return fmt.Errorf("send vector: %w", err)
	}
	e.last = vector
	return nil
}

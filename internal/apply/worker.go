package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/conflict"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgoutput"
	"github.com/pgdrover/pgdrover/internal/walreceiver"
)

// Worker serves one subscription: one life of it, from connecting to the first
// error. The engine starts the next one.
type Worker struct {
	engine *Engine
	sub    subscription
	log    *slog.Logger

	db       *pgx.Conn // for questions, beside the session that applies
	applier  *applier
	receiver *walreceiver.Conn
	major    int // of the provider
	inbox    *inbox
	decoder  *pgoutput.Decoder
	durable  *durability
	sets     *sets

	relations map[uint32]*remoteTable
	types     map[uint32]*pgoutput.Type // those of the provider's own, by its numbers
	syncing   map[string]tableSync      // tables that are not followed yet
	postponed postponed                 // those of them whose copy has failed
	outliving outliving
	current   *transaction
	dropping  bool            // the current transaction is not for us
	repairing bool            // neither are its changes from here on
	author    conflict.NodeID // whose it is; 0 when nobody knows
	memory    memory
	textual   bool      // values are not to come in binary form
	whole     bool      // large transactions are not to come in blocks
	block     time.Time // when the last block began
	forced    map[pg.LSN]*rereadError
	authors   map[string]conflict.NodeID // origins of the provider, when it forwards
	strangers map[string]bool            // origins of the provider that stand for nobody
	received  pg.LSN
	idle      pg.LSN // position up to which nothing is left to do
	idleAt    time.Time
	asked     bool // the provider waits to hear that nothing is left to do
	clock     clock
	sessions  int      // that apply, as was asked for
	durably   bool     // commits wait for the disk
	vectors   []vector // that were received and must wait
	skip      pg.LSN
	limit     int // bytes of a transaction that are kept
	lastTime  pg.Timestamp
	defined   uint64                           // what the engine knew of definitions when targets were made
	before    map[conflict.NodeID]pg.Timestamp // commit times of the transactions before, by author
	heard     time.Time
	public    time.Time
	looked    time.Time
	settled   bool          // what is public says that nothing is left to do
	inserted  atomic.Uint64 // end of the provider's log
	ended     atomic.Pointer[measured]
	goal      *measured // what has to be here before nothing is left
	here      time.Time // what the provider had committed before that is here
	behind    time.Time // since when the goal is not reached; zero when it was
	gated     bool      // we hold the gate
	pid       int32     // of the session that applies
	paused    bool      // that we wait at it was said
	passed    string    // whom we were last said to pass by
	rules     string    // the settings that this life goes by
	serverAt  pg.Timestamp
}

// The advisory locks by which SQL sees and stops us.
const (
	lockWorker = 727400011
	lockGate   = 727400012
	lockEngine = 727400013
	lockJoin   = 727400014 // held by who copies this database into a new node
	lockExact  = 727400015 // held by a worker that writes its progress into each transaction
)

// errAsked ends a worker that somebody waits for.
var errAsked = errors.New("asked to stop")

// refusal is an error that needs an operator: trying again soon is of no use.
type refusal struct {
	err  error
	hint string
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// Hint says what to do.
func (r *refusal) Hint() string { return r.hint }

// run is one life.
func (w *Worker) run(ctx context.Context) (err error) {
	w.relations, w.types, w.current, w.dropping, w.repairing = map[uint32]*remoteTable{}, map[uint32]*pgoutput.Type{}, nil, false, false
	w.strangers = map[string]bool{}
	w.durable, w.inbox, w.vectors = &durability{}, newInbox(), nil
	// What an earlier life has received and not applied comes again.
	w.received, w.idle, w.before, w.lastTime = 0, 0, map[conflict.NodeID]pg.Timestamp{}, 0
	if w.db, err = w.engine.connect(ctx, "pgdrover worker "+w.sub.name, nil); err != nil {
		return err
	}
	defer func() { _ = w.db.Close(context.WithoutCancel(ctx)) }()
	w.applier = nil // an earlier life's
	defer func() { w.letGo(context.WithoutCancel(ctx)) }()
	if err := w.prepare(ctx); err != nil {
		return err
	}
	if err := w.guardPrimary(ctx); err != nil {
		return err
	}
	if err := w.synchronise(ctx); err != nil {
		return err
	}
	if err := w.attach(ctx); err != nil {
		return err
	}
	if err := w.openCrew(ctx); err != nil {
		return err
	}
	if err := w.connect(ctx); err != nil {
		return err
	}
	defer func() { _ = w.receiver.Close(context.WithoutCancel(ctx)) }()
	return w.stream(ctx)
}

// letGo ends what a life has opened, however far it got: a session that stayed
// would hold the subscription's lock against all later lives.
func (w *Worker) letGo(ctx context.Context) {
	a := w.applier
	if a == nil {
		return
	}
	if a.session != nil {
		a.closeCrew()
		a.session.close()
		for _, tx := range append(slices.Clone(a.inflight), a.todo...) {
			a.letGo(tx)
		}
	}
	a.peers.close(ctx)
}

// prepare reads what the worker goes by and opens the session that applies.
func (w *Worker) prepare(ctx context.Context) error {
	// A drop in progress holds the row; what it leaves is none.
	var one int
	err := w.db.QueryRow(ctx, "SELECT 1 FROM spock.subscription WHERE sub_id = $1 AND sub_enabled FOR KEY SHARE", w.sub.id).Scan(&one)
	if errors.Is(err, pgx.ErrNoRows) {
		return errAsked
	}
	if err != nil {
		return fmt.Errorf("read subscription: %w", err)
	}
	s, err := readSettings(ctx, w.db, w.log)
	if err != nil {
		return err
	}
	ranks, err := readRanks(ctx, w.db)
	if err != nil {
		return err
	}
	w.sessions, w.rules = s.sessions(), s.followed()
	if err := w.makeOrigins(ctx); err != nil {
		return err
	}
	a := &applier{
		claims: w.engine.claims, log: w.log, self: w.engine.node, author: w.sub.provider, name: w.sub.name, origin: w.sub.slot,
		subID: w.sub.id, counts: w.engine.counts, amended: w.engine.amended, room: bundleMost, bundling: &w.engine.bundling, options: s.options(), durable: w.durable, binary: !w.sub.text && !w.textual,
		shapes: shapes{ids: new(int)},
		peers:  &peers{dsn: w.peerDSN, name: w.sub.name + "_ask", open: map[conflict.NodeID]*pgconn.PgConn{}},
	}
	if a.rules, err = s.rules(w.engine.node, ranks); err != nil {
		return err
	}
	if a.verdict, err = readVerdict(ctx, w.db, w.sub.provider, w.engine.node, ranks); err != nil {
		return err
	}
	a.verdict.strict = a.rules.SaveRemoteWins || a.rules.Policy != conflict.LastUpdateWins
	if a.decoder, err = pgoutput.NewDecoder(protocol(0)); err != nil {
		return err
	}
	w.applier = a
	w.limit = int(s.number("spock.exception_replay_queue_size"))
	w.skip = w.sub.skip
	return w.openSession(ctx, s)
}

func (w *Worker) peerDSN(ctx context.Context, node conflict.NodeID) (string, error) {
	var dsn string
	err := w.db.QueryRow(ctx, `SELECT i.if_dsn FROM spock.node_interface i LEFT JOIN spock.subscription s ON s.sub_origin_if = i.if_id
		WHERE i.if_nodeid = $1 ORDER BY s.sub_id NULLS LAST LIMIT 1`, uint32(node)).Scan(&dsn)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", errNoPeer
	}
	if err != nil {
		return "", fmt.Errorf("read interface of node: %w", err)
	}
	return w.engine.peerDSN(dsn), nil
}

// sessionSettings are those of a session that applies, besides the ordinary ones.
func sessionSettings(durable bool) map[string]string {
	m := map[string]string{
		"session_replication_role": "replica", "check_function_bodies": "off", "synchronous_commit": "off", "plan_cache_mode": "force_generic_plan",
		// A session that waits for a lock hears when its engine is gone, and lets go of
		// the origin.
		"client_connection_check_interval": "2000",
		// Rows are found by their keys. A plan that was made while a table was small
		// must not read all of it when it has grown.
		"enable_seqscan": "off",
	}
	if durable {
		m["synchronous_commit"] = "local"
	}
	return m
}

// openApplying opens a session that applies; which is behind its name.
func (w *Worker) openApplying(ctx context.Context, which string, wake chan struct{}) (*session, error) {
	config, err := pgconn.ParseConfig(w.engine.cfg.ConnInfo.DSN())
	if err != nil {
		return nil, fmt.Errorf("parse connection string: %w", err)
	}
	ordinary(config, sessionSettings(w.durably))
	config.RuntimeParams["application_name"] = fmt.Sprintf("spock apply %d:%d%s", w.engine.database, w.sub.id, which)
	return openSession(ctx, config, wake)
}

func (w *Worker) openSession(ctx context.Context, s settings) error {
	w.durably = s.on("spock.synchronous_commit")
	w.memory = memory{lenient: s.values["spock.forgotten_times"] == "lose"}
	var err error
	if w.applier.session, err = w.openApplying(ctx, "", make(chan struct{}, 1)); err != nil {
		return err
	}
	r, err := w.applier.session.query(ctx, fmt.Sprintf("SELECT pg_try_advisory_lock(%d, %d)::text, "+
		"current_setting('server_version_num'), pg_backend_pid()::text", lockWorker, int32(w.sub.id)), nil) //nolint:gosec // the number wraps around, as in SQL
	if err != nil {
		return fmt.Errorf("lock subscription: %w", err)
	}
	if string(r.rows[0][0].Data) != "true" {
		return fmt.Errorf("lock subscription %s: another worker serves it", w.sub.name) //nolint:err113 // says it all
	}
	if _, err := fmt.Sscan(string(r.rows[0][1].Data), &w.applier.version); err != nil {
		return fmt.Errorf("read server version: %w", err)
	}
	if _, err := fmt.Sscan(string(r.rows[0][2].Data), &w.pid); err != nil {
		return fmt.Errorf("read server process: %w", err)
	}
	return w.passGate(ctx)
}

// attach makes the session one of the subscription's origin and reads where the
// provider's stream goes on.
func (w *Worker) attach(ctx context.Context) error {
	a := w.applier
	if err := w.awaitOthers(ctx); err != nil {
		return err
	}
	if err := a.session.run(ctx, "SELECT pg_replication_origin_session_setup("+pg.QuoteLiteral(w.sub.slot)+")"); err != nil {
		return fmt.Errorf("take over origin: %w", err)
	}
	var err error
	if a.reached, err = w.position(ctx); err != nil {
		return err
	}
	w.durable.flushed = a.reached
	if w.sets, err = w.loadSets(ctx); err != nil {
		return err
	}
	return w.loadSyncing(ctx)
}

// publicationNames are those that make a stream.
const publicationNames = "pgdrover_ins,pgdrover_upd,pgdrover_del,pgdrover_trunc,pgdrover_sys"

// protocol is the version to be spoken with a server; 0 is any.
func protocol(major int) int {
	if major >= 16 || major == 0 {
		return pgoutput.Version4
	}
	return pgoutput.Version3
}

// connect opens the stream, if the provider is still the one that was followed
// and has what comes next.
func (w *Worker) connect(ctx context.Context) error {
	var err error
	if w.receiver, err = w.dialProvider(ctx, w.sub.slot); err != nil {
		return err
	}
	if err := w.start(ctx); err != nil {
		_ = w.receiver.Close(context.WithoutCancel(ctx))
		return err
	}
	return nil
}

func (w *Worker) dialProvider(ctx context.Context, name string) (*walreceiver.Conn, error) {
	info, err := pg.ParseConnInfo(w.engine.peerDSN(w.sub.dsn))
	if err != nil {
		return nil, fmt.Errorf("parse connection string of provider: %w", err)
	}
	return walreceiver.Connect(ctx, walreceiver.Config{
		ConnInfo: info, ApplicationName: name, Parameters: map[string]string{"client_encoding": "UTF8"},
		StatusInterval: 5 * time.Second, Idle: w.inbox.signal,
	})
}

func (w *Worker) start(ctx context.Context) error {
	w.major = w.receiver.Major()
	end, err := w.guard(ctx)
	if err != nil {
		return err
	}
	if w.decoder, err = pgoutput.NewDecoder(protocol(w.major)); err != nil {
		return err
	}
	options := walreceiver.Pgoutput{
		Version:      protocol(w.major),
		Publications: strings.Split(publicationNames, ","),
		Binary:       w.applier.binary, Messages: true,
	}
	if w.early(end) {
		options.Streaming = "on"
	}
	if w.major >= 16 {
		options.Origin = "none"
		if len(w.sub.forward) > 0 {
			options.Origin = "any"
		}
	}
	if err := w.loadAuthors(ctx); err != nil {
		return err
	}
	if err := w.receiver.StartLogical(ctx, walreceiver.StartConfig{
		Slot: w.sub.slot, From: w.applier.reached, Options: options.Options(),
	}); err != nil {
		return err
	}
	w.log.InfoContext(ctx, "stream started", "lsn", w.applier.reached.String(), "slot", w.sub.slot)
	return w.state(ctx, "streaming")
}

// loadAuthors reads whom the provider's origins stand for, when it forwards
// their work: what this node wrote must not come back.
func (w *Worker) loadAuthors(ctx context.Context) error {
	w.authors = nil
	if len(w.sub.forward) == 0 {
		return nil
	}
	conn, err := w.applier.peers.connect(ctx, w.sub.provider)
	if err != nil {
		return err
	}
	result := w.applier.peers.ask(ctx, conn, "SELECT roname, node_id FROM spock.pgdrover_origin")
	if result.Err != nil {
		return fmt.Errorf("read origins of provider: %w", result.Err)
	}
	w.authors = map[string]conflict.NodeID{}
	for _, row := range result.Rows {
		var node uint32
		if _, err := fmt.Sscan(string(row[1]), &node); err != nil {
			return fmt.Errorf("read origins of provider: %w", err)
		}
		w.authors[string(row[0])] = conflict.NodeID(node)
	}
	return nil
}

// guard refuses a provider that is not the one that was followed, and a slot
// that is ahead of this node: the server objects to neither, it skips what is
// missing. It returns where the provider's log ends.
func (w *Worker) guard(ctx context.Context) (pg.LSN, error) {
	system, err := w.receiver.IdentifySystem(ctx)
	if err != nil {
		return 0, err
	}
	var sysid string
	var timeline uint32
	if err := w.db.QueryRow(ctx, `SELECT coalesce(provider_sysid, ''), coalesce(provider_timeline, 0)
		FROM spock.pgdrover_subscription WHERE sub_id = $1`, w.sub.id).Scan(&sysid, &timeline); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("read subscription: %w", err)
	}
	reached := w.applier.reached
	const resync = "Copy the data again: drop the subscription and create it with synchronize_data := true, tables as they are (what empties them is replicated); " +
		"or move its origin with pg_replication_origin_advance if you know better."
	if sysid != "" && sysid != system.ID.String() {
		return 0, &refusal{fmt.Errorf("start replication: provider is another server (system identifier %s, was %s)", system.ID, sysid), resync}
	}
	if reached > system.Flushed {
		return 0, &refusal{fmt.Errorf("start replication: provider ends at %s, but %s was applied: it was restored from a backup, or failed over without its end",
			system.Flushed, reached), resync}
	}
	if timeline != 0 && pg.Timeline(timeline) != system.Timeline {
		history, err := w.receiver.TimelineHistory(ctx, system.Timeline)
		if err != nil {
			return 0, err
		}
		if left, ok := history.SwitchFrom(pg.Timeline(timeline)); ok && reached > left {
			return 0, &refusal{fmt.Errorf("start replication: provider left timeline %d at %s, but %s was applied", timeline, left, reached), resync}
		}
	}
	confirmed, err := w.guardSlot(ctx, resync)
	if err != nil {
		return 0, err
	}
	if err := w.unstamp(ctx, confirmed); err != nil {
		return 0, err
	}
	if err := w.follow(ctx); err != nil {
		return 0, err
	}
	_, err = w.db.Exec(ctx, `INSERT INTO spock.pgdrover_subscription (sub_id, provider_sysid, provider_timeline) VALUES ($1, $2, $3)
		ON CONFLICT (sub_id) DO UPDATE SET provider_sysid = excluded.provider_sysid, provider_timeline = excluded.provider_timeline`,
		w.sub.id, system.ID.String(), uint32(system.Timeline))
	if err != nil {
		return 0, fmt.Errorf("store the provider's identity: %w", err)
	}
	return system.Flushed, w.begins(ctx)
}

// guardPrimary refuses a standby, which has neither our slot nor all of the
// provider's log.
func (w *Worker) guardPrimary(ctx context.Context) error {
	conn, err := w.applier.peers.connect(ctx, w.sub.provider)
	if err != nil {
		return err
	}
	result := w.applier.peers.ask(ctx, conn, "SELECT pg_is_in_recovery()::text")
	switch {
	case result.Err != nil:
		return fmt.Errorf("ask provider whether it is a standby: %w", result.Err)
	case string(result.Rows[0][0]) == "true":
		return &refusal{
			errors.New("start replication: the provider's server is a standby"),
			"Its connection string must lead to the primary; it may name several hosts, with target_session_attrs=read-write.",
		}
	}
	return nil
}

func (w *Worker) guardSlot(ctx context.Context, resync string) (confirmed pg.LSN, err error) {
	conn, err := w.applier.peers.connect(ctx, w.sub.provider)
	if err != nil {
		return 0, err
	}
	result := w.applier.peers.ask(ctx, conn, `SELECT coalesce(confirmed_flush_lsn, '0/0')::text, coalesce(wal_status, '')
		FROM pg_replication_slots WHERE slot_name = $1 AND database = current_database()`,
		[]byte(w.sub.slot))
	switch {
	case result.Err != nil:
		return 0, fmt.Errorf("read slot: %w", result.Err)
	case len(result.Rows) == 0:
		return 0, &refusal{fmt.Errorf("start replication: slot %q does not exist on the provider", w.sub.slot), resync}
	case string(result.Rows[0][1]) == "lost":
		return 0, &refusal{fmt.Errorf("start replication: slot %q has lost log that was not received yet", w.sub.slot), resync}
	}
	confirmed, err = pg.ParseLSN(string(result.Rows[0][0]))
	if err != nil {
		return 0, err
	}
	if w.applier.reached != 0 && confirmed > w.applier.reached {
		return 0, &refusal{fmt.Errorf("start replication: slot %q is at %s, this node only at %s: it has lost transactions that it had acknowledged",
			w.sub.slot, confirmed, w.applier.reached), resync}
	}
	return confirmed, nil
}

// state notes what the worker is doing, for the operator.
func (w *Worker) state(ctx context.Context, state string) error {
	_, err := w.db.Exec(ctx, `INSERT INTO spock.pgdrover_subscription (sub_id, state, state_since) VALUES ($1, $2, clock_timestamp())
		ON CONFLICT (sub_id) DO UPDATE SET state = excluded.state, state_since = excluded.state_since
		WHERE spock.pgdrover_subscription.state IS DISTINCT FROM excluded.state`, w.sub.id, state)
	if err != nil {
		return fmt.Errorf("store state: %w", err)
	}
	return nil
}

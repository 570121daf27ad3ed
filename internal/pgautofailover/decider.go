package pgautofailover

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// Decider is the one monitor process, seen from the database: it holds a
// session lock, and a number that every later holder raises. Each of its
// transactions checks that the number is still its own.
type Decider struct {
	db     *DB
	number int64
}

const qAcquire = `SELECT pgautofailover.acquire_decider($1)`

// Acquire makes the caller the decider. The lock lives as long as the session
// of db: keep it, and stop deciding when it is lost. ErrDeciderExists says
// that another process decides; the caller asks again later.
func Acquire(ctx context.Context, db *DB, holder string) (*Decider, error) {
	var number *int64
	if err := db.conn.QueryRow(ctx, qAcquire, holder).Scan(&number); err != nil {
		return nil, wrap("take the decider's lock", err)
	}
	if number == nil {
		return nil, ErrDeciderExists
	}
	return &Decider{db: db, number: *number}, nil
}

// Number returns the decider's number.
func (d *Decider) Number() int64 { return d.number }

// On returns the same decider on a further connection, for a goroutine of its own.
func (d *Decider) On(db *DB) *Decider { return &Decider{db: db, number: d.number} }

const qGroups = `
SELECT formationid, groupid FROM pgautofailover.group_state
UNION SELECT formationid, groupid FROM pgautofailover.node
ORDER BY 1, 2`

// Groups lists every group that has, or had, a node.
func (d *Decider) Groups(ctx context.Context) ([]GroupKey, error) {
	scan := func(row pgx.CollectableRow) (GroupKey, error) {
		var k GroupKey
		err := row.Scan(&k.Formation, &k.Group)
		return k, err
	}
	return collect(ctx, d.db.conn, "list the groups", scan, qGroups)
}

// Pulse is a sign of life of one node's keeper.
type Pulse struct {
	GroupKey
	NodeID int64
	// Reported is when the database stored the last report, on the database's
	// clock: compare it with an earlier Pulse only.
	Reported time.Time
	// HasSession says that a session holds the node's lock right now; EverHad
	// that one held it since the node was registered.
	HasSession, EverHad bool
	// Backends are the server's processes whose sessions hold the lock.
	Backends []int32
}

const (
	qPulses = `
SELECT n.formationid, n.groupid, n.nodeid, n.reporttime, l.objid IS NOT NULL, n.haskeptsession, l.backends
  FROM pgautofailover.node n
  LEFT JOIN (SELECT objid::bigint AS objid, array_agg(pid) AS backends FROM pg_catalog.pg_locks
              WHERE locktype = 'advisory' AND classid = 727400012 AND objsubid = 2 AND granted
                AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
              GROUP BY objid) l
         ON l.objid = n.nodeid & 2147483647
 ORDER BY n.nodeid`
	qReportTimes = `SELECT nodeid, reporttime FROM pgautofailover.node`
)

// ReportTime is when the database stored the last report of a node, on the
// database's clock.
type ReportTime struct {
	NodeID   int64
	Reported time.Time
}

// ReportTimes returns the last report's time of every node: the part of Pulses
// that costs next to nothing.
func (d *Decider) ReportTimes(ctx context.Context) ([]ReportTime, error) {
	scan := func(row pgx.CollectableRow) (ReportTime, error) {
		var r ReportTime
		err := row.Scan(&r.NodeID, &r.Reported)
		return r, err
	}
	return collect(ctx, d.db.conn, "read the times of the last reports", scan, qReportTimes)
}

// Pulses returns the last report's time and the state of the session lock of
// every node, in one query that takes no lock of its own.
func (d *Decider) Pulses(ctx context.Context) ([]Pulse, error) {
	return collect(ctx, d.db.conn, "read the signs of life", scanPulse, qPulses)
}

func scanPulse(row pgx.CollectableRow) (Pulse, error) {
	var p Pulse
	err := row.Scan(&p.Formation, &p.Group, &p.NodeID, &p.Reported, &p.HasSession, &p.EverHad, &p.Backends)
	return p, err
}

// Stamps are a node's times on the database's clock. Compare them with
// earlier ones only: times in fsm.Group belong to the monitor process.
type Stamps struct {
	Report      time.Time // the last report was stored
	HealthCheck time.Time // the last verdict was stored
	StateChange time.Time // goal or reported state changed
}

// LoadedGroup is a group as the database knows it. Left to the caller are the
// fields that depend on its own clock and sessions: MonitorStart, and of each
// node Seen, GoalAt, ReportedAt, HealthAt, StreamingAt and Session; of each
// intent At.
type LoadedGroup struct {
	fsm.Group
	// Waiting is what the last decision stored.
	Waiting string
	Stamps  map[int64]Stamps // by node id
	// Requested tells when each intent was stored, on the database's clock.
	Requested map[int64]time.Time
	// All are the monitor's settings, of which Group.Settings is a part;
	// SettingsErr names values that could not be read and took their defaults.
	All         Settings
	SettingsErr error
	// Number is the number of the newest list, and counts how often one was stored.
	Number int64
}

// Settled is what a decision function answers: decisions in order, each made
// on the group as the one before leaves it, and why the group still waits.
type Settled struct {
	Decisions []fsm.Decision
	Waiting   string
}

// Decide runs one transaction: it takes the group's locks, checks that this
// process is still the decider, loads the group, calls decide, and stores
// what it answers. When Decide returns nil everything is committed, and with
// it notified; on any error nothing is. ErrNotDecider ends the process's right to decide.
func (d *Decider) Decide(ctx context.Context, key GroupKey, decide func(LoadedGroup) (Settled, error)) error {
	// Whatever the server's default is: what was read before the locks were there must not count.
	tx, err := d.db.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return wrap("begin a decision", err)
	}
	defer rollback(ctx, tx)
	if err := d.lockGroup(ctx, tx, key); err != nil {
		return err
	}
	loaded, err := loadGroup(ctx, tx, key)
	if err != nil {
		return err
	}
	settled, err := decide(loaded)
	if err != nil {
		return err
	}
	if err := storeSettled(ctx, tx, loaded, settled); err != nil {
		return err
	}
	return wrap("commit a decision", tx.Commit(ctx))
}

const qLockForDecision = `SELECT pgautofailover.lock_for_decision($1, $2, $3)`

func (d *Decider) lockGroup(ctx context.Context, tx pgx.Tx, key GroupKey) error {
	var mine bool
	if err := tx.QueryRow(ctx, qLockForDecision, d.number, key.Formation, key.Group).Scan(&mine); err != nil {
		return wrap("lock the group", err)
	}
	if !mine {
		return ErrNotDecider
	}
	return nil
}

// Load reads a group without locking it: for looking, not for deciding.
func (d *Decider) Load(ctx context.Context, key GroupKey) (LoadedGroup, error) {
	tx, err := d.db.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return LoadedGroup{}, wrap("begin reading the group", err)
	}
	defer rollback(ctx, tx)
	return loadGroup(ctx, tx, key)
}

// Probe is one verdict of a health check.
type Probe struct {
	NodeID int64
	Health fsm.Health
}

const (
	qSetHealth     = `SELECT pgautofailover.set_node_health($1, $2)`
	qChangedHealth = `
SELECT m.nodeid, p.verdict
  FROM unnest($1::bigint[], $2::int[]) AS p(id, verdict)
  JOIN pgautofailover.node m ON m.nodeid = p.id AND m.health <> p.verdict
 ORDER BY m.nodeid`
	// Rows that somebody else has locked are left alone: waiting for one row
	// while holding others could end in a deadlock with a decision.
	qTouchHealth = `
UPDATE pgautofailover.node n SET healthchecktime = now()
  FROM (SELECT m.nodeid FROM pgautofailover.node m
          JOIN unnest($1::bigint[], $2::int[]) AS p(id, verdict) ON m.nodeid = p.id AND m.health = p.verdict
           FOR NO KEY UPDATE OF m SKIP LOCKED) AS same
 WHERE n.nodeid = same.nodeid`
)

// SetHealth stores verdicts: each changed one with its event and
// notifications, in a transaction of its own under the group's lock; the
// unchanged ones together, without waiting for anybody.
func (d *Decider) SetHealth(ctx context.Context, probes ...Probe) error {
	var ids []int64
	var verdicts []int
	for _, p := range probes {
		ids, verdicts = append(ids, p.NodeID), append(verdicts, int(p.Health))
	}
	scan := func(row pgx.CollectableRow) (Probe, error) {
		var p Probe
		err := row.Scan(&p.NodeID, &p.Health)
		return p, err
	}
	changed, err := collect(ctx, d.db.conn, "compare health checks", scan, qChangedHealth, ids, verdicts)
	if err != nil {
		return err
	}
	for _, p := range changed {
		if _, err := d.db.conn.Exec(ctx, qSetHealth, p.NodeID, int(p.Health)); err != nil {
			return wrap("store a health check", err)
		}
	}
	if len(changed) == len(probes) {
		return nil
	}
	_, err = d.db.conn.Exec(ctx, qTouchHealth, ids, verdicts)
	return wrap("store health checks", err)
}

const (
	qPruneEvents  = `DELETE FROM pgautofailover.event WHERE eventtime < now() - make_interval(secs => $1)`
	qPruneIntents = `DELETE FROM pgautofailover.intent WHERE closed_at < now() - interval '1 day'`
)

// Prune deletes events that are older than the retention (0 keeps them), and requests closed a day ago.
func (d *Decider) Prune(ctx context.Context, retention time.Duration) error {
	if _, err := d.db.conn.Exec(ctx, qPruneIntents); err != nil {
		return wrap("delete old requests", err)
	}
	if retention == 0 {
		return nil
	}
	_, err := d.db.conn.Exec(ctx, qPruneEvents, retention.Seconds())
	return wrap("delete old events", err)
}

package spock

import (
	"context"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Subscription is one row of spock.subscription, with what belongs to it.
type Subscription struct {
	ID                uint32
	Name              string
	Provider          uint32 // node id
	ProviderName      string
	ProviderDSN       string `json:"-"` // may hold a password
	Target            uint32
	TargetName        string
	Enabled           bool
	Slot              string // on the provider; also the name of the origin here
	Sets              []string
	ForwardOrigins    []string
	ApplyDelay        time.Duration // a month is 30 days
	ForceTextTransfer bool
	SkipLSN           Position
	SkipSchemas       []string
	CreatedAt         time.Time
	Pending           bool   // its provider was not asked yet
	SyncKind          string // i, s, d or f; empty without a status row
	SyncStatus        string // letter of the subscription's own status; empty without a row
	SyncLSN           Position
	SyncRequested     bool // the provider's tables are to be compared with what is here
	SyncTruncate      bool
	SystemID          string // of the provider, when it was last connected to
	Timeline          int
}

const qSubscriptions = `
SELECT s.sub_id, s.sub_name::text, s.sub_origin, o.node_name::text, i.if_dsn, s.sub_target, t.node_name::text, s.sub_enabled,
       s.sub_slot_name::text, coalesce(s.sub_replication_sets, '{}'), coalesce(s.sub_forward_origins, '{}'),
       ((extract(year FROM d) * 12 + extract(month FROM d)) * 2592000 + extract(day FROM d) * 86400 + extract(hour FROM d) * 3600
         + extract(minute FROM d) * 60 + extract(second FROM d))::float8,
       s.sub_force_text_transfer, s.sub_skip_lsn, coalesce(s.sub_skip_schema, '{}'),
       coalesce(s.sub_created_at, 'epoch'::timestamptz), coalesce(p.pending, false), coalesce(y.sync_kind::text, ''),
       coalesce(y.sync_status::text, ''), coalesce(y.sync_statuslsn, '0/0'), coalesce(p.sync_requested, false),
       coalesce(p.sync_truncate, false), coalesce(p.provider_sysid, ''), coalesce(p.provider_timeline, 0)
  FROM (SELECT *, sub_apply_delay AS d FROM spock.subscription) s
  JOIN spock.node o ON o.node_id = s.sub_origin
  JOIN spock.node t ON t.node_id = s.sub_target
  JOIN spock.node_interface i ON i.if_id = s.sub_origin_if
  LEFT JOIN spock.pgdrover_subscription p ON p.sub_id = s.sub_id
  LEFT JOIN spock.local_sync_status y ON y.sync_subid = s.sub_id AND y.sync_relname IS NULL
 WHERE $1::int8 = 0 OR s.sub_id = $1::int8::oid
 ORDER BY s.sub_name`

// Subscriptions returns all subscriptions by name.
func (db *DB) Subscriptions(ctx context.Context) ([]Subscription, error) {
	return subscriptions(ctx, db.conn, 0)
}

// Subscription returns one, or ErrNotFound.
func (db *DB) Subscription(ctx context.Context, id uint32) (Subscription, error) {
	all, err := subscriptions(ctx, db.conn, id)
	if err != nil {
		return Subscription{}, err
	}
	if len(all) == 0 {
		return Subscription{}, wrap("find the subscription", ErrNotFound)
	}
	return all[0], nil
}

func subscriptions(ctx context.Context, q querier, id uint32) ([]Subscription, error) {
	const op = "list the subscriptions"
	rows, err := q.Query(ctx, qSubscriptions, int64(id))
	if err != nil {
		return nil, wrap(op, err)
	}
	defer rows.Close()
	var all []Subscription
	for rows.Next() {
		var s Subscription
		var delay float64
		if err := rows.Scan(&s.ID, &s.Name, &s.Provider, &s.ProviderName, &s.ProviderDSN, &s.Target, &s.TargetName, &s.Enabled,
			&s.Slot, &s.Sets, &s.ForwardOrigins, &delay, &s.ForceTextTransfer, &s.SkipLSN, &s.SkipSchemas, &s.CreatedAt,
			&s.Pending, &s.SyncKind, &s.SyncStatus, &s.SyncLSN, &s.SyncRequested, &s.SyncTruncate, &s.SystemID, &s.Timeline); err != nil {
			return nil, wrap(op, err)
		}
		s.ApplyDelay = time.Duration(delay * float64(time.Second))
		all = append(all, s)
	}
	return all, wrap(op, rows.Err())
}

const (
	qSubCreate     = `SELECT spock.sub_create($1, $2, $3, $4, $5, $6, make_interval(secs => $7), $8, $9, $10)`
	qSubDrop       = `SELECT spock.sub_drop($1, $2)::int8 = 1`
	qSubEnable     = `SELECT spock.sub_enable($1, $2)`
	qSubDisable    = `SELECT spock.sub_disable($1, $2)`
	qSubInterface  = `SELECT spock.sub_alter_interface($1, $2)`
	qSubAddSet     = `SELECT spock.sub_add_repset($1, $2)`
	qSubRemoveSet  = `SELECT spock.sub_remove_repset($1, $2)`
	qSubSkip       = `SELECT spock.sub_alter_skiplsn($1, $2)`
	qSubSync       = `SELECT spock.sub_alter_sync($1, $2)`
	qSubResync     = `SELECT spock.sub_resync_table($1, $2::regclass, $3)`
	qSubWait       = `SELECT spock.sub_wait_for_sync($1)`
	qTableWait     = `SELECT spock.table_wait_for_sync($1, $2::regclass)`
	qSubOptions    = `SELECT spock.sub_alter_options($1, $2::jsonb)`
	qSubResolve    = `SELECT pgdrover.sub_resolve($1, $2::jsonb)`
	qSyncTables    = `SELECT pgdrover.sync_tables($1, $2::name[], $3::name[], $4)`
	qSubShowStatus = `
SELECT subscription_name, status, provider_node, provider_dsn, slot_name, coalesce(replication_sets, '{}'), coalesce(forward_origins, '{}')
  FROM spock.sub_show_status($1)`
	qGenSlotName = `SELECT spock.spock_gen_slot_name($1, $2, $3)::text`
)

// NewSubscription is what CreateSubscription stores. Sets nil means the three
// that every node has.
type NewSubscription struct {
	Name, ProviderDSN               string
	Sets                            []string
	SyncStructure, SyncData         bool
	ForwardOrigins                  []string
	ApplyDelay                      time.Duration
	ForceTextTransfer, StayDisabled bool
	SkipSchemas                     []string
}

// CreateSubscription checks the provider and stores the subscription.
func (db *DB) CreateSubscription(ctx context.Context, s NewSubscription) (uint32, error) {
	op := "create subscription " + s.Name
	// The server would cut the name without a word.
	if len(s.Name) > 63 {
		return 0, hinted{op + ": the name is longer than 63 bytes", "Choose a shorter name."}
	}
	sets := s.Sets
	if sets == nil {
		sets = []string{"default", "default_insert_only", "ddl_sql"}
	}
	var id uint32
	err := db.conn.QueryRow(ctx, qSubCreate, s.Name, s.ProviderDSN, sets, s.SyncStructure, s.SyncData, list(s.ForwardOrigins),
		s.ApplyDelay.Seconds(), s.ForceTextTransfer, !s.StayDisabled, list(s.SkipSchemas)).Scan(&id)
	return id, wrap(op, err)
}

// list makes nil an empty array.
func list(texts []string) []string {
	if texts == nil {
		return []string{}
	}
	return texts
}

// DropSubscription removes a subscription, its slot and its origin; false when there is none and ifExists.
func (db *DB) DropSubscription(ctx context.Context, name string, ifExists bool) (bool, error) {
	return db.ask(ctx, "drop subscription "+name, qSubDrop, name, ifExists)
}

// EnableSubscription lets the engine serve it.
func (db *DB) EnableSubscription(ctx context.Context, name string) error {
	_, err := db.ask(ctx, "enable subscription "+name, qSubEnable, name, true)
	return err
}

// DisableSubscription makes the engine stop it, at once when immediate.
func (db *DB) DisableSubscription(ctx context.Context, name string, immediate bool) error {
	_, err := db.ask(ctx, "disable subscription "+name, qSubDisable, name, immediate)
	return err
}

// SetSubscriptionInterface chooses another interface of the provider; false when it was that one already.
func (db *DB) SetSubscriptionInterface(ctx context.Context, name, iface string) (bool, error) {
	return db.ask(ctx, "alter subscription "+name, qSubInterface, name, iface)
}

// AddSubscriptionSet subscribes to a further set; false when it was subscribed already.
func (db *DB) AddSubscriptionSet(ctx context.Context, name, set string) (bool, error) {
	return db.ask(ctx, "alter subscription "+name, qSubAddSet, name, set)
}

// RemoveSubscriptionSet ends the subscription of one set; false when it was not subscribed.
func (db *DB) RemoveSubscriptionSet(ctx context.Context, name, set string) (bool, error) {
	return db.ask(ctx, "alter subscription "+name, qSubRemoveSet, name, set)
}

// SkipTransaction throws away the transaction that ends at this position.
func (db *DB) SkipTransaction(ctx context.Context, name string, at pg.LSN) error {
	_, err := db.ask(ctx, "alter subscription "+name, qSubSkip, name, at.String())
	return err
}

// SynchronizeSubscription copies the tables of the subscribed sets that were never copied.
func (db *DB) SynchronizeSubscription(ctx context.Context, name string, truncate bool) error {
	_, err := db.ask(ctx, "synchronize subscription "+name, qSubSync, name, truncate)
	return err
}

// ResyncTable copies one table again.
func (db *DB) ResyncTable(ctx context.Context, name, table string, truncate bool) error {
	_, err := db.ask(ctx, "resynchronize table "+table, qSubResync, name, table, truncate)
	return err
}

// WaitForSync waits until a subscription and all its tables are copied. It ends with the context.
func (db *DB) WaitForSync(ctx context.Context, name string) error {
	_, err := db.conn.Exec(ctx, qSubWait, name)
	return wrap("wait for subscription "+name, err)
}

// WaitForTable waits until one table is copied. It ends with the context.
func (db *DB) WaitForTable(ctx context.Context, name, table string) error {
	_, err := db.conn.Exec(ctx, qTableWait, name, table)
	return wrap("wait for table "+table, err)
}

// SetSubscriptionOptions changes forward_origins, apply_delay and skip_schema, given as JSON.
func (db *DB) SetSubscriptionOptions(ctx context.Context, name, options string) error {
	_, err := db.ask(ctx, "alter subscription "+name, qSubOptions, name, options)
	return err
}

// SlotName returns the name of a subscription's slot and origin.
func (db *DB) SlotName(ctx context.Context, database, provider, subscription string) (string, error) {
	var name string
	err := db.conn.QueryRow(ctx, qGenSlotName, database, provider, subscription).Scan(&name)
	return name, wrap("compute the slot's name", err)
}

// ResolveSubscription gives a pending subscription its provider, whose
// node_info the engine has asked for (one JSON object). It refuses what
// sub_create would have.
func (db *DB) ResolveSubscription(ctx context.Context, id uint32, nodeInfo string) error {
	_, err := db.conn.Exec(ctx, qSubResolve, id, nodeInfo)
	return wrap("check the subscription's provider", err)
}

// SyncTables compares the provider's tables with the status rows: new ones are wanted, rows of others go.
func (db *DB) SyncTables(ctx context.Context, id uint32, schemas, tables []string, truncate bool) error {
	_, err := db.conn.Exec(ctx, qSyncTables, id, list(schemas), list(tables), truncate)
	return wrap("store the tables to copy", err)
}

// SubscriptionStatus is one row of sub_show_status.
type SubscriptionStatus struct {
	Name           string
	Status         string // replicating, initializing, disabled, down, unknown
	Provider       string
	ProviderDSN    string `json:"-"` // may hold a password
	Slot           string
	Sets           []string
	ForwardOrigins []string
}

// SubscriptionStatuses returns the status of all subscriptions, or of one.
func (db *DB) SubscriptionStatuses(ctx context.Context, name string) ([]SubscriptionStatus, error) {
	return collect[SubscriptionStatus](ctx, db.conn, "show subscription status", qSubShowStatus, null(name))
}

// ask calls a function that answers yes or no.
func (db *DB) ask(ctx context.Context, op, sql string, args ...any) (bool, error) {
	var ok bool
	err := db.conn.QueryRow(ctx, sql, args...).Scan(&ok)
	return ok, wrap(op, err)
}

package apply

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/conflict"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// subscription is a row of spock.subscription with what belongs to it.
type subscription struct {
	id       uint32
	name     string
	provider conflict.NodeID
	dsn      string // of the provider
	localDSN string
	slot     string
	sets     []string
	forward  []string
	delay    time.Duration
	text     bool
	skip     pg.LSN
	schemas  []string // that are not copied
	enabled  bool
	pending  bool
	changed  string // a digest: a worker with another one has to start anew
}

const subscriptionQuery = `
SELECT s.sub_id, s.sub_name::text, s.sub_origin, i.if_dsn, t.if_dsn, s.sub_slot_name::text, coalesce(s.sub_replication_sets, '{}'),
       coalesce(s.sub_forward_origins, '{}'), (extract(epoch FROM s.sub_apply_delay) * 1000)::bigint, s.sub_force_text_transfer,
       s.sub_skip_lsn::text, coalesce(s.sub_skip_schema, '{}'), s.sub_enabled, coalesce(p.pending, false),
       md5(row(s.sub_id, s.sub_slot_name, s.sub_replication_sets, s.sub_forward_origins, s.sub_apply_delay, s.sub_force_text_transfer,
               s.sub_skip_lsn, s.sub_skip_schema, i.if_dsn, t.if_dsn, s.sub_enabled, p.pending)::text)
  FROM spock.subscription s JOIN spock.node_interface i ON i.if_id = s.sub_origin_if
  JOIN spock.node_interface t ON t.if_id = s.sub_target_if
  LEFT JOIN spock.pgdrover_subscription p ON p.sub_id = s.sub_id`

// subscriptions reads all subscriptions of this node.
func subscriptions(ctx context.Context, db *pgx.Conn) ([]subscription, error) {
	rows, err := db.Query(ctx, subscriptionQuery+" ORDER BY s.sub_id")
	if err != nil {
		return nil, fmt.Errorf("read subscriptions: %w", err)
	}
	defer rows.Close()
	var all []subscription
	for rows.Next() {
		var s subscription
		var provider uint32
		var skip string
		var delay int64
		if err := rows.Scan(&s.id, &s.name, &provider, &s.dsn, &s.localDSN, &s.slot, &s.sets, &s.forward, &delay, &s.text, &skip,
			&s.schemas, &s.enabled, &s.pending, &s.changed); err != nil {
			return nil, fmt.Errorf("read subscriptions: %w", err)
		}
		s.provider, s.delay = conflict.NodeID(provider), time.Duration(delay)*time.Millisecond
		if s.skip, err = pg.ParseLSN(skip); err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, rows.Err()
}

// resolveAll asks the providers of subscriptions that nobody could check when
// they were made.
func (e *Engine) resolveAll(ctx context.Context, db *pgx.Conn, subs []subscription, asked map[uint32]time.Time) {
	for _, s := range subs {
		if !s.pending || time.Since(asked[s.id]) < time.Duration(e.delay.Load()) {
			continue
		}
		if err := e.resolve(ctx, db, s); err != nil {
			e.log.WarnContext(ctx, "subscription could not be checked", "subscription", s.name, "error", err, "sqlstate", sqlState(err))
			e.noteError(ctx, s, &refusal{err: err}, 1)
		}
		asked[s.id] = time.Now()
	}
}

// resolve checks what sub_create would have checked, and gives the subscription
// its provider.
func (e *Engine) resolve(ctx context.Context, db *pgx.Conn, s subscription) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	conn, err := dial(ctx, e.peerDSN(s.dsn), s.name+"_create", nil)
	if err != nil {
		return fmt.Errorf("connect to provider: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	result := conn.ExecParams(ctx, `SELECT row_to_json(i.*)::text, json_build_object('wal_level', current_setting('wal_level'),
		'stamps', current_setting('track_commit_timestamp'), 'encoding', current_setting('server_encoding'), 'standby', pg_is_in_recovery(),
		'slot', (SELECT to_json(s.*) FROM pg_replication_slots s WHERE s.slot_name = $1))::text FROM spock.node_info() i`,
		[][]byte{[]byte(s.slot)}, nil, nil, nil).Read()
	if result.Err != nil {
		return fmt.Errorf("could not fetch remote node info: %w", result.Err)
	}
	if len(result.Rows) == 0 {
		return errors.New("could not fetch remote node info: the provider is no node")
	}
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		answer, facts := string(result.Rows[0][0]), string(result.Rows[0][1])
		if _, err := tx.Exec(ctx, "SELECT pgdrover.check_provider($1::text::jsonb, $2::text::jsonb, $3)", answer, facts, s.enabled); err != nil {
			return fmt.Errorf("check provider: %w", err)
		}
		if _, err := tx.Exec(ctx, "SELECT pgdrover.sub_resolve($1, $2::text::jsonb)", s.id, answer); err != nil {
			return fmt.Errorf("check provider: %w", err)
		}
		return nil
	})
}

// readVerdict makes the test that rides in statements from what is known of
// origins and nodes.
func readVerdict(ctx context.Context, db *pgx.Conn, author, self conflict.NodeID, ranks conflict.Ranks) (verdict, error) {
	v := verdict{node: uint32(author)}
	rows, err := db.Query(ctx, "SELECT roident, node_id FROM spock.pgdrover_origin")
	if err != nil {
		return v, fmt.Errorf("read origins: %w", err)
	}
	defer rows.Close()
	same, beaten := []string{"-1"}, []string{"-1"}
	if ranks.Outranks(author, self) {
		beaten = append(beaten, "0")
	}
	for rows.Next() {
		var origin, node uint32
		if err := rows.Scan(&origin, &node); err != nil {
			return v, fmt.Errorf("read origins: %w", err)
		}
		switch n := conflict.NodeID(node); {
		case n == author:
			same = append(same, fmt.Sprint(origin))
		case ranks.Outranks(author, n):
			beaten = append(beaten, fmt.Sprint(origin))
		}
	}
	v.same, v.beaten = oidList(same), oidList(beaten)
	return v, rows.Err()
}

// oidList writes numbers so that they compare with a stamp's origin. The first
// is no origin: a list must not be empty.
func oidList(numbers []string) string {
	numbers[0] = "4294967295"
	return strings.Join(numbers, ", ")
}

// readRanks reads the tiebreakers of the nodes.
func readRanks(ctx context.Context, db *pgx.Conn) (conflict.Ranks, error) {
	rows, err := db.Query(ctx, `SELECT node_id, (info->>'tiebreaker')::bigint FROM spock.node
		WHERE info->>'tiebreaker' ~ '^-?[0-9]{1,18}$'`)
	if err != nil {
		return nil, fmt.Errorf("read tiebreakers: %w", err)
	}
	defer rows.Close()
	ranks := conflict.Ranks{}
	for rows.Next() {
		var node uint32
		var rank int64
		if err := rows.Scan(&node, &rank); err != nil {
			return nil, fmt.Errorf("read tiebreakers: %w", err)
		}
		ranks[conflict.NodeID(node)] = rank
	}
	return ranks, rows.Err()
}

package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// citusView is what only nodes of Citus formations ask the monitor.
type citusView interface {
	// Coordinator is where the formation's coordinator takes writes.
	Coordinator(ctx context.Context) (host string, port int, err error)
	// FormationNodes are the nodes of all groups.
	FormationNodes(ctx context.Context) ([]pgautofailover.NodeRow, error)
}

func (s *pgSession) Coordinator(ctx context.Context) (host string, port int, err error) {
	return s.db.Coordinator(ctx, s.formation)
}

func (s *pgSession) FormationNodes(ctx context.Context) ([]pgautofailover.NodeRow, error) {
	return s.db.NodeRows(ctx, s.formation, nil)
}

// askCitus puts a question to the monitor that a node without one cannot put.
func askCitus[T any](ctx context.Context, n *node, do func(ctx context.Context, s citusView) (T, error)) (T, error) {
	return query(ctx, n, func(ctx context.Context, s monitorSession) (T, error) {
		v, ok := s.(citusView)
		if !ok {
			var none T
			return none, errDisabled
		}
		return do(ctx, v)
	})
}

func (n *node) formationNodes(ctx context.Context) ([]pgautofailover.NodeRow, error) {
	return askCitus(ctx, n, func(ctx context.Context, s citusView) ([]pgautofailover.NodeRow, error) { return s.FormationNodes(ctx) })
}

// errNoCoordinator says that no node of the coordinator's group takes writes.
var errNoCoordinator = errors.New("the formation has no coordinator that takes writes")

func (n *node) coordinator(ctx context.Context) (pg.HostPort, error) {
	return askCitus(ctx, n, func(ctx context.Context, s citusView) (pg.HostPort, error) {
		host, port, err := s.Coordinator(ctx)
		if errors.Is(err, pgautofailover.ErrNotFound) {
			err = errNoCoordinator
		}
		return pg.HostPort{Host: host, Port: strconv.Itoa(port)}, err
	})
}

// Times of the sessions with a coordinator.
const (
	coordinatorDial  = time.Second            // for the first packet's answer
	coordinatorRedo  = 250 * time.Millisecond // between two first packets: one that was lost is missed for seconds
	coordinatorLogin = 5 * time.Second
	coordinatorAgain = 100 * time.Millisecond // between two attempts
	coordinatorTold  = 30 * time.Second       // between two words about the same trouble
	coordinatorMoved = 250 * time.Millisecond // between two looks at where the coordinator is
)

// dialAgain opens a TCP connection and asks again before the system would: the
// answer must not come later just because the first packet met a host that was away.
func dialAgain(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, coordinatorDial)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	begun := 0
	begin := func() {
		begun++
		go func() {
			dialer := net.Dialer{KeepAlive: 2 * time.Second}
			conn, err := dialer.DialContext(ctx, network, address)
			results <- result{conn, err}
		}()
	}
	begin()
	tick := time.NewTicker(coordinatorRedo)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if ctx.Err() == nil {
				begin()
			}
			continue
		case r := <-results:
			begun--
			if r.err != nil && begun > 0 && ctx.Err() == nil {
				continue
			}
			cancel()
			for ; begun > 0; begun-- {
				if late := <-results; late.conn != nil {
					_ = late.conn.Close()
				}
			}
			return r.conn, r.err
		}
	}
}

// distSession is a session with a coordinator, ours or another host's.
type distSession struct {
	conn     *pgx.Conn
	catalog  citusCatalog
	cooldown time.Duration
}

// connectCoordinator opens a session with a server that takes writes.
func (n *node) connectCoordinator(ctx context.Context, at pg.HostPort) (*distSession, error) {
	file := n.config()
	user := file.Username
	if user == "" {
		user, _ = postgres.SystemUser()
	}
	info := pg.NewConnInfo("host", at.Host, "port", at.Port, "user", user, "dbname", file.DBName,
		"sslmode", file.SSL.Mode, "application_name", "pgdrover citus")
	if file.SSL.Mode == "verify-ca" || file.SSL.Mode == "verify-full" {
		info = info.With("sslrootcert", file.SSL.CAFile)
	}
	cfg, err := pgx.ParseConfig(info.DriverDSN())
	if err != nil {
		return nil, fmt.Errorf("connect to the coordinator %s: the connection string is not valid", info)
	}
	cfg.ConnectTimeout = coordinatorLogin
	cfg.DialFunc = dialAgain
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	cfg.RuntimeParams["search_path"] = "pg_catalog"
	cfg.RuntimeParams["client_min_messages"] = "error"
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the coordinator %s: %w", postgres.HostPort(at.Host, portOf(at)), err)
	}
	s, err := n.openDist(ctx, conn)
	if err != nil {
		closeDist(ctx, conn)
		return nil, fmt.Errorf("look at the coordinator %s: %w", postgres.HostPort(at.Host, portOf(at)), err)
	}
	return s, nil
}

func portOf(at pg.HostPort) int {
	port, _ := strconv.Atoi(at.Port)
	return port
}

func closeDist(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = conn.Close(ctx)
}

const catalogSQL = `
SELECT p.proname::text, max(p.pronargs)::int, pg_is_in_recovery(), to_regclass('pg_catalog.pg_dist_poolinfo') IS NOT NULL
FROM (SELECT 1) one LEFT JOIN pg_catalog.pg_proc p ON p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY ($1::text[])
GROUP BY p.proname`

// openDist reads which functions this version of Citus has.
func (n *node) openDist(ctx context.Context, conn *pgx.Conn) (*distSession, error) {
	s := &distSession{
		conn: conn, catalog: citusCatalog{Functions: map[string]int{}},
		cooldown: time.Duration(n.config().Timeouts.CitusUpdateNodeLockCooldown) * time.Millisecond,
	}
	var names []string
	for _, verb := range []string{"add", "add_inactive", "activate", "update", "remove"} {
		names = append(names, "citus_"+verb+"_node", "master_"+verb+"_node")
	}
	rows, err := conn.Query(ctx, catalogSQL, names)
	if err != nil {
		return nil, err
	}
	var name *string
	var args *int
	var recovery bool
	_, err = pgx.ForEachRow(rows, []any{&name, &args, &recovery, &s.catalog.PoolInfo}, func() error {
		if name != nil && args != nil {
			s.catalog.Functions[*name] = *args
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case recovery:
		return nil, errors.New("it is a standby")
	case len(s.catalog.Functions) == 0:
		return nil, withHint(fmt.Errorf("database %q has no extension citus", conn.Config().Database),
			"create it with CREATE EXTENSION citus, in the database that the formation was created with")
	}
	return s, nil
}

const distNodesSQL = `
SELECT nodeid, groupid, nodename, nodeport, noderole::text, nodecluster::text, isactive
FROM pg_catalog.pg_dist_node ORDER BY nodeid`

// nodes reads the metadata.
func (s *distSession) nodes(ctx context.Context) ([]distNode, error) {
	rows, err := s.conn.Query(ctx, distNodesSQL)
	if err != nil {
		return nil, fmt.Errorf("read pg_dist_node: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[distNode])
	if err != nil {
		return nil, fmt.Errorf("read pg_dist_node: %w", err)
	}
	return list, nil
}

const preparedSQL = `
SELECT gid, owner::text, prepared::text, (extract(epoch FROM clock_timestamp() - prepared) * 1000)::bigint
FROM pg_catalog.pg_prepared_xacts WHERE database = current_database() AND gid LIKE 'master\_update\_node %' ORDER BY gid`

// prepared reads what is prepared for groups of this formation.
func (s *distSession) prepared(ctx context.Context) ([]prepared, error) {
	rows, err := s.conn.Query(ctx, preparedSQL)
	if err != nil {
		return nil, fmt.Errorf("read prepared transactions: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (prepared, error) {
		var p prepared
		var ms int64
		err := row.Scan(&p.GID, &p.Owner, &p.At, &ms)
		p.Age = time.Duration(ms) * time.Millisecond
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("read prepared transactions: %w", err)
	}
	return list, nil
}

// move is the transaction that moves an entry; what ends it is the caller's:
// COMMIT, or PREPARE TRANSACTION. After wait, transactions that hold its locks are ended.
func (s *distSession) move(ctx context.Context, row distNode, self citusSelf, wait time.Duration, end string) error {
	sql, forced, err := s.catalog.updateSQL()
	if err != nil {
		return err
	}
	// Citus ends who is in the way once the cooldown is over, and needs some time for that: to
	// stop waiting at the same moment would be never to get the lock from a session that hangs.
	ms := wait.Milliseconds()
	patience := ms + ms/2
	limits := fmt.Sprintf("BEGIN; SET LOCAL lock_timeout = '%dms'; SET LOCAL statement_timeout = '%dms'", patience, 2*patience)
	if err := s.run(ctx, limits); err != nil {
		return err
	}
	args := []any{row.ID, self.Host, self.Port}
	if forced {
		args = append(args, ms)
	}
	if _, err := s.conn.Exec(ctx, sql, args...); err != nil {
		return s.undo(ctx, fmt.Errorf("update node %d: %w", row.ID, err))
	}
	if err := s.pool(ctx, row.ID, self); err != nil {
		return s.undo(ctx, err)
	}
	if err := s.run(ctx, end); err != nil {
		return s.undo(ctx, err)
	}
	return nil
}

// noRoomToPrepare reports whether a server refused to prepare a transaction because it
// has no room for one more, or for any.
func noRoomToPrepare(err error) bool {
	answer, ok := errors.AsType[*pgconn.PgError](err)
	return ok && answer.Routine == "MarkAsPreparing" && (answer.Code == "53200" || answer.Code == "55000")
}

// adviceOf is what can be done about an error: in our words, or in the server's.
func adviceOf(err error) string {
	hint := hintOf(err)
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok && hint == "" {
		hint = answer.Hint
	}
	return hint
}

// withAdvice are the attributes of a message about an error: others first, then the error, and what can be done about it.
func withAdvice(err error, others ...any) []any {
	attrs := slices.Concat(others, []any{"error", err})
	if hint := adviceOf(err); hint != "" {
		attrs = append(attrs, "hint", hint)
	}
	return attrs
}

// pool publishes the pooler's address, where there is one.
func (s *distSession) pool(ctx context.Context, nodeID int, self citusSelf) error {
	if self.ProxyPort == 0 || !s.catalog.PoolInfo {
		return nil
	}
	if _, err := s.conn.Exec(ctx, poolInfoSQL, nodeID, self.poolInfo()); err != nil {
		return fmt.Errorf("publish the pooler's address: %w", err)
	}
	return nil
}

// undo ends a failed transaction.
func (s *distSession) undo(ctx context.Context, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = s.run(ctx, "ROLLBACK")
	return err
}

// run executes statements without parameters.
func (s *distSession) run(ctx context.Context, sql string) error {
	if _, err := s.conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		return fmt.Errorf("execute %s: %w", sql, err)
	}
	return nil
}

// finish commits or rolls back a prepared transaction; that it is gone already is no error.
func (s *distSession) finish(ctx context.Context, how, gid string) error {
	err := s.run(ctx, how+" PREPARED "+pg.QuoteLiteral(gid))
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok && answer.Code == "42704" {
		return nil
	}
	return err
}

// withCoordinator runs do on a session with the coordinator of the moment, and
// gives up when that one has moved meanwhile: its host may have fallen silent.
func (n *node) withCoordinator(ctx context.Context, do func(ctx context.Context, s *distSession) error) error {
	at, err := n.coordinator(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		n.watchCoordinator(ctx, at, cancel)
	}()
	defer func() { cancel(nil); <-watched }()
	s, err := n.connectCoordinator(ctx, at)
	if err == nil {
		defer closeDist(ctx, s.conn)
		err = do(ctx, s)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

var errCoordinatorMoved = errors.New("the coordinator has failed over meanwhile")

var errCoordinatorSilent = errors.New("the coordinator does not answer")

// watchCoordinator cancels when the coordinator is elsewhere, or does not take
// connections any more: what waits on the old one would hear of its return late.
func (n *node) watchCoordinator(ctx context.Context, at pg.HostPort, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(coordinatorMoved)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if now, err := n.coordinator(ctx); err == nil && now != at {
				cancel(errCoordinatorMoved)
				return
			}
			conn, err := dialAgain(ctx, "tcp", net.JoinHostPort(at.Host, at.Port))
			if err != nil {
				cancel(errCoordinatorSilent)
				return
			}
			_ = conn.Close()
		}
	}
}

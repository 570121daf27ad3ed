package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/postgres"
	"github.com/pgdrover/pgdrover/internal/spock"
)

const (
	mastersDatabase = "app"
	// contestedRows is how many rows all writers fight for.
	contestedRows = 20
	// writersPace is the pause of a writer between two transactions.
	writersPace = 5 * time.Millisecond
)

// master is a node that takes writes: a server, its engine, and a writer.
type master struct {
	stage     *Stage
	name      string
	port      int
	info      pg.ConnInfo
	instance  *postgres.Instance
	server    *postgres.Postmaster
	engine    *process
	db        *spock.DB
	committed atomic.Int64 // transactions of its writer

	// What was seen last.
	conflicts, exceptions, tombstones int64
	lagBytes                          int64
	lag                               time.Duration
	status                            string
}

// startAll starts the servers beside each other, and their engines.
func (m *Multimaster) startAll(ctx context.Context) error {
	ports, err := m.ports(ctx, m.Nodes)
	if err != nil {
		return err
	}
	for i, port := range ports {
		name := "n" + strconv.Itoa(i+1)
		m.masters = append(m.masters, &master{stage: &m.Stage, name: name, port: port, instance: postgres.New(postgres.Config{
			Tools: m.Tools, DataDir: filepath.Join(m.Directory, name), Port: port, ListenAddresses: "localhost", SocketDir: m.Directory,
			Host: "localhost", Logger: slog.New(slog.DiscardHandler),
		})})
	}
	errs := make([]error, len(m.masters))
	var group sync.WaitGroup
	for i, x := range m.masters {
		group.Go(func() { errs[i] = x.start(ctx) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, x := range m.masters {
		m.say("%s is up on port %d: %s", x.name, x.port, x.info)
	}
	return nil
}

// start makes and starts the server, makes its database a node, and starts the engine.
func (x *master) start(ctx context.Context) error {
	if err := x.instance.InitDB(ctx, postgres.InitDBConfig{Args: []string{"--no-sync", "--encoding", "UTF8"}}); err != nil {
		return err
	}
	options := []string{
		"-c", "wal_level=logical", "-c", "track_commit_timestamp=on", "-c", "max_wal_senders=20", "-c", "max_replication_slots=20",
		"-c", "fsync=off", "-c", "spock.enable_ddl_replication=on", "-c", "spock.include_ddl_repset=on",
		"-c", "spock.save_resolutions=on", "-c", "spock.save_remote_wins=on",
	}
	var err error
	if x.server, err = x.instance.Start(ctx, postgres.StartConfig{Options: options}); err != nil {
		return err
	}
	if _, err = x.server.WaitReady(ctx); err != nil {
		return err
	}
	user, err := postgres.SystemUser()
	if err != nil {
		return err
	}
	x.info = pg.NewConnInfo("host", "localhost", "port", strconv.Itoa(x.port), "user", user, "dbname", mastersDatabase)
	if err := x.createDatabase(ctx); err != nil {
		return err
	}
	if x.db, err = spock.Connect(ctx, spock.ConnectConfig{ConnInfo: x.info, ApplicationName: "pgdrover demo"}); err != nil {
		return err
	}
	if err := spock.Install(ctx, x.db); err != nil {
		return err
	}
	if err := x.startEngine(); err != nil {
		return err
	}
	_, err = x.db.CreateNode(ctx, spock.NewNode{Name: x.name, DSN: x.info.DSN()})
	return err
}

func (x *master) createDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, x.info.With("dbname", "postgres").DSN())
	if err != nil {
		return fmt.Errorf("connect to %s: %w", x.name, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+mastersDatabase); err != nil {
		return fmt.Errorf("create the database of %s: %w", x.name, err)
	}
	return nil
}

func (x *master) startEngine() error {
	if x.engine == nil {
		x.engine = &process{stage: x.stage, name: "engine_" + x.name}
	}
	return x.engine.begin([]string{"spock", "run", "--dsn", x.info.DSN(), "--pgctl", x.stage.Tools.PgCtl()})
}

// connectAll subscribes every node to every other one.
func (m *Multimaster) connectAll(ctx context.Context) error {
	for _, x := range m.masters {
		for _, provider := range m.masters {
			if provider == x {
				continue
			}
			if _, err := x.db.CreateSubscription(ctx, spock.NewSubscription{Name: "sub_" + provider.name + "_" + x.name, ProviderDSN: provider.info.DSN()}); err != nil {
				return err
			}
		}
	}
	for _, x := range m.masters {
		err := m.await(ctx, x.name+" receives from all others", func() (bool, string, error) {
			statuses, err := x.db.SubscriptionStatuses(ctx, "")
			streaming := 0
			for _, s := range statuses {
				if s.Status == "replicating" {
					streaming++
				}
			}
			return streaming == len(m.masters)-1, strconv.Itoa(streaming), err
		})
		if err != nil {
			return err
		}
	}
	m.say("every node receives from every other one: %d subscriptions", len(m.masters)*(len(m.masters)-1))
	return nil
}

// prepare makes the tables on this node.
func (x *master) prepare(ctx context.Context) error {
	for _, sql := range []string{
		"SET search_path = public",
		"CREATE TABLE account (id int PRIMARY KEY, owner text, balance int, note text)",
		"CREATE TABLE journal (node text, number int)",
		fmt.Sprintf("INSERT INTO account SELECT i, 'n1', 0, 'from the start' FROM generate_series(1, %d) i", contestedRows),
		"RESET search_path",
	} {
		// One statement at a time, as psql sends them.
		if _, err := x.db.Conn().Exec(ctx, sql); err != nil {
			return fmt.Errorf("prepare the tables: %w", err)
		}
	}
	return nil
}

// write changes rows until the context ends.
func (x *master) write(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, x.info.DSN())
	if err != nil {
		return fmt.Errorf("connect the writer of %s: %w", x.name, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	r := newRand(x.port)
	for ctx.Err() == nil {
		// The transaction in flight is finished, so that its number counts.
		sql := x.transaction(r, x.committed.Load()+1)
		_, err := conn.PgConn().Exec(context.WithoutCancel(ctx), sql).ReadAll()
		if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code[:2] == "40" {
			if _, err := conn.PgConn().Exec(context.WithoutCancel(ctx), "ROLLBACK").ReadAll(); err != nil {
				return fmt.Errorf("write on %s: %w", x.name, err)
			}
			continue // a deadlock with what is applied
		}
		if err != nil {
			return fmt.Errorf("write on %s: %w", x.name, err)
		}
		x.committed.Add(1)
		if sleep(ctx, writersPace) != nil {
			break
		}
	}
	return nil
}

// newRand makes a writer's choices.
func newRand(seed int) *rand.Rand {
	return rand.New(rand.NewPCG(uint64(seed), 1)) //nolint:gosec // no secret
}

// transaction is a number of this node's own, and a change of a contested row.
func (x *master) transaction(r *rand.Rand, number int64) string {
	id := 1 + r.IntN(contestedRows)
	change := fmt.Sprintf("UPDATE public.account SET owner = '%s', balance = balance + 1, note = 'number %d' WHERE id = %d", x.name, number, id)
	switch r.IntN(8) {
	case 0:
		change = fmt.Sprintf("DELETE FROM public.account WHERE id = %d", id)
	case 1, 2:
		change = fmt.Sprintf("INSERT INTO public.account VALUES (%d, '%s', 0, 'new with %d') ON CONFLICT (id) DO UPDATE SET note = 'taken by %s'", id, x.name, number, x.name)
	}
	return fmt.Sprintf("BEGIN; INSERT INTO public.journal VALUES ('%s', %d); %s; COMMIT", x.name, number, change)
}

// appliedFrom is how far this node has applied what the provider wrote.
func (x *master) appliedFrom(ctx context.Context, provider *master) (pg.LSN, error) {
	subs, err := x.db.Subscriptions(ctx)
	if err != nil {
		return 0, err
	}
	for _, s := range subs {
		if s.ProviderName == provider.name {
			at, err := x.db.OriginProgress(ctx, s.Slot, false)
			return at, err
		}
	}
	return 0, fmt.Errorf("%s does not subscribe to %s", x.name, provider.name)
}

// observe reads what the table shows.
func (x *master) observe(ctx context.Context) error {
	var err error
	if x.conflicts, x.exceptions, err = x.db.Records(ctx); err != nil {
		return err
	}
	if x.tombstones, _, err = x.db.TombstoneStats(ctx); err != nil {
		return err
	}
	lags, err := x.db.Lags(ctx)
	if err != nil {
		return err
	}
	x.lagBytes, x.lag = 0, 0
	for _, l := range lags {
		if l.Receiver == x.name && l.Origin != "" {
			x.lagBytes = max(x.lagBytes, l.Bytes)
			if l.Bytes > 0 {
				x.lag = max(x.lag, l.Lag)
			}
		}
	}
	x.status = "replicating"
	if running, err := x.db.EngineConnected(ctx); err != nil {
		return err
	} else if !running {
		x.status = "no engine"
	}
	return nil
}

// contents is what the nodes are compared by.
type contents struct {
	rows              int64
	sum               string
	applied, distinct int64
}

func (x *master) contents(ctx context.Context) (contents, error) {
	var c contents
	err := x.db.Conn().QueryRow(ctx, `SELECT count(*), coalesce(md5(string_agg(a::text, E'\n' ORDER BY a.id)), 'no rows'),
		(SELECT count(*) FROM public.journal), (SELECT count(*) FROM (SELECT DISTINCT node, number FROM public.journal) d)
		FROM public.account a`).Scan(&c.rows, &c.sum, &c.applied, &c.distinct)
	if err != nil {
		return c, fmt.Errorf("read the rows of %s: %w", x.name, err)
	}
	return c, nil
}

// stop ends engines and servers.
func (m *Multimaster) stop(ctx context.Context) {
	var engines []*process
	for _, x := range m.masters {
		if x.engine != nil {
			engines = append(engines, x.engine)
		}
	}
	stopAll(ctx, engines)
	for _, x := range m.masters {
		if x.db != nil {
			_ = x.db.Close(ctx)
		}
		if x.server == nil {
			continue
		}
		if err := x.server.Stop(ctx, postgres.StopImmediate); err != nil {
			m.Logger.WarnContext(ctx, "stop the server", "name", x.name, "error", err)
		}
	}
}

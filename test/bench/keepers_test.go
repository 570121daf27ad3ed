package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// simKeeper is a keeper without a server: it reaches every goal at once, and
// answers probes itself.
type simKeeper struct {
	uri       pg.ConnInfo
	formation string
	db        *pgautofailover.DB
	server    *simServer
	id        int64
	group     int
	state     fsm.State
	reached   int64
	reports   atomic.Int64
	// slowest is the longest that a report took.
	slowest atomic.Int64
}

func (k *simKeeper) connect(ctx context.Context) error {
	db, err := pgautofailover.Connect(ctx, pgautofailover.ConnectConfig{ConnInfo: k.uri, ApplicationName: "simulated keeper"})
	k.db = db
	return err
}

// register makes the node known, once the group is ready for it.
func (k *simKeeper) register(ctx context.Context) error {
	for {
		p, err := k.db.BeginRegistration(ctx, pgautofailover.Registration{
			Formation: k.formation, Host: "127.0.0.1", Port: k.server.port(), DBName: "postgres", DesiredGroup: -1,
			Initial: fsm.Init, Priority: 50, Quorum: true, SystemID: 42,
		})
		if err == nil {
			k.id, k.group, k.state = p.Result.NodeID, p.Result.Group, fsm.Init
			return p.Commit(ctx)
		}
		if !pgautofailover.Retryable(err) || ctx.Err() != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// run reports each second and at once when a goal is new, until ctx ends.
func (k *simKeeper) run(ctx context.Context) error {
	if err := k.db.Listen(ctx, pgautofailover.ChannelState); err != nil {
		return err
	}
	if err := k.db.KeepSession(ctx, k.id); err != nil {
		return err
	}
	next := time.Now()
	for ctx.Err() == nil {
		again, err := k.report(ctx)
		if err != nil {
			return err
		}
		if again {
			continue
		}
		next = next.Add(time.Second)
		if err := k.listen(ctx, next); err != nil {
			return err
		}
	}
	return nil
}

// report sends one report and reaches the goal that it is answered; again says
// that there is something new to tell.
func (k *simKeeper) report(ctx context.Context) (again bool, err error) {
	r := pgautofailover.Report{
		Formation: k.formation, NodeID: k.id, Group: k.group, State: k.state, Reached: k.reached,
		PgIsRunning: true, TLI: 1, LSN: 0x3000000,
	}
	if k.state == fsm.Secondary || k.state == fsm.CatchingUp {
		r.Streaming = fsm.StreamingYes
	}
	began := time.Now()
	a, err := k.db.Report(ctx, r)
	if err != nil {
		if ctx.Err() != nil {
			return false, nil //nolint:nilerr // asked to end
		}
		return false, err
	}
	k.reports.Add(1)
	if took := int64(time.Since(began)); took > k.slowest.Load() {
		k.slowest.Store(took)
	}
	again = a.Goal != k.state || a.GoalNumber != k.reached
	k.state, k.reached = a.Goal, a.GoalNumber
	return again, nil
}

// listen waits for news of this node until the next report is due.
func (k *simKeeper) listen(ctx context.Context, until time.Time) error {
	waiting, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	for {
		n, err := k.db.WaitNotification(waiting)
		if waiting.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		s, err := pgautofailover.ParseStateNotification(n.Payload)
		if err == nil && s.NodeID == k.id && s.Goal != k.state {
			return nil
		}
	}
}

// startKeepers registers n nodes in formations of three and keeps them going
// until the test ends.
func startKeepers(t testing.TB, uri pg.ConnInfo, admin *pgautofailover.DB, n int) []*simKeeper {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	var all []*simKeeper
	for i := range n {
		formation := fmt.Sprintf("load%d", i/3)
		if i%3 == 0 {
			_, err := admin.CreateFormation(ctx, pgautofailover.Formation{ID: formation, Kind: "pgsql", DBName: "postgres", OptSecondary: true})
			require.NoError(t, err)
		}
		k := &simKeeper{uri: uri, formation: formation, server: startSimServer(t)}
		require.NoError(t, k.connect(ctx))
		require.NoError(t, k.register(ctx))
		all = append(all, k)
		running.Go(func() {
			defer k.db.Close(context.WithoutCancel(ctx))
			if err := k.run(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("keeper %d: %v", k.id, err)
			}
		})
	}
	return all
}

// simServer answers health checks as a PostgreSQL server would.
type simServer struct {
	listener net.Listener
	probes   atomic.Int64
}

func startSimServer(t testing.TB) *simServer {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &simServer{listener: listener}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serve()
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	return s
}

func (s *simServer) port() int { return s.listener.Addr().(*net.TCPAddr).Port }

func (s *simServer) serve() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		_ = s.answer(conn)
		_ = conn.Close()
	}
}

var errTooLong = errors.New("message is too long")

// answer speaks just enough of the protocol: a login without a password, and
// one row for every query.
func (s *simServer) answer(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := readBody(conn); err != nil { // startup has no type byte
		return err
	}
	s.probes.Add(1)
	hello := append(message('R', 0, 0, 0, 0), message('K', 0, 0, 0, 1, 0, 0, 0, 2)...)
	hello = append(hello, message('Z', 'I')...)
	if _, err := conn.Write(hello); err != nil {
		return err
	}
	var kind [1]byte
	for {
		if _, err := io.ReadFull(conn, kind[:]); err != nil {
			return err
		}
		if _, err := readBody(conn); err != nil || kind[0] == 'X' {
			return err
		}
		row := message('T', 0, 1, '?', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 23, 0, 4, 0xff, 0xff, 0xff, 0xff, 0, 0)
		row = append(row, message('D', 0, 1, 0, 0, 0, 1, '1')...)
		row = append(row, message('C', []byte("SELECT 1\x00")...)...)
		if _, err := conn.Write(append(row, message('Z', 'I')...)); err != nil {
			return err
		}
	}
}

func message(kind byte, body ...byte) []byte {
	m := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4))
	return append(m, body...)
}

func readBody(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n < 4 || n > 1<<16 {
		return nil, errTooLong
	}
	body := make([]byte, n-4)
	_, err := io.ReadFull(r, body)
	return body, err
}

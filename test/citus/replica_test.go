package citus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// TestReadReplicas: a read-only cluster beside the formation, of one replica of the
// coordinator and one of the worker, and poolers in front of the worker's nodes.
// What a pooler's port leads to follows a failover, and replicas stay replicas.
func TestReadReplicas(t *testing.T) {
	t.Parallel()
	bin, genuine := pgtest.Citus(t)
	name := "stand-in for the extension"
	if genuine {
		name = "with the extension"
	}
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		readReplicas(t, bin, genuine)
	})
}

func readReplicas(t *testing.T, bin string, genuine bool) {
	const coordinator, worker = "coordinator-r", "worker1-r"
	member := []string{"--citus-secondary", "--citus-cluster", "reports"}
	f := &formation{genuine: genuine, workers: 1, alone: true, replicas: []string{coordinator, worker}}
	poolers := map[string]*pooler{"worker1-a": newPooler(t), "worker1-b": newPooler(t)}
	f.options = map[string][]string{coordinator: member, worker: member}
	for name, p := range poolers {
		f.options[name] = []string{"--proxyport", fmt.Sprint(p.port())}
	}
	f.created = func(m *group.Member) {
		if p := poolers[m.Name]; p != nil {
			p.target.Store(int64(m.Port))
		}
	}
	f.start(t, bin)
	f.createLedger(t)
	w := f.write(t)
	w.waitAck(t, time.Now())

	f.requireReplicas(t)
	f.requirePooler(t, poolers)
	uri := f.Must(t, "show", "uri", "--pgdata", f.Monitor.Dir, "--citus-cluster", "reports").Stdout
	require.Contains(t, uri, fmt.Sprintf("postgres://localhost:%d/citus?sslmode=", f.Node(coordinator).Port))
	require.NotContains(t, uri, "target_session_attrs")
	all := f.Must(t, "show", "uri", "--pgdata", f.Monitor.Dir).Stdout
	require.Contains(t, all, "read-replica | reports | "+strings.TrimSpace(uri))
	unknown := f.Run(t, "show", "uri", "--pgdata", f.Monitor.Dir, "--citus-cluster", "report")
	require.Equal(t, 6, unknown.Code)
	require.Contains(t, unknown.Stderr, `Formation "default" has no Citus cluster "report"`)
	require.Contains(t, unknown.Stderr, "HINT: its read-only clusters are: reports")
	f.requireReadable(t, w)

	old := f.primary(t, 1, nil)
	old.KillBoth(t)
	next := f.primary(t, 1, old)
	require.NotEqual(t, worker, next.Name, "a replica is never promoted")
	w.waitAck(t, time.Now())
	f.requireGroupsApart(t, bin, old)
	old.Start(t)
	f.requireHealed(t, w)
	f.requireReplicas(t)
	f.requirePooler(t, poolers)
	f.requireReadable(t, w)
	f.Must(t, "drop", "node", "--pgdata", f.Node(worker).Dir)
	f.replicas = []string{coordinator}
	f.requireReplicas(t)
	if genuine {
		require.Positive(t, poolers[next.Name].taken.Load(), "the coordinator connects through the pooler")
	}
}

// requireGroupsApart mixes up groups and kinds: with the directory of a worker that
// has stopped, and with one that holds another database.
func (f *formation) requireGroupsApart(t *testing.T, bin string, stopped *group.Member) {
	t.Helper()
	stranger := f.Outsider(t, "stranger")
	res := pgtest.Run(t, group.Patience, pgtest.Command{
		Path: filepath.Join(bin, "initdb"), Dir: filepath.Dir(stranger.Dir), Args: []string{"--pgdata", stranger.Dir, "--auth", "trust", "--no-sync"},
	})
	require.Zero(t, res.Code, res.Stderr)
	for _, c := range []struct {
		kind  string
		at    *group.Member
		group string
		code  int
		says  string
	}{
		{"coordinator", stopped, "", 2, "holds a node of kind worker, not coordinator"},
		{"worker", stopped, "2", 2, "holds a node of group 1, not 2"},
		{"worker", stranger, "1", 3, "has the system identifier"},
	} {
		args := slices.Concat([]string{"create", c.kind}, c.at.CreateArgs()[2:])
		if c.group != "" {
			args = append(args, "--group", c.group)
		}
		out := f.Run(t, args...)
		require.Equal(t, c.code, out.Code, out.Stderr)
		require.Contains(t, out.Stderr, c.says)
		require.Contains(t, out.Stderr, "HINT: ")
	}
}

// requireReplicas waits until the metadata name the members of the read-only cluster.
func (f *formation) requireReplicas(t *testing.T) {
	t.Helper()
	var want []string
	for _, name := range f.replicas {
		want = append(want, fmt.Sprintf("%d secondary reports %s", groupOf(name), address(f.Node(name))))
	}
	pgtest.Eventually(t, group.Patience, func() error {
		got, err := ask[string](f.primary(t, 0, nil), `SELECT groupid || ' ' || noderole || ' ' || nodecluster || ' ' || nodename || ':' || nodeport
			FROM pg_dist_node WHERE nodecluster <> 'default' AND isactive ORDER BY groupid`)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("the metadata have the replicas %q and not %q", got, want)
		}
		return err
	})
}

// requirePooler waits until the metadata lead group 1 through the pooler of its primary.
func (f *formation) requirePooler(t *testing.T, poolers map[string]*pooler) {
	t.Helper()
	pgtest.Eventually(t, group.Patience, func() error {
		want := fmt.Sprintf("host=localhost port=%d", poolers[f.primary(t, 1, nil).Name].port())
		got, err := ask[string](f.primary(t, 0, nil), `SELECT poolinfo FROM pg_dist_poolinfo JOIN pg_dist_node USING (nodeid) WHERE groupid = 1 AND noderole = 'primary'`)
		if err == nil && !slices.Equal(got, []string{want}) {
			err = fmt.Errorf("the metadata lead to the poolers %q and not to %q", got, want)
		}
		return err
	})
}

// requireReadable reads through the read-only cluster what has been acknowledged so far. Of
// the stand-in, which distributes nothing, each replica is asked by itself.
func (f *formation) requireReadable(t *testing.T, w *writer) {
	t.Helper()
	acks := w.acknowledged()
	from := f.Node("worker1-r")
	if f.genuine {
		from = f.Node("coordinator-r")
	}
	pgtest.Eventually(t, group.Patience, func() error {
		there, err := ask[int64](from, "SELECT id FROM ledger")
		if err != nil {
			return err
		}
		slices.Sort(there)
		for _, id := range acks {
			if _, ok := slices.BinarySearch(there, id); !ok {
				return fmt.Errorf("%s does not show row %d yet", from.Name, id)
			}
		}
		return nil
	})
	if _, err := ask[int64](from, "INSERT INTO ledger VALUES (-1) RETURNING id"); err == nil {
		t.Fatalf("%s takes writes", from.Name)
	}
}

// pooler stands for a connection pooler on a node's host.
type pooler struct {
	listener net.Listener
	target   atomic.Int64 // the port of the node's server
	taken    atomic.Int64
}

func (p *pooler) port() int { return p.listener.Addr().(*net.TCPAddr).Port }

func newPooler(t *testing.T) *pooler {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &pooler{listener: listener}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				wg.Go(func() { p.serve(ctx, conn) })
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = listener.Close()
		wg.Wait()
	})
	return p
}

// serve passes on what both sides say until one of them ends it.
func (p *pooler) serve(ctx context.Context, client net.Conn) {
	defer client.Close()
	server, err := new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", p.target.Load()))
	if err != nil {
		return
	}
	defer server.Close()
	p.taken.Add(1)
	stop := context.AfterFunc(ctx, func() { _ = client.Close(); _ = server.Close() })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(server, client); _ = server.Close() })
	_, _ = io.Copy(client, server)
	_ = client.Close()
	wg.Wait()
}

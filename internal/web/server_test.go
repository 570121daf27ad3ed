package web

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/status"
)

// monitor is a session that reads what it is given.
type monitor struct {
	snapshots chan status.Snapshot
	lost      chan error
}

func (m *monitor) Read(ctx context.Context) (status.Snapshot, error) {
	select {
	case s := <-m.snapshots:
		return s, nil
	case err := <-m.lost:
		return status.Snapshot{}, err
	case <-ctx.Done():
		return status.Snapshot{}, ctx.Err()
	}
}

func (m *monitor) Wait(context.Context) error { return nil }

func (m *monitor) Close(context.Context) {}

// formation is a coordinator and a worker that is being replaced.
func formation() status.Snapshot {
	node := func(id int64, group int, name string, reported, goal fsm.State, health fsm.Health) status.Node {
		return status.Node{
			ID: id, Group: group, Name: name, Host: "10.0.0.1", Port: 5000 + int(id), Reported: reported, Goal: goal,
			Health: health, Keeper: status.KeeperConnected, Measure: goal.Writable(), LagKnown: true, Lag: 12, Change: time.Minute,
		}
	}
	return status.Snapshot{
		Formation: "shards", Kind: "citus", NumberSyncStandbys: 1, Deciding: true, Taken: time.Unix(1_800_000_000, 0),
		Groups: []status.Group{
			{ID: 0, Primary: 1, StandbyNames: "ANY 1 (pgautofailover_standby_2)", Successor: 2, Nodes: []status.Node{
				node(1, 0, "coord0a", fsm.Primary, fsm.Primary, fsm.HealthGood),
				node(2, 0, "coord0b", fsm.Secondary, fsm.Secondary, fsm.HealthGood),
			}},
			{ID: 1, Election: true, Owner: 4, Waiting: "<b>the coordinator</b>", Nodes: []status.Node{
				node(3, 1, "worker1a", fsm.Primary, fsm.Draining, fsm.HealthBad),
				node(4, 1, "worker1b", fsm.Secondary, fsm.PreparePromotion, fsm.HealthGood),
			}},
		},
		Events: []status.Event{{ID: 1, Time: time.Unix(1_799_999_990, 0), Name: "worker1a", Description: "became unhealthy", Rule: status.Rule{Name: "primary-failed"}}},
	}
}

// answer is what a request was answered.
type answer struct {
	status int
	header http.Header
	text   string
}

// served is a server that runs.
type served struct {
	client  http.Client
	address string
}

func serve(t *testing.T, m *monitor) *served {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s, err := New(Config{
		Formation: "shards", Listener: listener, Zone: time.UTC, Logger: slog.New(slog.DiscardHandler),
		JSON: func(w io.Writer, s status.Snapshot) error {
			return json.NewEncoder(w).Encode(map[string]any{"formation": s.Formation, "groups": len(s.Groups)})
		},
		Open: func(context.Context) (status.Session, error) { return m, nil },
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(t.Context())) // the test's own ends before its cleanup
	over := errors.New("the test is over")
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	p := &served{client: http.Client{Transport: &http.Transport{}}, address: "http://" + listener.Addr().String()}
	t.Cleanup(func() {
		p.client.CloseIdleConnections()
		cancel(over)
		require.ErrorIs(t, <-done, over)
	})
	return p
}

func (p *served) ask(t *testing.T, method, path string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), method, p.address+path, http.NoBody)
	require.NoError(t, err)
	res, err := p.client.Do(req)
	require.NoError(t, err)
	return res
}

func (p *served) get(t *testing.T, path string) answer {
	t.Helper()
	res := p.ask(t, http.MethodGet, path)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return answer{res.StatusCode, res.Header, string(text)}
}

// follow reads the stream of changes.
func (p *served) follow(t *testing.T) *bufio.Scanner {
	t.Helper()
	res := p.ask(t, http.MethodGet, "/changes")
	t.Cleanup(func() { _ = res.Body.Close() })
	require.Equal(t, "text/event-stream", res.Header.Get("Content-Type"))
	return bufio.NewScanner(res.Body)
}

// next is the next event of a stream.
func next(t *testing.T, lines *bufio.Scanner) string {
	t.Helper()
	var b strings.Builder
	for lines.Scan() {
		if lines.Text() == "" {
			return b.String()
		}
		text, ok := strings.CutPrefix(lines.Text(), "data: ")
		require.True(t, ok, lines.Text())
		b.WriteString(text + "\n")
	}
	require.NoError(t, lines.Err())
	t.Fatal("the stream has ended")
	return ""
}

// until waits for an event of the stream that has a text in it.
func until(t *testing.T, lines *bufio.Scanner, text string) string {
	t.Helper()
	for {
		if event := next(t, lines); strings.Contains(event, text) {
			return event
		}
	}
}

func TestPageFollowsTheFormation(t *testing.T) {
	t.Parallel()
	m := &monitor{snapshots: make(chan status.Snapshot), lost: make(chan error)}
	p := serve(t, m)

	require.Contains(t, p.get(t, "/").text, "Waiting for the monitor to answer.")
	require.Equal(t, http.StatusServiceUnavailable, p.get(t, "/state").status)

	lines := p.follow(t)
	m.snapshots <- formation()
	event := until(t, lines, "coord0a")
	page := p.get(t, "/").text
	for _, text := range []string{event, page} {
		for _, want := range []string{
			"<h2>Group 0: coordinator</h2>", "<h2>Group 1: worker</h2>",
			`<tr class="good"><td>coord0a<td>0/1<td>10.0.0.1:5001<td>0: 0/0<td>read-write<td><td>0.0s<td>primary<td>primary</tr>`,
			`<tr class="bad"><td>worker1a<td>1/3<`, `<tr class="moving"><td>worker1b<td>1/4<`,
			"Commits wait for ANY 1 (pgautofailover_standby_2). Next primary: coord0b.",
			"Waits: &lt;b&gt;the coordinator&lt;/b&gt;", "<td>primary-failed<td>became unhealthy",
		} {
			require.Contains(t, text, want)
		}
		require.Less(t, strings.Index(text, "coord0b"), strings.Index(text, "worker1a"))
	}

	require.JSONEq(t, `{"formation": "shards", "groups": 2}`, p.get(t, "/state").text)

	changed := formation()
	changed.Groups[1].Nodes[1].Reported, changed.Deciding = fsm.PreparePromotion, false
	m.snapshots <- changed
	event = until(t, lines, "prepare_promotion<td>prepare_promotion")
	require.Contains(t, event, "nothing fails over")
	m.lost <- errors.New("connection refused")
	event = until(t, lines, "all this is old: connection refused")
	require.Contains(t, event, "worker1b", "what was known stays")
	require.Equal(t, http.StatusServiceUnavailable, p.get(t, "/state").status)
}

func TestPageIsReadOnlyAndKeepsToItself(t *testing.T) {
	t.Parallel()
	m := &monitor{snapshots: make(chan status.Snapshot), lost: make(chan error)}
	p := serve(t, m)
	for path, kind := range map[string]string{"/": "text/html", "/style.css": "text/css", "/follow.js": "text/javascript"} {
		got := p.get(t, path)
		require.Equal(t, http.StatusOK, got.status, path)
		require.Contains(t, got.header.Get("Content-Type"), kind)
		require.Contains(t, got.header.Get("Content-Security-Policy"), "default-src 'none'")
		require.NotEmpty(t, got.text)
	}
	require.Equal(t, http.StatusNotFound, p.get(t, "/etc/passwd").status)
	res := p.ask(t, http.MethodPost, "/")
	defer res.Body.Close()
	require.Equal(t, http.StatusMethodNotAllowed, res.StatusCode)
}

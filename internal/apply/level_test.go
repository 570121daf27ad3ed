package apply

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// That nothing has come says nothing: only when the stream is where the provider
// was is nothing left.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	w := &Worker{}
	at := func(second int) time.Time { return time.Unix(int64(second), 0) }
	require.False(t, w.caughtUp(1000), "the provider was not asked yet")
	w.ended.Store(&measured{1000, at(1)})
	require.False(t, w.caughtUp(999))
	w.ended.Store(&measured{2000, at(2)})
	require.False(t, w.caughtUp(999))
	require.True(t, w.caughtUp(1000), "what it has added since does not count")
	require.Equal(t, at(1), w.here)
	require.False(t, w.caughtUp(1999))
	require.Equal(t, at(1), w.here)
	require.True(t, w.caughtUp(2000))
	require.Equal(t, at(2), w.here)
}

// A provider that reads and sends nothing has something left, which shows; it
// does not say otherwise while it stands still.
func TestStreamThatGetsNothing(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, keyed)
	}
	b.subscribe(t, a, "")
	b.eventually(t, "SELECT updated_by_decode FROM spock.progress", "f")
	sender, err := strconv.Atoi(a.text(t, "SELECT active_pid FROM pg_replication_slots"))
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(sender, syscall.SIGSTOP))
	t.Cleanup(func() { _ = syscall.Kill(sender, syscall.SIGCONT) })
	a.exec(t, "INSERT INTO t VALUES (1, 'a')")
	const told = "SELECT replication_lag_bytes > 0 AND replication_lag > '1 s' FROM spock.lag_tracker WHERE origin_name = 'n1'"
	b.eventually(t, told, "t")
	time.Sleep(idleEvery + 2*publicEvery) // past the moment at which a stream says again that nothing is left
	require.Equal(t, "t", b.text(t, told))
	require.NoError(t, syscall.Kill(sender, syscall.SIGCONT))
	b.eventually(t, "SELECT v FROM t", "a")
	b.eventually(t, "SELECT replication_lag_bytes FROM spock.lag_tracker WHERE origin_name = 'n1'", "0")
}

// Settings are followed by a worker that runs, and what it does not go by is no
// reason to start again.
func TestWorkerFollowsSettings(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, keyed)
	}
	b.subscribe(t, a, "")
	const session = "SELECT pid FROM pg_stat_activity WHERE application_name ~ '^spock apply [0-9]+:[0-9]+$' AND datname = current_database()"
	before := b.text(t, session)
	b.configure(t, "spock.max_clock_skew = 4000")
	b.exec(t, "INSERT INTO t VALUES (1, 'here')")
	a.exec(t, "INSERT INTO t VALUES (1, 'there')")
	b.eventually(t, "SELECT v FROM t WHERE id = 1", "there")
	require.Equal(t, before, b.text(t, session))
	require.Equal(t, "0", b.text(t, "SELECT count(*) FROM spock.resolutions"))

	b.configure(t, "spock.save_resolutions = on\nspock.conflict_resolution = keep_local")
	b.eventually(t, "SELECT ("+session+") IS DISTINCT FROM "+before, "t")
	b.eventually(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^spock apply [0-9]+:[0-9]+$' AND datname = current_database()", "1")
	b.exec(t, "INSERT INTO t VALUES (2, 'here')")
	a.exec(t, "INSERT INTO t VALUES (2, 'there'), (3, 'there')")
	b.eventually(t, "SELECT v FROM t WHERE id = 3", "there")
	require.Equal(t, "here|1", b.text(t, "SELECT (SELECT v FROM t WHERE id = 2), (SELECT count(*) FROM spock.resolutions)"))
}

// What takes long names itself, so that it can be left out.
func TestLongTransactionIsNamed(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, keyed)
	}
	b.subscribe(t, a, "")
	b.halt(t)
	info, err := pg.ParseConnInfo(b.server.DSN(database))
	require.NoError(t, err)
	e, err := New(Config{ConnInfo: info, Logger: slog.New(slog.NewTextHandler(&testWriter{t: t, node: b}, nil)), BinDir: b.server.Bin})
	require.NoError(t, err)
	e.slow = time.Second
	ctx, cancel := context.WithCancel(t.Context())
	b.stop = cancel
	b.done.Go(func() { _ = e.Run(ctx) })
	t.Cleanup(b.stopEngine)
	other := b.second(t)
	b.exec(t, "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
	a.exec(t, "INSERT INTO t VALUES (1, 'x')")
	other.blocked(t)
	line := b.says(t, "transaction is being written for long")
	require.Contains(t, line, "Lock relation")
	lsn := regexp.MustCompile(`sub_alter_skiplsn\('sub_n1_n2', '([0-9A-F/]+)'\)`).FindStringSubmatch(line)[1]
	other.exec(t, fmt.Sprintf("SELECT spock.sub_alter_skiplsn('sub_n1_n2', '%s')", lsn))
	b.says(t, "skipped=true")
	b.exec(t, "COMMIT")
	a.exec(t, "INSERT INTO t VALUES (2, 'y')")
	b.eventually(t, "SELECT string_agg(id::text, ',') FROM t", "2")
}

// configure adds to the server's configuration, and reloads it.
func (n *node) configure(t *testing.T, lines string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(n.server.Dir, "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(lines + "\n")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	n.exec(t, "SELECT pg_reload_conf()")
}

// says waits for a line in the engine's log, and returns it.
func (n *node) says(t *testing.T, text string) string {
	t.Helper()
	var line string
	pgtest.Eventually(t, limit, func() error {
		lines := strings.Split(n.warnings(), "\n")
		at := slices.IndexFunc(lines, func(s string) bool { return strings.Contains(s, text) })
		if at < 0 {
			return fmt.Errorf("%s has not said %q yet", n.name, text)
		}
		line = lines[at]
		return nil
	})
	return line
}

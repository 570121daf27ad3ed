package apply

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/spock"
)

// said keeps what a log was told.
type said struct {
	mu   sync.Mutex // above what it guards
	text strings.Builder
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *said) all() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// runLogged runs an engine on a database of n's server until the test ends, and
// keeps its log.
func runLogged(t *testing.T, n *node, info pg.ConnInfo) (*Engine, *said) {
	t.Helper()
	log := &said{}
	e, err := New(Config{ConnInfo: info, Logger: slog.New(slog.NewTextHandler(log, nil)), BinDir: n.server.Bin})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = e.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		group.Wait()
	})
	return e, log
}

// The schema may be removed while its engine runs, and comes back: the engine
// waits for it, and warns of nothing.
func TestSchemaIsRemovedUnderAnEngine(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	b.stopEngine()
	info, err := pg.ParseConnInfo(b.server.DSN(database))
	require.NoError(t, err)
	e, log := runLogged(t, b, info)
	ctx := t.Context()
	b.exec(t, "CREATE TABLE t (id int PRIMARY KEY)")
	b.subscribe(t, a, "")
	heard := func(what string, times int) {
		t.Helper()
		require.NoError(t, pgtest.WaitFor(patience, func() error {
			if text := log.all(); strings.Count(text, what) != times {
				return fmt.Errorf("%q is not there %d times:\n%s", what, times, text)
			}
			return nil
		}))
	}
	heard("engine started", 1)
	db, err := spock.Connect(t.Context(), spock.ConnectConfig{ConnInfo: info})
	require.NoError(t, err)
	require.NoError(t, spock.Uninstall(t.Context(), db))
	heard("schema spock was removed from the database", 1)
	deadlock := &pgconn.PgError{Code: pgerrcode.DeadlockDetected}
	require.True(t, e.removed(ctx, deadlock), "it was with the removal")
	require.NoError(t, spock.Install(t.Context(), db))
	require.NoError(t, db.Close(t.Context()))
	b.exec(t, fmt.Sprintf("SELECT spock.node_create('n2', '%s')", b.dsn()))
	heard("engine started", 2)
	require.False(t, e.removed(ctx, deadlock))
	require.NotContains(t, log.all(), "WARN")
}

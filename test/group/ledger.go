package group

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// Missing lists the acknowledged rows that a node does not have.
func (m *Member) Missing(acks []Ack) ([]Ack, error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	conn, err := m.Connect(ctx, pgtest.Superuser, "postgres")
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", m.Name, err)
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, "SELECT id FROM ledger")
	if err != nil {
		return nil, fmt.Errorf("read ledger of %s: %w", m.Name, err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("read ledger of %s: %w", m.Name, err)
	}
	there := make(map[int64]bool, len(ids))
	for _, id := range ids {
		there[id] = true
	}
	return slices.DeleteFunc(slices.Clone(acks), func(a Ack) bool { return there[a.ID] }), nil
}

// RequireAll ends the test unless a node has every acknowledged row.
func (m *Member) RequireAll(t testing.TB, acks []Ack) {
	t.Helper()
	missing, err := m.Missing(acks)
	if err != nil {
		t.Fatal(err)
	}
	if len(missing) > 0 {
		t.Fatalf("%s has lost %d of %d acknowledged rows, the first: %s", m.Name, len(missing), len(acks), describeAcks(missing))
	}
}

func describeAcks(acks []Ack) string {
	var text strings.Builder
	for _, a := range acks[:min(len(acks), 5)] {
		fmt.Fprintf(&text, "\n\trow %d, acknowledged at %s by port %d on timeline %d", a.ID, a.Got.Format("15:04:05.000"), a.Port, a.Timeline)
	}
	return text.String()
}

// contents sums up the ledger of a node.
type contents struct {
	Rows int64
	Sum  string
}

func (m *Member) contents(ctx context.Context, after string) (contents, error) {
	var c contents
	conn, err := m.Connect(ctx, pgtest.Superuser, "postgres")
	if err != nil {
		return c, fmt.Errorf("connect to %s: %w", m.Name, err)
	}
	defer conn.Close(ctx)
	if after != "" {
		var replayed bool
		err := conn.QueryRow(ctx, "SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn", after).Scan(&replayed)
		if err != nil {
			return c, fmt.Errorf("ask %s how far it is: %w", m.Name, err)
		}
		if !replayed {
			return c, fmt.Errorf("%s has not replayed %s yet", m.Name, after)
		}
	}
	err = conn.QueryRow(ctx, "SELECT count(*), coalesce(md5(string_agg(id::text, ',' ORDER BY id)), '') FROM ledger").Scan(&c.Rows, &c.Sum)
	if err != nil {
		return c, fmt.Errorf("read ledger of %s: %w", m.Name, err)
	}
	return c, nil
}

// RequireEqual waits until all nodes have replayed what the primary has, and
// ends the test unless their ledgers are equal. No writer may run.
func (g *Group) RequireEqual(t testing.TB) {
	t.Helper()
	primary := g.WaitWhole(t)
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	conn, err := primary.Connect(ctx, pgtest.Superuser, "postgres")
	if err != nil {
		t.Fatalf("connect to %s: %v", primary.Name, err)
	}
	var lsn string
	err = errors.Join(conn.QueryRow(ctx, "SELECT pg_current_wal_flush_lsn()::text").Scan(&lsn), conn.Close(ctx))
	if err != nil {
		t.Fatalf("ask %s how far it is: %v", primary.Name, err)
	}
	want, err := primary.contents(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range g.Others(primary) {
		var got contents
		pgtest.Eventually(t, Patience, func() error {
			got, err = m.contents(ctx, lsn)
			return err
		})
		if got != want {
			t.Fatalf("%s has %d rows (%s), %s has %d (%s)", m.Name, got.Rows, got.Sum, primary.Name, want.Rows, want.Sum)
		}
	}
}

// RequireOneAtATime ends the test when two servers acknowledged rows in
// overlapping time: one on an older timeline took a row after another on a newer
// timeline had acknowledged one, or two wrote one timeline.
func RequireOneAtATime(t testing.TB, acks []Ack) {
	t.Helper()
	if old, recent, ok := Overlap(acks); ok {
		t.Fatalf("two servers acknowledged in overlapping time: port %d on timeline %d took row %d at %s, after port %d on timeline %d had acknowledged row %d at %s",
			old.Port, old.Timeline, old.ID, old.Sent.Format("15:04:05.000"),
			recent.Port, recent.Timeline, recent.ID, recent.Got.Format("15:04:05.000"))
	}
}

// Overlap finds a row that was sent to, and acknowledged by, a server on an
// older timeline after a server on a newer one had acknowledged a row; or one
// that another server acknowledged on the same timeline, which belongs to one.
func Overlap(acks []Ack) (old, recent Ack, found bool) {
	// The first acknowledgement of each timeline is the earliest proof that it
	// is open.
	first := map[uint32]Ack{}
	for _, a := range acks {
		if f, ok := first[a.Timeline]; !ok || a.Got.Before(f.Got) {
			first[a.Timeline] = a
		}
	}
	for _, a := range acks {
		for tli, f := range first {
			if tli > a.Timeline && a.Sent.After(f.Got) || tli == a.Timeline && a.Port != f.Port {
				return a, f, true
			}
		}
	}
	return Ack{}, Ack{}, false
}

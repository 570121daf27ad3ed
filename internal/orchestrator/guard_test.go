package orchestrator

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/workflow"
)

// diskServer is a server that keeps so much WAL on a disk with so much room.
type diskServer struct {
	kept, total, free int64
	refuses           bool
	asked             int
}

func (s *diskServer) Run(_ context.Context, sql string) (Result, error) {
	if strings.HasPrefix(sql, "BEGIN") {
		s.asked++
		if s.refuses {
			return Result{}, &pgconn.PgError{Code: "42501", Message: "permission denied to COPY to or from an external program"}
		}
	}
	return Result{}, nil
}

func (s *diskServer) Ask(_ context.Context, sql string, _ ...*string) (Result, error) {
	cell := func(text string) []*string { return []*string{&text} }
	if strings.HasPrefix(sql, "SELECT line") {
		line := fmt.Sprintf("/dev/my disk %d %d %d 5%% /", s.total>>10, (s.total-s.free)>>10, s.free>>10)
		return Result{Rows: [][]*string{cell("Filesystem …"), cell(line), cell(line)}}, nil
	}
	return Result{Rows: [][]*string{cell(strconv.FormatInt(s.kept, 10))}}, nil
}

func (s *diskServer) Closed() bool                { return false }
func (s *diskServer) Close(context.Context) error { return nil }

const gigabyte = int64(1) << 30

// What is kept for a new node is told now and then, warned of when it takes most
// of the room that there is for it, and ends the join before the disk is full.
func TestKeptWAL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s := &diskServer{kept: gigabyte, total: 1000 * gigabyte, free: 30 * gigabyte}
		g := &keptGuard{node: "n2", slots: []string{"x"}}
		look := func() []Finding {
			f, err := g.room(ctx, s)
			require.NoError(t, err)
			return f
		}
		require.Empty(t, look(), "a disk that is full of other things is no reason")
		time.Sleep(tellEvery)
		s.kept, s.free = 7*gigabyte, 24*gigabyte
		require.Equal(t, []Finding{{
			Text:  "n2 keeps 7168 MB of WAL for the new node, 102 MB more a second, enough for 4m0s, 24 GB of its disk are free",
			About: "room", Note: true, Again: true,
		}}, look())
		require.Empty(t, look())
		s.kept, s.free = 22*gigabyte, 9*gigabyte
		require.Equal(t, "little room", look()[0].About)
		require.False(t, look()[0].End)
		s.kept, s.free = 28*gigabyte, 3*gigabyte
		require.True(t, look()[0].End)
		s.kept, s.free = gigabyte/100, gigabyte/10
		require.True(t, look()[0].End, "hardly anything is kept, but there is no room at all")
		s.kept = 0
		require.Empty(t, look(), "no slot, no blame")
	})
}

func TestNewcomersDisk(t *testing.T) {
	t.Parallel()
	s := &diskServer{total: 100 * gigabyte, free: 50 * gigabyte}
	g := &roomGuard{}
	look := func(free int64) []Finding {
		s.free = free
		f, err := g.newcomer(t.Context(), s)
		require.NoError(t, err)
		return f
	}
	require.Empty(t, look(50*gigabyte))
	require.False(t, look(8 * gigabyte)[0].End)
	require.Equal(t, "2048 MB of 100 GB are left on the disk that has the data of the new node", look(2 * gigabyte)[0].Text)
	require.True(t, look(2 * gigabyte)[1].End)

	// A server that may not say is asked once.
	s.refuses, s.asked = true, 0
	_, err := g.newcomer(t.Context(), s)
	require.Error(t, err)
	require.Empty(t, look(0))
	require.Equal(t, 1, s.asked)
}

// Every node is watched, for the slots of all that join.
func TestGuardsOfAJoin(t *testing.T) {
	t.Parallel()
	j := workflow.Joining{
		Source:   workflow.Member{Name: "n1"},
		Replicas: []workflow.Member{{Name: "n2"}},
		New: []workflow.Newcomer{
			{Member: workflow.Member{Name: "n3"}, Slots: []string{"a"}, SourceSlot: "b"},
			{Member: workflow.Member{Name: "n4"}, Slots: []string{"c"}, SourceSlot: "d"},
		},
	}
	var nodes []string
	for _, g := range guards(j, 0) {
		nodes = append(nodes, g.Node)
	}
	require.Equal(t, []string{"n1", "n1", "n2", "n2", "n3", "n4"}, nodes)
}

// The rate of a copy is that of the last half minute, not of its beginning.
func TestRate(t *testing.T) {
	t.Parallel()
	var b bar
	at := time.Unix(0, 0)
	rate, left := b.rate(at, 0, 1000)
	require.Zero(t, rate)
	require.Zero(t, left)
	rate, left = b.rate(at.Add(10*time.Second), 100, 1000)
	require.EqualValues(t, 10, rate)
	require.Equal(t, 90*time.Second, left)
	for i := int64(1); i <= 20; i++ {
		rate, _ = b.rate(at.Add(time.Duration(10+10*i)*time.Second), 100+i*20, 1000)
	}
	require.InDelta(t, 2, float64(rate), 1)
	rate, _ = b.rate(at.Add(300*time.Second), 5, 1000)
	require.Zero(t, rate, "it has begun again")
}

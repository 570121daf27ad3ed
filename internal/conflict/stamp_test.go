package conflict

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pgdrover/pgdrover/internal/pg"
)

func TestBeats(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name         string
		ranks        Ranks
		change, held Stamp
		want         bool
	}{
		{"later", nil, Stamp{10, 1}, Stamp{9, 2}, true},
		{"earlier", nil, Stamp{9, 1}, Stamp{10, 2}, false},
		{"tie, smaller node", nil, Stamp{9, 1}, Stamp{9, 2}, true},
		{"tie, greater node", nil, Stamp{9, 2}, Stamp{9, 1}, false},
		{"tie, smaller rank", Ranks{2: 0}, Stamp{9, 2}, Stamp{9, 1}, true},
		{"tie, a rank that is another's number", Ranks{3: 1}, Stamp{9, 3}, Stamp{9, 1}, false},
		{"tie, equal ranks", Ranks{1: 5, 2: 5}, Stamp{9, 1}, Stamp{9, 2}, true},
		{"same author, later", nil, Stamp{10, 1}, Stamp{9, 1}, true},
		{"same author, same time", nil, Stamp{9, 1}, Stamp{9, 1}, true},
		{"same author, clock set back", nil, Stamp{8, 1}, Stamp{9, 1}, true},
		{"held stamp not known", nil, Stamp{-8, 1}, Stamp{}, true},
		{"before 2000", nil, Stamp{-8, 1}, Stamp{-9, 2}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, tt.ranks.Beats(tt.change, tt.held))
		})
	}
}

func anyStamp(t *rapid.T) Stamp {
	return Stamp{pg.Timestamp(rapid.Int64Range(-2, 3).Draw(t, "time")), NodeID(rapid.Uint32Range(0, 4).Draw(t, "node"))}
}

// TestOrderIsTotal: any two stamps compare, the same way on every node, and
// nobody stands in a circle.
func TestOrderIsTotal(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ranks := Ranks(rapid.MapOf(
			rapid.Custom(func(t *rapid.T) NodeID { return NodeID(rapid.Uint32Range(1, 4).Draw(t, "node")) }),
			rapid.Int64Range(-2, 5)).Draw(t, "ranks"))
		a, b, c := anyStamp(t), anyStamp(t), anyStamp(t)
		require.Equal(t, ranks.Compare(a, b), -ranks.Compare(b, a))
		require.Equal(t, a == b, ranks.Compare(a, b) == 0)
		if ranks.Compare(a, b) > 0 && ranks.Compare(b, c) > 0 {
			require.Positive(t, ranks.Compare(a, c))
		}
		if a.Known() && b.Known() && a.Origin != b.Origin {
			require.NotEqual(t, ranks.Beats(a, b), ranks.Beats(b, a), "one of two authors wins")
			// The statement's test, which knows two lists of nodes, says the same.
			beaten := ranks.Beaten(a.Origin, []NodeID{0, 1, 2, 3, 4})
			inSQL := a.CommitTime > b.CommitTime || a.CommitTime == b.CommitTime && slices.Contains(beaten, b.Origin)
			require.Equal(t, ranks.Beats(a, b), inSQL)
		}
	})
}

func TestWait(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name        string
		commit, now pg.Timestamp
		wait        time.Duration
		tooFar      bool
	}{
		{"past", 10, 11, 0, false},
		{"the very moment has not passed", 10, 10, time.Microsecond, false},
		{"2 s ahead", 2_000_010, 10, 2*time.Second + time.Microsecond, false},
		{"1 h ahead", 3_600_000_000, 0, 0, true},
		{"at the end of time", pg.TimestampInfinity, 0, 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			wait, tooFar := Wait(tt.commit, tt.now, DefaultMaxSkew)
			require.Equal(t, tt.wait, wait)
			require.Equal(t, tt.tooFar, tooFar)
		})
	}
}

func TestSteppedBack(t *testing.T) {
	t.Parallel()
	back, stepped := SteppedBack(5_000_000, 4_000_000)
	require.True(t, stepped)
	require.Equal(t, time.Second, back)
	for _, after := range []pg.Timestamp{5_000_000, 6_000_000, 4_900_000} {
		_, stepped = SteppedBack(5_000_000, after)
		require.False(t, stepped)
	}
}

func TestPassed(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		providers map[NodeID]Vector
		want      bool
	}{
		{"nobody else", nil, true},
		{"all have it", map[NodeID]Vector{2: {1: 100, 3: 5}, 3: {1: 101}}, true},
		{"one is behind", map[NodeID]Vector{2: {1: 100}, 3: {1: 99}}, false},
		{"one has said nothing", map[NodeID]Vector{2: {1: 100}, 3: nil}, false},
		{"one does not hear from the author", map[NodeID]Vector{2: {1: 100}, 3: {2: 7}}, true},
		{"the author itself", map[NodeID]Vector{1: {2: 7}, 2: {1: 100}}, true},
		{"the author has said nothing", map[NodeID]Vector{1: nil, 2: {1: 100}}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, Passed(1, 100, tt.providers))
		})
	}
}

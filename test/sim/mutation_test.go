package sim

import (
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// mutations lists every switch with the schedules that it is tried on at most.
func mutations() []Mutation {
	return []Mutation{
		ListsForgotten, ListForAnybody, VotersRecounted, NoteFirst, OneVoterEnough, OneVoteEnough, ReceiverStays, NoFencing,
		ChildrenIgnored, DegradedReplaced, NoDemoteWait, LoneOrder, OpenEmpty, NoGuard, ListNotEnforced, NoFence, LonelyFence, RowIsContact,
		ContactWhenAnswered, UnderstatedLSN, ShutdownIgnored, NotSealed, NumbersAgain, CopyVotes, DeafDecides,
	}
}

// findMutation plays schedules without one safeguard until an invariant breaks
// that holds on the same schedule with it.
func findMutation(m Mutation, limit int64) (schedule Schedule, found *Violation, tried int64) {
	var next atomic.Int64
	var mu sync.Mutex
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			broken, sound := RealRules(m), RealRules(Sound)
			for {
				n := next.Add(1)
				mu.Lock()
				over := found != nil
				mu.Unlock()
				if n > limit || over {
					return
				}
				s := GenerateFor(m, uint64(n))
				r := Run(s, broken, false)
				if r.Violation == nil || r.Violation.Check[0] != 'I' || Run(s, sound, false).Violation != nil {
					continue
				}
				mu.Lock()
				if found == nil {
					schedule, found, tried = s, r.Violation, n
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return schedule, found, tried
}

// TestSwitches: with any one safeguard off, an invariant breaks.
func TestSwitches(t *testing.T) {
	limit := int64(number("PGDROVER_SIM_SWITCH_LIMIT", 20000))
	for _, m := range mutations() {
		t.Run(string(m), func(t *testing.T) {
			_, v, tried := findMutation(m, limit)
			require.NotNil(t, v, "%d schedules, and nothing breaks", limit)
			t.Logf("schedule %d: %s", tried, v)
		})
	}
}

// TestScenariosNeedTheirSafeguards: what is too rare to be met at random is
// kept as a scenario, which breaks without the safeguard that was made for it.
func TestScenariosNeedTheirSafeguards(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		scenario string
		without  Mutation
		check    string
	}{
		{"found_number_used_twice_cascade", NumbersAgain, "I21"}, // promotions count for themselves
		{"found_vote_without_position", VoteWithoutPosition, "I6"},
	} {
		text, err := os.ReadFile("testdata/" + c.scenario + ".txt")
		require.NoError(t, err)
		s, err := ParseSchedule(string(text))
		require.NoError(t, err)
		require.Nil(t, Run(s, RealRules(Sound), false).Violation)
		v := Run(s, RealRules(c.without), false).Violation
		require.NotNil(t, v, c.scenario)
		require.Equal(t, c.check, v.Check)
	}
}

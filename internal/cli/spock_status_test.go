package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/apply"
	"github.com/pgdrover/pgdrover/internal/spock"
)

// TestStatusOfWhatStandsStill: who has paused apply is named, and so are tables that wait for their copy; neither is well.
func TestStatusOfWhatStandsStill(t *testing.T) {
	t.Parallel()
	at := func(second int) time.Time { return time.Date(2026, 1, 1, 0, 0, second, 0, time.UTC) }
	sub := func() spockSub {
		return spockSub{
			Subscription: spock.Subscription{Name: "s", Enabled: true, ProviderName: "n2"}, status: statusReplicating,
			state: spock.EngineState{State: "streaming", Since: at(1), Began: at(1)}, known: true,
			progress: spock.Progress{UpdatedAt: at(20), CommitAt: at(10), CommitLSN: 100, InsertLSN: 300, ByCommit: true},
		}
	}
	keeper, stranger := apply.Gatekeeper{PID: 7, Role: "keeper", Believed: true, Holds: true}, apply.Gatekeeper{PID: 8, Role: "mallory", Holds: true}
	paused, waits := sub(), sub()
	paused.status = statusPaused
	for _, x := range []int{1, 2, 3, 4, 5, 6} {
		waits.waiting = append(waits.waiting, waitingTable{Name: "public.t" + strings.Repeat("x", x), Status: "sync_init"})
	}
	for name, x := range map[string]struct {
		sub     spockSub
		gate    []apply.Gatekeeper
		trouble string
		line    string
	}{
		"well":       {sub(), nil, "", ""},
		"paused":     {paused, []apply.Gatekeeper{stranger, keeper}, "subscription s is paused by pid 7, role keeper", "Apply is paused by pid 7, role keeper"},
		"a stranger": {sub(), []apply.Gatekeeper{stranger}, "", "Session with pid 8 of role mallory holds the lock that pauses apply"},
		"a table waits": {
			waits, nil, "subscription s waits for the copy of public.tx, public.txx, public.txxx, public.txxxx, public.txxxxx and 1 more",
			"Table public.tx of s waits for its copy (sync_init)",
		},
	} {
		x.sub.measure(at(40))
		require.Equal(t, 30*time.Second, x.sub.lag, name)
		require.True(t, x.sub.lagKnown() && x.sub.bytesKnown(), name)
		n := spockNode{name: "n", engine: true, subs: []spockSub{x.sub}, gate: x.gate}
		require.Equal(t, x.trouble, n.trouble(), name)
		var table strings.Builder
		require.NoError(t, writeSpockTables(&table, []spockNode{n}))
		require.Contains(t, table.String(), x.line, name)
	}
}

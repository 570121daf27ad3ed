package keeper

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// TestPauseOfTheKeeperProvesNothing: a keeper that was stopped for a while
// gives the monitor time to answer before it believes in its own silence.
func TestPauseOfTheKeeperProvesNothing(t *testing.T) {
	t.Parallel()
	const timeout = 20 * time.Second
	look := func(f *fence, at time.Duration) {
		f.saw(view{At: at, Ready: true, SyncNames: pg.StandbyNames{K: 1, Members: []string{pg.StandbyName(2)}}}, false)
	}
	f := newFence(0)
	for at := time.Duration(0); at < 10*time.Second; at += time.Second {
		look(f, at)
		f.answered(at)
	}
	look(f, 40*time.Second)
	require.False(t, f.expired(40*time.Second, timeout), "it has only just woken up")
	look(f, 43*time.Second)
	require.False(t, f.expired(43*time.Second, timeout))
	look(f, 45*time.Second)
	require.True(t, f.expired(45*time.Second, timeout), "nobody answered")

	// Looks that are slow for ever do not put it off for ever.
	f = newFence(0)
	fenced := false
	for at := time.Duration(0); at < 80*time.Second; at += 5 * time.Second {
		look(f, at)
		fenced = fenced || f.expired(at+4999*time.Millisecond, timeout)
	}
	require.True(t, fenced)
}

// TestServerThatDoesNotAnswerHidesItsStandbys: while the monitor is away and the
// machine crawls, a primary is not stopped for standbys that nobody could see.
func TestServerThatDoesNotAnswerHidesItsStandbys(t *testing.T) {
	t.Parallel()
	const timeout = 20 * time.Second
	start := time.Now()
	run := func(names pg.StandbyNames) *fence {
		f := newFence(0)
		f.group([]peer{{ID: 2, Goal: fsm.Secondary}})
		for at := time.Duration(0); at < 10*time.Second; at += time.Second {
			f.saw(view{At: at, Running: true, Ready: true, SyncNames: names, Standbys: []standbySeen{{ID: 2, ReplyTime: start.Add(at)}}}, false)
		}
		return f
	}
	one := pg.StandbyNames{K: 1, Members: []string{pg.StandbyName(2)}}

	f := run(one)
	for at := 10 * time.Second; at < 60*time.Second; at += 5 * time.Second {
		f.saw(view{At: at, Running: true}, false)
		require.False(t, f.expired(at, timeout))
	}
	there := *f
	for at := 60 * time.Second; at < 120*time.Second; at += time.Second {
		there.saw(view{At: at, Running: true, Ready: true, SyncNames: one, Standbys: []standbySeen{{ID: 2, ReplyTime: start.Add(at)}}}, false)
		require.False(t, there.expired(at, timeout), "it was there all along")
	}

	f = run(one)
	f.saw(view{At: 59 * time.Second, Running: true}, false)
	fenced := false
	for at := 60 * time.Second; at < 70*time.Second; at += time.Second {
		f.saw(view{At: at, Running: true, Ready: true, SyncNames: one}, false)
		fenced = fenced || f.expired(at, timeout)
	}
	require.True(t, fenced, "it answers, and the standby is gone")

	f = run(pg.StandbyNames{})
	f.saw(view{At: 31 * time.Second, Running: true}, false)
	require.True(t, f.expired(31*time.Second, timeout), "it may acknowledge alone")

	f = run(one)
	f.moves()
	f.saw(view{At: 31 * time.Second, Running: true}, false)
	require.True(t, f.expired(31*time.Second, timeout), "an edge has begun since its list was seen, and may have emptied it")

	f = run(one)
	f.saw(view{At: 11 * time.Second, Running: true, Ready: true, SyncNames: one}, true)
	f.saw(view{At: 31 * time.Second, Running: true}, false)
	require.True(t, f.expired(31*time.Second, timeout), "its list was seen while an edge was under way")

	f = run(one)
	f.saw(view{At: 31 * time.Second}, false)
	require.True(t, f.expired(31*time.Second, timeout), "there is no server to ask")
}

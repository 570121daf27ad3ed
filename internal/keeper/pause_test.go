package keeper

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// TestPauseOfTheKeeperProvesNothing: a keeper that was stopped for a while
// gives the monitor time to answer before it believes in its own silence.
func TestPauseOfTheKeeperProvesNothing(t *testing.T) {
	t.Parallel()
	const timeout = 20 * time.Second
	look := func(f *fence, at time.Duration) {
		f.saw(view{At: at, Ready: true, SyncNames: pg.StandbyNames{K: 1, Members: []string{pg.StandbyName(2)}}})
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

package apply

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseLimits(t *testing.T) {
	t.Parallel()
	require.Equal(t, limits{jobs: 2, rate: 1000, load: 8}, parseLimits("jobs=2 rate=1000 load=8"))
	require.Equal(t, limits{rate: 5}, parseLimits(" what=7 jobs=-1 rate=5 load=many "))
	require.Zero(t, parseLimits(""))
}

// All lanes together take no more than the rate; a provider that has too much
// to do gets a second between two buffers, and is asked once a second.
func TestPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var free *pace
		began := time.Now()
		require.NoError(t, free.pass(t.Context(), 1<<30))
		require.Zero(t, time.Since(began))

		p := &pace{limits: limits{rate: 1000}}
		done := make(chan error)
		for range 2 {
			go func() {
				var err error
				for i := 0; i < 10 && err == nil; i++ {
					err = p.pass(t.Context(), 500)
				}
				done <- err
			}()
		}
		require.NoError(t, <-done)
		require.NoError(t, <-done)
		require.Equal(t, 10*time.Second, time.Since(began))

		busy, asked := 3, 0
		p = &pace{limits: limits{load: 2}, busy: func(context.Context) (int, error) { asked++; return busy, nil }}
		began = time.Now()
		for range 3 {
			require.NoError(t, p.pass(t.Context(), 1))
		}
		require.Equal(t, 3*time.Second, time.Since(began))
		busy = 2
		for range 1000 {
			require.NoError(t, p.pass(t.Context(), 1))
		}
		require.Equal(t, 3*time.Second, time.Since(began), "it had no more to do than it may")
		require.Equal(t, 4, asked)

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, (&pace{limits: limits{rate: 1}}).pass(ctx, 100), context.Canceled)
	})
}

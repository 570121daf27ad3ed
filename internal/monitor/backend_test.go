package monitor

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Whoever gets no connection has nothing to close: a monitor that was asked to
// stop just then crashed over it.
func TestNoConnectionIsNil(t *testing.T) {
	t.Parallel()
	gone := errors.New("gone")
	h := &holding{backend: &database{info: func() (pg.ConnInfo, error) { return pg.ConnInfo{}, gone }}}
	w, err := h.Work(t.Context())
	require.ErrorIs(t, err, gone)
	require.True(t, w == nil) //nolint:testifylint // a nil pointer in it would pass for nil
	seen, err := h.Watch(t.Context())
	require.ErrorIs(t, err, gone)
	require.True(t, seen == nil) //nolint:testifylint // as above

	d := &decider{queue: newQueue()}
	d.queue.add(groupKey{})
	require.ErrorIs(t, d.work(t.Context(), h), gone)
}

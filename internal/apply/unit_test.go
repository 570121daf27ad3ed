package apply

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
)

func TestClaims(t *testing.T) {
	t.Parallel()
	c := newClaims()
	key := func(table uint32, hash uint64) *wish { return &wish{keys: []keyClaim{{table, hash}}} }
	require.True(t, c.tryAcquire("a", key(1, 10)))
	require.True(t, c.tryAcquire("a", key(1, 10)), "its own claims are no obstacle")
	require.False(t, c.tryAcquire("b", key(1, 10)))
	require.True(t, c.tryAcquire("b", key(1, 11)))
	require.False(t, c.tryAcquire("c", &wish{tables: []uint32{1}}))
	require.False(t, c.tryAcquire("c", &wish{all: true}))
	c.release("b", key(1, 11))
	require.True(t, c.tryAcquire("a", &wish{tables: []uint32{1}}))
	require.False(t, c.tryAcquire("b", &wish{shared: []uint32{1}}))
	require.True(t, c.tryAcquire("b", &wish{shared: []uint32{2}}))
	c.release("b", &wish{shared: []uint32{2}})
	require.True(t, c.tryAcquire("a", &wish{all: true}))
	require.False(t, c.tryAcquire("b", key(7, 1)))
	for _, w := range []*wish{{all: true}, {tables: []uint32{1}}, key(1, 10), key(1, 10)} {
		c.release("a", w)
	}
	require.Empty(t, c.keys)
	require.Empty(t, c.tables)
	require.Empty(t, c.owners)
	require.True(t, c.tryAcquire("b", &wish{all: true}))
}

// Who wants much gets it when those before have ended, however many come after.
func TestClaimsInTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClaims()
		key := func(hash uint64) *wish { return &wish{keys: []keyClaim{{1, hash}}} }
		require.True(t, c.tryAcquire("busy", key(1)))
		var got []string
		var group sync.WaitGroup
		ask := func(owner string, w *wish) {
			group.Go(func() {
				if c.acquire(t.Context(), owner, w) == nil {
					got = append(got, owner)
				}
			})
			synctest.Wait()
		}
		ask("much", &wish{all: true})
		require.False(t, c.tryAcquire("busy", key(2)), "somebody waits for all")
		ask("later", key(3))
		ctx, cancel := context.WithCancel(t.Context())
		group.Go(func() { require.Error(t, c.acquire(ctx, "gone", &wish{tables: []uint32{1}})) })
		synctest.Wait()
		cancel()
		c.release("busy", key(1))
		synctest.Wait()
		require.Equal(t, []string{"much"}, got)
		c.release("much", &wish{all: true})
		group.Wait()
		require.Equal(t, []string{"much", "later"}, got)
		require.Empty(t, c.queue)
		require.True(t, c.tryAcquire("busy", key(2)), "nobody waits for that")
	})
}

func TestDurability(t *testing.T) {
	t.Parallel()
	var d durability
	d.committed(100)
	d.committed(200)
	marked := d.mark()
	d.committed(300) // committed while the positions were read
	require.Equal(t, pg.LSN(0), d.advance(marked, 50, 40), "nothing is on disk yet")
	require.Equal(t, pg.LSN(200), d.advance(d.mark(), 60, 50))
	require.Equal(t, pg.LSN(200), d.advance(d.mark(), 60, 59))
	require.Equal(t, pg.LSN(300), d.advance(d.mark(), 70, 60))
}

func TestArrays(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"{}": nil, `{a,"b c"}`: {"a", "b c"}, `{"x\"y\\z",""}`: {`x"y\z`, ""},
	} {
		got, err := parseTextArray(text)
		require.NoError(t, err)
		require.Equal(t, want, got, text)
	}
	list := []string{`a"b`, `c\d`, ""}
	got, err := parseTextArray(arrayText(list))
	require.NoError(t, err)
	require.Equal(t, list, got)
	_, err = parseBinaryArray([]byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 25, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 200})
	require.ErrorIs(t, err, errArray)
}

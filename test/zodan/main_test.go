// Package zodan lets nodes join and leave a multi-master cluster while all of
// its nodes are written to, kills what takes part, and asserts what is left:
// equal rows everywhere, no client error, and nothing behind a join that was
// undone. It never asserts how long anything took.
package zodan

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

func TestMain(m *testing.M) { group.Main(m) }

// patience bounds every wait; nothing here should take a tenth of it.
const patience = 5 * time.Minute

// roundsVar makes the random tests longer: how many joins with faults.
const roundsVar = "PGDROVER_TEST_JOINS"

// rounds is how many joins with faults a test does.
func rounds(usual int) int {
	if n, err := strconv.Atoi(os.Getenv(roundsVar)); err == nil && n > 0 {
		return n
	}
	return usual
}

var errWant = errors.New("not yet")

// await waits until look has nothing to complain about.
func await(t testing.TB, look func() error) {
	t.Helper()
	if err := pgtest.WaitFor(patience, look); err != nil {
		t.Fatal(err)
	}
}

// pause waits a little, or until the context ends.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func want(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errWant}, args...)...)
}

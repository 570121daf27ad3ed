package apply

import (
	"context"
	"fmt"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// forgetsWithin is how long what was learned of the server's memory is taken for
// true: what is forgotten meanwhile is seldom as young as what is late.
const forgetsWithin = 5 * time.Minute

// memory is how far back this server knows when rows were written, and whether
// that is to matter.
type memory struct {
	until   pg.Timestamp // up to then it has forgotten
	learned time.Time
	lenient bool
}

// remembers refuses a transaction that is from a time of which this server has
// forgotten when rows were written: whether they are older or newer than it,
// nobody can tell here, and where they were written it is known.
func (w *Worker) remembers(ctx context.Context, tx *transaction) error {
	if w.memory.lenient {
		return nil
	}
	if time.Since(w.memory.learned) > forgetsWithin {
		var micros *int64
		if err := w.db.QueryRow(ctx, `SELECT (extract(epoch FROM pgdrover.forgotten_until()) * 1000000)::int8 - 946684800000000`).Scan(&micros); err != nil {
			return fmt.Errorf("read what the server remembers: %w", err)
		}
		w.memory.until, w.memory.learned = 0, time.Now()
		if micros != nil {
			w.memory.until = pg.Timestamp(*micros)
		}
	}
	if w.memory.until == 0 || tx.commitTime >= w.memory.until {
		return nil
	}
	return &refusal{
		fmt.Errorf("apply transaction %s: it is from %s, and this server has forgotten when rows were written before %s", //nolint:err113 // says it all
			tx.final, tx.commitTime.Time().Format(time.RFC3339), w.memory.until.Time().Format(time.RFC3339)),
		"Copy the data again: drop the subscription and create it with synchronize_data := true, tables as they are (what empties them is replicated); " +
			"or, if nobody wrote the same rows here, set spock.forgotten_times = 'lose' until it has caught up.",
	}
}

package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/spock"
)

func newSpockWaitCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("wait", "Wait until subscriptions have copied what they were asked to, and show how far they are", nil)
	cmd.RunE = eachSpock(env, func(ctx context.Context, db *spock.DB, _ pg.ConnInfo) error {
		return waitCopies(ctx, env, cmd, db)
	})
	dsnFlag(cmd, "a node's database")
	cmd.Flags().StringP("subscription", "s", "", "`name` of the subscription (default: all)")
	cmd.Flags().Int("timeout", 0, "how many `seconds` to wait; 0 waits for ever")
	return cmd
}

// copyView shows copies: bars drawn over each other on a terminal, a line for
// each tenth of a table elsewhere.
type copyView struct {
	env   *Env
	drawn int
	said  map[string]int64 // tenths by table
}

// waitCopies looks until all wanted subscriptions and their tables are copied.
func waitCopies(ctx context.Context, env *Env, cmd *cobra.Command, db *spock.DB) error {
	if err := spock.CheckVersion(ctx, db.Conn()); err != nil {
		return err
	}
	wanted := text(cmd, "subscription")
	view := &copyView{env: env, said: map[string]int64{}}
	var deadline time.Time
	if seconds := number(cmd, "timeout"); seconds > 0 {
		deadline = time.Now().Add(time.Duration(seconds) * time.Second)
	}
	for {
		left, err := copiesLeft(ctx, db, wanted)
		if err != nil {
			return err
		}
		copies, err := db.CopyProgress(ctx)
		if err != nil {
			return err
		}
		view.show(copies, wanted)
		if left == "" {
			return nil
		}
		if !deadline.IsZero() && time.Now().After(deadline) {
			return fail(exitInternal, "%s after %d s", left, number(cmd, "timeout")).
				withHint("it goes on by itself: look at %s spock status", nameDrover)
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return fail(exitInternal, "%s: %w", left, err)
		}
	}
}

// copiesLeft says what is not copied yet; "" when all is.
func copiesLeft(ctx context.Context, db *spock.DB, wanted string) (string, error) {
	subs, err := db.Subscriptions(ctx)
	if err != nil {
		return "", err
	}
	found := false
	for _, s := range subs {
		if wanted != "" && s.Name != wanted {
			continue
		}
		found = true
		if s.SyncStatus != "r" {
			return fmt.Sprintf("subscription %s is not synchronised", s.Name), nil
		}
		tables, err := db.TableSyncs(ctx, s.ID)
		if err != nil {
			return "", err
		}
		for _, t := range tables {
			if t.Status != "r" && t.Status != "y" {
				return fmt.Sprintf("table %s.%s of subscription %s is not synchronised", t.Schema, t.Table, s.Name), nil
			}
		}
	}
	if wanted != "" && !found {
		return "", fail(exitBadArgs, "there is no subscription %q", wanted).withHint("list them with: %s spock status", nameDrover)
	}
	return "", nil
}

func (v *copyView) show(copies []spock.CopyProgress, wanted string) {
	columns, height := v.env.screen()
	var lines, running, done []string
	for _, c := range copies {
		if wanted != "" && c.Subscription != wanted {
			continue
		}
		name := c.Schema + "." + c.Table
		if v.env.draws() {
			line := copyLine(name, c, columns-1)
			lines = append(lines, line)
			if c.State == "done" {
				done = append(done, line)
			} else {
				running = append(running, line)
			}
			continue
		}
		key := c.Subscription + " " + name
		if tenths := share(c) / 10; tenths > v.said[key] {
			v.said[key] = tenths
			v.env.printf("%s: %d %%, %d rows, %s\n", key, share(c), c.Rows, c.State)
		}
	}
	if !v.env.draws() {
		return
	}
	if most := max(height-1, 1); len(lines) > most {
		lines = slices.Concat(done, running)[len(lines)-most:] // what goes on is worth more
	}
	var b strings.Builder
	if v.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", v.drawn)
	}
	for _, line := range lines {
		b.WriteString(line + "\x1b[K\n")
	}
	v.drawn = max(v.drawn, len(lines))
	v.env.printf("%s", b.String())
}

// copyLine fits a table's progress into so many columns: the name gives way first, then the bar.
func copyLine(name string, c spock.CopyProgress, columns int) string {
	const longest, shortest = 40, 16
	state := fmt.Sprintf(" %3d %%  %d rows", share(c), c.Rows)
	room := columns - len(" 100 %  123456789 rows") // the same for all lines
	if long := " " + bar(share(c)); room-len(long) >= shortest {
		room, state = room-len(long), long+state
	}
	room = max(min(room, longest), 1)
	return cut(fmt.Sprintf("%-*s%s", room, cut(name, room), state), columns)
}

// share is how much of a table is copied, in percent. The provider's size is an
// estimate, so that only the end is 100.
func share(c spock.CopyProgress) int64 {
	switch {
	case c.State == "done":
		return 100
	case c.BytesTotal <= 0:
		return 0
	}
	return min(99, c.BytesDone*100/c.BytesTotal)
}

const barWidth = 30

func bar(percent int64) string {
	full := int(percent) * barWidth / 100
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "]"
}

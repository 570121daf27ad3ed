package cli

import (
	"context"
	"encoding/json"
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
	cmd.RunE = eachSpock(env, func(ctx context.Context, db *spock.DB, info pg.ConnInfo) error {
		return waitCopies(ctx, env, cmd, db, info)
	})
	dsnFlag(cmd, "a node's database")
	cmd.Flags().StringP("subscription", "s", "", "`name` of the subscription (default: all)")
	cmd.Flags().Int("timeout", 0, "how many `seconds` to wait; 0 waits for ever")
	return cmd
}

// copyView shows copies: bars drawn over each other on a terminal, a line for
// each tenth of a table elsewhere, which is an object where JSON is wanted.
type copyView struct {
	env   *Env
	json  bool
	drawn int
	said  map[string]int64 // tenths by table
}

// awaited is a subscription that is waited for.
type awaited struct {
	name    string
	enabled bool
	left    string            // what is not copied yet; "" when all is
	state   spock.EngineState // is read only when the wait was in vain
}

// waitCopies looks until all wanted subscriptions and their tables are copied.
func waitCopies(ctx context.Context, env *Env, cmd *cobra.Command, db *spock.DB, info pg.ConnInfo) error {
	if err := spock.CheckVersion(ctx, db.Conn()); err != nil {
		return err
	}
	wanted := text(cmd, "subscription")
	view := &copyView{env: env, json: jsonWanted(cmd), said: map[string]int64{}}
	var deadline time.Time
	if seconds := number(cmd, "timeout"); seconds > 0 {
		deadline = time.Now().Add(time.Duration(seconds) * time.Second)
	}
	for {
		subs, err := awaitedCopies(ctx, db, wanted)
		if err != nil {
			return err
		}
		copies, err := db.CopyProgress(ctx)
		if err != nil {
			return err
		}
		view.show(copies, wanted)
		left := whatIsLeft(subs)
		if left == "" {
			return view.end(place(info), subs)
		}
		if !deadline.IsZero() && time.Now().After(deadline) {
			hint, err := whyInVain(ctx, env, db, info, subs)
			if err != nil {
				return err
			}
			if err := view.end(place(info), subs); err != nil {
				return err
			}
			return fail(exitInternal, "%s after %d s", left, number(cmd, "timeout")).withHint("%s", hint)
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return fail(exitInternal, "%s: %w", left, err)
		}
	}
}

// awaitedCopies says of each wanted subscription what is not copied yet.
func awaitedCopies(ctx context.Context, db *spock.DB, wanted string) ([]awaited, error) {
	subs, err := db.Subscriptions(ctx)
	if err != nil {
		return nil, err
	}
	var all []awaited
	for _, s := range subs {
		if wanted != "" && s.Name != wanted {
			continue
		}
		left, err := copiesLeft(ctx, db, s)
		if err != nil {
			return nil, err
		}
		all = append(all, awaited{name: s.Name, enabled: s.Enabled, left: left})
	}
	if wanted != "" && len(all) == 0 {
		return nil, fail(exitBadArgs, "there is no subscription %q", wanted).withHint("list them with: %s spock status", nameDrover)
	}
	return all, nil
}

// copiesLeft says what of a subscription is not copied yet; "" when all is.
func copiesLeft(ctx context.Context, db *spock.DB, s spock.Subscription) (string, error) {
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
	return "", nil
}

// whatIsLeft is what is not copied yet of any subscription; "" when all is.
func whatIsLeft(subs []awaited) string {
	var left []string
	for _, s := range subs {
		if s.left != "" {
			left = append(left, s.left)
		}
	}
	return strings.Join(left, "; ")
}

// whyInVain tells the last error of each subscription that is not there yet, and returns what to do.
func whyInVain(ctx context.Context, env *Env, db *spock.DB, info pg.ConnInfo, subs []awaited) (hint string, err error) {
	states, err := db.EngineStates(ctx)
	if err != nil {
		return "", err
	}
	engine, err := db.EngineConnected(ctx)
	if err != nil {
		return "", err
	}
	for i := range subs {
		for _, x := range states {
			if subs[i].left != "" && x.Subscription == subs[i].name {
				subs[i].state = x
			}
		}
		if subs[i].state.LastError != "" {
			env.errorf("%s", lastError(subs[i].state))
		}
		if subs[i].state.LastHint != "" {
			env.errorf("HINT: %s", subs[i].state.LastHint)
		}
	}
	return waitHint(info, engine, subs), nil
}

// waitHint says what lets the copies go on.
func waitHint(info pg.ConnInfo, engine bool, subs []awaited) string {
	if !engine {
		return fmt.Sprintf("no engine serves this database; start it: %s spock run --dsn %q", nameDrover, info.String())
	}
	for _, s := range subs {
		if s.left != "" && !s.enabled {
			return fmt.Sprintf("subscription %s is disabled: SELECT spock.sub_enable(%s) lets it go on", s.name, pg.QuoteLiteral(s.name))
		}
	}
	for _, s := range subs {
		if s.state.LastError != "" {
			return fmt.Sprintf("mend what the last error names: the engine tries again until then; look at %s spock status", nameDrover)
		}
	}
	return fmt.Sprintf("it goes on by itself: look at %s spock status", nameDrover)
}

func (v *copyView) show(copies []spock.CopyProgress, wanted string) {
	columns, height := v.env.screen()
	var lines, running, done []string
	for _, c := range copies {
		if wanted != "" && c.Subscription != wanted {
			continue
		}
		name := c.Schema + "." + c.Table
		if v.draws() {
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
			v.say(key, c)
		}
	}
	if !v.draws() {
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

// draws reports whether bars are drawn: never over objects.
func (v *copyView) draws() bool { return v.env.draws() && !v.json }

// say tells of one table, on a line of its own.
func (v *copyView) say(key string, c spock.CopyProgress) {
	if !v.json {
		v.env.printf("%s: %d %%, %d rows, %s\n", key, share(c), c.Rows, c.State)
		return
	}
	line, err := json.Marshal(copiedLine{
		Subscription: c.Subscription, Schema: c.Schema, Table: c.Table, State: c.State, Percent: share(c),
		BytesTotal: c.BytesTotal, BytesDone: c.BytesDone, Rows: c.Rows,
	})
	if err == nil {
		v.env.printf("%s\n", line)
	}
}

// copiedLine is how far the copy of a table is, as JSON.
type copiedLine struct {
	Subscription string `json:"subscription"`
	Schema       string `json:"schema"`
	Table        string `json:"table"`
	State        string `json:"state"`
	Percent      int64  `json:"percent"`
	BytesTotal   int64  `json:"bytes_total"`
	BytesDone    int64  `json:"bytes_done"`
	Rows         int64  `json:"rows"`
}

// waitedLine is the end of a wait, as JSON: the last line about a database.
type waitedLine struct {
	Database      string      `json:"database"`
	Done          bool        `json:"done"`
	Subscriptions []waitedSub `json:"subscriptions"`
}

type waitedSub struct {
	Name      string         `json:"name"`
	Done      bool           `json:"done"`
	Left      string         `json:"left,omitempty"`
	LastError *lastErrorLine `json:"last_error,omitempty"`
}

type lastErrorLine struct {
	Message  string    `json:"message"`
	Hint     string    `json:"hint,omitempty"`
	SQLState string    `json:"sqlstate"`
	At       time.Time `json:"at"`
}

// end says how a wait ended to whoever wants JSON; others see it by the exit code.
func (v *copyView) end(where string, subs []awaited) error {
	if !v.json {
		return nil
	}
	line := waitedLine{Database: where, Done: whatIsLeft(subs) == "", Subscriptions: []waitedSub{}}
	for _, s := range subs {
		one := waitedSub{Name: s.name, Done: s.left == "", Left: s.left}
		if s.state.LastError != "" {
			one.LastError = &lastErrorLine{
				Message: s.state.LastError, Hint: s.state.LastHint, SQLState: s.state.LastErrorCode, At: s.state.LastErrorAt.UTC(),
			}
		}
		line.Subscriptions = append(line.Subscriptions, one)
	}
	text, err := json.Marshal(line)
	if err == nil {
		v.env.printf("%s\n", text)
	}
	return err
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

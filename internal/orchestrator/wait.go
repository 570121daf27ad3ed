package orchestrator

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/spock"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// wait repeats a query until it says true. There is no fixed limit: it ends
// when nothing has moved for the stall limit. What moves is the query's answer
// itself, the step's progress, or its list of blockers.
func (e *Executor) wait(ctx context.Context, s workflow.Step) (outcome, error) {
	moved, last, told := time.Now(), "", ""
	var barred bar
	var engine trouble
	var lastErr error
	for {
		statement, err := e.statement(s)
		if err != nil {
			return outcome{}, err
		}
		answer, err := e.run(ctx, s.Node, statement)
		switch {
		case ctx.Err() != nil:
			return outcome{}, context.Cause(ctx)
		case err != nil && !passing(err):
			return outcome{}, err
		case err == nil && answer.is():
			return outcome{status: OK, variables: firstRow(answer)}, nil
		}
		lastErr = err
		if e.troubled(ctx, s, &engine); engine.inVain {
			return outcome{}, &troubleError{engine.text}
		}
		e.tellBar(ctx, s, &barred)
		now := describe(answer, err) + "\n" + e.rows(ctx, s, s.Progress, "")
		blockers := e.rows(ctx, s, s.Blockers, s.BlockersAt)
		if blockers != "" && blockers != told {
			told = blockers
			e.event(Event{Status: Waiting, Step: s.Path, Phase: s.Phase, Node: s.Node, Description: s.Description, Message: "waits for " + blockers})
		}
		now += "\n" + blockers
		if engine.lately() { // attempts that fail one after the other change this and that, and get nowhere
			now = fmt.Sprintf("%d bytes at most\n%s", barred.most, blockers)
		}
		if now != last {
			last, moved = now, time.Now()
		}
		e.tellBehind(s, answer, &barred)
		if time.Since(moved) > e.cfg.StallTimeout {
			if blockers != "" {
				blockers = "it waits for " + blockers
			}
			return outcome{}, e.stalled(s, answer, lastErr, cmp.Or(blockers, engine.text))
		}
		if err := e.pause(ctx, e.cfg.Poll); err != nil {
			return outcome{}, err
		}
	}
}

// trouble is what keeps the engine of a step's node from getting on.
type trouble struct {
	looked time.Time
	seen   time.Time // when there was one last
	text   string
	inVain bool
}

// lately says that there was one a moment ago: attempts may begin without.
func (t *trouble) lately() bool { return !t.seen.IsZero() && time.Since(t.seen) < time.Minute }

// troubleEvery is the pause between two looks at an engine's errors.
const troubleEvery = 2 * time.Second

// troubled asks for an engine's errors now and then, and tells new ones.
func (e *Executor) troubled(ctx context.Context, s workflow.Step, t *trouble) {
	if s.Trouble == "" || time.Since(t.looked) < troubleEvery {
		return
	}
	t.looked = time.Now()
	answer, err := e.ask(ctx, s.Node, s.Trouble)
	if err != nil {
		return // whoever is away cannot complain
	}
	var lines []string
	for i := range answer.Rows {
		row := Result{Rows: answer.Rows[i : i+1]}
		lines = append(lines, workflow.Mask(row.text(0)))
		t.inVain = t.inVain || row.text(1) == "t"
	}
	text := strings.Join(lines, "; ")
	if text != "" && text != t.text && !t.inVain {
		e.event(Event{Status: Waiting, Step: s.Path, Phase: s.Phase, Node: s.Node, Description: s.Description, Message: "the engine of " + s.Node + " tries again: " + text})
	}
	if t.text = text; text != "" {
		t.seen = t.looked
	}
}

// troubleError is an error of an engine that does not pass.
type troubleError struct{ text string }

func (e *troubleError) Error() string { return e.text }

// Hint says what to do about it.
func (e *troubleError) Hint() string {
	return "undo the run with --rollback, remove the cause, and begin again"
}

// bar remembers what was told of a step's progress.
type bar struct {
	at   time.Time
	done int64
	most int64 // that was ever done
	// since and from are the time and the state from which the rate is measured.
	since time.Time
	from  int64
}

// rate is how fast it goes: over the last half a minute or more.
func (b *bar) rate(now time.Time, done, of int64) (perSecond int64, left time.Duration) {
	const window = 30 * time.Second
	if b.since.IsZero() || done < b.from {
		b.since, b.from = now, done
		return 0, 0
	}
	seconds := now.Sub(b.since).Seconds()
	if seconds <= 0 || done == b.from {
		return 0, 0
	}
	each := float64(done-b.from) / seconds
	if now.Sub(b.since) > 2*window {
		b.since, b.from = now.Add(-window), done-int64(each*window.Seconds())
	}
	return int64(each), time.Duration(float64(max(of-done, 0)) / each * float64(time.Second)).Round(time.Second)
}

// tellBar tells how far a step is, when that has changed.
func (e *Executor) tellBar(ctx context.Context, s workflow.Step, b *bar) {
	if s.Bar == "" || time.Since(b.at) < time.Second {
		return
	}
	b.at = time.Now()
	answer, err := e.ask(ctx, s.Node, s.Bar)
	if err != nil {
		return
	}
	done, errDone := strconv.ParseInt(answer.text(0), 10, 64)
	of, errOf := strconv.ParseInt(answer.text(1), 10, 64)
	if errDone != nil || errOf != nil || of <= 0 || done == b.done {
		return
	}
	b.done, b.most = done, max(b.most, done)
	ev := Event{Status: Waiting, Step: s.Path, Phase: s.Phase, Node: s.Node, Description: s.Description, Done: min(done, of), Of: of}
	ev.Rate, ev.Left = b.rate(b.at, done, of)
	e.event(ev)
}

// behindEvery is the pause between two words about how far a node is behind.
const behindEvery = 10 * time.Second

// tellBehind tells how much a stream still lacks, when that takes long.
func (e *Executor) tellBehind(s workflow.Step, answer Result, b *bar) {
	row := firstRow(answer)
	behind := row["behind"]
	if behind == nil || row["position"] == nil {
		return
	}
	if b.at.IsZero() {
		b.at = time.Now()
	}
	if time.Since(b.at) < behindEvery {
		return
	}
	b.at = time.Now()
	e.event(Event{Status: Waiting, Step: s.Path, Phase: s.Phase, Node: s.Node, Description: s.Description, Message: s.Node + " still lacks " + *behind})
}

func (e *Executor) stalled(s workflow.Step, answer Result, err error, reason string) error {
	why := fmt.Errorf("%w: nothing has moved for %s", ErrTimeout, e.cfg.StallTimeout)
	if reason != "" {
		return fmt.Errorf("%w; %s", why, reason)
	}
	if err != nil {
		return fmt.Errorf("%w; the last answer was: %w", why, err)
	}
	if text := describe(answer, nil); text != "" && len(answer.Columns) > 1 {
		return fmt.Errorf("%w; the last answer was: %s", why, text)
	}
	if s.Refuse != "" {
		return fmt.Errorf("%w: %s", why, s.Refuse)
	}
	return why
}

// passing reports whether an error may be over in a moment: a server that
// starts again, a connection that was lost.
func passing(err error) bool { return spock.Retryable(err) }

// describe is an answer as one line.
func describe(answer Result, err error) string {
	if err != nil {
		return workflow.Mask(err.Error())
	}
	var lines []string
	for _, row := range answer.Rows {
		var cells []string
		for i, cell := range row {
			if cell != nil {
				cells = append(cells, answer.Columns[i].Name+" "+*cell)
			}
		}
		lines = append(lines, strings.Join(cells, ", "))
	}
	return strings.Join(lines, "; ")
}

// rows asks a query of the step for its first column, on the step's node or
// another one; errors are silence.
func (e *Executor) rows(ctx context.Context, s workflow.Step, sql, node string) string {
	if sql == "" {
		return ""
	}
	e.mu.Lock()
	sql, err := workflow.SubstituteSQL(sql, e.isNode, e.record.Variables)
	e.mu.Unlock()
	if err != nil {
		return ""
	}
	if node == "" {
		node = s.Node
	}
	answer, err := e.ask(ctx, node, sql)
	if err != nil {
		return ""
	}
	var lines []string
	for _, row := range answer.Rows {
		if row[0] != nil {
			lines = append(lines, *row[0])
		}
	}
	return workflow.Mask(strings.Join(lines, "; "))
}

// watchBlockers tells what a long statement waits for while it does.
func (e *Executor) watchBlockers(ctx context.Context, s workflow.Step) (stop func()) {
	if s.Blockers == "" {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		told := ""
		for e.pause(ctx, 5*e.cfg.Poll) == nil {
			if blockers := e.rows(ctx, s, s.Blockers, s.BlockersAt); blockers != told && blockers != "" {
				told = blockers
				e.event(Event{Status: Waiting, Step: s.Path, Phase: s.Phase, Node: s.Node, Description: s.Description, Message: "waits for " + blockers})
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

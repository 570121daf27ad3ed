package demo

import (
	"context"
	"fmt"
	"time"

	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// play is what demonstrations of failovers have in common: the processes, the
// client that writes and notes what was acknowledged, and the table of states.
type play struct {
	stage   *Stage
	cluster *cluster
	writer  *writer
	view    *view
}

func newPlay(stage *Stage) play { return play{stage: stage, cluster: &cluster{stage: stage}} }

// perform lets a story happen and returns after everything it started has stopped.
func (p *play) perform(ctx context.Context, story func(context.Context) error) error {
	if err := p.stage.open(); err != nil {
		return err
	}
	err := story(ctx)
	p.cluster.stop(context.WithoutCancel(ctx))
	p.stage.leave(err != nil && ctx.Err() == nil)
	return err
}

// enter makes the writer of the formation that the monitor knows.
func (p *play) enter(ctx context.Context, db *pgautofailover.DB) error {
	uri, _, err := db.FormationURI(ctx, defaultFormation, defaultFormation, "prefer", "", "")
	if err != nil {
		return err
	}
	p.stage.say("applications connect to %s", uri)
	p.writer = newWriter(uri)
	return nil
}

// act writes while the scene happens, and for as long as the operator wants to stay.
func (p *play) act(ctx context.Context, db *pgautofailover.DB, stay time.Duration, scene func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.view = newView(p.stage, p.writer)
	stop := p.writer.begin(ctx)
	defer stop()
	if err := scene(ctx); err != nil {
		return err
	}
	if stay > 0 {
		p.tell("staying up for %s; end it with Ctrl-C", stay)
		return p.watch(ctx, db, stay, never)
	}
	return nil
}

// tell goes on with the story below the table.
func (p *play) tell(format string, args ...any) {
	p.view.flush()
	p.stage.say(format, args...)
}

func never([]node) bool { return false }

// watchUntil shows the nodes until done, which must happen in time.
func (p *play) watchUntil(ctx context.Context, db *pgautofailover.DB, what string, done func([]node) bool) error {
	reached := false
	err := p.watch(ctx, db, patience, func(nodes []node) bool {
		reached = done(nodes)
		return reached
	})
	if err == nil && !reached {
		return &Error{Err: fmt.Errorf("waited %s in vain until %s", patience, what), Advice: "look into the logs below " + p.stage.Directory}
	}
	return err
}

// watch shows the nodes for a time, or until done.
func (p *play) watch(ctx context.Context, db *pgautofailover.DB, limit time.Duration, done func([]node) bool) error {
	deadline := time.Now().Add(limit)
	for {
		nodes, err := readNodes(ctx, db)
		if err != nil {
			return err
		}
		p.view.show(nodes)
		if done(nodes) || !time.Now().Before(deadline) {
			return nil
		}
		if err := sleep(ctx, min(50*time.Millisecond, max(time.Millisecond, time.Until(deadline)))); err != nil {
			return err
		}
	}
}

// tellGap says how long writers waited since the mark.
func (p *play) tellGap() {
	p.tell("another node takes writes; the longest pause between two acknowledged writes was %d ms", p.writer.gap().Milliseconds())
}

// verdict compares what was acknowledged with what is there, below lines that say
// what happened. Lost rows are an error.
func (p *play) verdict(ctx context.Context, happened ...string) error {
	surviving, lost, err := p.writer.count(ctx)
	if err != nil {
		return err
	}
	acked := p.writer.acknowledged()
	p.stage.printf("\n")
	for _, line := range happened {
		p.stage.printf("  %s\n", line)
	}
	p.stage.printf("  acknowledged rows    %d\n", acked)
	p.stage.printf("  surviving rows       %d%s\n", surviving, unanswered(surviving-(acked-lost)))
	p.stage.printf("  acknowledged, lost   %d\n", lost)
	if lost > 0 {
		p.stage.printf("\nLOST: %d acknowledged rows are gone.\n", lost)
		return fmt.Errorf("%d of %d acknowledged rows were lost", lost, acked)
	}
	p.stage.printf("\nOK: every acknowledged row is there.\n")
	return nil
}

// unanswered explains rows that are there although nobody was told so.
func unanswered(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" (%d of them committed, but their answer never arrived)", n)
}

package orchestrator

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/spock"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// intend stores that a step is about to make something, before it does.
func (e *Executor) intend(ctx context.Context, s workflow.Step, undo, exists string) error {
	if undo == "" {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	undo, err := workflow.SubstituteSQL(undo, e.isNode, e.record.Variables)
	if err != nil {
		return err
	}
	for _, a := range e.record.Created {
		if a.Step == s.Path {
			return nil
		}
	}
	e.record.Created = append(e.record.Created, Artifact{
		Step: s.Path, Node: s.Node, Command: s.CommandName(), Object: s.Object(), What: s.Description, Undo: undo, Exists: exists, For: s.For,
	})
	return e.saveLocked(ctx)
}

// forget takes back the intent of a step that the server has refused.
func (e *Executor) forget(s workflow.Step) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.record.Created = slices.DeleteFunc(e.record.Created, func(a Artifact) bool { return a.Step == s.Path })
}

// alreadyDone asks whether a step's work is there from an earlier attempt.
func (e *Executor) alreadyDone(ctx context.Context, s workflow.Step) (bool, error) {
	if s.Done == "" {
		return false, nil
	}
	e.mu.Lock()
	query, err := workflow.SubstituteSQL(s.Done, e.isNode, e.record.Variables)
	e.mu.Unlock()
	if err != nil {
		return false, err
	}
	answer, err := e.ask(ctx, s.Node, query)
	return err == nil && answer.is(), Explain(s.Node, err)
}

// Rollback removes what an unfinished run has made, the last first, and nothing
// that was there before it. What is on a node that is gone stays, and is named.
func (e *Executor) Rollback(ctx context.Context) error {
	defer e.closeAll(context.WithoutCancel(ctx))
	if err := e.open(ctx, true); err != nil {
		return cancelled(ctx, "its undo", err)
	}
	record, err := e.cfg.Journal.Load(ctx)
	if err != nil {
		return err
	}
	if record == nil || len(record.Created) == 0 {
		e.event(Event{Status: Noted, Message: "there is nothing to undo"})
		return e.cfg.Journal.Remove(ctx)
	}
	e.record = record
	if e.record.Variables == nil {
		e.record.Variables = workflow.Variables{}
	}
	return e.undoAll(ctx)
}

// undoAll undoes all that is recorded. Subscriptions go first: they use the
// slots, and the nodes.
func (e *Executor) undoAll(ctx context.Context) error {
	e.letGo(ctx)
	if err := e.undoThese(ctx, slices.Clone(e.record.Created)); err != nil {
		return &LeftError{Left: slices.Clone(e.record.Created), Err: cancelled(ctx, "its undo", err)}
	}
	e.event(Event{Status: Noted, Message: "what the run had made is undone"})
	return e.cfg.Journal.Remove(ctx)
}

// undoThese undoes things, the last first; what cannot be undone stays recorded.
func (e *Executor) undoThese(ctx context.Context, created []Artifact) error {
	slices.Reverse(created)
	slices.SortStableFunc(created, func(a, b Artifact) int { return undoOrder(a) - undoOrder(b) })
	var problems []error
	for _, a := range created {
		if ctx.Err() != nil {
			return errors.Join(append(problems, context.Cause(ctx))...)
		}
		if err := e.undo(ctx, a); err != nil {
			problems = append(problems, err)
			continue
		}
		e.mu.Lock()
		e.record.Created = slices.DeleteFunc(e.record.Created, func(x Artifact) bool { return x.is(a) })
		err := e.saveLocked(ctx)
		e.mu.Unlock()
		if err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

func undoOrder(a Artifact) int {
	if strings.Contains(a.Undo, "sub_drop") {
		return 0
	}
	return 1
}

func (e *Executor) undo(ctx context.Context, a Artifact) error {
	began := time.Now()
	ev := Event{Step: a.Step, Node: a.Node, Type: "undo", Command: a.Command, Description: strings.TrimSpace("Undo " + a.Command + " " + a.Object)}
	e.mu.Lock()
	ev.Phase = e.record.phase(a.Step)
	e.mu.Unlock()
	if ev.Phase != "" && a.What != "" { // a plan's own words
		ev.Description = "Undo on " + a.Node + ": " + a.What
	}
	ev.Status = Running
	e.event(ev)
	var err error
	if e.isNode(a.Node) {
		// What a slot or a node still waits for may take a moment to end.
		for deadline := began.Add(e.cfg.Grace); ; {
			if _, err = e.run(ctx, a.Node, workflow.Statement{SQL: a.Undo, Simple: true}); err == nil || ctx.Err() != nil || time.Now().After(deadline) {
				break
			}
			if gone := (e.isGone(a.Node) || e.lockOf(a.Node) == nil) && spock.SQLState(err) == ""; gone || !passing(err) && !strings.Contains(err.Error(), "still active") {
				break
			}
			if e.pause(ctx, e.cfg.Poll) != nil {
				break
			}
		}
	} else {
		err = errors.New("the configuration has no such node")
	}
	// One that does not come back is not waited for again.
	e.setGone(a.Node, err != nil && passing(err) && spock.SQLState(err) == "")
	ev.Status, ev.Err, ev.Seconds = Undone, err, time.Since(began).Seconds()
	switch {
	case err != nil && ctx.Err() != nil:
		ev.Status = Cancelled
	case err != nil:
		ev.Status = Failed
	}
	e.event(ev)
	if err != nil {
		return &StepError{Step: "undo of step " + a.Step, Node: a.Node, Failed: 1, Err: err}
	}
	return nil
}

func (e *Executor) setGone(node string, gone bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gone[node] = gone
}

func (e *Executor) isGone(node string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.gone[node]
}

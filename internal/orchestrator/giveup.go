package orchestrator

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgdrover/pgdrover/internal/workflow"
)

// Several nodes that join in one call do not hold each other up: one that
// cannot join is given up, what was made for it is undone, and the others go on.

// GivenUpError says that some of several nodes have not joined.
type GivenUpError struct {
	// Reasons are the nodes, each with what failed.
	Reasons []string
	// Left are what could not be undone.
	Left []Artifact
}

// Error names them.
func (e *GivenUpError) Error() string {
	text := "given up: " + strings.Join(e.Reasons, "; ")
	if len(e.Left) > 0 {
		text += "; left are: " + leftText(e.Left)
	}
	return text
}

// Hint says what to do about it.
func (e *GivenUpError) Hint() string {
	if len(e.Left) > 0 {
		return "the other nodes have joined; remove what is left with remove_node --survivor-dsn, then add the node again"
	}
	return "the other nodes have joined, and nothing is left of these: add them again when the cause is cured"
}

// wanted says that a step still serves somebody.
func (e *Executor) wanted(s workflow.Step) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !slices.ContainsFunc(s.For, func(name string) bool { return slices.Contains(e.record.GivenUp, name) })
}

// staying leaves out the steps that serve nobody any more.
func (e *Executor) staying(steps []workflow.Step) []workflow.Step {
	return slices.DeleteFunc(slices.Clone(steps), func(s workflow.Step) bool { return !e.wanted(s) })
}

// giveUp gives up the node that a failed step was for and returns its name, unless
// it is the last that is left, or the step failed for want of another node: that
// is no fault of its. What was made for it is for [Executor.undoGivenUp].
func (e *Executor) giveUp(ctx context.Context, s workflow.Step, err error) (name string) {
	if len(s.For) == 0 || s.IgnoreErrors || ctx.Err() != nil || !slices.Contains(s.For, s.Node) && away(err) {
		return ""
	}
	name = s.For[0]
	if slices.Contains(s.For, s.Node) {
		name = s.Node
	}
	e.mu.Lock()
	known := slices.Contains(e.record.GivenUp, name) // by a step beside this one
	if left := e.joining(); !known && (len(left) <= 1 || !slices.Contains(left, name)) {
		e.mu.Unlock()
		return ""
	}
	e.failures-- // it is told at the end, by its name
	if known {
		e.mu.Unlock()
		return name
	}
	e.record.GivenUp = append(e.record.GivenUp, name)
	e.givenUp = append(e.givenUp, name+" ("+workflow.Mask(err.Error())+")")
	saveErr := e.saveLocked(ctx)
	e.mu.Unlock()
	e.event(Event{Status: Noted, Node: name, Type: "WARNING", Message: fmt.Sprintf("%s is given up, the others go on: %s", name, workflow.Mask(err.Error()))})
	if saveErr != nil {
		e.cfg.Log.WarnContext(ctx, "that a node was given up is not in the journal", "node", name, "error", saveErr)
	}
	return name
}

// joining are the nodes that are still to join; the caller holds the lock.
func (e *Executor) joining() []string {
	var names []string
	for _, s := range e.cfg.Steps {
		for _, name := range s.For {
			if !slices.Contains(names, name) && !slices.Contains(e.record.GivenUp, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// undoGivenUp undoes what was made for nodes that were given up. What cannot be
// undone stays recorded.
func (e *Executor) undoGivenUp(ctx context.Context) {
	e.mu.Lock()
	theirs := e.ofGivenUp()
	e.mu.Unlock()
	if err := e.undoThese(ctx, theirs); err != nil {
		e.event(Event{Status: Noted, Type: "WARNING", Message: workflow.Mask(err.Error())})
	}
}

// ofGivenUp is what was made for nodes that were given up; the caller holds the lock.
func (e *Executor) ofGivenUp() []Artifact {
	return slices.DeleteFunc(slices.Clone(e.record.Created), func(a Artifact) bool {
		return !slices.ContainsFunc(a.For, func(name string) bool { return slices.Contains(e.record.GivenUp, name) })
	})
}

// notJoined is the error of a run that has given nodes up, nil when it has not.
func (e *Executor) notJoined() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.record.GivenUp) == 0 {
		return nil
	}
	err := &GivenUpError{Reasons: e.givenUp}
	for _, name := range e.record.GivenUp {
		if !slices.ContainsFunc(err.Reasons, func(r string) bool { return strings.HasPrefix(r, name+" (") }) {
			err.Reasons = append(err.Reasons, name+" (in an earlier call)")
		}
	}
	err.Left = e.ofGivenUp()
	return err
}

package orchestrator

import (
	"context"
	"sync"
	"time"
)

// watch keeps the run's locks and heartbeats while it lasts, and looks at its
// guards. It ends when stop is called; end ends the run.
func (e *Executor) watch(ctx context.Context, end context.CancelCauseFunc) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	if e.cfg.Beat != "" {
		for _, n := range e.cfg.Nodes {
			if e.lockOf(n.Name) != nil {
				group.Go(func() { e.beat(ctx, n.Name) })
			}
		}
	}
	for _, g := range e.cfg.Guards {
		group.Go(func() { e.guard(ctx, g, end) })
	}
	return func() {
		cancel()
		group.Wait()
	}
}

// beat shows a node that the run is alive. A server that was away has forgotten
// the lock.
func (e *Executor) beat(ctx context.Context, node string) {
	for {
		limited, cancel := context.WithTimeout(ctx, 2*e.cfg.BeatEvery)
		_, err := e.lockOf(node).Ask(limited, e.cfg.Beat)
		if err != nil && ctx.Err() == nil && e.lockOf(node).Closed() {
			e.relock(limited, node)
		}
		cancel()
		if e.pause(ctx, e.cfg.BeatEvery) != nil {
			return
		}
	}
}

func (e *Executor) relock(ctx context.Context, node string) {
	server, err := e.cfg.Dial(ctx, e.nodes[node], e.notice(node))
	if err != nil {
		if ctx.Err() == nil { // it says no; one that says nothing may be slow
			e.sever(node)
		}
		return // the next beat tries again
	}
	if err := e.lock(ctx, node, server, time.Now(), false); err != nil {
		_ = server.Close(context.WithoutCancel(ctx))
		return
	}
	e.mu.Lock()
	old := e.locks[node]
	e.locks[node] = server
	e.mu.Unlock()
	_ = old.Close(context.WithoutCancel(ctx))
}

// guard looks at one limit. What it says is told once.
func (e *Executor) guard(ctx context.Context, g Guard, end context.CancelCauseFunc) {
	told := map[string]bool{}
	every := g.Every
	if every == 0 {
		every = 2 * time.Second
	}
	for {
		var findings []Finding
		err := e.on(ctx, g.Node, func(ctx context.Context, server Server) error {
			var err error
			findings, err = g.Look(ctx, server)
			return err
		})
		for _, f := range findings {
			switch {
			case err != nil:
			case f.End:
				end(&GuardError{Node: g.Node, Text: f.Text, Undo: true})
				return
			case !told[f.About] || f.Again:
				told[f.About] = true
				ev := Event{Status: Noted, Node: g.Node, Message: f.Text}
				if !f.Note {
					ev.Type = "WARNING"
				}
				e.event(ev)
			}
		}
		if e.pause(ctx, every) != nil {
			return
		}
	}
}

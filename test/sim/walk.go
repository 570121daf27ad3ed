package sim

import (
	"slices"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// walk is an edge under way. Each step consists of parts, and between two
// parts anything can happen.
type walk struct {
	from, to fsm.State
	number   int64 // the goal's
	grant    pg.Timeline
	steps    []fsm.Step
	local    bool // the keeper's own decision
	i, part  int
	stale    bool // the goal is another one by now

	// What the current step has found out.
	began   time.Duration
	source  upstream
	list    fsm.List
	handed  bool // the list is for the promotion to put in force
	lsn     pg.LSN
	copy    *stream
	upGen   int
	scratch bool
}

// outcome is what one part of a step came to.
type outcome struct {
	kind outcomeKind
	in   time.Duration
}

type outcomeKind int

const (
	next   outcomeKind = iota // the next part, after a while
	done                      // the step is done
	again                     // the same part, after a while
	failed                    // the edge failed: from its beginning, at the next tick
	asked                     // an answer of the monitor will go on
)

// begin starts to walk an edge, or to establish a state again.
func (k *keeper) begin(wk *walk) {
	if old := k.walk; old != nil && old.copy != nil {
		old.copy.closeSender()
	}
	k.walk = wk
	if wk.from != wk.to {
		k.away = true
	}
	if k.w.tracing {
		k.w.logf("%s: node %d walks %s -> %s (#%d) %v", k.h, k.id, wk.from, wk.to, wk.number, wk.steps)
	}
	k.after(k.h.rng.delay(time.Millisecond), func() { k.advance(wk) })
}

// act compares where the node is with where it should be.
func (k *keeper) act() {
	if !k.alive || !k.known {
		return
	}
	if wk := k.walk; wk != nil {
		if !wk.local && (wk.to != k.goal || wk.number != k.number) {
			wk.stale = true
		}
		return
	}
	if k.current == k.goal {
		k.noEdgeSince = 0
		if k.fresh || k.away || k.reached != k.number {
			k.begin(&walk{from: k.current, to: k.current, number: k.number, grant: k.grant, steps: k.w.reenter(k.current)})
		}
		return
	}
	edge, ok := k.w.edge(k.current, k.goal)
	if !ok {
		if k.noEdgeSince == 0 {
			k.noEdgeSince = k.w.now
			if k.w.tracing {
				k.w.logf("%s: node %d has no edge %s -> %s", k.h, k.id, k.current, k.goal)
			}
		}
		return
	}
	k.noEdgeSince = 0
	k.begin(&walk{from: k.current, to: k.goal, number: k.number, grant: k.grant, steps: edge})
}

// advance performs the next part of a walk.
func (k *keeper) advance(wk *walk) {
	if k.walk != wk {
		return
	}
	if wk.stale {
		k.abandon(wk)
		return
	}
	if wk.i == len(wk.steps) {
		k.finish(wk)
		return
	}
	if wk.part == 0 && wk.began == 0 {
		wk.began = k.w.now
	}
	out := k.perform(wk, wk.steps[wk.i])
	if k.walk != wk {
		return
	}
	switch out.kind {
	case next:
		wk.part++
	case done:
		wk.i++
		wk.part, wk.began = 0, 0
		k.w.happened(onStep)
	case failed:
		if wk.copy != nil {
			wk.copy.closeSender()
		}
		wk.i, wk.part, wk.began, wk.copy = 0, 0, 0, nil
		out.in = k.h.rng.between(time.Second/2, time.Second)
	case asked:
		return
	case again:
	}
	k.after(out.in, func() { k.advance(wk) })
}

// abandon gives a walk up because the goal changed.
func (k *keeper) abandon(wk *walk) {
	if wk.copy != nil {
		wk.copy.closeSender()
	}
	if k.w.tracing {
		k.w.logf("%s: gives up %s -> %s", k.h, wk.from, wk.to)
	}
	k.walk = nil
	k.act()
}

// finish: the state file is written first, then the monitor is told.
func (k *keeper) finish(wk *walk) {
	k.walk = nil
	k.current = wk.to
	k.fresh, k.away = false, false
	if !wk.local {
		k.reached = wk.number
	}
	if k.w.tracing {
		k.w.logf("%s: node %d reached %s (#%d)", k.h, k.id, k.current, k.reached)
	}
	k.w.judge.reached(k, wk)
	k.w.happened(onStep)
	k.after(k.h.rng.delay(300*time.Microsecond), func() {
		k.report()
		k.act()
	})
}

// ask fetches something from the monitor and goes on with the next part.
func (k *keeper) ask(wk *walk, query func() (ok bool)) outcome {
	number, i, part := wk.number, wk.i, wk.part
	ok := false
	resume := func(o outcome) {
		if k.walk != wk || wk.i != i || wk.part != part {
			return
		}
		if wk.stale {
			k.abandon(wk)
			return
		}
		if o.kind == next {
			wk.part++
		} else {
			wk.i, wk.part, wk.began = 0, 0, 0
			o.in = time.Second
		}
		k.after(o.in, func() { k.advance(wk) })
	}
	k.call(func() func() {
		// The answer is of use only while the order that asks for it still stands.
		n := k.w.mon.node(k.id)
		ok = n != nil && (n.GoalNumber == number || number < 0 || k.w.rules.Broken == ListForAnybody) && query()
		return func() {
			if ok {
				resume(outcome{next, k.h.rng.delay(time.Millisecond)})
			} else {
				resume(outcome{kind: failed})
			}
		}
	}, func() { resume(outcome{kind: failed}) })
	return outcome{kind: asked}
}

// perform does the current part of a step.
func (k *keeper) perform(wk *walk, step fsm.Step) outcome {
	s := k.h.s
	quick := k.h.rng.delay(time.Millisecond)
	switch step {
	case fsm.StepInitDB:
		return k.stepInitDB()
	case fsm.StepConfigure, fsm.StepForgetInit, fsm.StepRelease:
		return outcome{done, quick}
	case fsm.StepBootstrap:
		s.append(4 * recordSize)
		return outcome{done, quick}
	case fsm.StepStart:
		return k.startIfWhole(wk)
	case fsm.StepPromote:
		return k.stepPromote(wk)
	case fsm.StepSetList:
		return k.stepSetList(wk)
	case fsm.StepEnforceList:
		return k.stepEnforceList()
	case fsm.StepWaitVoters:
		return k.stepWaitVoters(wk)
	case fsm.StepSlots, fsm.StepHBA:
		s.slots = k.mask
		return outcome{done, quick}
	case fsm.StepCheckpoint:
		if s.answers() && wk.part == 0 {
			s.checkpoint()
		}
		return outcome{done, k.h.rng.delay(10 * time.Millisecond)}
	case fsm.StepStop:
		return k.stepStop(wk)
	case fsm.StepStopNow:
		s.vanish()
		return outcome{done, quick}
	case fsm.StepBaseBackup:
		return k.stepBaseBackup(wk, false)
	case fsm.StepCloneStandby:
		return k.stepBaseBackup(wk, true)
	case fsm.StepRewindOrInit:
		return k.stepRewind(wk)
	case fsm.StepFollow:
		return k.stepFollow(wk)
	case fsm.StepCheckTimeline:
		return k.stepCheckTimeline(wk)
	case fsm.StepCheckConnection:
		if s.answers() && s.recovery && s.conn != nil {
			return outcome{done, quick}
		}
		return k.soon(wk, 5*time.Second)
	case fsm.StepEndReceiver:
		return k.stepEndReceiver(wk)
	case fsm.StepStandbyAlone:
		return k.stepStandbyAlone(wk)
	case fsm.StepDropOwnSlots:
		s.slots = 0
		return outcome{done, quick}
	case fsm.StepFetchWAL:
		return k.stepFetchWAL(wk)
	case fsm.StepCloseGate:
		return k.stepGate(wk, true)
	case fsm.StepOpenGate:
		return k.stepGate(wk, false)
	case fsm.StepStandbyFiles:
		s.standby(nowhere)
		s.guard()
		return outcome{done, quick}
	case fsm.StepSeal:
		return k.stepSeal(wk)
	case fsm.StepUnseal:
		return k.stepUnseal()
	default:
		return k.coordinate(wk, step)
	}
}

// soon polls, and gives the edge up after a limit.
func (k *keeper) soon(wk *walk, limit time.Duration) outcome {
	if k.w.now-wk.began > limit {
		return outcome{kind: failed}
	}
	return outcome{again, 50 * time.Millisecond}
}

// coordinate keeps the model coordinator of a sharded formation in step.
func (k *keeper) coordinate(wk *walk, step fsm.Step) outcome {
	c := &k.w.mon.coordinator
	if c.down {
		return outcome{kind: failed}
	}
	if wk.part == 0 {
		return outcome{next, k.h.rng.delay(2 * time.Millisecond)}
	}
	switch step {
	case fsm.StepCoordinatorAdd:
		if c.owner == 0 || wk.to == fsm.Single {
			c.owner = k.id
		}
	case fsm.StepCoordinatorPrepare:
		c.prepared = k.id
	case fsm.StepCoordinatorCommit:
		c.owner, c.prepared = k.id, 0
	case fsm.StepCoordinatorRepair:
		c.owner, c.prepared = k.id, 0
	case fsm.StepCoordinatorRemove:
		if c.prepared == k.id {
			c.prepared = 0
		}
	default:
		k.w.fail("model", "step %d is not known to the simulator", int(step))
	}
	return outcome{done, time.Millisecond}
}

// edge returns the steps from one state to another.
func (w *World) edge(from, to fsm.State) ([]fsm.Step, bool) {
	e := &w.table().next[from][to]
	return e.steps, e.ok
}

// reenter returns the steps that establish a state again.
func (w *World) reenter(s fsm.State) []fsm.Step { return w.table().reenter[s] }

func (w *World) table() *edgeTable {
	if w.cfg.Worker {
		return w.rules.worker
	}
	return w.rules.plain
}

// edgeTable is fsm.Next and fsm.Reenter, looked up once.
type edgeTable struct {
	next [fsm.Dropped + 1][fsm.Dropped + 1]struct {
		steps []fsm.Step
		ok    bool
	}
	reenter [fsm.Dropped + 1][]fsm.Step
}

func newEdgeTable(kind fsm.NodeKind) *edgeTable {
	t := new(edgeTable)
	for _, from := range fsm.States() {
		t.reenter[from] = fsm.Reenter(from)
		for _, to := range fsm.States() {
			if e, ok := fsm.Next(kind, from, to); ok {
				t.next[from][to].steps, t.next[from][to].ok = slices.Clip(e.Steps), true
			}
		}
	}
	return t
}

package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// Times of single steps.
const (
	checkpointPatience = 15 * time.Second
	stopPatience       = 10 * time.Second
	stopPoll           = 20 * time.Millisecond
	slotPoll           = 100 * time.Millisecond
	streamPatience     = 10 * time.Second
	checkedFor         = 5 * time.Second
	justNow            = 500 * time.Millisecond
	peersWhileWaiting  = 2 * time.Second
)

// perform does one step.
func (n *node) perform(ctx context.Context, s fsm.Step, t task) error {
	if err := n.step(ctx, s, t); err != nil {
		return fmt.Errorf("%s: %w", s, err)
	}
	return nil
}

func (n *node) step(ctx context.Context, s fsm.Step, t task) error {
	switch s {
	case fsm.StepInitDB:
		return n.initDB(ctx)
	case fsm.StepConfigure:
		return n.configure(ctx)
	case fsm.StepStart:
		return n.startAs(ctx, t.From, t.To)
	case fsm.StepBootstrap:
		return n.bootstrap(ctx)
	case fsm.StepPromote:
		return n.promote(ctx, t)
	case fsm.StepSetList:
		return n.setList(ctx, t)
	case fsm.StepEnforceList:
		return n.enforceList(ctx)
	case fsm.StepWaitVoters:
		return n.waitVoters(ctx)
	case fsm.StepSlots:
		return n.slots(ctx)
	case fsm.StepHBA:
		return n.peerRules(ctx)
	case fsm.StepCheckpoint:
		n.checkpoint(ctx)
		return nil
	case fsm.StepStop:
		if t.From == t.To && standbyRole(t.From) {
			n.distrust(ctx)
		}
		return n.stop(ctx)
	case fsm.StepStopNow:
		return n.stopNow(ctx)
	case fsm.StepSeal:
		return n.seal(ctx)
	case fsm.StepUnseal:
		return n.unseal(ctx)
	case fsm.StepBaseBackup:
		return n.clonePrimary(ctx)
	case fsm.StepCloneStandby:
		return n.cloneStandby(ctx)
	case fsm.StepRewindOrInit:
		return n.rewindOrInit(ctx)
	case fsm.StepFollow:
		return n.follow(ctx)
	case fsm.StepCheckTimeline:
		return n.checkTimeline(ctx)
	case fsm.StepCheckConnection:
		return n.checkConnection(ctx)
	case fsm.StepEndReceiver:
		return n.endReceiver(ctx)
	case fsm.StepStandbyAlone:
		return n.standbyAlone(ctx)
	case fsm.StepDropOwnSlots:
		return n.dropSlots(ctx)
	case fsm.StepFetchWAL:
		return n.fetchWAL(ctx)
	case fsm.StepCloseGate:
		return n.closeGate(ctx)
	case fsm.StepOpenGate:
		return n.openGate(ctx)
	case fsm.StepRelease:
		return nil // one process: nobody else enforces an order that would have to be withdrawn
	case fsm.StepStandbyFiles:
		return n.writeAlone(ctx)
	case fsm.StepForgetInit:
		return removeFile(n.paths.InitFile)
	case fsm.StepCoordinatorAdd, fsm.StepCoordinatorPrepare, fsm.StepCoordinatorCommit,
		fsm.StepCoordinatorRepair, fsm.StepCoordinatorRemove:
		return n.coordinate(ctx, s, t)
	}
	return fmt.Errorf("perform step %d: unknown", int(s))
}

// standbyRole reports whether a server in this state must be a standby.
func standbyRole(s fsm.State) bool {
	return s.In(fsm.Secondary, fsm.CatchingUp, fsm.ReportLSN, fsm.JoinSecondary, fsm.FastForward,
		fsm.WaitMaintenance, fsm.WaitStandby)
}

// distrust marks a standby that takes writes: somebody started it as what it
// is not. What it wrote stands on the timeline that its upstream writes as
// well, so that no comparison finds it and no rewind takes it back.
func (n *node) distrust(ctx context.Context) {
	err := n.instance().With(ctx, func(s *postgres.Session) error {
		o, err := s.Observe(ctx)
		if err != nil || o.InRecovery {
			return err
		}
		n.log.WarnContext(ctx, "this standby was started as a primary behind the service's back, it will be copied again")
		return n.instance().RequireCopy()
	})
	if err != nil {
		n.log.WarnContext(ctx, "could not look at a server that must not run as it does", "error", err)
	}
}

// startAs has the server running in a role. A data directory that would start
// as a primary where a standby belongs is made a standby first; where it has
// been one all along, somebody has run it as what it is not, and it is copied again.
func (n *node) startAs(ctx context.Context, from, role fsm.State) error {
	inst := n.instance()
	if !standbyRole(role) {
		return n.start(ctx)
	}
	if inst.IsStandby() && !inst.RewindInterrupted() {
		err := n.startStandby(ctx)
		if errors.Is(err, errHopeless) && role.In(fsm.Secondary, fsm.CatchingUp) {
			n.log.WarnContext(ctx, "this standby does not come up", "error", err)
			return n.rewindOrInit(ctx)
		}
		return err
	}
	pm, err := n.server()
	if err != nil {
		return err
	}
	if pm != nil {
		// It runs and is none: whatever it wrote, it is not ours to keep.
		if err := n.stop(ctx); err != nil {
			return err
		}
	}
	if standbyRole(from) && from != fsm.WaitStandby && inst.Exists() && !inst.IsStandby() {
		control, err := n.readControl(ctx)
		if err != nil {
			return err
		}
		if control.RanAsPrimary() {
			if err := inst.RequireCopy(); err != nil {
				return err
			}
		}
	}
	if role.In(fsm.Secondary, fsm.CatchingUp) {
		return n.rewindOrInit(ctx)
	}
	return n.standbyAlone(ctx)
}

// initDB creates the data directory when there is none and tells the monitor
// its system identifier.
func (n *node) initDB(ctx context.Context) error {
	inst := n.instance()
	if err := inst.InitDB(ctx, postgres.InitDBConfig{}); err != nil {
		return err
	}
	return n.publishSystem(ctx)
}

func (n *node) publishSystem(ctx context.Context) error {
	control, err := n.readControl(ctx)
	if err != nil {
		return err
	}
	return n.ask(ctx, func(ctx context.Context, s monitorSession) error {
		return s.SetSystemIdentifier(ctx, control.SystemID)
	})
}

// publish tells the monitor the server's timelines and version.
func (n *node) publish(ctx context.Context) error {
	history, err := n.runningHistory(ctx)
	if err != nil {
		return err
	}
	var version postgres.Version
	err = n.instance().With(ctx, func(s *postgres.Session) error {
		var err error
		version, err = s.ServerVersion(ctx)
		return err
	})
	if err != nil {
		return err
	}
	return n.ask(ctx, func(ctx context.Context, s monitorSession) error {
		if err := s.PublishHistory(ctx, history); err != nil {
			return err
		}
		return s.PublishVersion(ctx, version.Number, version.Text, version.Full)
	})
}

// publishHistory is evidence: a rewind erases what it tells.
func (n *node) publishHistory(ctx context.Context) {
	history, err := n.instance().History(ctx)
	if err == nil {
		err = n.ask(ctx, func(ctx context.Context, s monitorSession) error { return s.PublishHistory(ctx, history) })
	}
	if err != nil {
		n.log.WarnContext(ctx, "could not publish the timeline history before the rewind", "error", err)
	}
}

// promote has the server out of recovery, and the monitor knowing the line of
// its new timeline before it hears of the new state: a line that nobody told
// looks like a fork. The checkpoint goes on by itself: clients need not wait
// for it, and whoever rewinds from this server asks for one.
func (n *node) promote(ctx context.Context, t task) error {
	pm, err := n.server()
	if err != nil {
		return err
	}
	if pm == nil {
		if err := n.start(ctx); err != nil {
			return err
		}
		if pm, err = n.server(); err != nil || pm == nil {
			return errors.Join(err, postgres.ErrNotRunning)
		}
	}
	if err := n.leaveOut(ctx, t); err != nil {
		return err
	}
	if names := n.diskNames(); !names.Empty() && !n.isArmed() {
		if err := n.inForce(ctx, pm, names); err != nil {
			return err
		}
	}
	history, err := n.instance().PromoteWhile(ctx, func(s *postgres.Session) error {
		if t.List == nil || !t.List.due {
			return nil
		}
		return n.applyList(ctx, s, t.List.names)
	})
	if err != nil {
		return err
	}
	return n.ask(ctx, func(ctx context.Context, s monitorSession) error { return s.PublishHistory(ctx, history) })
}

// leaveOut has the promotion begin the timeline that the monitor gave this node.
// PostgreSQL counts from what it has seen itself, and would take a number that
// another node's line has: one that promoted at the same place and was
// given up, say. Nothing tells such lines apart afterwards.
func (n *node) leaveOut(ctx context.Context, t task) error {
	if t.Timeline == 0 {
		return nil
	}
	if t.Current == 0 {
		var err error
		if t.Current, err = n.runningTimeline(ctx); err != nil {
			return err
		}
	}
	wrote, err := n.instance().SkipTimelines(ctx, t.Current, t.Timeline)
	if wrote > 0 {
		n.mu.Lock()
		n.leftOut = true
		n.mu.Unlock()
		n.log.InfoContext(ctx, "leaving out timelines that others may have used", "tli", t.Timeline, "left_out", wrote)
	}
	return err
}

// runningHistory is the line of the running server's timeline.
func (n *node) runningHistory(ctx context.Context) (pg.History, error) {
	tli, err := n.runningTimeline(ctx)
	if err != nil {
		return nil, err
	}
	return n.instance().HistoryOf(tli)
}

func (n *node) runningTimeline(ctx context.Context) (tli pg.Timeline, err error) {
	err = n.instance().With(ctx, func(s *postgres.Session) error {
		o, err := s.Observe(ctx)
		tli = o.TLI
		return err
	})
	return tli, err
}

// query asks the monitor for something. What is asked may go on after ctx has
// ended, so its answer must not land in the asker's own variables.
func query[T any](ctx context.Context, n *node, do func(ctx context.Context, s monitorSession) (T, error)) (T, error) {
	answer := make(chan T, 1)
	err := n.ask(ctx, func(ctx context.Context, s monitorSession) error {
		a, err := do(ctx, s)
		answer <- a
		return err
	})
	if err != nil {
		var none T
		return none, err
	}
	return <-answer, nil
}

// peers asks for the other nodes.
func (n *node) peers(ctx context.Context) ([]peer, error) {
	return query(ctx, n, func(ctx context.Context, s monitorSession) ([]peer, error) { return s.OtherNodes(ctx) })
}

// slots has one slot for every other node.
func (n *node) slots(ctx context.Context) error {
	list, err := n.peers(ctx)
	if err != nil {
		return err
	}
	return n.instance().With(ctx, func(s *postgres.Session) error {
		var recovery bool
		if err := s.Conn().QueryRow(ctx, `SELECT pg_is_in_recovery()`).Scan(&recovery); err != nil {
			return err
		}
		var want []postgres.SlotWant
		for _, p := range list {
			w := postgres.SlotWant{ID: p.ID}
			if recovery {
				w.Advance = p.LSN
			}
			want = append(want, w)
		}
		if err := s.EnsureSlots(ctx, want); err != nil || recovery {
			return err
		}
		refused, err := n.archiver.Tend(ctx, n.instance(), s)
		for _, name := range refused {
			n.log.WarnContext(ctx, "the archive refuses the history file of a timeline whose number was left out; it may hold another node's of that number", "file", name)
		}
		return err
	})
}

func (n *node) dropSlots(ctx context.Context) error {
	return n.instance().With(ctx, func(s *postgres.Session) error { return s.DropSlots(ctx) })
}

// checkpoint asks for one; a server that does not answer in time is left alone.
func (n *node) checkpoint(ctx context.Context) {
	pm, err := n.server()
	if err != nil || pm == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, checkpointPatience)
	defer cancel()
	err = n.instance().With(ctx, func(s *postgres.Session) error { return s.Checkpoint(ctx) })
	if err != nil {
		n.log.WarnContext(ctx, "no checkpoint before the stop", "error", err)
	}
}

// stop ends the server by a fast shutdown. That waits for every standby to
// confirm the shutdown checkpoint, also for one that will never answer: as
// soon as the node that takes over has the record, or the time is up, the rest
// is ended at once.
func (n *node) stop(ctx context.Context) error {
	pm, err := n.server()
	if err != nil {
		return err
	}
	if pm == nil {
		return n.instance().EndOrphans(ctx)
	}
	if err := signal(pm, postgres.StopFast); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- pm.Wait(ctx) }()
	limit := time.NewTimer(stopPatience)
	defer limit.Stop()
	tick := time.NewTicker(stopPoll)
	defer tick.Stop()
	var record pg.LSN
	for rounds := 0; ; rounds++ {
		var reason string
		select {
		case err := <-done:
			return err
		case <-limit.C:
			reason = "the shutdown takes too long"
		case <-tick.C:
			// Most stops are over before it is worth looking.
			if rounds < 5 || !n.delivered(ctx, &record) {
				continue
			}
			reason = "the next primary has everything"
		}
		n.log.InfoContext(ctx, "ending PostgreSQL immediately", "reason", reason)
		if err := signal(pm, postgres.StopImmediate); err != nil {
			return err
		}
		return <-done
	}
}

// delivered reports whether the shutdown checkpoint is written and has reached
// the node that is about to take over.
func (n *node) delivered(ctx context.Context, record *pg.LSN) bool {
	if *record == 0 {
		at, clean, err := n.instance().ShutdownLocation(ctx)
		if err != nil || !clean {
			return false
		}
		*record = at
	}
	next, err := query(ctx, n, func(ctx context.Context, s monitorSession) (peer, error) {
		next, _, err := s.Candidate(ctx)
		return next, err
	})
	return err == nil && next.LSN > *record
}

// stopNow ends the server by an immediate shutdown.
func (n *node) stopNow(ctx context.Context) error {
	pm, err := n.server()
	if err != nil {
		return err
	}
	if pm == nil {
		return n.instance().EndOrphans(ctx)
	}
	if err := signal(pm, postgres.StopImmediate); err != nil {
		return err
	}
	return pm.Wait(ctx)
}

// openGate lets clients in. Nothing is to be done where this process has seen to
// it since the server started, and has not closed it since.
func (n *node) openGate(ctx context.Context) error {
	inst := n.instance()
	pm, err := n.server()
	if err != nil {
		return err
	}
	n.mu.Lock()
	known := pm != nil && n.gateOpen == pm.PID()
	n.mu.Unlock()
	if closed, err := inst.GateClosed(); err == nil && !closed && known {
		return nil
	}
	if err := inst.OpenGate(ctx); err != nil || pm == nil {
		return err
	}
	n.mu.Lock()
	n.gateOpen = pm.PID()
	n.mu.Unlock()
	return nil
}

func (n *node) closeGate(ctx context.Context) error {
	n.mu.Lock()
	n.gateOpen = 0
	n.mu.Unlock()
	return n.instance().CloseGate(ctx)
}

// seal makes the stopped server harmless for the case that somebody else starts it.
func (n *node) seal(ctx context.Context) error {
	pm, err := n.server()
	if err != nil {
		return err
	}
	if pm != nil {
		if err := n.stop(ctx); err != nil {
			return err
		}
	}
	if err := n.instance().Seal(guardList()); err != nil {
		// A full disk must not keep the group from hearing that the server is down.
		n.log.WarnContext(ctx, "whoever starts this server now gets a primary", "error", err)
	}
	return nil
}

// unseal lets a sealed server open again. One that somebody started meanwhile
// runs as a standby and is stopped for that.
func (n *node) unseal(ctx context.Context) error {
	inst := n.instance()
	if !inst.Sealed() {
		return nil
	}
	pm, err := n.server()
	if err != nil {
		return err
	}
	if pm != nil {
		if recovery, err := n.inRecovery(ctx); err != nil || recovery {
			if err := n.stop(ctx); err != nil {
				return err
			}
		}
	}
	return inst.Unseal()
}

// signal begins a shutdown. A server whose end the observer has seen meanwhile
// takes no signal any more.
func signal(pm *postgres.Postmaster, mode postgres.StopMode) error {
	err := pm.Signal(mode)
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// peerRules has the HBA rules of all other nodes in place.
func (n *node) peerRules(ctx context.Context) error {
	list, err := n.peers(ctx)
	if err != nil {
		return err
	}
	file := n.config()
	var rules []pg.HBARule
	for _, p := range list {
		if !pg.PlainHost(p.Host) { // every node believes what one of them has told the monitor
			n.log.WarnContext(ctx, "no access rules for a node whose host is no host", "peer", p.Name, "host", p.Host)
			continue
		}
		rules = append(rules, postgres.PeerRules(file.SSL.Active, file.DBName, n.address(ctx, p.Host), file.AuthMethod)...)
	}
	return n.ensureHBA(ctx, rules)
}

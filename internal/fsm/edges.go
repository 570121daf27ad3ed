package fsm

import "slices"

// The sets of states that edges start from.
var (
	openStates    = []State{Single, Primary, WaitPrimary, JoinPrimary, ApplySettings}
	downStates    = []State{Draining, DemoteTimeout, Demoted}
	standbyStates = []State{
		Secondary, CatchingUp, ReportLSN, FastForward, JoinSecondary, PreparePromotion, WaitMaintenance,
	}
)

// edgeRow is one row of the keeper's table: every state of from leads to
// every state of to by the same steps. The first row that matches wins.
type edgeRow struct {
	from, to []State
	steps    []Step
}

// steps shared by rows.
var (
	sealedStop  = []Step{StepStop, StepSeal}
	cleanStop   = []Step{StepCheckpoint, StepStop, StepSeal}
	openAgain   = []Step{StepSetList, StepUnseal, StepStart, StepEnforceList, StepOpenGate, StepSlots}
	promoteOpen = []Step{StepSetList, StepPromote, StepOpenGate, StepHBA, StepSlots}
	aloneVote   = []Step{StepStop, StepStandbyAlone, StepOpenGate, StepDropOwnSlots}
	// The timeline is checked before a new upstream is followed, and again after:
	// the receiver may have had more from the old one in between. The gate comes
	// last: commits on a new primary may be waiting for this node to follow it.
	point  = []Step{StepCheckTimeline, StepFollow, StepCheckTimeline, StepOpenGate}
	follow = []Step{StepCheckTimeline, StepFollow, StepCheckTimeline, StepCheckConnection, StepOpenGate}
	rejoin = []Step{StepStop, StepRewindOrInit, StepOpenGate, StepHBA}
)

// edgeTable returns the keeper's table. It is a function so that nobody can
// change it; From and to are never equal in a match.
func edgeTable() []edgeRow {
	down, open, standby := downStates, openStates, standbyStates
	return []edgeRow{
		// Creation.
		{from: []State{Init, Dropped}, to: []State{Single}, steps: []Step{
			StepInitDB, StepConfigure, StepSetList, StepStart, StepPromote, StepBootstrap, StepSlots, StepForgetInit,
		}},
		{from: []State{Init, Dropped, Secondary, ReportLSN}, to: []State{WaitStandby}},
		{from: []State{Init, Dropped, WaitStandby}, to: []State{ReportLSN}, steps: []Step{
			StepCloneStandby, StepConfigure, StepHBA, StepForgetInit,
		}},
		{from: []State{WaitStandby}, to: []State{CatchingUp}, steps: []Step{
			StepBaseBackup, StepConfigure, StepHBA, StepForgetInit,
		}},

		// A primary at work.
		{from: []State{Single}, to: []State{WaitPrimary}, steps: []Step{StepUnseal, StepStart, StepSetList, StepHBA, StepSlots}},
		{from: []State{Primary, WaitPrimary, ApplySettings}, to: []State{JoinPrimary}, steps: []Step{StepUnseal, StepStart}},
		{from: []State{Primary, WaitPrimary, Single, JoinPrimary}, to: []State{ApplySettings}, steps: []Step{StepUnseal, StepStart}},
		{from: []State{Primary, JoinPrimary, ApplySettings}, to: []State{WaitPrimary}, steps: []Step{StepUnseal, StepStart, StepSetList}},
		{from: []State{WaitPrimary, JoinPrimary, ApplySettings, Single}, to: []State{Primary}, steps: []Step{
			StepUnseal, StepStart, StepSetList, StepWaitVoters,
		}},
		{from: open, to: []State{Single}, steps: []Step{StepUnseal, StepStart, StepSetList, StepSlots}},

		// A primary on its way out, and back when no failover happened.
		{from: open, to: []State{Draining}, steps: cleanStop},
		{from: open, to: []State{DemoteTimeout, Demoted}, steps: sealedStop},
		{from: down, to: down, steps: sealedStop},
		{from: down, to: []State{Primary}, steps: []Step{StepSetList, StepUnseal, StepStart, StepEnforceList, StepOpenGate, StepSlots, StepWaitVoters}},
		{from: down, to: []State{Single, WaitPrimary, ApplySettings, JoinPrimary}, steps: openAgain},
		{from: open, to: []State{PrepareMaintenance}, steps: []Step{StepCheckpoint, StepCheckpoint, StepStop, StepSeal}},
		{from: open, to: []State{Maintenance}, steps: []Step{
			StepCheckpoint, StepCheckpoint, StepStop, StepStandbyFiles, StepRelease,
		}},
		{from: open, to: []State{CatchingUp}, steps: rejoin},

		// Maintenance.
		{from: []State{PrepareMaintenance}, to: []State{Maintenance}, steps: []Step{
			StepStop, StepStandbyFiles, StepRelease,
		}},
		{from: []State{PrepareMaintenance, Maintenance}, to: []State{Single, WaitPrimary}, steps: promoteOpen},
		{from: down, to: []State{PrepareMaintenance}, steps: sealedStop},
		{from: down, to: []State{Maintenance}, steps: []Step{StepStop, StepStandbyFiles, StepRelease}},
		{from: []State{Secondary, CatchingUp}, to: []State{WaitMaintenance}},
		{from: standby, to: []State{Maintenance}, steps: []Step{StepRelease}},
		{from: []State{WaitMaintenance}, to: []State{Secondary}, steps: follow},

		// An election.
		{
			from: []State{Secondary, CatchingUp, FastForward, PreparePromotion, JoinSecondary, WaitMaintenance},
			to:   []State{ReportLSN}, steps: []Step{StepStart, StepEndReceiver},
		},
		{
			from: []State{Draining, DemoteTimeout, Demoted, PrepareMaintenance, Maintenance, StopReplication},
			to:   []State{ReportLSN}, steps: aloneVote,
		},
		{from: open, to: []State{ReportLSN}, steps: append([]Step{StepCheckpoint}, aloneVote...)},
		{from: []State{ReportLSN}, to: []State{FastForward}, steps: []Step{StepFetchWAL, StepCheckpoint}},
		{from: []State{FastForward}, to: []State{PreparePromotion}},
		{from: []State{Secondary, CatchingUp, ReportLSN}, to: []State{PreparePromotion}},
		{
			from: []State{ReportLSN, PreparePromotion, FastForward, Secondary, CatchingUp}, to: []State{JoinSecondary},
			steps: []Step{StepStart, StepEndReceiver},
		},
		{from: []State{PreparePromotion}, to: []State{StopReplication}, steps: []Step{StepCloseGate, StepPromote}},
		{from: []State{StopReplication}, to: []State{WaitPrimary}, steps: []Step{
			StepStart, StepSetList, StepEnforceList, StepOpenGate, StepHBA, StepSlots,
		}},
		{from: []State{PreparePromotion}, to: []State{WaitPrimary}, steps: promoteOpen},
		{from: []State{StopReplication}, to: []State{Single}, steps: []Step{StepStart, StepSetList, StepEnforceList, StepOpenGate, StepSlots}},
		{from: standby, to: []State{Single}, steps: promoteOpen},

		// A standby at work.
		{from: []State{CatchingUp}, to: []State{Secondary}, steps: []Step{
			StepStart, StepCheckTimeline, StepFollow, StepCheckTimeline, StepCheckConnection, StepOpenGate, StepSlots,
		}},
		{from: []State{ReportLSN, JoinSecondary, FastForward, PreparePromotion}, to: []State{Secondary}, steps: follow},
		{
			from: []State{Secondary, ReportLSN, JoinSecondary, FastForward, PreparePromotion, WaitMaintenance},
			to:   []State{CatchingUp}, steps: point,
		},
		{
			from: []State{Maintenance, PrepareMaintenance, StopReplication, Draining, DemoteTimeout, Demoted},
			to:   []State{CatchingUp}, steps: rejoin,
		},

		// Leaving.
		{from: standby, to: []State{Demoted, DemoteTimeout, Draining}, steps: sealedStop},
		{
			from: []State{Init, StopReplication, Maintenance, PrepareMaintenance, WaitStandby},
			to:   []State{Demoted, DemoteTimeout, Draining}, steps: sealedStop,
		},
		// A primary that is taken out of a group which goes on without it must not
		// come back beside its successor, nor must one that was about to open;
		// the last node's data stays as it is.
		{
			from: []State{Primary, WaitPrimary, JoinPrimary, ApplySettings, PreparePromotion, StopReplication},
			to:   []State{Dropped}, steps: []Step{StepStop, StepSeal, StepForgetInit},
		},
		{from: States(), to: []State{Dropped}, steps: []Step{StepStop, StepForgetInit}},
	}
}

// Next returns the edge from the state that a keeper has reached to the one it
// is assigned. ok is false when there is none: the keeper stays where it is.
func Next(kind NodeKind, from, to State) (edge Edge, ok bool) {
	if from == to {
		return Edge{}, false
	}
	for _, row := range edgeTable() {
		if slices.Contains(row.from, from) && slices.Contains(row.to, to) {
			return Edge{From: from, To: to, Steps: citusSteps(kind, from, to, slices.Clone(row.steps))}, true
		}
	}
	return Edge{}, false
}

// citusSteps adds what a member of a Citus formation does besides: a worker's
// promotion is prepared on the coordinator before writes can move, committed
// once the new primary is writable, and repaired when the old one stays.
func citusSteps(kind NodeKind, from, to State, steps []Step) []Step {
	if kind == Standalone {
		return steps
	}
	switch {
	case to == Dropped:
		return append(steps, StepCoordinatorRemove)
	case to == Single && from.In(Init, Dropped):
		if kind == Coordinator && from == Dropped {
			return steps
		}
		return append(steps, StepCoordinatorAdd)
	case to == Secondary && from == CatchingUp:
		return append(steps, StepCoordinatorAdd)
	}
	if kind == Coordinator {
		if to == WaitPrimary && from.In(StopReplication, PreparePromotion) ||
			to == Single && from.In(Secondary, CatchingUp, PreparePromotion, StopReplication) {
			return append(steps, StepCoordinatorRepair)
		}
		return steps
	}
	switch {
	case to == PreparePromotion:
		return append(steps, StepCoordinatorPrepare)
	case to == WaitPrimary && from.In(StopReplication, PreparePromotion):
		return append(steps, StepCoordinatorCommit)
	case to == Single && slices.Contains(downStates, from):
		return append(steps, StepCoordinatorRepair)
	case to == Single && from != ReportLSN && !from.Writable():
		return append([]Step{StepCoordinatorPrepare}, append(steps, StepCoordinatorCommit)...)
	}
	return steps
}

// Reenter returns the steps that establish a state again after an edge away
// from it was begun and given up because the goal went back to that state.
func Reenter(s State) []Step {
	switch s {
	case Single, WaitPrimary:
		return []Step{StepUnseal, StepStart, StepSetList, StepEnforceList, StepOpenGate, StepSlots}
	case Primary:
		return []Step{StepUnseal, StepStart, StepSetList, StepEnforceList, StepOpenGate, StepSlots, StepWaitVoters}
	case JoinPrimary, ApplySettings:
		return []Step{StepUnseal, StepStart}
	case Draining, DemoteTimeout, Demoted, PrepareMaintenance:
		return sealedStop
	case ReportLSN, JoinSecondary:
		return []Step{StepStart, StepEndReceiver}
	case Secondary:
		return follow
	case CatchingUp:
		return point
	case StopReplication:
		return []Step{StepCloseGate, StepPromote}
	case Maintenance:
		return []Step{StepRelease}
	case Unknown, Init, WaitStandby, WaitMaintenance, FastForward, PreparePromotion, Dropped:
		return nil
	}
	return nil
}

// DutyOf returns what a keeper enforces while its node rests in s.
func DutyOf(s State) Duty {
	switch s {
	case Single, Primary, WaitPrimary, JoinPrimary, ApplySettings:
		return Duty{Postgres: PowerRunning, Slots: true}
	case PreparePromotion, StopReplication, CatchingUp, FastForward, JoinSecondary, WaitMaintenance:
		return Duty{Postgres: PowerRunning}
	case Secondary, ReportLSN:
		return Duty{Postgres: PowerRunning, Slots: true, Advance: true}
	case Draining, DemoteTimeout, Demoted, PrepareMaintenance:
		return Duty{Postgres: PowerStopped}
	case Unknown, Init, WaitStandby, Maintenance, Dropped:
		return Duty{Postgres: PowerUntouched}
	}
	return Duty{}
}

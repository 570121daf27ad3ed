package fsm

import (
	"fmt"
	"slices"
)

// State is a node's state: reported by its keeper, or assigned as its goal.
// The order and the names are those of the SQL enum
// pgautofailover.replication_state; new states are appended only.
type State int

// The states of a node.
const (
	Unknown State = iota
	Init
	Single
	WaitPrimary
	Primary
	Draining
	DemoteTimeout
	Demoted
	CatchingUp
	Secondary
	PreparePromotion
	StopReplication
	WaitStandby
	Maintenance
	JoinPrimary
	ApplySettings
	PrepareMaintenance
	WaitMaintenance
	ReportLSN
	FastForward
	JoinSecondary
	Dropped
)

var stateNames = [...]string{
	Unknown: "unknown", Init: "init", Single: "single", WaitPrimary: "wait_primary",
	Primary: "primary", Draining: "draining", DemoteTimeout: "demote_timeout",
	Demoted: "demoted", CatchingUp: "catchingup", Secondary: "secondary",
	PreparePromotion: "prepare_promotion", StopReplication: "stop_replication",
	WaitStandby: "wait_standby", Maintenance: "maintenance", JoinPrimary: "join_primary",
	ApplySettings: "apply_settings", PrepareMaintenance: "prepare_maintenance",
	WaitMaintenance: "wait_maintenance", ReportLSN: "report_lsn",
	FastForward: "fast_forward", JoinSecondary: "join_secondary", Dropped: "dropped",
}

// States lists every state in enum order.
func States() []State {
	all := make([]State, len(stateNames))
	for i := range all {
		all[i] = State(i)
	}
	return all
}

// String returns the state's name as SQL spells it.
func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return fmt.Sprintf("State(%d)", int(s))
	}
	return stateNames[s]
}

// ParseState reads a state's SQL name.
func ParseState(name string) (State, error) {
	for i, n := range stateNames {
		if n == name {
			return State(i), nil
		}
	}
	return Unknown, fmt.Errorf("parse state %q: no such state", name)
}

// MarshalText writes the SQL name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the SQL name.
func (s *State) UnmarshalText(text []byte) error {
	parsed, err := ParseState(string(text))
	if err != nil {
		return err
	}
	*s = parsed
	return nil
}

// In reports whether s is one of set.
func (s State) In(set ...State) bool {
	return slices.Contains(set, s)
}

// Writable reports whether a node in this state takes ordinary writes.
func (s State) Writable() bool {
	return s.In(Single, Primary, WaitPrimary, JoinPrimary, ApplySettings)
}

// BelongsToPrimary reports whether this state is a primary's, or one that only
// a node on its way out of the primary role can be in.
func (s State) BelongsToPrimary() bool {
	return s.Writable() || s.In(Draining, DemoteTimeout, PrepareMaintenance)
}

// Stopped reports whether a node that reports this state has said that its
// PostgreSQL, postmaster and children, is down or can no longer take writes.
func (s State) Stopped() bool {
	return s.In(Draining, DemoteTimeout, Demoted, PrepareMaintenance, Maintenance, Dropped, ReportLSN,
		CatchingUp, Secondary, JoinSecondary, WaitStandby, WaitMaintenance, FastForward, Init)
}

// MaintenanceGoal reports whether this goal belongs to maintenance.
func (s State) MaintenanceGoal() bool {
	return s.In(PrepareMaintenance, WaitMaintenance, Maintenance)
}

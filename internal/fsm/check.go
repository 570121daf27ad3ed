package fsm

import (
	"fmt"
	"time"
)

// SQLSTATEs of refusals, as the SQL interface raises them.
const (
	codeInternal       = "XX000"
	codeNotInState     = "55000"
	codeInUse          = "55006"
	codeUndefined      = "42704"
	severityError      = "ERROR"
	severityNotice     = "NOTICE"
	severityWarning    = "WARNING"
	hintStableFailover = "a stable state must be observed to perform a manual failover"
)

// Refusal is a request that is refused, in the words of the SQL interface.
type Refusal struct {
	Severity string // "ERROR", or "WARNING" and "NOTICE" when the call goes on or returns false
	Code     string // SQLSTATE
	Message  string
	Detail   string
	Hint     string
}

func refuse(code, format string, args ...any) *Refusal {
	return &Refusal{Severity: severityError, Code: code, Message: fmt.Sprintf(format, args...)}
}

func (r *Refusal) detail(format string, args ...any) *Refusal {
	r.Detail = fmt.Sprintf(format, args...)
	return r
}

// CheckIntent returns why a request is refused, or nil. The SQL functions make
// the same checks when they store a request; Decide makes them again when it
// takes it up.
func CheckIntent(g Group, i Intent, now time.Time) *Refusal {
	t := newTurn(g, now)
	switch i.Kind {
	case IntentFailover:
		return t.checkFailover(i)
	case IntentPromotion:
		return t.checkPromotion(i)
	case IntentStartMaintenance:
		return t.checkStartMaintenance(i)
	case IntentStopMaintenance:
		return t.checkStopMaintenance(i)
	case IntentRemove, IntentRemoved, IntentRegistered, IntentSettings:
		return nil
	}
	return nil
}

func (t *turn) noPrimary() *Refusal {
	return refuse(codeInternal, "couldn't find the primary node in formation %q, group %d", t.g.Formation.ID, t.g.ID)
}

func (t *turn) checkFailover(i Intent) *Refusal {
	members := t.members()
	if len(members) < 2 && !i.AllowDataLoss {
		return refuse(codeInternal, "cannot fail over: group %d in formation %s currently has %d node registered",
			t.g.ID, t.g.Formation.ID, len(members)).detail("At least 2 nodes are required to implement a failover")
	}
	if i.AllowDataLoss || t.reportWaits() {
		return nil
	}
	var p *Node
	for _, n := range members {
		if n.Reported == n.Goal && n.Goal.In(Single, Primary, JoinPrimary) {
			p = n
			break
		}
	}
	if p == nil {
		return t.noPrimary()
	}
	if len(members) > 2 {
		return nil
	}
	s := t.others(p)[0]
	if s.Goal != Secondary {
		return refuse(codeInternal, "standby %s is in state %q, which prevents the node for being a failover candidate", s, s.Goal)
	}
	if s.Reported != Secondary {
		r := refuse(codeInternal, "cannot fail over: primary node is not in a stable state").
			detail("%s has reported state %q and is assigned state %q, and %s has reported state %q and is assigned state %q",
				p, p.Reported, p.Goal, s, s.Reported, s.Goal)
		r.Hint = hintStableFailover
		return r
	}
	if s.Priority == 0 && i.Kind == IntentFailover {
		return refuse(codeInternal, "cannot fail over: standby %s has candidate priority set to zero", s).
			detail("Set a candidate priority greater than zero on %s, or promote it by name", s)
	}
	return nil
}

// reportWaits: an election is open, which a request can help along.
func (t *turn) reportWaits() bool {
	for _, n := range t.members() {
		if n.Reported == ReportLSN && n.Goal == ReportLSN {
			return true
		}
	}
	return false
}

func (t *turn) checkPromotion(i Intent) *Refusal {
	n := t.node(i.Node)
	if n == nil {
		return refuse(codeUndefined, "node %d is not registered", i.Node)
	}
	if n.Reported == n.Goal && n.Goal.In(Single, Primary) {
		return &Refusal{Severity: severityNotice, Code: codeNotInState, Message: fmt.Sprintf(
			"cannot perform promotion: node %s in formation %s is already a primary.", n.Name, t.g.Formation.ID)}
	}
	if n.Reported != n.Goal || !n.Goal.In(Secondary, ReportLSN) {
		return refuse(codeNotInState, "cannot perform promotion: node %s in formation %s has reported state %q and is assigned state %q, "+
			"promotion can only be performed when in state \"secondary\".", n.Name, t.g.Formation.ID, n.Reported, n.Goal)
	}
	return t.checkFailover(i)
}

func (t *turn) checkStartMaintenance(i Intent) *Refusal {
	n := t.node(i.Node)
	if n == nil || n.Reported == Maintenance || n.Goal == Maintenance {
		return nil
	}
	isPrimary := n.Reported == Primary && n.Goal == Primary
	if !isPrimary && !n.Reported.In(Secondary, CatchingUp) {
		return refuse(codeNotInState, "cannot start maintenance: node %s:%d has reported state %q and is assigned state %q, "+
			"expected either \"primary\", \"secondary\" or \"catchingup\"", n.Host, n.Port, n.Reported, n.Goal)
	}
	if isPrimary {
		return t.checkPrimaryMaintenance(n)
	}
	p := t.writable()
	if p == nil {
		return t.noPrimary()
	}
	if p.Reported != Primary || p.Goal != Primary {
		return refuse(codeNotInState, "cannot start maintenance: current state for %s is %q, expected \"secondary\" or \"catchingup\", "+
			"and current state for primary %s is %q ➜ %q ", n, n.Reported, p, p.Reported, p.Goal)
	}
	return t.warnBlocked(n, p)
}

func (t *turn) checkPrimaryMaintenance(n *Node) *Refusal {
	candidates := 0
	for _, x := range t.others(n) {
		if x.Reported == Secondary && x.Goal == Secondary && x.Priority > 0 && x.PgIsRunning && x.Health != HealthBad {
			candidates++
		}
	}
	if candidates > 0 {
		return nil
	}
	return refuse(codeNotInState, "Starting maintenance on %s in state %q is not currently possible", n, n.Reported).
		detail("there is currently %d candidate nodes available", candidates)
}

// warnBlocked warns when the primary's commits will wait once n is in maintenance.
func (t *turn) warnBlocked(n, p *Node) *Refusal {
	nss := t.g.Formation.NumberSyncStandbys
	healthy, member := 0, false
	for _, x := range t.others(p) {
		if x.Quorum && x.Reported == Secondary && x.Goal == Secondary && x.PgIsRunning && x.Health != HealthBad {
			healthy++
			member = member || x.ID == n.ID
		}
	}
	if nss == 0 || healthy > nss || !member {
		return nil
	}
	r := &Refusal{Severity: severityWarning, Code: codeNotInState, Message: fmt.Sprintf(
		"Starting maintenance on %s will block writes on the primary %s", n, p)}
	return r.detail("we now have %d healthy node(s) left in the \"secondary\" state and formation %q number-sync-standbys requires %d sync standbys",
		healthy-1, t.g.Formation.ID, nss)
}

func (t *turn) checkStopMaintenance(i Intent) *Refusal {
	n := t.node(i.Node)
	if n == nil {
		return nil
	}
	stable := n.Reported == n.Goal
	if stable && n.Goal == Maintenance || stable && n.Goal == PrepareMaintenance && len(t.members()) > 2 {
		return nil
	}
	return refuse(codeNotInState, "cannot stop maintenance when current state for %s is not \"maintenance\"", n).
		detail("Current reported state is %q and assigned state is %q", n.Reported, n.Goal)
}

// FirstGoal returns the goal of a node that registers in g with this candidate
// priority, or why it cannot register now. The SQL function register_node
// answers from a table generated from it.
func FirstGoal(g Group, priority int) (State, *Refusal) {
	t := newTurn(g, time.Time{})
	members := t.members()
	if len(members) == 0 && priority > 0 {
		return Single, nil
	}
	if !g.Formation.OptSecondary {
		r := refuse(codeNotInState, "Formation %q does not allow secondary nodes", g.Formation.ID)
		r.Hint = "use pg_autoctl enable secondary"
		return Unknown, r
	}
	lonelyVote := false
	for _, n := range members {
		if n.Goal.Writable() || g.Record.Owner != 0 || beingPromoted(n) {
			return WaitStandby, nil
		}
		lonelyVote = lonelyVote || n.Priority == 0 && n.Reported == ReportLSN && n.Goal == ReportLSN
	}
	if lonelyVote {
		return ReportLSN, nil
	}
	r := refuse(codeInUse, "JoinAutoFailoverFormation couldn't find the  primary node in formation %q, group %d",
		g.Formation.ID, g.ID)
	r.Hint = "Retry registering in a moment"
	return Unknown, r
}

// beingPromoted: the node is on its way to become the primary.
func beingPromoted(n *Node) bool {
	return n.Goal.In(FastForward, PreparePromotion, StopReplication) && n.Reported.In(ReportLSN, FastForward, PreparePromotion,
		StopReplication, Secondary)
}

package cli

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// follower watches the nodes of a group change state, from before a request is
// made until what was asked for has happened.
type follower struct {
	s         *session
	formation string
	group     int
	// states is the last that is known of every node.
	states map[int64]fsmPair
	// primary is the node that was primary when the follower began, 0 for none;
	// left says that it was seen to have another goal since. One decision
	// notifies node by node, so until then it still looks like the new primary.
	primary int64
	left    bool
	// visited are the states that were assigned to any node since the follower listens.
	visited map[fsm.State]bool
	// request is the operator's request that is being waited for, 0 for none or
	// when it has been taken up.
	request int64
	table   *table
	widths  []int
}

// fsmPair is a reported and an assigned state.
type fsmPair struct{ reported, goal fsm.State }

func (p fsmPair) rests(s fsm.State) bool { return p.reported == s && p.goal == s }

// errPatience ends a wait that lasted too long.
var errPatience = errors.New("the time to wait is over")

// newFollower starts to listen; what happens from now on is not missed.
func newFollower(ctx context.Context, s *session, formation string, group int) (*follower, error) {
	f := &follower{s: s, formation: formation, group: group, visited: map[fsm.State]bool{}}
	if err := s.db.Listen(ctx, pgautofailover.ChannelState, pgautofailover.ChannelLog); err != nil {
		return nil, err
	}
	return f, f.refresh(ctx)
}

// refresh reads the group as it is now, so that a lost notification costs a second and not the answer.
func (f *follower) refresh(ctx context.Context) error {
	nodes, err := f.s.db.CurrentState(ctx, f.formation, &f.group)
	if err != nil {
		return err
	}
	states := map[int64]fsmPair{}
	for _, n := range nodes {
		states[n.NodeID] = fsmPair{n.Reported, n.Goal}
		f.note(n.NodeID, states[n.NodeID])
	}
	if f.table == nil {
		f.layout(nodes)
	}
	f.states = states
	return nil
}

// note remembers where a node is going, and who was primary at first.
func (f *follower) note(id int64, p fsmPair) {
	switch {
	case f.states == nil && p.goal.Writable():
		f.primary = id
	case f.states != nil && id == f.primary && p.goal != fsm.Primary:
		f.left = true
	}
	if f.states != nil && p.reported != p.goal {
		f.visited[p.goal] = true
	}
}

// succeeded reports whether the group has a primary again that came after the first one.
func (f *follower) succeeded() bool { return (f.primary == 0 || f.left) && f.anyRests(fsm.Primary) }

// layout gives the progress table the room that the group's nodes need.
func (f *follower) layout(nodes []pgautofailover.NodeState) {
	f.table = &table{columns: []column{
		{title: "Time", width: 8},
		{title: "Name", width: 4},
		{title: "Node", width: 5},
		{title: "Host:Port", width: 10},
		{title: "Current State", width: 19},
		{title: "Assigned State", width: 19},
	}}
	for _, n := range nodes {
		f.table.add("", n.Name, nodeID(n.FormationKind, n.Group, n.NodeID), hostPort(n.Host, n.Port), "", "")
	}
	f.widths = f.table.widths()
}

// asked remembers the request that was just made, to hear what becomes of it.
func (f *follower) asked(ctx context.Context) error {
	r, err := f.s.db.LastRequest(ctx, f.formation, f.group)
	if errors.Is(err, pgautofailover.ErrNotFound) {
		return nil
	}
	f.request = r.ID
	return err
}

// checkRequest ends the wait for a request that the monitor gave up: what it
// needs may be gone by the time it is taken up.
func (f *follower) checkRequest(ctx context.Context) error {
	if f.request == 0 {
		return nil
	}
	r, err := f.s.db.LastRequest(ctx, f.formation, f.group)
	switch {
	case err != nil:
		return err
	case r.ID != f.request || r.Applied:
		f.request = 0
	case !r.Open:
		return fatal(exitMonitor, "the monitor did not take the request up: %s", r.Outcome).
			withHint("see %s show state for what the group does now, then ask again", f.s.env.program())
	}
	return nil
}

// replaced reports whether another node than the first primary takes writes,
// be it without standbys: all there is to wait for when the others are gone.
func (f *follower) replaced() bool {
	for id, p := range f.states {
		if id != f.primary && p.reported == p.goal && p.goal.In(fsm.WaitPrimary, fsm.Single) {
			return true
		}
	}
	return false
}

// wait prints the progress table until done answers true, at most for limit
// (for ever when it is not positive). It returns errPatience when that is over.
func (f *follower) wait(ctx context.Context, limit time.Duration, show bool, done func() bool) error {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, errPatience)
		defer cancel()
	}
	if show {
		f.s.env.printf("%s", f.table.header(f.widths))
	}
	for !done() {
		if err := f.next(ctx, show); err != nil {
			if errors.Is(context.Cause(ctx), errPatience) {
				return errPatience
			}
			return err
		}
	}
	if show {
		f.s.env.printf("\n")
	}
	return nil
}

// next takes one notification, or looks by itself after a second without.
func (f *follower) next(ctx context.Context, show bool) error {
	tick, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	n, err := f.s.db.WaitNotification(tick)
	if err != nil {
		if tick.Err() != nil && ctx.Err() == nil {
			return errors.Join(f.checkRequest(ctx), f.refresh(ctx))
		}
		return err
	}
	if n.Channel == pgautofailover.ChannelLog {
		f.s.env.log.DebugContext(ctx, "the monitor says", "text", n.Payload)
		return f.checkRequest(ctx)
	}
	state, err := pgautofailover.ParseStateNotification(n.Payload)
	if err != nil {
		f.s.env.log.DebugContext(ctx, "ignore a notification", "error", err)
		return nil
	}
	if state.Formation != f.formation || state.Group != f.group {
		return nil
	}
	pair := fsmPair{state.Reported, state.Goal}
	f.note(state.NodeID, pair)
	f.states[state.NodeID] = pair
	if show {
		f.s.env.printf("%s", f.table.line(f.widths, []string{
			time.Now().Format("15:04:05"), state.Name, f.nodeCell(state), hostPort(state.Host, state.Port),
			state.Reported.String(), state.Goal.String(),
		}))
	}
	return nil
}

// nodeCell shows the id the way the rest of the table does.
func (f *follower) nodeCell(n pgautofailover.StateNotification) string {
	id := strconv.FormatInt(n.NodeID, 10)
	for _, row := range f.table.rows {
		if row[2] == strconv.Itoa(n.Group)+"/"+id {
			return row[2]
		}
	}
	return id
}

// anyRests reports whether some node has reached s as its goal.
func (f *follower) anyRests(s fsm.State) bool {
	for _, p := range f.states {
		if p.rests(s) {
			return true
		}
	}
	return false
}

// announce tells what is being watched, as the progress table follows.
func (f *follower) announce() {
	f.s.env.infof("Listening monitor notifications about state changes in formation %q and group %d", f.formation, f.group)
	f.s.env.infof("Following table displays times when notifications are received")
}

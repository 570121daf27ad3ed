package monitor

import (
	"sync"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// stallTolerance is how late a tick may come before the process doubts its
// own sense of time: whoever was not heard meanwhile may have been speaking.
const stallTolerance = 800 * time.Millisecond

// sessionlessAfter is how long a node must go on reporting without its session
// lock before it counts as a client that holds none.
const sessionlessAfter = 10 * time.Second

// quietAfter is how long nobody in a group may be heard before the process
// takes the silence for its own: it was cut off, and whoever comes back first
// must not make the others look dead. quietAgain keeps that from being believed
// too often where only one node is left to speak, and others say nothing in between.
const (
	quietAfter = 2 * time.Second
	quietAgain = 10 * time.Second
)

// groupKey names a group.
type groupKey = pgautofailover.GroupKey

// observedNode is what this process saw of one node, on its own clock.
type observedNode struct {
	key        groupKey
	reportTime time.Time
	seen       time.Time // zero until this process heard of the node itself
	goal       fsm.State
	goalNumber int64
	goalAt     time.Time
	reported   fsm.State
	reportedAt time.Time
	streaming  fsm.Streaming
	streamAt   time.Time
	health     fsm.Health
	healthAt   time.Time
	// keeper: a session lock was seen, or the schema knows of one; held: it is
	// there now; lost: it was there since the clocks started, and went at lostAt.
	keeper, held, lost bool
	lostAt             time.Time
	// ever: the schema knew of a session at the last look. One that came and
	// went between two looks is known by it alone.
	ever bool
}

// observer keeps the clocks of all nodes. Its own clock is only as good as the
// last tick: when that is too long ago, nobody can tell silence from sleep.
type observer struct {
	mu       sync.Mutex
	start    time.Time
	lastTick time.Time
	// primed is set by the first look. Nodes that it shows said nothing to this
	// process yet; nodes that appear later have just registered.
	primed  bool
	nodes   map[int64]*observedNode
	intents map[int64]time.Time
	// heard is when any node of a group was last heard, excused when silence
	// was last taken for this process's own.
	heard, excused map[groupKey]time.Time
	// forgive takes the nodes whose silence was excused: what their probes ran
	// into meanwhile says no more than the silence. It must not call back.
	forgive func(ids ...int64)
}

func newObserver(start time.Time) *observer {
	return &observer{
		start: start,
		nodes: make(map[int64]*observedNode), intents: make(map[int64]time.Time),
		heard: make(map[groupKey]time.Time), excused: make(map[groupKey]time.Time),
		forgive: func(...int64) {},
	}
}

// onExcuse sets what takes the nodes whose silence is excused from now on.
func (o *observer) onExcuse(forgive func(ids ...int64)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forgive = forgive
}

// tick says that the process has just looked at the database. It reports
// whether it came so late that the clocks were started again.
func (o *observer) tick(now time.Time) (stalled bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	stalled = o.lastTick.IsZero() || o.late(now)
	if stalled {
		o.restart(now)
	}
	o.lastTick = now
	return stalled
}

// late also compares wall clocks, for the monotonic one stands still while the
// machine is suspended.
func (o *observer) late(now time.Time) bool {
	const limit = pulseInterval + stallTolerance
	return now.Sub(o.lastTick) >= limit || now.Round(0).Sub(o.lastTick.Round(0)) >= limit
}

// steady reports whether the last tick is recent enough to decide anything.
func (o *observer) steady(now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.lastTick.IsZero() && !o.late(now)
}

// restartClocks forgets how long anybody has been silent; the next tick has to
// come before anything is decided.
func (o *observer) restartClocks(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.restart(now)
	o.lastTick = time.Time{}
}

func (o *observer) restart(now time.Time) {
	for _, n := range o.nodes {
		n.restart(now)
	}
}

func (n *observedNode) restart(now time.Time) {
	if !n.seen.IsZero() {
		n.seen = now
	}
	n.healthAt = time.Time{}
	n.held, n.lost = false, false
}

// report takes the stamp of a node's last report. The first word after a
// silence of the whole group starts the clocks of all its nodes again; again
// tells that the node itself had been silent, so that the group deserves a look.
func (o *observer) report(n *observedNode, stamp, now time.Time) (again bool) {
	before := n.seen
	if !n.report(stamp, now) {
		return false
	}
	again = !before.IsZero() && now.Sub(before) >= quietAfter
	last, known := o.heard[n.key]
	o.heard[n.key] = now
	if !known || now.Sub(last) < quietAfter {
		return again
	}
	if excused := o.excused[n.key]; now.Sub(excused) < quietAgain && !o.heardSince(n.key, excused) {
		return again
	}
	o.excused[n.key] = now
	var ids []int64
	for id, other := range o.nodes {
		if other.key == n.key {
			other.restart(now)
			ids = append(ids, id)
		}
	}
	o.forgive(ids...)
	return again
}

// heardSince reports whether every node of a group was heard after that moment:
// then they all lived, and another silence of the whole group is ours again.
func (o *observer) heardSince(key groupKey, moment time.Time) bool {
	for _, n := range o.nodes {
		if n.key == key && !n.seen.After(moment) {
			return false
		}
	}
	return true
}

// sweep takes the rows of all nodes in. It returns the groups that differ from
// what was known, for their notification may have been lost.
func (o *observer) sweep(rows []pgautofailover.NodeRow, now time.Time) []groupKey {
	o.mu.Lock()
	defer o.mu.Unlock()
	changed := make(map[groupKey]bool)
	present := make(map[int64]bool, len(rows))
	for _, r := range rows {
		key := groupKey{Formation: r.Formation, Group: r.Group}
		present[r.ID] = true
		n, known := o.nodes[r.ID]
		if !known {
			n = o.add(r.ID, key, now)
		}
		if n.key != key || n.goal != r.Goal || n.goalNumber != r.GoalNumber || n.reported != r.Reported {
			changed[key] = true
		}
		n.key = key
	}
	for id, n := range o.nodes {
		if !present[id] {
			changed[n.key] = true
			delete(o.nodes, id)
		}
	}
	keys := make([]groupKey, 0, len(changed))
	for key := range changed {
		keys = append(keys, key)
	}
	return keys
}

func (o *observer) add(id int64, key groupKey, now time.Time) *observedNode {
	n := &observedNode{key: key, health: fsm.HealthUnknown}
	if o.primed {
		n.seen = now
	}
	o.nodes[id] = n
	return n
}

// report notes the stamp and tells whether it is news.
func (n *observedNode) report(stamp, now time.Time) bool {
	switch {
	case n.reportTime.IsZero():
		n.reportTime = stamp // when that was, nobody here knows
		return false
	case stamp.Equal(n.reportTime):
		return false
	}
	n.reportTime, n.seen = stamp, now
	return true
}

func (n *observedNode) setGoal(goal fsm.State, number int64, now time.Time) {
	if n.goalAt.IsZero() || n.goal != goal || n.goalNumber != number {
		n.goal, n.goalNumber, n.goalAt = goal, number, now
	}
}

func (n *observedNode) setReported(state fsm.State, now time.Time) {
	if n.reportedAt.IsZero() || n.reported != state {
		n.reported, n.reportedAt = state, now
	}
}

// reports takes the times of the last reports in. It returns the groups of nodes
// that are heard again after a silence, and tells whether there is a node that no
// look has shown yet.
func (o *observer) reports(all []pgautofailover.ReportTime, now time.Time) (again []groupKey, strangers bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range all {
		n, known := o.nodes[r.NodeID]
		if !known {
			strangers = true
			continue
		}
		if o.report(n, r.Reported, now) {
			again = append(again, n.key)
		}
	}
	return again, strangers
}

// glance is what changed between two looks at the signs of life.
type glance struct {
	lost      []int64    // nodes whose session lock is gone since the last look
	changed   []groupKey // groups where a session came or went, or a node is heard again
	strangers bool       // there are nodes that no sweep has shown yet
	missing   bool       // a session that was lost has not come back
}

// pulses takes the signs of life of all nodes in: report times, and the
// session locks that exist compared with those that did.
func (o *observer) pulses(all []pgautofailover.Pulse, now time.Time) glance {
	o.mu.Lock()
	defer o.mu.Unlock()
	var g glance
	for _, p := range all {
		n, known := o.nodes[p.NodeID]
		if !known {
			n = o.add(p.NodeID, p.GroupKey, now)
			n.keeper = p.EverHad
			g.strangers = true
		}
		if !o.primed {
			n.ever = p.EverHad // a session of before this process's time may yet come back
		}
		brief := p.EverHad && !n.ever && !p.HasSession
		n.ever = p.EverHad
		if o.report(n, p.Reported, now) {
			g.changed = append(g.changed, n.key)
		}
		switch {
		case p.HasSession:
			if n.lost {
				g.changed = append(g.changed, n.key)
			}
			n.keeper, n.held, n.lost = true, true, false
		case n.held, brief:
			n.keeper, n.held, n.lost, n.lostAt = true, false, true, now
			g.lost = append(g.lost, p.NodeID)
			g.changed = append(g.changed, n.key)
		case n.lost && n.seen.Sub(n.lostAt) > sessionlessAfter:
			n.keeper, n.lost = false, false
		}
		g.missing = g.missing || n.lost
	}
	o.primed = true
	return g
}

func (n *observedNode) session() fsm.Session {
	switch {
	case n.lost:
		return fsm.SessionLost
	case n.keeper:
		return fsm.SessionHeld
	}
	return fsm.SessionNone
}

// verdict notes what the probe of a node found and reports whether that is news.
func (o *observer) verdict(id int64, health fsm.Health, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, known := o.nodes[id]
	if !known {
		return false
	}
	news := n.health != health || n.healthAt.IsZero()
	n.health, n.healthAt = health, now
	return news
}

// silence is what a probe needs to know of its node: since when nothing was
// heard, and whether its session is gone.
func (o *observer) silence(id int64) (since time.Time, sessionLost, known bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, known := o.nodes[id]
	if !known {
		return time.Time{}, false, false
	}
	if n.seen.IsZero() {
		return o.start, n.lost, true
	}
	return n.seen, n.lost, true
}

// fill completes a loaded group with this process's own observations.
func (o *observer) fill(g *fsm.Group, key groupKey, stamps map[int64]pgautofailover.Stamps, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	g.MonitorStart = o.start
	for i := range g.Nodes {
		loaded := &g.Nodes[i]
		n, known := o.nodes[loaded.ID]
		if !known {
			n = o.add(loaded.ID, key, now)
			n.health = loaded.Health
		}
		if s, ok := stamps[loaded.ID]; ok {
			o.report(n, s.Report, now)
		}
		n.setGoal(loaded.Goal, loaded.GoalNumber, now)
		n.setReported(loaded.Reported, now)
		if n.streamAt.IsZero() || n.streaming != loaded.Streaming {
			n.streaming, n.streamAt = loaded.Streaming, now
		}
	}
	// Only now: the last report may have started the clocks of all again.
	for i := range g.Nodes {
		o.nodes[g.Nodes[i].ID].copyTo(&g.Nodes[i])
	}
	for i := range g.Intents {
		intent := &g.Intents[i]
		if _, known := o.intents[intent.ID]; !known {
			o.intents[intent.ID] = now
		}
		intent.At = o.intents[intent.ID]
	}
}

func (n *observedNode) copyTo(node *fsm.Node) {
	if !n.healthAt.IsZero() {
		node.Health = n.health
	}
	node.HealthAt = n.healthAt
	node.Session = n.session()
	node.Seen, node.GoalAt, node.ReportedAt, node.StreamingAt = n.seen, n.goalAt, n.reportedAt, n.streamAt
}

// decided takes over the goals that a committed transaction gave.
func (o *observer) decided(g fsm.Group, closed []int64, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, node := range g.Nodes {
		if n, known := o.nodes[node.ID]; known {
			n.setGoal(node.Goal, node.GoalNumber, now)
		}
	}
	for _, id := range closed {
		delete(o.intents, id)
	}
}

// refresh brings the clocks of a group that was decided before up to date.
func (o *observer) refresh(g *fsm.Group) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range g.Nodes {
		if n, known := o.nodes[g.Nodes[i].ID]; known {
			n.copyTo(&g.Nodes[i])
		}
	}
}

package sim

import (
	"cmp"
	"slices"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// maxDecisions bounds how often one event may make the monitor decide.
const maxDecisions = 40

// group is what a decision looks at: the rows, with this process's times.
func (p *process) group() fsm.Group {
	m := p.m
	g := fsm.Group{
		Formation: fsm.Formation{ID: "default", Kind: "pgsql", DBName: "postgres", OptSecondary: true, NumberSyncStandbys: m.nss},
		Record:    m.record,
		Intents:   slices.Clone(m.intents),
		Settings:  m.w.cfg.settings(),
		Nodes:     make([]fsm.Node, 0, len(m.rows)),
	}
	if m.w.cfg.Worker {
		g.Formation.Kind, g.ID = "citus", 1
	}
	at := epoch.Add
	if p != nil {
		g.MonitorStart = at(p.start)
	}
	if p != nil {
		for _, r := range m.rows { // the last report may start the clocks of all again
			p.look(r)
		}
	}
	for _, r := range m.rows {
		n := r.Node
		if p != nil {
			k := p.look(r)
			n.GoalAt, n.ReportedAt, n.StreamingAt = at(k.goalAt), at(k.repAt), at(k.streamAt)
			n.Session = k.session()
			if k.everSeen {
				n.Seen = at(k.seen)
			}
			if k.healthKnown {
				n.HealthAt = at(k.healthAt)
			}
		}
		g.Nodes = append(g.Nodes, n)
	}
	return g
}

// decide runs the rules until nothing changes, each decision in a transaction
// of its own.
func (p *process) decide() {
	m := p.m
	if !m.up || !p.holds {
		return
	}
	for range maxDecisions {
		g := p.group()
		d, err := m.w.rules.decide(g, m.w.clock())
		if err != nil {
			m.w.fail("I28", "Decide: %v", err)
			return
		}
		m.waiting = d.Waiting
		if !d.Changes() {
			return
		}
		m.store(p, g, d)
		if m.w.failed != nil {
			return
		}
	}
	m.w.fail("L8", "one event led to %d decisions", maxDecisions)
}

// store is the transaction of a decision: goals, record, list, intents and
// rows change together; then the nodes concerned are notified.
func (m *monitor) store(p *process, g fsm.Group, d fsm.Decision) {
	w := m.w
	if w.tracing {
		m.trace(d)
	}
	before := m.record
	if d.RecordChanged {
		m.record = d.Record
	}
	for _, a := range d.Assign {
		r := m.node(a.Node)
		if r == nil {
			w.fail("I18", "rule %d %s assigns %s to node %d, which does not exist", d.Rule.Pos, d.Rule.Name, a.Goal, a.Node)
			return
		}
		r.Goal = a.Goal
		r.GoalNumber++
		m.notify(r)
	}
	for _, c := range d.Close {
		m.intents = slices.DeleteFunc(m.intents, func(i fsm.Intent) bool { return i.ID == c.Intent })
	}
	if d.NumberSyncStandbys != nil {
		m.nss = *d.NumberSyncStandbys
	}
	for _, id := range d.Remove {
		m.rows = slices.DeleteFunc(m.rows, func(r *row) bool { return r.ID == id })
	}
	w.judge.decided(p, g, d, before)
	if len(d.Assign) > 0 {
		w.happened(onGoal)
	}
	if before.Owner != m.record.Owner && m.record.Owner != 0 {
		w.happened(onOwner)
	}
}

func (m *monitor) trace(d fsm.Decision) {
	m.w.logf("monitor: rule %d %s", d.Rule.Pos, d.Rule.Name)
	for _, a := range d.Assign {
		r := m.node(a.Node)
		if r != nil {
			m.w.logf("    node %d: %s/%s -> %s #%d", a.Node, r.Reported, r.Goal, a.Goal, r.GoalNumber+1)
		}
	}
	for _, c := range d.Close {
		m.w.logf("    intent %d closed: applied=%v %s", c.Intent, c.Applied, c.Text)
	}
	if d.RecordChanged {
		m.w.logf("    record: %s", recordText(d.Record))
	}
}

// notify announces a goal on the session of the node's keeper.
func (m *monitor) notify(r *row) {
	if _, held := m.sessions[r.ID]; !held {
		return
	}
	k := m.w.hosts[r.host].k
	id, gen := r.ID, k.gen
	m.w.net.send(monitorHost, r.host, 5*time.Second, func() {
		if k.gen == gen && k.id == id {
			k.notified()
		}
	}, nil)
}

// register is register_node, committed: the first goal comes from fsm.
func (m *monitor) register(h *host, priority int, quorum, oldClient bool) bool {
	if !m.up || h.k.id != 0 || m.lastNode >= 60 {
		return false
	}
	goal, refusal := m.w.rules.FirstGoal(m.active().groupOrStatic(m), priority)
	if refusal != nil && refusal.Severity == "ERROR" || goal == fsm.Unknown {
		return false
	}
	m.lastNode++
	r := &row{host: h.n, old: oldClient}
	r.ID, r.Name, r.Host, r.Port = m.lastNode, h.String(), h.String(), 5432
	r.Goal, r.GoalNumber, r.Reported = goal, 1, fsm.Init
	r.Priority, r.Quorum, r.Cluster, r.TLI = priority, quorum, "default", 1
	r.PgIsRunning, r.Health = true, fsm.HealthUnknown
	m.rows = append(m.rows, r)
	slices.SortFunc(m.rows, func(a, b *row) int { return cmp.Compare(a.ID, b.ID) })
	m.request(fsm.Intent{Kind: fsm.IntentRegistered, Node: r.ID})
	if m.w.tracing {
		m.w.logf("operator: %s registers as node %d, first goal %s", h, r.ID, goal)
	}
	m.w.judge.wipe(h, r.ID)
	m.w.judge.homes[r.ID] = h
	h.k.id, h.k.current = r.ID, fsm.Init
	h.s.forget()
	h.k.start()
	return true
}

// groupOrStatic is the group as a process without memory would read it.
func (p *process) groupOrStatic(m *monitor) fsm.Group {
	if p != nil {
		return p.group()
	}
	return (&process{m: m, known: map[int64]*sight{}, start: m.w.now}).group()
}

// request stores an intent for Decide.
func (m *monitor) request(i fsm.Intent) {
	m.lastIntent++
	i.ID, i.At = m.lastIntent, m.w.clock()
	m.intents = append(m.intents, i)
	m.wake()
}

// ask is an SQL function that refuses or stores an intent; false is a refusal.
func (m *monitor) ask(i fsm.Intent) bool {
	p := m.active()
	if p == nil {
		return false // refused at once: nobody would take it up
	}
	if refusal := m.w.rules.CheckIntent(p.group(), i, m.w.clock()); refusal != nil && refusal.Severity == "ERROR" {
		if m.w.tracing {
			m.w.logf("operator: %s of node %d refused: %s %s", i.Kind, i.Node, refusal.Code, refusal.Message)
		}
		return false
	}
	if m.w.tracing {
		m.w.logf("operator: %s of node %d (data loss allowed: %v)", i.Kind, i.Node, i.AllowDataLoss)
	}
	m.request(i)
	return true
}

// removeByForce deletes the row in the call and leaves the rest to Decide.
func (m *monitor) removeByForce(id int64) {
	r := m.node(id)
	if r == nil || !m.up {
		return
	}
	if m.w.tracing {
		m.w.logf("operator: removes node %d by force", id)
	}
	m.rows = slices.DeleteFunc(m.rows, func(x *row) bool { return x.ID == id })
	m.w.judge.forced[id] = true
	m.request(fsm.Intent{Kind: fsm.IntentRemoved, Node: id, Ghost: &fsm.Ghost{
		ID: id, Name: r.Name, Host: r.Host, Port: r.Port, Goal: r.Goal, Reported: r.Reported,
		Quorum: r.Quorum, TLI: r.TLI, LSN: r.LSN,
	}})
}

package monitor

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

var (
	errGone = errors.New("connection is gone")
	testKey = groupKey{Formation: "default"}
)

// fakeDB is the monitor's database in memory.
type fakeDB struct {
	mu       sync.Mutex
	nodes    map[int64]*fakeNode
	intents  map[int64]fsm.Intent
	settings pgautofailover.Settings
	waiting  map[groupKey]string
	records  map[groupKey]fsm.Record
	holder   *fakeConn // holds the lock
	number   int64
	conns    []*fakeConn
	listener chan groupKey
	hang     time.Duration // how long the next Pulses takes
	refuse   map[groupKey]error
	stored   []storedDecision
	healths  []pgautofailover.Probe
	looks    int // decision transactions
	now      func() time.Time
}

type fakeNode struct {
	fsm.Node
	key      groupKey
	reported time.Time
	session  bool
	everHad  bool
	backend  int32 // that serves the session; 0 when nobody can see it
}

type storedDecision struct {
	at     time.Time
	number int64
	key    groupKey
	d      fsm.Decision
}

func newFakeDB() *fakeDB {
	s, err := pgautofailover.ParseSettings(nil)
	if err != nil {
		panic(err)
	}
	return &fakeDB{
		nodes: make(map[int64]*fakeNode), intents: make(map[int64]fsm.Intent), settings: s,
		waiting: make(map[groupKey]string), records: make(map[groupKey]fsm.Record), listener: make(chan groupKey, 100), refuse: make(map[groupKey]error), now: time.Now,
	}
}

func (f *fakeDB) add(key groupKey, id int64, state fsm.State) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nodes[id] = &fakeNode{key: key, reported: time.Now(), session: true, everHad: true, Node: fsm.Node{
		ID: id, Name: "node", Host: "h", Port: int(5000 + id), Goal: state, Reported: state, GoalNumber: 1, Reached: 1,
		Health: fsm.HealthGood, PgIsRunning: true,
	}}
}

// change edits the database; notify says whether a trigger would notify.
func (f *fakeDB) change(key groupKey, notify bool, edit func()) {
	f.mu.Lock()
	edit()
	f.mu.Unlock()
	if notify {
		f.listener <- key
	}
}

// report keeps nodes reporting each second until the context ends.
func (f *fakeDB) report(ctx context.Context, ids ...int64) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			f.change(testKey, false, func() {
				for _, id := range ids {
					f.nodes[id].reported = time.Now()
				}
			})
		}
	}
}

func (f *fakeDB) decisions() []storedDecision {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.stored)
}

// cut breaks every connection; the lock is free then.
func (f *fakeDB) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		c.sever()
	}
	f.conns, f.holder = nil, nil
}

type fakeConn struct {
	db     *fakeDB
	number int64
	once   sync.Once
	gone   chan struct{}
}

func (f *fakeDB) open(number int64) *fakeConn {
	c := &fakeConn{db: f, number: number, gone: make(chan struct{})}
	f.conns = append(f.conns, c)
	return c
}

func (c *fakeConn) sever() { c.once.Do(func() { close(c.gone) }) }

func (f *fakeDB) Acquire(ctx context.Context) (control, error) {
	for {
		f.mu.Lock()
		if f.holder == nil {
			f.number++
			f.holder = f.open(f.number)
			c := f.holder
			f.mu.Unlock()
			return c, nil
		}
		f.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(acquireInterval):
		}
	}
}

func (c *fakeConn) Number() int64 { return c.number }

func (c *fakeConn) Wait(ctx context.Context) (groupKey, error) {
	select {
	case key := <-c.db.listener:
		return key, nil
	case <-c.gone:
		return groupKey{}, errGone
	case <-ctx.Done():
		return groupKey{}, ctx.Err()
	}
}

func (c *fakeConn) further() (*fakeConn, error) {
	c.db.mu.Lock()
	defer c.db.mu.Unlock()
	if c.Closed() {
		return nil, errGone
	}
	return c.db.open(c.number), nil
}

func (c *fakeConn) Watch(context.Context) (watch, error) { return c.further() }
func (c *fakeConn) Work(context.Context) (worker, error) { return c.further() }

func (c *fakeConn) Closed() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

func (c *fakeConn) Break() { c.sever() }

func (c *fakeConn) Close(context.Context) {
	c.sever()
	c.db.mu.Lock()
	defer c.db.mu.Unlock()
	if c.db.holder == c {
		c.db.holder = nil
	}
}

func (c *fakeConn) Pulses(ctx context.Context) ([]pgautofailover.Pulse, error) {
	c.db.mu.Lock()
	hang := c.db.hang
	c.db.hang = 0
	c.db.mu.Unlock()
	if hang > 0 {
		time.Sleep(hang)
	}
	c.db.mu.Lock()
	defer c.db.mu.Unlock()
	if c.Closed() || ctx.Err() != nil {
		return nil, errGone
	}
	var all []pgautofailover.Pulse
	for _, id := range slices.Sorted(maps.Keys(c.db.nodes)) {
		n := c.db.nodes[id]
		p := pgautofailover.Pulse{GroupKey: n.key, NodeID: id, Reported: n.reported, HasSession: n.session, EverHad: n.everHad}
		if n.session && n.backend != 0 {
			p.Backends = []int32{n.backend}
		}
		all = append(all, p)
	}
	return all, nil
}

func (c *fakeConn) ReportTimes(ctx context.Context) ([]pgautofailover.ReportTime, error) {
	all, err := c.Pulses(ctx)
	var times []pgautofailover.ReportTime
	for _, p := range all {
		times = append(times, pgautofailover.ReportTime{NodeID: p.NodeID, Reported: p.Reported})
	}
	return times, err
}

func (c *fakeConn) AllNodeRows(context.Context) ([]pgautofailover.NodeRow, error) {
	c.db.mu.Lock()
	defer c.db.mu.Unlock()
	var rows []pgautofailover.NodeRow
	for _, id := range slices.Sorted(maps.Keys(c.db.nodes)) {
		n := c.db.nodes[id]
		rows = append(rows, pgautofailover.NodeRow{
			Formation: n.key.Formation, Group: n.key.Group, ID: id, Host: n.Host, Port: n.Port,
			Goal: n.Goal, GoalNumber: n.GoalNumber, Reported: n.Reported, Reached: n.Reached, Health: n.Health,
		})
	}
	return rows, nil
}

func (c *fakeConn) Settings(context.Context) (pgautofailover.Settings, error) {
	c.db.mu.Lock()
	defer c.db.mu.Unlock()
	return c.db.settings, nil
}

func (c *fakeConn) Decide(
	_ context.Context, key groupKey, decide func(pgautofailover.LoadedGroup) (pgautofailover.Settled, error),
) error {
	f := c.db
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	if c.Closed() {
		return errGone
	}
	if c.number != f.number {
		return pgautofailover.ErrNotDecider
	}
	if err := f.refuse[key]; err != nil {
		return err
	}
	from := pgautofailover.LoadedGroup{
		Group: fsm.Group{
			Formation: fsm.Formation{ID: key.Formation, OptSecondary: true}, ID: key.Group, Settings: f.settings.Decision, Record: f.records[key],
		},
		Waiting: f.waiting[key], Stamps: make(map[int64]pgautofailover.Stamps),
	}
	for _, id := range slices.Sorted(maps.Keys(f.nodes)) {
		if n := f.nodes[id]; n.key == key {
			from.Nodes = append(from.Nodes, n.Node)
			from.Stamps[id] = pgautofailover.Stamps{Report: n.reported}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(f.intents)) {
		from.Intents = append(from.Intents, f.intents[id])
	}
	settled, err := decide(from)
	if err != nil {
		return err
	}
	for _, d := range settled.Decisions {
		for _, a := range d.Assign {
			f.nodes[a.Node].Goal = a.Goal
			f.nodes[a.Node].GoalNumber++
		}
		for _, i := range d.Close {
			delete(f.intents, i.Intent)
		}
		if d.RecordChanged {
			f.records[key] = d.Record
		}
		f.stored = append(f.stored, storedDecision{at: f.now(), number: c.number, key: key, d: d})
	}
	f.waiting[key] = settled.Waiting
	return nil
}

func (c *fakeConn) SetHealth(_ context.Context, probes ...pgautofailover.Probe) error {
	c.db.mu.Lock()
	defer c.db.mu.Unlock()
	if c.Closed() {
		return errGone
	}
	for _, p := range probes {
		if n := c.db.nodes[p.NodeID]; n != nil && n.Health != p.Health {
			n.Health = p.Health
			c.db.healths = append(c.db.healths, p)
		}
	}
	return nil
}

func (c *fakeConn) Prune(context.Context, time.Duration) error { return nil }

// fakeServers answers probes, by port.
type fakeServers struct {
	mu       sync.Mutex
	outcomes map[int]outcome
	running  map[int]bool
	attempts map[int][]time.Time
	overlap  bool
}

func newFakeServers() *fakeServers {
	return &fakeServers{outcomes: make(map[int]outcome), running: make(map[int]bool), attempts: make(map[int][]time.Time)}
}

func (s *fakeServers) set(port int, o outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outcomes[port] = o
}

func (s *fakeServers) Probe(ctx context.Context, _ string, port int) outcome {
	s.mu.Lock()
	s.overlap = s.overlap || s.running[port]
	s.running[port] = true
	s.attempts[port] = append(s.attempts[port], time.Now())
	out := s.outcomes[port]
	s.mu.Unlock()
	if out == outcomeSilent {
		<-ctx.Done()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[port] = false
	return out
}

// failoverRule is a stand-in for the real rules that uses every clock: a
// primary that is unhealthy drains, a request that is too old is closed.
func failoverRule(g fsm.Group, now time.Time) (fsm.Decision, error) {
	for _, i := range g.Intents {
		if now.Sub(i.At) > g.Settings.IntentTimeout {
			return fsm.Decision{Rule: fsm.RuleID{Name: "expired"}, Close: []fsm.Closing{{Intent: i.ID}}}, nil
		}
	}
	for _, n := range g.Nodes {
		heard := n.Seen
		if heard.Before(g.MonitorStart) {
			heard = g.MonitorStart
		}
		silent := now.Sub(heard) > g.Settings.UnhealthyTimeout || n.Session == fsm.SessionLost
		bad := n.Health == fsm.HealthBad && !n.HealthAt.IsZero()
		if n.Goal == fsm.Primary && silent && bad && now.Sub(g.MonitorStart) > g.Settings.StartupGrace {
			return fsm.Decision{
				Rule: fsm.RuleID{Name: "primary-unhealthy"}, Assign: []fsm.Assignment{{Node: n.ID, Goal: fsm.Draining}},
			}, nil
		}
	}
	return fsm.Decision{}, nil
}

// apply is fsm.Apply for failoverRule.
func apply(g fsm.Group, d fsm.Decision, now time.Time) fsm.Group {
	g.Nodes = slices.Clone(g.Nodes)
	for _, a := range d.Assign {
		for i := range g.Nodes {
			if g.Nodes[i].ID == a.Node {
				g.Nodes[i].Goal, g.Nodes[i].GoalAt = a.Goal, now
				g.Nodes[i].GoalNumber++
			}
		}
	}
	g.Intents = slices.DeleteFunc(slices.Clone(g.Intents), func(i fsm.Intent) bool {
		return slices.ContainsFunc(d.Close, func(c fsm.Closing) bool { return c.Intent == i.ID })
	})
	return g
}

// fakeWatchman sees every process there is.
type fakeWatchman struct{ ended chan struct{} }

func (w fakeWatchman) Follow([]int) bool      { return true }
func (w fakeWatchman) Ended() <-chan struct{} { return w.ended }
func (w fakeWatchman) Close()                 {}

// world is one decider with its surroundings.
type world struct {
	db      *fakeDB
	servers *fakeServers
	decider *decider
	stop    context.CancelFunc
	done    chan struct{}
}

// newWorld starts a decider; run it inside a synctest bubble.
func newWorld(t *testing.T, db *fakeDB) *world {
	t.Helper()
	return newWatchedWorld(t, db, nil)
}

// newWatchedWorld is newWorld with a watchman, unless it is nil.
func newWatchedWorld(t *testing.T, db *fakeDB, sees watchman) *world {
	t.Helper()
	return newRuledWorld(t, db, sees, failoverRule, apply)
}

// newRealWorld is newWorld with the real rules.
func newRealWorld(t *testing.T, db *fakeDB) *world {
	t.Helper()
	return newRuledWorld(t, db, nil, fsm.Decide, fsm.Apply)
}

func newRuledWorld(t *testing.T, db *fakeDB, sees watchman, decide func(fsm.Group, time.Time) (fsm.Decision, error),
	apply func(fsm.Group, fsm.Decision, time.Time) fsm.Group,
) *world {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	w := &world{db: db, servers: newFakeServers(), stop: stop, done: make(chan struct{})}
	w.decider = newDecider(db, w.servers, slog.New(slog.DiscardHandler), nil)
	w.decider.rules, w.decider.apply = decide, apply
	if sees != nil {
		w.decider.watchmen = func() watchman { return sees }
	}
	go func() {
		defer close(w.done)
		_ = w.decider.Run(ctx)
	}()
	return w
}

func (w *world) end() {
	w.stop()
	<-w.done
}

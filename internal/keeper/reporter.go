package keeper

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// monitorSession is the one connection to the monitor: reports go out on it
// and notifications come in. It is not for concurrent use.
type monitorSession interface {
	// Known is what the monitor last heard of this node.
	Known(ctx context.Context) (known, error)
	// Report stores a report and returns the stored goal.
	Report(ctx context.Context, r report) (assignment, error)
	// WaitNotification blocks until the monitor says something about the
	// group. A cancelled wait leaves the session usable.
	WaitNotification(ctx context.Context) (notification, error)
	groupView
	nodeRequests
	nodeEvidence
	Close(ctx context.Context)
}

// groupView is what an edge asks the monitor about the group.
type groupView interface {
	// OtherNodes are the nodes of the group that stay, without this one.
	OtherNodes(ctx context.Context) ([]peer, error)
	// Candidate is the node that is being promoted now, if there is one.
	Candidate(ctx context.Context) (peer, bool, error)
	Primary(ctx context.Context) (peer, error)
	MostAdvancedStandby(ctx context.Context) (peer, bool, error)
	// List is the list of synchronous standbys that belongs to the node's goal
	// of this number; false when the node has another goal by now.
	List(ctx context.Context, number int64) (pg.StandbyNames, bool, error)
}

// nodeEvidence is what a node tells the monitor of its data.
type nodeEvidence interface {
	PublishHistory(ctx context.Context, h pg.History) error
	PublishVersion(ctx context.Context, number int, version, full string) error
	SetSystemIdentifier(ctx context.Context, id pg.SystemID) error
	// Copies tells that the node is copied anew because the primary lacks its WAL.
	Copies(ctx context.Context) error
}

// nodeRequests is what a node asks the monitor for.
type nodeRequests interface {
	StartMaintenance(ctx context.Context) error
	// Refused says why the last StartMaintenance came to nothing after all; empty while nobody said so.
	Refused(ctx context.Context) (string, error)
	StopMaintenance(ctx context.Context) error
	// UpdateMetadata gives the node another name or address.
	UpdateMetadata(ctx context.Context, name, host string, port int) error
}

// known is what the monitor has stored of a node's own reports.
type known struct {
	State   fsm.State
	Reached int64
}

// notification is one word of the monitor about this group.
type notification struct {
	Node int64 // 0 when it is about the group as a whole
}

// answer is what became of one report, or of an attempt to connect.
type answer struct {
	source   int           // which of the node's monitors it came from
	sent     time.Duration // on the fence's clock
	report   report
	assigned assignment
	peers    []peer // nil when not asked for
	known    *known // of the first session, before any report
	err      error
}

// Times of the reporting loop.
const (
	reportEvery  = time.Second
	peersEvery   = 10 * time.Second
	askTimeout   = 4 * time.Second
	dialTimeout  = 3 * time.Second
	redialFirst  = 50 * time.Millisecond
	redialMost   = time.Second
	settleReport = 2 * time.Second
	refusedPause = 100 * time.Millisecond
)

// errNoMonitor is the answer to a question while there is no session.
var errNoMonitor = errors.New("no connection to the monitor")

// reporter owns the session with the monitor. It sends the latest report every
// second and at once when it changed, also while an edge runs, and lends the
// session to the questions of that edge between two reports.
type reporter struct {
	dial   func(ctx context.Context) (monitorSession, error)
	clock  func() time.Duration
	nodeID int64
	logger *slog.Logger

	answers chan answer
	calls   chan call
	wake    chan struct{}

	mu    sync.Mutex
	next  *report // nil: nothing to say yet
	hurry bool
	redo  bool // connect again
	from  int  // how often the monitor's address changed

	introduced bool // in run only
}

// call is one question that somebody else asks on the reporter's session.
type call struct {
	do   func(ctx context.Context, s monitorSession) error
	done chan error
}

func newReporter(nodeID int64, clock func() time.Duration, logger *slog.Logger,
	dial func(ctx context.Context) (monitorSession, error),
) *reporter {
	return &reporter{
		dial: dial, clock: clock, nodeID: nodeID, logger: logger,
		answers: make(chan answer), calls: make(chan call), wake: make(chan struct{}, 1),
	}
}

// say replaces the report that goes out next; hurry sends it now.
func (r *reporter) say(next report, hurry bool) {
	r.mu.Lock()
	r.next = &next
	r.hurry = r.hurry || hurry
	hurry = r.hurry
	r.mu.Unlock()
	if hurry {
		r.nudge()
	}
}

// hurryUp sends the report again now, for the goal in its answer.
func (r *reporter) hurryUp() {
	r.mu.Lock()
	r.hurry = true
	r.mu.Unlock()
	r.nudge()
}

// reconnect drops the session: the monitor's address changed.
func (r *reporter) reconnect() {
	r.mu.Lock()
	r.redo = true
	r.from++
	r.mu.Unlock()
	r.nudge()
}

// source is the monitor that is to be reported to, counted from the first.
func (r *reporter) source() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.from
}

func (r *reporter) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// take returns the report to send and whether it is urgent.
func (r *reporter) take() (next report, ok, hurry, redo bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	hurry, r.hurry = r.hurry, false
	redo, r.redo = r.redo, false
	if r.next == nil {
		return report{}, false, hurry, redo
	}
	return *r.next, true, hurry, redo
}

// ask runs do on the session. The session survives the asker: when ctx ends
// first, do is left to its own time limit.
func (r *reporter) ask(ctx context.Context, do func(ctx context.Context, s monitorSession) error) error {
	c := call{do: do, done: make(chan error, 1)}
	select {
	case r.calls <- c:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run holds sessions until ctx ends.
func (r *reporter) run(ctx context.Context) {
	backoff := redialFirst
	for ctx.Err() == nil {
		// Before the address is read: an answer never counts for a later monitor.
		started, source := r.clock(), r.source()
		err := r.session(ctx, source)
		if ctx.Err() != nil {
			return
		}
		if r.clock()-started > settleReport {
			backoff = redialFirst
		}
		if !r.deliver(ctx, answer{source: source, sent: started, err: err}) {
			return
		}
		if !r.idle(ctx, backoff) {
			return
		}
		backoff = min(2*backoff, redialMost)
	}
}

// idle waits without a session; questions are answered with an error.
func (r *reporter) idle(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case c := <-r.calls:
			c.done <- errNoMonitor
		case <-timer.C:
			return true
		}
	}
}

func (r *reporter) deliver(ctx context.Context, a answer) bool {
	for {
		select {
		case r.answers <- a:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// session connects and serves until something fails.
func (r *reporter) session(ctx context.Context, source int) error {
	dialCtx, cancel := context.WithTimeout(ctx, dialTimeout)
	s, err := r.dial(dialCtx)
	cancel()
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	if err := r.introduce(ctx, s, source); err != nil {
		return err
	}
	var lastSent, lastPeers time.Duration
	first, wantPeers := true, true
	for {
		next, ok, hurry, redo := r.take()
		if redo {
			return errors.New("monitor address changed")
		}
		now := r.clock()
		if ok && (first || hurry || now-lastSent >= reportEvery) {
			wantPeers = wantPeers || now-lastPeers >= peersEvery
			a, err := r.exchange(ctx, s, next, wantPeers)
			a.source = source
			if err != nil && !stays(err) {
				return err
			}
			if err != nil {
				// The session is good, and the monitor should not take it for lost.
				if a.err = err; !r.deliver(ctx, a) || !r.idle(ctx, refusedPause) {
					return ctx.Err()
				}
				continue
			}
			if lastSent = a.sent; wantPeers {
				lastPeers = a.sent
			}
			first, wantPeers = false, false
			if !r.deliver(ctx, a) {
				return ctx.Err()
			}
			continue
		}
		heard, err := r.wait(ctx, s, reportEvery-(now-lastSent))
		if err != nil {
			return err
		}
		for _, n := range heard {
			// The goal is read by a report, not from the notification, which
			// may be older than an answer that is already here.
			r.mu.Lock()
			r.hurry = true
			r.mu.Unlock()
			wantPeers = wantPeers || n.Node != r.nodeID
		}
	}
}

// introduce asks, once in a process's life, what the monitor knows: a keeper
// that was restarted takes up its own thread, or else its first report would
// look as if it had lost the state that it is in.
func (r *reporter) introduce(ctx context.Context, s monitorSession, source int) error {
	if r.introduced {
		return nil
	}
	askCtx, cancel := context.WithTimeout(ctx, askTimeout)
	k, err := s.Known(askCtx)
	cancel()
	if err != nil {
		return err
	}
	r.introduced = true
	if !r.deliver(ctx, answer{source: source, known: &k}) {
		return ctx.Err()
	}
	return nil
}

// stays reports a refusal after which the session goes on: a lock that was not
// had in time, say.
func stays(err error) bool {
	return pgautofailover.SQLState(err) != "" && !unknownNode(err)
}

// exchange sends one report.
func (r *reporter) exchange(ctx context.Context, s monitorSession, next report, wantPeers bool) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	a := answer{sent: r.clock(), report: next}
	var err error
	if a.assigned, err = s.Report(ctx, next); err != nil {
		return a, err
	}
	if wantPeers {
		peers, err := s.OtherNodes(ctx)
		if err != nil {
			return a, err
		}
		a.peers = append([]peer{}, peers...)
	}
	return a, nil
}

// wait listens until the next report is due, something is to be said or asked,
// or the monitor says something.
func (r *reporter) wait(ctx context.Context, s monitorSession, limit time.Duration) ([]notification, error) {
	if limit <= 0 {
		limit = time.Millisecond
	}
	waitCtx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type outcome struct {
		n   notification
		err error
	}
	heard := make(chan outcome, 1)
	go func() {
		n, err := s.WaitNotification(waitCtx)
		heard <- outcome{n, err}
	}()
	var asked *call
	select {
	case o := <-heard:
		return notes(ctx, waitCtx, o.n, o.err)
	case <-r.wake:
	case c := <-r.calls:
		asked = &c
	}
	cancel()
	o := <-heard
	list, err := notes(ctx, waitCtx, o.n, o.err)
	if asked != nil {
		if err != nil {
			asked.done <- errNoMonitor
			return list, err
		}
		err = r.serve(ctx, s, *asked)
	}
	return list, err
}

// notes tells a wait that was ended on purpose from a session that broke.
func notes(ctx, waitCtx context.Context, n notification, err error) ([]notification, error) {
	switch {
	case err == nil:
		return []notification{n}, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case waitCtx.Err() == nil:
		return nil, err
	}
	return nil, nil
}

// serve answers one question. What the asker makes of an error is its affair;
// a session that broke shows at its next use.
func (r *reporter) serve(ctx context.Context, s monitorSession, c call) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c.done <- c.do(ctx, s)
	return nil
}

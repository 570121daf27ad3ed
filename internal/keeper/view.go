package keeper

import (
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// view is one look at the local server.
type view struct {
	// At is when the look began, on the fence's clock.
	At time.Duration
	// Epoch tells looks that began before a change of ours from later ones.
	Epoch int64
	// Running: a postmaster of ours is there. Ready: it answered the query.
	// Alive: it answered at all, an error too.
	// Refused: it answers whoever is connected, and new sessions with an error.
	Running, Ready, Alive bool
	Refused               bool
	InRecovery            bool
	// Sealed: it runs in recovery only because it was sealed as a stopped primary.
	Sealed    bool
	TLI       pg.Timeline
	LSN       pg.LSN
	Streaming fsm.Streaming
	// Connecting: the receiver has its connection and has heard nothing on it yet.
	Connecting bool
	// Paused: the replay of a standby is paused, by an operator or by PostgreSQL.
	Paused    bool
	SyncState string
	Standbys  []standbySeen
	SyncNames pg.StandbyNames
	// CleanStop: the server is down and LSN is the location of the shutdown
	// checkpoint that it wrote as a primary.
	CleanStop bool
	Err       error
}

// standbySeen is one of our standbys as the local server sees it.
type standbySeen struct {
	ID        int64
	ReplyTime time.Time
}

// peer is another node of the group as the monitor knows it.
type peer struct {
	ID      int64
	Name    string
	Host    string
	Port    int
	LSN     pg.LSN
	Goal    fsm.State
	Primary bool
}

// report is what the monitor is told.
type report struct {
	State     fsm.State
	Reached   int64
	Running   bool
	TLI       pg.Timeline
	LSN       pg.LSN
	SyncState string
	CleanStop bool
	Streaming fsm.Streaming
}

// differs reports whether the monitor should hear of r at once after it heard
// before. A position alone can wait for the next tick, except where the
// monitor waits for exactly that.
func (r report) differs(before report) bool {
	moved := r.LSN != before.LSN
	r.LSN, before.LSN = 0, 0
	return r != before || moved && watched(r.State)
}

// watched reports whether the monitor waits for this state's position.
func watched(s fsm.State) bool {
	return s.In(fsm.PreparePromotion, fsm.FastForward, fsm.ReportLSN, fsm.Draining)
}

// assignment is the monitor's answer.
type assignment struct {
	Goal   fsm.State
	Number int64
	// Timeline is the one to begin on a promotion on the way to the goal, 0 for any.
	Timeline pg.Timeline
}

// lookEvery is how often the local server is looked at in a state, when no
// event asks for a look before.
func lookEvery(s fsm.State, busy bool) time.Duration {
	switch {
	case s == fsm.PreparePromotion:
		return 20 * time.Millisecond
	case s.In(fsm.CatchingUp, fsm.FastForward):
		return 50 * time.Millisecond
	case busy:
		return 250 * time.Millisecond
	default:
		return time.Second
	}
}

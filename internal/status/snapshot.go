package status

import (
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// Snapshot is a formation as of one moment.
type Snapshot struct {
	Formation          string
	Kind               string // "pgsql" or "citus"
	NumberSyncStandbys int
	// Taken is the moment, on the clock of the monitor's server.
	Taken time.Time
	// Deciding says that a monitor process is there to decide.
	Deciding bool
	Groups   []Group
	// Events are the newest ones, oldest first.
	Events []Event
	// Settings are the monitor's, as far as decisions depend on them.
	Settings fsm.Settings
}

// Group is one group of the formation.
type Group struct {
	ID int
	// Primary is the node that takes writes or is ordered to, else the one that
	// last did; 0 when there never was one, or its row is gone.
	Primary int64
	// StandbyNames is the value of synchronous_standby_names that the primary is
	// to have; K of Voters must have a commit before it is acknowledged.
	StandbyNames string
	K            int
	Voters       []int64
	// Lone says that the primary may have acknowledged commits that no standby has.
	Lone bool
	// Timeline is the timeline of the last open primary.
	Timeline pg.Timeline
	// Waiting says why the group does not move although it should; "" when it rests.
	Waiting string
	// Election says that a failover is under way; Owner is the node being promoted, 0 for none yet.
	Election bool
	Owner    int64
	// Requests are what operators asked for and nobody has taken up yet.
	Requests []Request
	// Nodes are in id order.
	Nodes []Node
	// Successor is the node that would take over if the primary were lost now, 0 when none would.
	Successor int64
	// LastChange is the newest event that a rule caused, nil when none is among the events.
	LastChange *Event
}

// Request is something that an operator asked for.
type Request struct {
	Kind fsm.IntentKind
	Age  time.Duration
}

// Keeper is what the monitor knows of a node's keeper.
type Keeper string

// The states of a keeper.
const (
	// KeeperConnected has its session open, and reports.
	KeeperConnected Keeper = "connected"
	// KeeperCalls connects for each report and was heard recently enough: an older client.
	KeeperCalls Keeper = "calls"
	// KeeperLost had a session, which ended.
	KeeperLost Keeper = "lost"
	// KeeperSilent has not reported for longer than the monitor's patience.
	KeeperSilent Keeper = "silent"
)

// Here reports whether the keeper is there to act on a goal.
func (k Keeper) Here() bool { return k == KeeperConnected || k == KeeperCalls }

// Node is one node of a group.
type Node struct {
	ID       int64
	Group    int
	Name     string
	Host     string
	Port     int
	Region   string
	Cluster  string
	Priority int
	Quorum   bool
	Reported fsm.State
	Goal     fsm.State
	// Settled says that the node has reached the goal that it has now.
	Settled bool
	// Running is what the keeper says of its server, Health what the monitor's probe of its port found.
	Running bool
	Health  fsm.Health
	Keeper  Keeper
	TLI     pg.Timeline
	LSN     pg.LSN
	// Lag is how many bytes of the primary's WAL the node had not received as of
	// the last reports; known only on one timeline. Measure is the node that the
	// others are measured by: the primary, or without one the most advanced node.
	Lag      int64
	LagKnown bool
	Measure  bool
	// Streaming is what the node says of its WAL receiver.
	Streaming fsm.Streaming
	// Report, Check and Change tell how long ago the node reported, the monitor
	// looked at its port, and its reported or assigned state changed.
	Report, Check, Change time.Duration
}

// Event is one line of the formation's history.
type Event struct {
	ID          int64
	Time        time.Time
	Node        int64
	Name        string
	Group       int
	Reported    fsm.State
	Goal        fsm.State
	Description string
	// Rule is the rule that caused it; the zero value for a report or an operator's doing.
	Rule Rule
}

// Rule is a rule of the monitor's table.
type Rule struct {
	Pos  int
	Name string
	Text string // one sentence
}

// Node returns the node of an id, or false.
func (g *Group) Node(id int64) (Node, bool) {
	for _, n := range g.Nodes {
		if n.ID == id {
			return n, true
		}
	}
	return Node{}, false
}

// Nodes returns the nodes of all groups in order.
func (s *Snapshot) Nodes() []Node {
	var all []Node
	for _, g := range s.Groups {
		all = append(all, g.Nodes...)
	}
	return all
}

// Connection is the type of connection that a node gives in the state it reported.
func (n Node) Connection() string { return pgautofailover.ConnectionType(n.Reported) }

// MarkedConnection is Connection with the mark of a server that does not
// answer the monitor ("!") or of which nothing is known yet ("?").
func (n Node) MarkedConnection() string {
	return pgautofailover.NodeState{Reported: n.Reported, Health: n.Health}.Connection()
}

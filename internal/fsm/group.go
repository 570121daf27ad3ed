package fsm

import (
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Health is the verdict of the monitor's probe of a node's PostgreSQL port.
type Health int

// The probe's verdicts, as stored in pgautofailover.node.health.
const (
	HealthUnknown Health = -1
	HealthBad     Health = 0
	HealthGood    Health = 1
)

// Session tells what the monitor knows about the reporting session of a
// node's keeper, which holds an advisory lock for as long as it lives.
type Session int

const (
	// SessionNone is a client that never held a session lock; only silence counts.
	SessionNone Session = iota
	// SessionHeld means that the keeper's session is there.
	SessionHeld
	// SessionLost means that a session was there and its lock is released.
	SessionLost
)

// Streaming is what a keeper says of the streaming of WAL: a standby's of its receiver.
type Streaming int

const (
	// StreamingUnknown is not reported (an older client, or not a standby).
	StreamingUnknown Streaming = iota
	// StreamingYes means that the receiver streams from the node's upstream.
	StreamingYes
	// StreamingNo means that the receiver does not stream. A primary says so when
	// its server runs and answers nothing but errors, or still recovers.
	StreamingNo
)

// Node is one registered node as the monitor knows it. All times are on the
// clock of the monitor process, which passes its current time to Decide.
type Node struct {
	ID       int64
	Name     string
	Host     string
	Port     int
	Goal     State
	Reported State
	// GoalNumber counts the goals given to this node; Reached is the number of
	// the last goal whose state the keeper has established, as it said itself.
	// Two numbers instead of comparing states alone: a keeper that is told
	// report_lsn, secondary and report_lsn again reports report_lsn all along,
	// but only the number tells whether its receiver is gone.
	GoalNumber int64
	Reached    int64
	// Priority is the candidate priority, 0 to 100; 0 is never elected by itself.
	Priority int
	// Quorum tells whether the node takes part in the replication quorum.
	Quorum bool
	// Cluster is the Citus cluster name; anything but "" and "default" is a read replica.
	Cluster string
	// PgIsRunning, TLI, LSN and SyncState are the last report's, with the rule
	// that a report without a position leaves TLI and LSN as they were.
	PgIsRunning bool
	TLI         pg.Timeline
	LSN         pg.LSN
	SyncState   string
	// CleanStop says that LSN is the location of the checkpoint record of a
	// clean shutdown: the last word of this node as a primary.
	CleanStop bool
	Streaming Streaming
	// StreamingAt is when Streaming last changed, as seen by this monitor process.
	StreamingAt time.Time
	Health      Health
	// HealthAt is when the probe last gave a verdict; zero before the first.
	HealthAt time.Time
	Session  Session
	// Seen is when the monitor process saw the last report; zero before the first.
	Seen time.Time
	// GoalAt and ReportedAt are when the monitor process saw Goal and Reported change.
	GoalAt     time.Time
	ReportedAt time.Time
	// History is the node's timeline history, oldest first; nil when it never told.
	History pg.History
}

// Settled reports whether the node has reached the goal it has now.
func (n Node) Settled() bool { return n.Reported == n.Goal && n.Reached == n.GoalNumber }

// Stable reports whether the node's goal is s and it has reached it.
func (n Node) Stable(s State) bool { return n.Goal == s && n.Settled() }

// Formation is what a group takes from its formation.
type Formation struct {
	ID           string
	Kind         string // "pgsql" or "citus"
	DBName       string
	OptSecondary bool
	// NumberSyncStandbys is the formation's value; a group reads it through EffectiveSyncStandbys.
	NumberSyncStandbys int
}

// Settings are the monitor's settings that decisions depend on.
type Settings struct {
	UnhealthyTimeout   time.Duration // node_considered_unhealthy_timeout
	SessionlessTimeout time.Duration // the same for clients that hold no session lock: 20 s
	DemoteTimeout      time.Duration // primary_demote_timeout
	StartupGrace       time.Duration // startup_grace_period
	StallTimeout       time.Duration // replication_stall_timeout
	FastForwardTimeout time.Duration // how long a candidate may fetch missing WAL from one source
	IntentTimeout      time.Duration // how long a request of an operator waits to be taken up
	SyncThreshold      int64         // enable_sync_wal_log_threshold, bytes
	PromoteThreshold   int64         // promote_wal_log_threshold, bytes
	GuardDataLoss      bool          // guard_data_loss
}

// DefaultSettings returns the settings of a new monitor.
func DefaultSettings() Settings {
	return Settings{
		UnhealthyTimeout:   3 * time.Second,
		SessionlessTimeout: 20 * time.Second,
		DemoteTimeout:      30 * time.Second,
		StartupGrace:       10 * time.Second,
		StallTimeout:       10 * time.Second,
		FastForwardTimeout: 30 * time.Second,
		IntentTimeout:      60 * time.Second,
		SyncThreshold:      16 << 20,
		PromoteThreshold:   16 << 20,
		GuardDataLoss:      true,
	}
}

// List is one value of synchronous_standby_names that a primary was ordered to
// apply: ANY K (Voters), or empty when Voters is. It is in force from the
// commit of the order until the group's primary has reported that it applied
// a later one; every list in force binds elections.
type List struct {
	Number  int64   `json:"number"`
	Primary int64   `json:"primary"`
	K       int     `json:"k,omitempty"`
	Voters  []int64 `json:"voters,omitempty"`
}

// Empty reports whether a primary under this list acknowledges alone.
func (l List) Empty() bool { return len(l.Voters) == 0 }

// StandbyNames renders the list as the value of synchronous_standby_names.
func (l List) StandbyNames() pg.StandbyNames {
	names := pg.StandbyNames{K: l.K}
	for _, id := range l.Voters {
		names.Members = append(names.Members, pg.StandbyName(id))
	}
	return names
}

// Vote is a node's final report in an election: its receiver has ended.
type Vote struct {
	Node int64       `json:"node"`
	TLI  pg.Timeline `json:"tli"`
	LSN  pg.LSN      `json:"lsn"`
}

// Election is the open election of a group.
type Election struct {
	Votes []Vote `json:"votes,omitempty"`
	// AllowDataLoss is an operator's recorded word that missing votes do not matter.
	AllowDataLoss bool `json:"allow_data_loss,omitempty"`
	// Prefer is the node that an operator asked to promote, Avoid the one that hands over.
	Prefer int64 `json:"prefer,omitempty"`
	Avoid  int64 `json:"avoid,omitempty"`
	// Planned says that an operator asked for it: the old primary is expected to stop cleanly.
	Planned bool `json:"planned,omitempty"`
	// Then is the goal that the old primary of a planned promotion gets once the
	// candidate has answered; until then it goes on writing. Unknown when it has it.
	Then State `json:"then,omitempty"`
	// Named says that the operator named the candidate: no other one will do.
	Named bool `json:"named,omitempty"`
	// Source is the node that the candidate fetches missing WAL from.
	Source int64 `json:"source,omitempty"`
	// Followers are the nodes that were to be secondaries when an asynchronous
	// group lost its primary: each of them may still stream from it.
	Followers []int64 `json:"followers,omitempty"`
	// Async says that the old primary was asynchronous by choice, and in a state
	// in which it fences itself.
	Async bool `json:"async,omitempty"`
	// Off is an operator's word that the old primary is off: its row was removed by force.
	Off bool `json:"off,omitempty"`
}

// Ghost is what a group keeps of a node whose row an operator removed by force.
type Ghost struct {
	ID       int64       `json:"id"`
	Name     string      `json:"name"`
	Host     string      `json:"host"`
	Port     int         `json:"port"`
	Goal     State       `json:"goal"`
	Reported State       `json:"reported"`
	Quorum   bool        `json:"quorum"`
	TLI      pg.Timeline `json:"tli"`
	LSN      pg.LSN      `json:"lsn"`
}

// Record is what a group remembers between decisions. It is stored in the
// same transaction as the goals it explains.
//
// Invariants, established by Decide:
//   - at most one node is being promoted, and it is Owner;
//   - the last of Lists is what synchronous_standby_names() answers;
//   - a list leaves Lists only when the primary reported a later one applied.
type Record struct {
	// Epoch counts promotions: each selection of a candidate takes the next number.
	Epoch int64 `json:"epoch,omitempty"`
	// Told is the epoch in which history was told that a worker waits for the coordinator.
	Told int64 `json:"told,omitempty"`
	// Owner is the node being promoted in this epoch, 0 for none.
	Owner int64 `json:"owner,omitempty"`
	// Lists are the lists in force, oldest first.
	Lists []List `json:"lists,omitempty"`
	// Election is the open election, nil for none.
	Election *Election `json:"election,omitempty"`
	// Primary is the node that last opened for writes, or was last ordered to; 0 before the first.
	Primary int64 `json:"primary,omitempty"`
	// Fenced says that Primary has said that it stopped since it was last ordered to be writable.
	Fenced bool `json:"fenced,omitempty"`
	// FinalTLI and FinalLSN are where Primary's last clean stop left its WAL (the
	// location of the shutdown checkpoint); zero when it did not stop cleanly.
	FinalTLI pg.Timeline `json:"final_tli,omitempty"`
	FinalLSN pg.LSN      `json:"final_lsn,omitempty"`
	// Timeline is the timeline that the last open primary reported: the reference lineage.
	Timeline pg.Timeline `json:"timeline,omitempty"`
	// Timelines is the highest timeline number that a node has reported or was given.
	Timelines pg.Timeline `json:"timelines,omitempty"`
	// Grants are the numbers of those who may be promoting, one for each node.
	Grants []Grant `json:"grants,omitempty"`
	// Strays are nodes that were replaced after they had been ordered to promote
	// and before they said that they opened: they may have begun a timeline of
	// their own under a number that another node's timeline has too. Until they are
	// rewound nothing that they report says anything about anybody's WAL.
	Strays []int64 `json:"strays,omitempty"`
	// Removed are nodes that were removed by force and may still be running.
	Removed []Ghost `json:"removed,omitempty"`
}

// IntentKind names what was asked of a group, or what happened to it outside Decide.
type IntentKind string

// The intents that SQL functions store.
const (
	IntentFailover         IntentKind = "failover"
	IntentPromotion        IntentKind = "promotion"
	IntentStartMaintenance IntentKind = "start_maintenance"
	IntentStopMaintenance  IntentKind = "stop_maintenance"
	IntentRemove           IntentKind = "remove"
	// IntentRemoved and IntentRegistered report facts and do not expire; Ghost tells who was removed.
	IntentRemoved    IntentKind = "removed"
	IntentRegistered IntentKind = "registered"
	// IntentSettings reports that priorities, quorum or number_sync_standbys were stored; Text says which.
	IntentSettings IntentKind = "settings"
)

// Intent is one request that waits to be taken up. Decide closes it.
type Intent struct {
	ID   int64
	Kind IntentKind
	// Node is the node it is about, 0 for the group.
	Node int64
	// AllowDataLoss carries the caller's guard_data_loss = off.
	AllowDataLoss bool
	// Text ends the event text, e.g. "updating node 2 ... candidate priority to 50".
	Text string
	// Ghost describes the removed node of IntentRemoved.
	Ghost *Ghost
	// At is when the monitor process first could have seen it.
	At time.Time
}

// Group is everything a decision looks at.
type Group struct {
	Formation Formation
	ID        int
	// Nodes are in id order, nodes whose goal is dropped included.
	Nodes    []Node
	Record   Record
	Intents  []Intent
	Settings Settings
	// MonitorStart is when this monitor process began to observe.
	MonitorStart time.Time
}

// RuleID names a rule of the monitor's table: the position of the upstream
// rule it stems from, or a number of our own, and a word for people.
type RuleID struct {
	Pos  int
	Name string
}

// Assignment is one new goal.
type Assignment struct {
	Node int64
	Goal State
}

// Event is one line of history. Node 0 means a line for the log channel only,
// with no event row.
type Event struct {
	Node int64
	Text string
}

// Closing tells what became of an intent.
type Closing struct {
	Intent  int64
	Applied bool
	Text    string // why not, when not applied
}

// Decision is the first thing that should change, and why. The zero Decision
// changes nothing.
type Decision struct {
	Rule   RuleID
	Assign []Assignment // in node order
	Events []Event
	Close  []Closing
	// Record is the group's whole record after the decision; RecordChanged says whether to store it.
	Record        Record
	RecordChanged bool
	// Remove lists nodes whose row goes: they reported dropped.
	Remove []int64
	// NumberSyncStandbys, when not nil, is the formation's new value.
	NumberSyncStandbys *int
	// Waiting says why the group is not moving although it should, with the
	// command that overrides; empty when it is at rest.
	Waiting string
}

// Changes reports whether anything is to be stored besides Waiting.
func (d Decision) Changes() bool {
	return len(d.Assign) > 0 || len(d.Close) > 0 || d.RecordChanged || len(d.Remove) > 0 || d.NumberSyncStandbys != nil
}

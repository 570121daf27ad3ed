package fsm

// NodeKind is the kind of a node: a plain PostgreSQL server, or a member of a
// Citus formation, whose edges carry extra steps.
type NodeKind int

// The node kinds of pgautofailover.register_node.
const (
	Standalone NodeKind = iota
	Coordinator
	Worker
)

var nodeKindNames = [...]string{Standalone: "standalone", Coordinator: "coordinator", Worker: "worker"}

// String returns the kind as the SQL interface spells it.
func (k NodeKind) String() string { return nodeKindNames[k] }

// Step is one repeatable action of a keeper on its own server. Every step is
// "make it so": it may be killed anywhere and run again. The keeper performs
// steps on a real server, the simulator on a model of one.
type Step int

// The steps, in the words of the operator's manual.
const (
	// StepInitDB creates the data directory when there is none and publishes
	// its system identifier; refuses a server that runs already.
	StepInitDB Step = iota
	// StepConfigure writes the settings file, the include line, the certificate
	// and the node's own HBA rules.
	StepConfigure
	// StepStart has PostgreSQL running and answering.
	StepStart
	// StepBootstrap creates database user, database, extensions, the monitor's
	// role and the replication role with their HBA rules.
	StepBootstrap
	// StepPromote has the server out of recovery with a checkpoint on the new
	// timeline and no standby configuration left. Ends the receiver for good. The
	// new timeline has the number that came with the goal (see [Grant]), if any did.
	StepPromote
	// StepSetList writes the group's stored list to synchronous_standby_names
	// and reloads. When the list is empty it also releases the sessions that
	// wait for a standby; only an order of the monitor brings us here. On a
	// stopped server it is in place before the server next opens. A standby that a
	// later step of the edge promotes may get it while it is promoted, before or after
	// recovery ends: until then it goes by its guard, and acknowledges nothing.
	StepSetList
	// StepEnforceList waits until a list that is not empty holds for every
	// session: a new connection shows it and the checkpointer has taken note,
	// which a checkpoint proves. A server that comes out of recovery needs no
	// proof, it is guarded (see StepBaseBackup): the step then waits only while
	// the list that it had was empty. Nothing to do when the list is empty.
	StepEnforceList
	// StepWaitVoters waits until a new connection shows the list, checkpoints,
	// notes the flush LSN, then waits until K voters have flushed that far.
	// Nothing to wait for when the list is empty.
	StepWaitVoters
	// StepSlots has one replication slot for every other node and none for nodes that are gone.
	StepSlots
	// StepHBA has the HBA rules of all other nodes in place.
	StepHBA
	// StepCheckpoint asks a running server for a checkpoint; a server that does
	// not answer in time is left alone, the step succeeds.
	StepCheckpoint
	// StepStop has postmaster and all children gone. It asks for a fast
	// shutdown; once the shutdown checkpoint is on the candidate (or no
	// candidate is known and time is up) it ends the rest immediately. It notes
	// the location of the shutdown checkpoint when the shutdown was clean.
	StepStop
	// StepStopNow is StepStop by immediate shutdown: self-fencing, before StepSeal.
	StepStopNow
	// StepBaseBackup, and every other step that turns a stopped server into a
	// standby (StepCloneStandby, StepRewindOrInit, StepStandbyAlone,
	// StepStandbyFiles), leaves it a guard before it starts:
	// synchronous_standby_names is a list that nobody can satisfy, whatever the
	// copy brought along. A server that comes out of recovery so
	// acknowledges nothing before it is given its own list.
	//
	// StepBaseBackup clones the primary through the node's own slot, then
	// writes the standby configuration and starts.
	StepBaseBackup
	// StepCloneStandby clones the most advanced standby without a slot and
	// starts as a standby without upstream.
	StepCloneStandby
	// StepRewindOrInit turns whatever the data directory holds into a standby of the
	// current primary: crash recovery, rewind, base backup when that fails;
	// writes the standby configuration, starts, drops the node's own slots.
	StepRewindOrInit
	// StepFollow points the running standby at the current primary (reload,
	// or start when stopped); nothing is rewound. A server that is out of
	// recovery is first made a standby again.
	StepFollow
	// StepCheckTimeline compares the local timeline and position with the
	// upstream's history; a diverged server is rewound. When they cannot be
	// compared now and the server is pointed at somebody else, that upstream is
	// taken away before the next try: it may come back on a line of its own whose
	// timeline has the same number, and no receiver would notice.
	StepCheckTimeline
	// StepCheckConnection makes a real connection to the local server and waits
	// until the receiver streams.
	StepCheckConnection
	// StepEndReceiver removes the upstream from the configuration of a running
	// standby, waits until the receiver is gone and replay has reached the end
	// of local WAL. After it the server acknowledges nothing to anybody. A
	// server that is out of recovery is restarted as a standby without upstream.
	StepEndReceiver
	// StepStandbyAlone restarts a stopped or former primary's server as a
	// standby without upstream.
	StepStandbyAlone
	// StepDropOwnSlots drops every slot of ours on this server.
	StepDropOwnSlots
	// StepFetchWAL streams from the most advanced standby until its position is
	// reached, then ends the receiver again.
	StepFetchWAL
	// StepCloseGate refuses all ordinary connections and ends those that exist.
	StepCloseGate
	// StepOpenGate lets ordinary connections in again.
	StepOpenGate
	// StepRelease leaves PostgreSQL to the operator.
	StepRelease
	// StepStandbyFiles writes a standby configuration without upstream on a stopped server.
	StepStandbyFiles
	// StepForgetInit removes the init file: creation is over.
	StepForgetInit
	// StepCoordinatorAdd, …Prepare, …Commit and …Rollback keep a Citus
	// coordinator's metadata in step; StepCoordinatorRemove takes the node out.
	StepCoordinatorAdd
	StepCoordinatorPrepare
	StepCoordinatorCommit
	StepCoordinatorRepair
	StepCoordinatorRemove
	// StepSeal makes a stopped server harmless, whoever starts it: with the files
	// of a standby without upstream and the guard list it would neither take
	// writes nor acknowledge any. One that ran as a primary is marked as sealed; a
	// true standby only loses its upstream. A server that somebody started since
	// StepStop is stopped again. Nothing to do without a data directory.
	StepSeal
	// StepUnseal takes the files of a standby away again where StepSeal put them,
	// so that the server goes on as the primary that it was; one that somebody
	// started meanwhile is stopped for that. It never touches a true standby: that
	// would be a second writer on its primary's timeline. Every step that
	// makes a server a true standby takes the mark away.
	StepUnseal
)

// Edge is one transition of a keeper.
type Edge struct {
	From, To State
	Steps    []Step
}

// Duty is what a keeper enforces while a node rests in a state.
type Duty struct {
	// Postgres says whether the server must run, must be stopped, or is not ours to touch.
	Postgres Power
	// Slots asks for slots of other nodes to be created and dropped as needed,
	// Advance also for moving them to what the monitor knows (on standbys).
	Slots, Advance bool
}

// Power is what must be true of the local PostgreSQL.
type Power int

// The three answers.
const (
	PowerUntouched Power = iota
	PowerRunning
	PowerStopped
)

var stepNames = [...]string{
	StepInitDB:             "initdb",
	StepConfigure:          "configure",
	StepStart:              "start",
	StepBootstrap:          "bootstrap",
	StepPromote:            "promote",
	StepSetList:            "set list",
	StepEnforceList:        "enforce list",
	StepWaitVoters:         "wait voters",
	StepSlots:              "slots",
	StepHBA:                "HBA",
	StepCheckpoint:         "checkpoint",
	StepStop:               "stop",
	StepStopNow:            "stop now",
	StepBaseBackup:         "base backup",
	StepCloneStandby:       "clone standby",
	StepRewindOrInit:       "rewind or init",
	StepFollow:             "follow",
	StepCheckTimeline:      "check timeline",
	StepCheckConnection:    "check connection",
	StepEndReceiver:        "end receiver",
	StepStandbyAlone:       "standby alone",
	StepDropOwnSlots:       "drop own slots",
	StepFetchWAL:           "fetch WAL",
	StepCloseGate:          "close gate",
	StepOpenGate:           "open gate",
	StepRelease:            "release",
	StepStandbyFiles:       "standby files",
	StepForgetInit:         "forget init",
	StepCoordinatorAdd:     "coordinator add",
	StepCoordinatorPrepare: "coordinator prepare",
	StepCoordinatorCommit:  "coordinator commit",
	StepCoordinatorRepair:  "coordinator repair",
	StepCoordinatorRemove:  "coordinator remove",
	StepSeal:               "seal",
	StepUnseal:             "unseal",
}

// String returns the step in a few words, for logs and the manual.
func (s Step) String() string {
	if s < 0 || int(s) >= len(stepNames) {
		return "unknown step"
	}
	return stepNames[s]
}

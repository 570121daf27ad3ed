package sim

// Mutation names one safeguard that a world lacks: the simulator proves that
// it sees the difference.
type Mutation string

// The safeguards that can be switched off. Those of the model live in keeper
// and server; those of the decisions edit what Decide is shown or what it answers.
const (
	Sound Mutation = ""
	// ListsForgotten: only the last list ordered binds an election.
	ListsForgotten Mutation = "lists-forgotten"
	// ListForAnybody: a keeper applies the stored list although its order no longer stands.
	ListForAnybody Mutation = "list-for-anybody"
	// VotersRecounted: the electorate shrinks to the reachable nodes while an election is open.
	VotersRecounted Mutation = "voters-recounted"
	// NoteFirst: the flush position is noted before the list is set.
	NoteFirst Mutation = "note-first"
	// OneVoterEnough: a primary waits for one voter of its new list instead of k.
	OneVoterEnough Mutation = "one-voter-enough"
	// OneVoteEnough: one vote of each list suffices for an election.
	OneVoteEnough Mutation = "one-vote-enough"
	// ReceiverStays: report_lsn is reported while the receiver goes on.
	ReceiverStays Mutation = "receiver-stays"
	// NoFencing: the new primary opens although the old one may still acknowledge.
	NoFencing Mutation = "no-fencing"
	// ChildrenIgnored: a stop is reported while children of the postmaster live.
	ChildrenIgnored Mutation = "children-ignored"
	// DegradedReplaced: a primary that may acknowledge alone is replaced like any other.
	DegradedReplaced Mutation = "degraded-replaced"
	// NoDemoteWait: an asynchronous group does not wait for the old primary to fence itself.
	NoDemoteWait Mutation = "no-demote-wait"
	// LoneOrder: an old primary is told to go on alone while an election is open.
	LoneOrder Mutation = "lone-order"
	// OpenEmpty: a new primary opens with an empty list whatever number_sync_standbys says.
	OpenEmpty Mutation = "open-empty"
	// NoGuard: a clone keeps the list that it was copied with.
	NoGuard Mutation = "no-guard"
	// ListNotEnforced: without the guard, and the gate opens while the list
	// before may still be in force.
	ListNotEnforced Mutation = "list-not-enforced"
	// NoFence: a primary that is cut off goes on.
	NoFence Mutation = "no-fence"
	// LonelyFence: a primary that nobody may replace stops when it loses the monitor.
	LonelyFence Mutation = "lonely-fence"
	// RowIsContact: a row of a silent standby counts as contact with it.
	RowIsContact Mutation = "row-is-contact"
	// ContactWhenAnswered: contact with the monitor is dated by the answer instead of the question.
	ContactWhenAnswered Mutation = "contact-when-answered"
	// UnderstatedLSN: a standby reports the received position, below the replayed one after a restart.
	UnderstatedLSN Mutation = "understated-lsn"
	// ShutdownIgnored: a switchover does not wait for the shutdown record.
	ShutdownIgnored Mutation = "shutdown-ignored"
	// NotSealed: an old primary that stopped comes up as it was when somebody starts it.
	NotSealed Mutation = "not-sealed"
	// NumbersAgain: a promotion begins the timeline that PostgreSQL would by itself.
	NumbersAgain Mutation = "numbers-again"
	// VoteWithoutPosition: a final report counts although the server had just died and the position is an older one.
	VoteWithoutPosition Mutation = "vote-without-position"
	// DeafDecides: silence and ended sessions count although the monitor hears nobody.
	DeafDecides Mutation = "deaf-decides"
	// CopyVotes: a base backup runs under a voter's application name.
	CopyVotes Mutation = "copy-votes"
)

// Package sim plays a whole group of servers in one goroutine and in virtual
// time: the real fsm.Decide, fsm.CheckIntent, fsm.FirstGoal, fsm.Next and
// fsm.Reenter over model servers, model keepers, a model monitor and a network
// that loses, delays and partitions. It never touches a real server or a clock.
//
// # What is modelled
//
// A server's WAL is a position on a branch, and every branch has an identity of
// its own: should two carry the same timeline number, they are told apart by the
// model and by nobody in it. A promotion takes the number that PostgreSQL would
// take, after the history files that the server has; a standby does not start on files of
// timelines that nobody began. A server knows its settings on disk, in new connections
// and in force separately; a list that replaces another is taken notice of at a
// time of its own, and until then the weaker of both acknowledges. Confirmations
// are what a connected walsender was told under the name of a voter. A killed
// postmaster leaves children behind, a promotion begins a branch, a rewind that
// is killed leaves a directory that nothing starts from.
// Somebody may start a stopped server at any moment, and a server may fall
// sick: every new connection is answered with an error from then on.
//
// A keeper walks the edges of fsm step by step, each step in parts, and can be
// killed, stopped or cut off between any two. Its state file is written before
// the monitor is told. Reports may be late or lost, and so may their answers
// after the commit, but a late report never lands behind a newer one.
//
// The monitor is a database that changes only in whole transactions and two
// processes of which one holds the lock of the decider. What a process has
// seen is on its own clock and dies with it.
//
// # Which check covers which invariant
//
//	I1   one acknowledging server     judge: at each acknowledgement, and after each step while two
//	                                  servers are open: could the older one still be confirmed?
//	I2   stopped means stopped        judge: reports of stopped states by open servers; I1 at openings
//	I3   fence before promotion       judge: I1, which sees both ends in virtual time
//	I4   who fences itself            judge: I1 for those who must, fencing() for those who must not
//	I5   one owner per epoch          judge: after each decision
//	I6   no promised write is lost    judge: ledger of acknowledged positions at each opening, with what
//	                                  primaries acknowledged alone in groups that have quorum standbys;
//	                                  the copies behind each acknowledgement, on disk
//	I7   winner has what was voted    judge: at each opening
//	I8   one lineage                  judge: I6 and I21, over true branches
//	I9   a vote is final              judge: when report_lsn is reported
//	I10  a secondary is a standby     judge: when the edge is walked
//	I11  nss holds                    judge: each list when it is ordered
//	I12  primary means caught up      judge: when primary is reported
//	I13  releases are ordered         judge: I14, as no list in force would allow it
//	I14  lists are remembered         judge: at each acknowledgement
//	I15  priority 0                   judge: after each decision
//	I16  one system identifier        servers of different roots refuse to stream; the rest is the schema's test
//	I17  maintenance is left alone    judge: after each decision
//	I18  dropped is final             judge: after each decision
//	I19  every goal has an edge       judge: after each decision, for what the node reported; L1 for what it is
//	I20  behind the gate              judge: when stop_replication is reported
//	I21  no foreign WAL               each connection and each batch of WAL; each promotion: no timeline
//	                                  number is ever used for two lines
//	I22  decisions are functions      decisions are transactions here; the schema's and the monitor's tests
//	I23  events                       judge: each new goal has an event; replay is the schema's test
//	I24  k of V                       judge: each list when it is ordered
//	I25  coordinator                  settled groups have nothing prepared and name the primary
//	I26  repeatable edges             every step is repeated from its beginning after any fault; L1
//	I27  monitor restart              judge: no election within the grace period, nor by a monitor that hears nobody
//	I28  no errors without primary    Decide returning an error; SQL functions in the schema's test
//	L1   somebody is primary          fair suffix: the group settles, and a commit is acknowledged
//	L2   no goal without edge         fair suffix
//	L3   old primaries return         fair suffix: everybody streams from the primary
//	L4   ends in primary              fair suffix; formation at the beginning
//	L5   forced removal               fair suffix
//	L6   candidate dies               fair suffix
//	L7   maintenance ends             fair suffix, whose operator ends it
//	L8   no flapping                  one event makes few decisions, and a settled group none
//
// # Proof that it sees
//
// A [Mutation] takes one safeguard away, in the model or at the border to fsm.
// With any of them missing some schedule breaks an invariant that holds with it.
//
// # Replaying
//
// A schedule is a seed, a setup and a list of operations. The test prints a
// failing one after it has been made as short as possible; saved below testdata
// it is played for ever after.
package sim

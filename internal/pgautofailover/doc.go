// Package pgautofailover owns the schema pgautofailover of a monitor's
// database: its SQL text, its installation and upgrade, and every query that
// anybody sends to it.
//
// The SQL side validates, stores and notifies. It refuses what is documented
// as refused, keeps requests as rows of the table intent, and chooses no goal
// state but the first one of a node that registers. The Go side has one method
// for each question asked: [DB] is what keepers and commands use, [Decider] is
// what the one monitor process uses to load a group, let a pure function
// decide, and store the decision, in one transaction.
//
// The package never decides a state, never retries and never reconnects:
// that is for the programs which hold the connection.
package pgautofailover

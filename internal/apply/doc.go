// Package apply replays on this database what other databases have committed:
// receive, decode, resolve, write, acknowledge.
//
// An [Engine] serves one database. It reads spock.subscription and runs one
// [Worker] for each enabled subscription. A worker replays its provider's
// transactions in their order, each in one local transaction that ends with the
// provider's commit time and position: stamps, data and progress commit
// together, so that a crash neither loses nor repeats a change.
//
// Two forms of writing exist. The fast form sends transaction after transaction
// into one pipeline of prepared statements, without waiting for answers and
// without a Sync between them, so that nothing behind a failed statement can
// commit. Its statements succeed only in the common case: a statement that
// finds a newer row, or none, or a tombstone, fails in the server. Whatever the
// failure was, the transaction is rolled back and repeated in the careful form:
// look, decide with package conflict, write, one change after the other, still
// in one transaction. A change that fails there too takes the exception path.
//
// The package never acknowledges to a provider what is not on disk here, never
// lets two transactions of any subscriptions work on one key at a time, and
// never decides a conflict itself.
package apply

// Package walreceiver holds one replication connection to a PostgreSQL server:
// it asks who the server is, makes and drops logical slots, starts the stream of
// one, hands over what comes, and tells the server how far it may forget.
//
// What is acknowledged is said by the caller alone, as three positions of which
// none is derived from another; the zero [Feedback] acknowledges nothing. It is
// sent when the server asks, on a timer (also while the caller is busy, under
// [Conn.Run]) and when the caller says so.
//
// A connection can be lost at any byte. Every method then returns an error that
// answers [SafeToRetry] and [Transient], and the connection is good for nothing
// but Close. Nothing that was acknowledged is ever taken back, and nothing is
// handed over twice by one connection.
//
// The package does not look into what it receives, keeps no position on disk,
// and does not reconnect: where to go on is for the caller to know.
package walreceiver

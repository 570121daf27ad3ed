// Package status says what an operator may see of a formation: a Snapshot, read
// once from the monitor's database, what of it keeps a group from being
// primary or a node from being promoted, and a Watcher that reads again when
// something changed.
//
// It owns no connection that it did not open, never writes, and decides
// nothing: what it explains is what package fsm decided or would decide.
package status

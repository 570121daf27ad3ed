// Package zodan measures how long a node takes to join, beside the bare copy of
// the same database in the same run.
//
// The benchmark prints; it does not fail because something was slow.
package zodan

// Package orchestrator executes lists of steps on the nodes of a multi-master
// cluster: workflow files, and the plans for nodes that join and leave.
//
// It owns the sessions with the nodes, the lock that keeps a second run out,
// the journal from which a run is taken up again or undone, and the events that
// tell how far a run is. A step is stored as begun before it is done, and what
// exists as wanted is not made a second time, so that a run may be ended at any
// moment and called again.
//
// It never decides what the steps are: that is package workflow. It applies no
// change of another node and copies no table: that is the engine, which it
// meets in the tables of schema spock only.
package orchestrator

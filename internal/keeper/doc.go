// Package keeper is the program beside one data directory: it owns the
// PostgreSQL server there, reports what it sees to the monitor, hears the goal
// that the monitor assigns and walks the edges that lead to it.
//
// It owns the files of a node (configuration, state, init and pid file), the
// session with the monitor, the observation of the local server, and every
// action on that server: the steps of package fsm are performed here and
// nowhere else.
//
// It never chooses a goal. The one thing that it does on its own account, apart
// from keeping the server in the condition that its state asks for, is to stop
// a primary that has lost both the monitor and its standbys.
//
// One goroutine decides (see engine). Beside it run a reporter with the one
// connection to the monitor, an observer with the one kept connection to the
// local server, and at most one runner that performs the steps of an edge.
// Every step may be killed anywhere and run again.
package keeper

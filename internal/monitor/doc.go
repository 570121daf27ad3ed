// Package monitor is the monitor program: it creates and supervises the
// PostgreSQL server that holds the pgautofailover schema, watches the nodes
// and runs the decisions of every group.
//
// Everything that can matter (a report that changed something, a verdict of a
// probe, a session that is gone, a request of an operator, a deadline) ends in
// the same place: the group's key enters a queue, a worker locks and loads the
// group in one transaction, adds what this process observed with its own clock,
// asks [fsm.Decide] until nothing changes, and stores the answers. One key is
// never worked on twice at once.
//
// Time is the process's own: silence counts from when it saw a report, and
// starts again whenever the process itself may have been the one that slept.
//
// The package never chooses a goal and never talks to a keeper: decisions are
// made by package fsm and reach the nodes through the database.
package monitor

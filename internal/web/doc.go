// Package web shows a formation as a page in a browser that follows it: the same
// Snapshot as the terminal's dashboard, group by group, and for programs the
// same in JSON.
//
// It owns the HTTP server, on a listener that it is given. It never writes, asks
// nobody for a password and has none, and knows the monitor by its Snapshots alone.
package web

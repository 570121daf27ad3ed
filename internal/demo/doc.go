// Package demo owns the demonstrations: stories told with real processes of
// this very program on this host, a writer that remembers what was
// acknowledged, a failure, and a verdict on what survived.
//
// It starts programs, watches them through the same functions that any client
// calls, and stops everything it started. It never decides a state, touches no
// server that it did not start, and reads neither arguments nor environment:
// its caller hands both over in a Stage.
package demo

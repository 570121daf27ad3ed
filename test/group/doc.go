// Package group runs a whole group as an operator would: a monitor and nodes,
// each a real process of the built program with its own real server, on this
// host or spread over the network namespaces of a [pgtest.Network].
//
// It also holds what a test of such a group needs: a writer that remembers every
// row whose commit was acknowledged, ways to break things, and the checks that
// decide whether something was lost.
//
// It talks to the program by its command line and to the monitor by SQL, never
// through the program's packages.
package group

// Package cli owns everything an operator types and reads: the command trees
// of pgdrover and pg_autoctl, their options, texts, JSON and exit codes, and
// the wiring of the programs below.
//
// A command is flags, one call downstairs, and a rendering of the answer. The
// package never decides a state, never writes SQL, and keeps nothing in
// package variables: Main builds the tree of one call from its Env. Only this
// package and main read arguments or the environment.
package cli

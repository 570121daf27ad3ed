// Package workflow reads and checks what is to be done to a multi-master
// cluster: the configuration file and the workflow files of spockctrl, and the
// plans for nodes that join and leave. All of them are lists of [Step], each of
// which is a statement for one node once its variables are known.
//
// It owns the syntax of both files, the commands with their options and the
// values these accept, variables and how they are put into SQL text, and the
// SQL of every command. Every complaint names the line and the column.
//
// It never connects to a server, reads a file or a clock, and decides nothing
// by what a server said: that is for package orchestrator.
package workflow

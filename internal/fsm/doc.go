// Package fsm holds both state machines of a group as pure functions over values.
//
// The monitor's half is [Decide]: it looks at one group (nodes as last
// reported, health, what operators asked for, what the group remembers) and
// answers with the first rule that changes something: new goals, the group's
// new record with the list of synchronous standbys, and the event texts.
//
// The keeper's half is [Next]: the edge from the state that a node has reached
// to the state that it is assigned, as a list of steps that can each be killed
// and repeated. [Unreachable] compares the two: every goal that a rule can
// assign has an edge from every state in which it can be assigned.
//
// The package never reads a clock, never logs and never talks to anything: the
// time is an argument and the answer is a value.
package fsm

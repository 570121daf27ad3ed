// Package supervisor runs the services of one process: starts them in order,
// restarts them by policy within a budget, stops them in reverse order. It
// also owns the process's pid file and the lock that makes it the only one.
//
// It knows nothing of what a service does.
package supervisor

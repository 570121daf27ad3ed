// Package ini reads and writes the syntax of pg_autoctl.cfg: sections of
// "key = value" lines, read by pg_autoctl as well. A value is everything up to the end
// of its line: it has no quotes, no escapes and no comments in it.
//
// It is pure text: what the keys mean and which are required is for its callers.
package ini

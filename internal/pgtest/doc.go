// Package pgtest gives tests what they cannot fake: throwaway PostgreSQL
// servers, external processes, faulty TCP links and networks of namespaces.
//
// A package whose tests use it hands its [testing.M] to [Main]. The tests then
// run in a child of the process that "go test" started: as user postgres when
// that process is root (servers refuse root), with a home and a temporary
// directory of its own, and under a parent that ends and reports whatever the
// tests leave running.
//
// What a machine lacks is a skip with a reason; with CI=true in the environment
// missing server binaries are a failure.
//
// The package stands above all others, so that only tests can import it. It
// never touches a server, a process or a namespace that it did not start.
package pgtest

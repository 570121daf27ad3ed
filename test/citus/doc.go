// Package citus runs a Citus formation on this host, real programs over real
// servers, and breaks its coordinator and its workers.
//
// Where the extension is installed its tests use it: a distributed table, written
// to through the coordinator. Elsewhere the servers have the stand-in of
// [github.com/pgdrover/pgdrover/internal/pgtest.Citus] and the writers do what
// the extension would: ask the coordinator where a row belongs, keep that answer
// locked, and write it there. The names of the tests say which it was.
package citus

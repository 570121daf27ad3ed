// Package multimaster measures multi-master replication beside what others
// offer: native logical replication and, where Debian's package is installed or
// can be, pglogical. All of them follow the same database, from one server to
// another, and drain the same backlogs in the same run, so that the figures are
// ratios. The copy of the database stands beside pg_dump into psql as well, and
// pgbench's transactions beside the same as bare SQL statements: the least that
// applying by SQL can cost.
//
// The benchmarks print; none of them fails because something was slow.
//
//	BENCH_ROUNDS  how often each measurement is repeated, in turns (3)
//	BENCH_SCALE   pgbench's scale (10)
//	BENCH_SIZE    percent of the usual number of transactions (100)
package multimaster

// Package bench measures what pgdrover promises: how long writers wait through
// a switchover or a failure, and what an idle keeper and a busy monitor cost.
// Where Debian's pg_auto_failover is installed, it goes through the same in the
// same run, so that the figures are ratios.
//
// The benchmarks print; none of them fails because something was slow.
package bench

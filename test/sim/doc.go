// Package sim plays whole groups in one goroutine and in virtual time: the real
// rules and edges of package fsm over model servers with WAL positions, a ledger
// of acknowledged writes, a network that loses, delays and cuts, and keepers and
// monitors that crash between any two steps. What must hold is checked after
// every step. A schedule is a function of its seed.
package sim

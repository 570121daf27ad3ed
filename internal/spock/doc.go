// Package spock owns the schema spock of a multi-master database: its SQL
// text, its installation, upgrade and removal, and every query that anybody
// sends to it.
//
// The SQL side is Spock's interface on a stock server: tables, PL/pgSQL and
// event triggers. It validates, stores what is wanted, keeps publications and
// triggers in line with the replication sets, catches DDL, and notifies; it
// applies nothing. Schema spock also holds the private tables pgdrover_...,
// schema pgdrover the private functions. The Go side has one method for each
// question asked: [DB] is what the apply engine, commands and workflows use.
//
// The package never decides a conflict, never reads a replication stream,
// never retries and never reconnects: that is for the programs which hold the
// connection.
package spock

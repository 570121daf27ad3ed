// Package postgres owns one PostgreSQL server: its data directory, its
// configuration files, its postmaster process and the SQL that its keeper
// runs on it. Everything in it is written as "make it so" and can be killed
// and repeated at any point.
//
// It never decides what the server should be, it knows no monitor, and it
// never signals or trusts a process that it has not proved to be the server
// of this data directory.
package postgres

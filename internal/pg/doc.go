// Package pg holds the words that everything else speaks: WAL positions,
// timelines and their histories, connection strings, quoting, the names of
// slots and standbys, synchronous_standby_names, the lines of pg_hba.conf and
// postgresql.conf, and the text of pg_controldata.
//
// It is pure: values in, values out. It opens no file and no connection.
package pg

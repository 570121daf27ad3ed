package apply

import (
	"maps"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/walreceiver"
)

// ordinary takes away what a role or a database may say for its sessions (ALTER
// ROLE … SET) and what would change here the meaning of statements and values,
// or end a session that waits; what is special about this one comes on top.
func ordinary(config *pgconn.Config, special map[string]string) {
	maps.Copy(config.RuntimeParams, map[string]string{
		// Another role than the one that has logged in may do less.
		"role": "none", "search_path": "pg_catalog, pg_temp", "row_security": "off", "jit": "off",
		"statement_timeout": "0", "lock_timeout": "0", "idle_session_timeout": "0", "idle_in_transaction_session_timeout": "0",
		"default_transaction_isolation": "read committed", "default_transaction_read_only": "off", "default_transaction_deferrable": "off",
		"client_encoding": "UTF8", "datestyle": "ISO", "intervalstyle": "postgres", "extra_float_digits": "3", "bytea_output": "hex",
		"standard_conforming_strings": "on", "transform_null_equals": "off", "array_nulls": "on", "xmloption": "content",
		// An error is the statement's, not the end of the session.
		"exit_on_error": "off",
	})
	maps.Copy(config.RuntimeParams, special)
	config.AfterConnect = walreceiver.Untimed
}

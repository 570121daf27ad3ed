package spock_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCaptureQuoted: a session that has all names quoted has those of our own functions quoted, too.
func TestCaptureQuoted(t *testing.T) {
	t.Parallel()
	n := capturing(t)
	n.exec(t, `SET quote_all_identifiers = on`)
	n.heard()
	n.exec(t, `CREATE TABLE a (id int PRIMARY KEY)`)
	n.exec(t, `SELECT 1; ALTER TABLE a ADD v text; SELECT 2`)
	n.exec(t, `DROP TABLE a`)
	const path = `SET search_path TO "$user", "public"; `
	require.Equal(t, []string{path + "CREATE TABLE a (id int PRIMARY KEY)", path + "ALTER TABLE a ADD v text", path + "DROP TABLE a"}, n.queued(t))
}

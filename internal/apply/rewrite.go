package apply

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// DDL that rewrites a table gives all its rows the stamp of its own transaction.
// The server's side keeps those that they had beside them, and for the rows of
// which nothing older can arrive a single one that is older than everything: it
// stands under a key that is longer than any, and under that key and a row's own
// stand rows that are of the transaction itself.
const (
	rewrittenKeySize = 257
	rewrittenKey     = "decode(repeat('00', 257), 'hex')"
)

// rewritten is the test whether the transaction that wrote a row has only
// rewritten it, unless its own stamp stands beside it.
func rewritten(table, key, writer string) string {
	return fmt.Sprintf(`(EXISTS (SELECT FROM spock.pgdrover_stamp w WHERE w.relid = %[1]s AND w.key = %[4]s AND w.written_by = %[3]s)
		AND NOT EXISTS (SELECT FROM spock.pgdrover_stamp w WHERE w.relid = %[1]s AND w.key = %[4]s || %[2]s AND w.written_by = %[3]s))`,
		table, key, writer, rewrittenKey)
}

// rewritten notes which tables a statement has rewritten: stamps stand beside
// their rows as soon as the transaction has committed.
func (c *carefully) rewritten(ctx context.Context) error {
	// The path may be anybody's, and so may be what the setting says: then it is of no harm.
	reply, err := c.session.query(ctx, "SELECT pg_catalog.current_setting('pgdrover.rewritten', true)", nil)
	if err != nil {
		return fmt.Errorf("look for rewritten tables: %w", err)
	}
	for id := range strings.SplitSeq(string(reply.rows[0][0].Data), ",") {
		if table, err := strconv.ParseUint(id, 10, 32); err == nil {
			c.amended.add(uint32(table))
			c.tx.amends = append(c.tx.amends, uint32(table))
		}
	}
	return nil
}

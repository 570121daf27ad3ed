package orchestrator

import (
	"context"
	"fmt"

	"github.com/pgdrover/pgdrover/internal/workflow"
)

// qHandover asks a node whether a subscription that was never enabled has a
// place to begin: a copy of another node's data says how far it holds the
// provider's changes.
const qHandover = `SELECT s.sub_slot_name, p.remote_lsn, o.node_name
  FROM spock.subscription s JOIN spock.local_node l ON l.node_id = s.sub_target JOIN spock.node o ON o.node_id = s.sub_origin
  JOIN spock.progress p ON p.node_id = l.node_id AND p.remote_node_id = s.sub_origin
  JOIN pg_catalog.pg_replication_origin r ON r.roname = s.sub_slot_name::text
 WHERE s.sub_name = $1 AND NOT s.sub_enabled AND p.remote_lsn > '0/0' AND to_regnamespace('pgdrover') IS NOT NULL
   AND coalesce(pg_catalog.pg_replication_origin_progress(r.roname, false), '0/0') = '0/0'`

// handOver lets a new subscription begin exactly where the copied data ends,
// whatever position was computed for its slot: a slot that is behind repeats
// nothing then, and one that is ahead would lose changes and is refused.
func (e *Executor) handOver(ctx context.Context, s workflow.Step, name string) error {
	answer, err := e.query(ctx, s.Node, "SELECT to_regnamespace('pgdrover') IS NOT NULL")
	if err != nil || !answer.is() {
		return err // another engine has its own ways
	}
	if answer, err = e.query(ctx, s.Node, qHandover, name); err != nil || len(answer.Rows) == 0 {
		return err
	}
	slot, at, provider := answer.text(0), answer.text(1), answer.text(2)
	if e.isNode(provider) {
		ahead, err := e.query(ctx, provider, `SELECT confirmed_flush_lsn > $2::pg_lsn, confirmed_flush_lsn
  FROM pg_catalog.pg_replication_slots WHERE slot_name = $1`, slot, at)
		if err != nil {
			return err
		}
		if ahead.is() {
			return fmt.Errorf("slot %s on %s was advanced past the copy: it is at %s, the copy ends at %s", slot, provider, ahead.text(1), at)
		}
	}
	_, err = e.query(ctx, s.Node, "SELECT pg_catalog.pg_replication_origin_advance($1, $2::pg_lsn)", slot, at)
	return err
}

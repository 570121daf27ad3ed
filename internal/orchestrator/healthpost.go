package orchestrator

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgdrover/pgdrover/internal/workflow"
)

// Checks after a join.

// qEnabled counts the subscriptions that are wanted.
const qEnabled = `SELECT count(*) FROM spock.subscription WHERE sub_enabled`

// joined checks that the new node is one of them.
func (h *health) joined(ctx context.Context, t *Topology, members []workflow.Member) {
	m, known := t.Member(h.cfg.New.Name)
	h.verdict(known, h.cfg.New.Name, "the cluster knows "+h.cfg.New.Name, "the cluster does not know "+h.cfg.New.Name)
	if !known || t.Unreachable[m.Name] != nil {
		if h.cfg.New.DSN != "" && !known {
			m = h.cfg.New
			h.must(ctx, m, "connect to new node "+m.Name, func(server Server) error { return h.enabled(ctx, server, m) })
		}
		return
	}
	h.must(ctx, m, "subscriptions of "+m.Name, func(server Server) error { return h.enabled(ctx, server, m) })
	h.sets(ctx, m)
	h.marks(ctx, members)
	if h.cfg.CompareData {
		h.data(ctx, members)
	}
}

func (h *health) enabled(ctx context.Context, server Server, m workflow.Member) error {
	answer, err := server.Ask(ctx, qEnabled)
	if err == nil {
		h.verdict(answer.text(0) != "0", m.Name, m.Name+" has "+answer.text(0)+" enabled subscriptions", m.Name+" has no enabled subscription")
	}
	return err
}

// qMembership is what is in the local node's replication sets, a line each.
const qMembership = `SELECT format('set %s (%s %s %s %s)', s.set_name, s.replicate_insert, s.replicate_update, s.replicate_delete, s.replicate_truncate) AS line
  FROM spock.replication_set s JOIN spock.local_node l ON l.node_id = s.set_nodeid
UNION ALL SELECT concat_ws(' ', format('table %s in %s', t.set_reloid::regclass, s.set_name),
       '(' || array_to_string(ARRAY(SELECT x FROM unnest(t.set_att_list) x ORDER BY 1), ', ') || ')', 'where ' || pg_get_expr(t.set_row_filter, t.set_reloid))
  FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id) JOIN spock.local_node l ON l.node_id = s.set_nodeid
UNION ALL SELECT format('sequence %s in %s', q.set_seqoid::regclass, s.set_name)
  FROM spock.replication_set_seq q JOIN spock.replication_set s USING (set_id) JOIN spock.local_node l ON l.node_id = s.set_nodeid
ORDER BY 1`

// lines asks nodes for the first column of a query.
func (h *health) lines(ctx context.Context, what, sql string, members ...workflow.Member) map[string][]string {
	all := map[string][]string{}
	for _, m := range members {
		h.must(ctx, m, what+" of "+m.Name, func(server Server) error {
			answer, err := server.Ask(ctx, sql)
			if err != nil {
				return err
			}
			all[m.Name] = []string{}
			for _, row := range answer.Rows {
				if row[0] != nil {
					all[m.Name] = append(all[m.Name], *row[0])
				}
			}
			return nil
		})
	}
	return all
}

// only are the lines of a that b has not.
func only(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(line string) bool { return slices.Contains(b, line) })
}

// sets compares the replication sets of a node with the source's.
func (h *health) sets(ctx context.Context, m workflow.Member) {
	source := h.cfg.Source.Name
	all := h.lines(ctx, "replication sets", qMembership, h.cfg.Source, m)
	if all[source] == nil || all[m.Name] == nil {
		return
	}
	var differences []string
	if lost := only(all[source], all[m.Name]); len(lost) > 0 {
		differences = append(differences, "only on "+source+": "+strings.Join(lost, ", "))
	}
	if more := only(all[m.Name], all[source]); len(more) > 0 {
		differences = append(differences, "only on "+m.Name+": "+strings.Join(more, ", "))
	}
	h.verdict(len(differences) == 0, m.Name, "the replication sets of "+m.Name+" are those of "+source,
		"the replication sets of "+m.Name+" are not those of "+source+"; "+strings.Join(differences, "; "))
}

// qArrived says whether a provider's changes up to a position have been applied.
const qArrived = `SELECT coalesce(bool_and(coalesce(o.remote_lsn >= $2::pg_lsn, false)), false)
  FROM spock.subscription s JOIN spock.node n ON n.node_id = s.sub_origin
  LEFT JOIN pg_catalog.pg_replication_origin_status o ON o.external_id = s.sub_slot_name::text WHERE n.node_name = $1`

// marks writes a mark into every node's stream and waits until all others have it.
func (h *health) marks(ctx context.Context, members []workflow.Member) {
	at := map[string]string{}
	for _, m := range members {
		h.must(ctx, m, "write a mark on "+m.Name, func(server Server) error {
			answer, err := server.Ask(ctx, "SELECT spock.sync_event()")
			at[m.Name] = answer.text(0)
			return err
		})
	}
	missing := map[string][]string{}
	_, err := h.soon(ctx, func() ([]string, error) {
		clear(missing)
		var all []string
		for _, m := range members {
			if err := h.on(ctx, m, func(server Server) error {
				for _, provider := range sortedNames(at) {
					if provider == m.Name || at[provider] == "" {
						continue
					}
					answer, err := server.Ask(ctx, qArrived, &provider, new(at[provider]))
					if err != nil {
						return err
					}
					if !answer.is() {
						missing[provider], all = append(missing[provider], m.Name), append(all, m.Name)
					}
				}
				return nil
			}); err != nil {
				return nil, err
			}
		}
		return all, nil
	})
	if err != nil {
		h.add(Fail, "", "wait for marks: %v", err)
		return
	}
	for _, m := range members {
		h.verdict(len(missing[m.Name]) == 0, m.Name, "changes of "+m.Name+" arrive on every other node",
			"changes of "+m.Name+" do not arrive on "+strings.Join(missing[m.Name], ", ")+" within "+h.cfg.Patience.String())
	}
}

// qWhole are the tables of which all rows and columns are replicated.
const qWhole = `SELECT DISTINCT format('%I.%I', n.nspname, c.relname) AS name FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id)
  JOIN spock.local_node l ON l.node_id = s.set_nodeid JOIN pg_catalog.pg_class c ON c.oid = t.set_reloid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE t.set_att_list IS NULL AND t.set_row_filter IS NULL AND c.relkind = 'r' ORDER BY 1`

// data compares the rows of all tables that are replicated whole. Changes that
// are on their way are no difference: they arrive within the patience.
func (h *health) data(ctx context.Context, members []workflow.Member) {
	tables := h.lines(ctx, "tables", qWhole, h.cfg.Source)[h.cfg.Source.Name]
	var different []string
	for _, table := range tables {
		problems, err := h.soon(ctx, func() ([]string, error) {
			first := h.rows(ctx, h.cfg.Source, table)
			for _, m := range members {
				if m.Name != h.cfg.Source.Name && h.rows(ctx, m, table) != first {
					return []string{table}, nil
				}
			}
			return nil, nil
		})
		if err != nil {
			h.add(Fail, "", "compare %s: %v", table, err)
			return
		}
		different = append(different, problems...)
	}
	h.verdict(len(different) == 0, "", fmt.Sprintf("all nodes have the same rows in %d tables", len(tables)),
		"nodes have different rows in "+strings.Join(different, ", "))
}

// rows is a digest of a table's rows on a node, or why there is none.
func (h *health) rows(ctx context.Context, m workflow.Member, table string) string {
	digest := ""
	if err := h.on(ctx, m, func(server Server) error {
		answer, err := server.Ask(ctx, "SELECT concat(count(*), ' ', sum(pg_catalog.hashtextextended(x::text, 0)::numeric)) FROM ONLY "+table+" x")
		digest = answer.text(0)
		return err
	}); err != nil {
		return err.Error()
	}
	return digest
}

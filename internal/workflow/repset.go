package workflow

import (
	"strings"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// readSets describes the local node's replication sets and what is in them.
const readSets = `SELECT
  (SELECT coalesce(json_agg(json_build_object('name', s.set_name, 'ins', s.replicate_insert, 'upd', s.replicate_update,
     'del', s.replicate_delete, 'trunc', s.replicate_truncate)), '[]')
     FROM spock.replication_set s JOIN spock.local_node l ON l.node_id = s.set_nodeid) AS sets,
  (SELECT coalesce(json_agg(json_build_object('name', s.set_name, 'nsp', n.nspname, 'rel', format('%I.%I', n.nspname, c.relname), 'cols', t.set_att_list,
     'filter', pg_get_expr(t.set_row_filter, t.set_reloid))), '[]')
     FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id) JOIN spock.local_node l ON l.node_id = s.set_nodeid
     JOIN pg_catalog.pg_class c ON c.oid = t.set_reloid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace) AS members,
  (SELECT coalesce(json_agg(json_build_object('name', s.set_name, 'nsp', n.nspname, 'rel', format('%I.%I', n.nspname, c.relname))), '[]')
     FROM spock.replication_set_seq t JOIN spock.replication_set s USING (set_id) JOIN spock.local_node l ON l.node_id = s.set_nodeid
     JOIN pg_catalog.pg_class c ON c.oid = t.set_seqoid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace) AS sequences`

// writeSets makes the local node's replication sets those that were read, but
// for what lies in schemas that were not copied.
func writeSets(source string, skipped []string) string {
	wanted := " WHERE w.nsp <> ALL (" + pg.QuoteLiteral(ListLiteral(skipped)) + "::text[])"
	const own = "spock.replication_set s JOIN spock.local_node l ON l.node_id = s.set_nodeid"
	sets := "json_to_recordset('" + variable(source, "sets") + "') AS w(name name, ins boolean, upd boolean, del boolean, trunc boolean)"
	members := "json_to_recordset('" + variable(source, "members") + "') AS w(name name, nsp text, rel text, cols text[], filter text)"
	sequences := "json_to_recordset('" + variable(source, "sequences") + "') AS w(name name, nsp text, rel text)"
	return strings.Join([]string{
		"SELECT spock.repset_create(w.name, w.ins, w.upd, w.del, w.trunc) FROM " + sets +
			" WHERE NOT EXISTS (SELECT FROM " + own + " WHERE s.set_name = w.name)",
		"SELECT spock.repset_remove_table(s.set_name, t.set_reloid, false) FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id)" +
			" JOIN spock.local_node l ON l.node_id = s.set_nodeid" +
			" WHERE NOT EXISTS (SELECT FROM " + members + " WHERE w.name = s.set_name AND to_regclass(w.rel) = t.set_reloid)",
		"SELECT spock.repset_alter(w.name, w.ins, w.upd, w.del, w.trunc) FROM " + sets +
			" JOIN (spock.replication_set s JOIN spock.local_node l ON l.node_id = s.set_nodeid) ON s.set_name = w.name" +
			" WHERE (w.ins, w.upd, w.del, w.trunc) <> (s.replicate_insert, s.replicate_update, s.replicate_delete, s.replicate_truncate)",
		"SELECT spock.repset_add_table(w.name, w.rel::regclass, false, w.cols, w.filter, false) FROM " + members + wanted +
			" AND NOT EXISTS (SELECT FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id)" +
			" JOIN spock.local_node l ON l.node_id = s.set_nodeid WHERE s.set_name = w.name AND t.set_reloid = to_regclass(w.rel))",
		"SELECT spock.repset_add_seq(w.name, w.rel::regclass) FROM " + sequences + wanted +
			" AND NOT EXISTS (SELECT FROM spock.replication_set_seq t JOIN spock.replication_set s USING (set_id)" +
			" JOIN spock.local_node l ON l.node_id = s.set_nodeid WHERE s.set_name = w.name AND t.set_seqoid = to_regclass(w.rel))",
	}, ";\n")
}

package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// Checks of a new node: what must not be there, and what must.

// qEmpty asks a new node for what must not be there.
const qEmpty = `SELECT
  (SELECT string_agg(format('%I.%I', n.nspname, c.relname), ', ' ORDER BY n.nspname, c.relname) FROM pg_catalog.pg_class c
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'spock', 'pgdrover', 'lolor')
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')),
  (SELECT string_agg(sub_name, ', ') FROM spock.subscription),
  (SELECT string_agg(node_name, ', ') FROM spock.node),
  (SELECT string_agg(roname, ', ' ORDER BY roname) FROM pg_catalog.pg_replication_origin WHERE roname ~ '^spk_'
      AND NOT EXISTS (SELECT FROM spock.subscription)),
  (SELECT nullif(count(*), 0) FROM pg_catalog.pg_largeobject_metadata)`

// qRoles are the roles of a server, whether they may log in, and what they are members of.
const qRoles = `SELECT
  (SELECT json_object_agg(rolname, rolcanlogin::text) FROM pg_catalog.pg_roles
    WHERE rolname !~ '^pg_' AND rolname NOT IN ('postgres', 'rdsadmin', 'rdsrepladmin', 'rds_superuser')),
  (SELECT json_object_agg(m.rolname || ' in ' || g.rolname, '') FROM pg_catalog.pg_auth_members a
     JOIN pg_catalog.pg_roles m ON m.oid = a.member JOIN pg_catalog.pg_roles g ON g.oid = a.roleid)`

// texts reads a JSON object of texts.
func texts(object string) map[string]string {
	all := map[string]string{}
	_ = json.Unmarshal([]byte(object), &all) // NULL is none
	return all
}

// longestName is the length up to which a server keeps a name.
const longestName = 63

// empty checks that a new node has nothing that a copy would meet, and the roles that it needs.
func (h *health) empty(ctx context.Context, t *Topology) {
	m := h.cfg.New
	if taken, ok := errors.AsType[*PlaceTaken](h.free(ctx, t, m)); ok {
		h.add(Fail, m.Name, "%s", taken) // what is there is no leftover
		return
	}
	if len(m.Name) > longestName {
		h.add(Fail, m.Name, "the name of new node %s is longer than %d bytes", m.Name, longestName)
	}
	if _, ok := t.Member(m.Name); ok {
		h.add(Fail, m.Name, "the cluster already has a node %s", m.Name)
		return // what belongs to it is no leftover
	}
	if same, ok := errors.AsType[*SameNames](distinct(append(t.names(), m.Name), []string{m.Name})); ok {
		h.add(Fail, m.Name, "%s; %s", same, same.Hint())
		return // the other node's slots and origins bear these names, and are no leftovers
	}
	if known, err := h.knownBy(ctx, t, m.Name); err == nil && len(known) > 0 {
		h.add(Fail, m.Name, "%s knew a node %s before, and still does: remove it first (remove_node --survivor-dsn)", strings.Join(known, ", "), m.Name)
	}
	left := h.left(ctx, t)
	h.must(ctx, m, "new node "+m.Name, func(server Server) error {
		answer, err := server.Ask(ctx, qEmpty)
		if err != nil {
			return err
		}
		h.verdict(answer.text(0) == "" || h.cfg.OnlyData, m.Name, "new node "+m.Name+" has no tables", "new node "+m.Name+" is not empty: "+answer.text(0))
		subscriptions, nodes := left.foreign(workflow.LeftSubscription, m.Name, answer.text(1)), left.foreign(workflow.LeftNode, m.Name, answer.text(2))
		h.verdict(subscriptions == "", m.Name, "new node "+m.Name+" has no subscriptions", "new node "+m.Name+" has subscriptions: "+subscriptions)
		h.verdict(nodes == "", m.Name, "new node "+m.Name+" is in no cluster", "new node "+m.Name+" knows nodes already: "+nodes)
		if origins := h.ownerless(ctx, server, m, left.foreign(workflow.LeftOrigin, m.Name, answer.text(3))); origins != "" {
			h.add(Warn, m.Name, "new node %s has replication origins that are not of this cluster: %s", m.Name, origins)
		}
		if answer.text(4) != "" {
			h.add(Warn, m.Name, "new node %s has large objects already: %s of them", m.Name, answer.text(4))
		}
		return nil
	})
	if h.cfg.OnlyData {
		h.tables(ctx)
	} else {
		h.inTheWay(ctx)
		h.tablespaces(ctx)
	}
	h.roles(ctx)
}

const (
	// qDatabases are a server's other databases, those first in which nodes probably are.
	qDatabases = `SELECT d.datname FROM pg_catalog.pg_database d
 WHERE d.datallowconn AND NOT d.datistemplate AND d.datname <> pg_catalog.current_database()
 ORDER BY EXISTS (SELECT FROM pg_catalog.pg_replication_slots s WHERE s.database = d.datname AND starts_with(s.slot_name, 'spk_')) DESC, d.datname`
	// qOriginTables asks which tables of a database name origins.
	qOriginTables = `SELECT pg_catalog.to_regclass('spock.subscription') IS NOT NULL, pg_catalog.to_regclass('spock.pgdrover_origin') IS NOT NULL`
	qSubOrigins   = `SELECT sub_slot_name::text FROM spock.subscription`
	// qOurOrigins have those of an engine's workers, too.
	qOurOrigins = qSubOrigins + ` UNION SELECT roname FROM spock.pgdrover_origin WHERE retired_at IS NULL`
)

// ownerless are those of some origins on a new node's server that no node in
// another database of it has. Origins are the server's, and their names do not
// say whose they are: that of the provider's database is in them, not that of
// the subscriber's. So the other databases are asked; one that does not answer
// explains none.
func (h *health) ownerless(ctx context.Context, server Server, m workflow.Member, origins string) string {
	info, err := pg.ParseConnInfo(m.DSN)
	if origins == "" || err != nil {
		return origins
	}
	databases, err := server.Ask(ctx, qDatabases)
	if err != nil {
		return origins
	}
	left := strings.Split(origins, ", ")
	for _, row := range databases.Rows {
		if len(left) == 0 {
			break
		}
		beside := workflow.Member{Name: m.Name, DSN: info.With("dbname", *row[0]).DSN()}
		_ = h.on(ctx, beside, func(server Server) error {
			tables, err := server.Ask(ctx, qOriginTables)
			if err != nil || !tables.is() {
				return err
			}
			query := qSubOrigins
			if tables.text(1) == "t" {
				query = qOurOrigins
			}
			known, err := server.Ask(ctx, query)
			for _, origin := range known.Rows {
				left = slices.DeleteFunc(left, func(name string) bool { return name == *origin[0] })
			}
			return err
		})
	}
	return strings.Join(left, ", ")
}

// left tells what earlier attempts have left under the names that the join gives.
func (h *health) left(ctx context.Context, t *Topology) *leftovers {
	m := h.cfg.New
	l, err := h.leftovers(ctx, t, m, nil)
	if err != nil {
		h.add(Fail, m.Name, "what an earlier attempt of %s has left: %s", m.Name, reason(err))
		return &leftovers{}
	}
	switch stale := l.refused(h.cfg.DropStale); {
	case stale != nil:
		h.add(Fail, m.Name, "%s; %s", stale, stale.Hint())
	case len(l.stale) > 0:
		h.add(Pass, m.Name, "%s: dropped before the node joins", &StaleError{Left: l.stale})
	default:
		h.add(Pass, m.Name, "nothing is left of an earlier attempt of new node %s", m.Name)
	}
	return l
}

// qOwn are the names in the one schema that is copied although it is there, and
// whether they are those of tables.
const qOwn = `SELECT json_object_agg(o.name, o.is_table::text) FROM (
  SELECT 'relation ' || quote_ident(c.relname) AS name, c.relkind IN ('r', 'p') AS is_table, 'pg_catalog.pg_class'::regclass AS class, c.oid AS object
    FROM pg_catalog.pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relnamespace = 'public'::regnamespace
  UNION ALL SELECT 'function ' || quote_ident(p.proname) || '(' || pg_catalog.oidvectortypes(p.proargtypes) || ')', false, 'pg_catalog.pg_proc'::regclass, p.oid
    FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'public'::regnamespace
  UNION ALL SELECT 'type ' || quote_ident(y.typname), false, 'pg_catalog.pg_type'::regclass, y.oid
    FROM pg_catalog.pg_type y WHERE y.typnamespace = 'public'::regnamespace AND y.typelem = 0
     AND (y.typtype IN ('b', 'd', 'e', 'r') OR (SELECT c.relkind FROM pg_catalog.pg_class c WHERE c.oid = y.typrelid) = 'c')) o
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = o.class AND d.objid = o.object AND d.deptype = 'e')`

// inTheWay finds what a copy cannot make, because the new node has it already.
// Its tables are named elsewhere.
func (h *health) inTheWay(ctx context.Context) {
	var both [2]map[string]string
	for i, m := range []workflow.Member{h.cfg.New, h.cfg.Source} {
		h.must(ctx, m, "objects of "+m.Name, func(server Server) error {
			there, err := server.Ask(ctx, "SELECT pg_catalog.to_regnamespace('public') IS NOT NULL")
			if err != nil || !there.is() {
				return err
			}
			answer, err := server.Ask(ctx, qOwn)
			both[i] = texts(answer.text(0))
			return err
		})
	}
	var twice []string
	for _, name := range sortedNames(both[0]) {
		if _, ok := both[1][name]; ok && both[0][name] != "true" {
			twice = append(twice, name)
		}
	}
	if len(twice) > 0 {
		h.add(Fail, h.cfg.New.Name, "new node %s has objects that the copy would bring: %s", h.cfg.New.Name, strings.Join(twice, ", "))
	}
}

const (
	// qUsedTablespaces are those in which what is copied lies.
	qUsedTablespaces = `SELECT json_object_agg(DISTINCT s.spcname, '') FROM pg_catalog.pg_class c JOIN pg_catalog.pg_tablespace s ON s.oid = c.reltablespace
 WHERE c.relnamespace::regnamespace::text !~ '^(pg_|spock$|pgdrover$|information_schema$)' AND s.spcname <> 'pg_global'`
	qTablespaces = `SELECT json_object_agg(s.spcname, '') FROM pg_catalog.pg_tablespace s`
)

// tablespaces checks that what the copy brings finds its place.
func (h *health) tablespaces(ctx context.Context) {
	var used, there map[string]string
	ask := func(m workflow.Member, query string, all *map[string]string) {
		h.must(ctx, m, "tablespaces of "+m.Name, func(server Server) error {
			answer, err := server.Ask(ctx, query)
			*all = texts(answer.text(0))
			return err
		})
	}
	ask(h.cfg.Source, qUsedTablespaces, &used)
	if len(used) == 0 {
		return
	}
	ask(h.cfg.New, qTablespaces, &there)
	missing := slices.DeleteFunc(sortedNames(used), func(name string) bool { _, ok := there[name]; return ok })
	if len(missing) > 0 {
		h.add(Fail, h.cfg.New.Name, "new node %s lacks the tablespaces %s", h.cfg.New.Name, strings.Join(missing, ", "))
	}
}

// tables checks that the tables which are to get rows are there, and have none:
// a copy into others fails, and could not be taken back.
func (h *health) tables(ctx context.Context) {
	m := h.cfg.New
	wanted, err := h.copiedTables(ctx, h.cfg.Source, nil)
	if err != nil {
		h.add(Fail, h.cfg.Source.Name, "tables of %s: %s", h.cfg.Source.Name, reason(err))
		return
	}
	h.must(ctx, m, "tables of "+m.Name, func(server Server) error {
		var missing, filled []string
		for _, table := range wanted {
			there, err := server.Ask(ctx, "SELECT to_regclass($1) IS NOT NULL", new(table))
			if err == nil && there.is() {
				there, err = server.Ask(ctx, "SELECT EXISTS (SELECT FROM "+table+")")
				if there.is() {
					filled = append(filled, table)
				}
			} else {
				missing = append(missing, table)
			}
			if err != nil {
				return err
			}
		}
		h.verdict(len(missing) == 0, m.Name, "new node "+m.Name+" has the tables of the source", "new node "+m.Name+" lacks the tables "+strings.Join(missing, ", "))
		h.verdict(len(filled) == 0, m.Name, "the tables of new node "+m.Name+" are empty", "tables of new node "+m.Name+" have rows already: "+strings.Join(filled, ", "))
		return nil
	})
}

// roles compares the roles of a new node with those of the source, which own
// tables and have rights on them.
func (h *health) roles(ctx context.Context) {
	m := h.cfg.New
	var answers []Result
	for _, x := range []workflow.Member{m, h.cfg.Source} {
		h.must(ctx, x, "roles of "+x.Name, func(server Server) error {
			answer, err := server.Ask(ctx, qRoles)
			if err == nil {
				answers = append(answers, answer)
			}
			return err
		})
	}
	if len(answers) < 2 {
		return
	}
	mine, theirs := texts(answers[0].text(0)), texts(answers[1].text(0))
	var missing, locked, outside []string
	for _, role := range sortedNames(theirs) {
		switch login, ok := mine[role]; {
		case !ok:
			missing = append(missing, role)
		case theirs[role] == "true" && login != "true":
			locked = append(locked, role)
		}
	}
	if len(missing) > 0 && h.cfg.CreateRoles {
		h.add(Pass, m.Name, "new node %s gets the roles %s, without passwords", m.Name, strings.Join(missing, ", "))
	} else {
		h.verdict(len(missing) == 0, m.Name, "new node "+m.Name+" has all roles of the source", "new node "+m.Name+" lacks the roles "+strings.Join(missing, ", "))
	}
	if len(locked) > 0 {
		h.add(Fail, m.Name, "roles that may log in on the source may not on new node %s: %s", m.Name, strings.Join(locked, ", "))
	}
	members := texts(answers[0].text(1))
	for _, membership := range sortedNames(texts(answers[1].text(1))) {
		role, _, _ := strings.Cut(membership, " in ")
		if _, ok := members[membership]; !ok && !slices.Contains(missing, role) {
			outside = append(outside, membership)
		}
	}
	if len(outside) > 0 && !h.cfg.CreateRoles {
		h.add(Warn, m.Name, "new node %s lacks memberships of roles: %s", m.Name, strings.Join(outside, ", "))
	}
}

package workflow

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// The variables of a peer that say how far it has a dead node's changes: the
// position that it has applied, the last one that its engine has published, and
// the time of the last transaction.
const (
	reachedKey = "reached_lsn"
	toldKey    = "told_lsn"
	lastAtKey  = "last_at"
	// aheadKey names the peer that has changes which this one lacks, if there is one.
	aheadKey = "ahead"
)

// Reached says whether variables of a run hold how far a peer has a dead node's changes.
func Reached(v Variables, peer string) bool { return v[peer][reachedKey] != nil }

// qReached reads them. A subscription may have several origins with an engine of ours.
func (l Leaving) qReached() string {
	origins, told := "o.external_id = s.sub_slot_name::text", "'FFFFFFFF/FFFFFFFF'" // Spock's own engine publishes at once
	if l.Fenced {
		told = "coalesce(max(t.last_received_lsn), '0/0')"
		origins = "(" + origins + " OR o.external_id IN (SELECT r.roname FROM spock.pgdrover_origin r WHERE r.sub_id = s.sub_id AND r.retired_at IS NULL))"
	}
	return "SELECT coalesce(max(o.remote_lsn), '0/0') AS " + reachedKey + ", " + told + " AS " + toldKey +
		",\n       coalesce(max(extract(epoch FROM t.commit_timestamp)), 0) AS " + lastAtKey +
		"\n  FROM spock.subscription s JOIN spock.node n ON n.node_id = s.sub_origin\n" +
		"  JOIN spock.local_node l ON l.node_id = s.sub_target JOIN spock.node m ON m.node_id = l.node_id\n" +
		"  LEFT JOIN spock.lag_tracker t ON t.origin_name = n.node_name AND t.receiver_name = m.node_name\n" +
		"  LEFT JOIN pg_catalog.pg_replication_origin_status o ON " + origins + "\n WHERE n.node_name = " + pg.QuoteLiteral(l.Target.Name)
}

// follows finds the subscription of one node to another.
func (l Leaving) follows(subscriber, provider string) (string, bool) {
	for _, x := range l.Links {
		if x.Subscriber == subscriber && x.Provider == provider && !x.Disabled {
			return x.Name, true
		}
	}
	return "", false
}

// compare reads how far each peer has a dead node's changes, and tells who lacks
// some that another one may have. What peers confirm of an idle stream differs
// without any change between: so who is behind has another last transaction too, or
// the one ahead has applied something that its engine had no time to publish. That
// may still be one without a row.
func (p *planner) compare(l Leaving) {
	target := l.Target.Name
	var followers []Member
	for _, m := range l.Peers {
		var names []string
		for _, x := range l.Links {
			if x.Provider == target && x.Subscriber == m.Name {
				names = append(names, x.Name)
			}
		}
		if len(names) == 0 && !slices.Contains(l.Known, m.Name) {
			continue
		}
		followers = append(followers, m)
		for _, name := range names {
			s := commandStep("D1", m.Name, fmt.Sprintf("End subscription %s on %s", name, m.Name), DisableSubscription, "sub_name", name, "immediate", "true")
			s.Lift = "SELECT spock.sub_enable(" + pg.QuoteLiteral(name) + ")"
			p.add(s)
		}
		if len(names) > 0 {
			p.add(sqlStep("D1", m.Name, fmt.Sprintf("Read how far %s has the changes of %s", m.Name, target), l.qReached()))
		}
	}
	for _, m := range followers {
		p.add(sqlStep("D1", m.Name, fmt.Sprintf("See whether %s has all that others have of %s", m.Name, target), l.qCompared(m, followers)))
	}
	p.behind = followers
}

// qCompared says how far a peer has a dead node's changes, and whether another one has more.
func (l Leaving) qCompared(m Member, followers []Member) string {
	var rows []string
	for _, x := range followers {
		link, _ := l.follows(m.Name, x.Name)
		rows = append(rows, fmt.Sprintf("(%s, %s, '%s'::pg_lsn, '%s'::pg_lsn, '%s'::numeric)", pg.QuoteLiteral(x.Name), pg.QuoteLiteral(link),
			variable(x.Name, reachedKey), variable(x.Name, toldKey), variable(x.Name, lastAtKey)))
	}
	me, target := pg.QuoteLiteral(m.Name), pg.QuoteLiteral(l.Target.Name)
	way := "format('; health-check --check-type=post --compare-data finds them, and SELECT spock.sub_resync_table(%L, ''…'', truncate := false) on %s brings a table', most.link, " + me + ")"
	if l.EvenOut {
		way = "'; its tables are copied again from there'"
	}
	return "WITH v (node, link, reached, told, at) AS (VALUES " + strings.Join(rows, ", ") + "),\n" +
		"     most AS (SELECT * FROM v ORDER BY reached DESC, node LIMIT 1),\n" +
		"     mine AS (SELECT v.*, most.node AS other, v.reached < most.reached AND (v.at <> most.at OR most.reached > most.told) AS lacks,\n" +
		"                     pg_catalog.pg_wal_lsn_diff(most.reached, v.reached) AS bytes FROM v, most WHERE v.node = " + me + ")\n" +
		"SELECT mine.reached AS position, CASE WHEN lacks THEN bytes ELSE 0 END AS behind, CASE WHEN lacks THEN other ELSE '' END AS " + aheadKey + ", lacks AS warns,\n" +
		"       format('%s has the changes of %s up to %s, the last one of %s', " + me + ", " + target + ", mine.reached,\n" +
		"              CASE mine.at WHEN 0 THEN 'a time that nobody knows' ELSE date_trunc('milliseconds', to_timestamp(mine.at))::text END)\n" +
		"         || CASE WHEN lacks THEN format('; %s has read %s bytes more of the log of %s, changes may be missing', other, bytes, " + target + ") || " + way + " ELSE '' END AS tells\n" +
		"  FROM mine, most"
}

// evenOut copies tables again to peers that lack what another one has: rows are
// merged by the order of their stamps, so that nothing that is later is lost.
func (p *planner) evenOut(l Leaving) {
	if !l.Dead || !l.EvenOut || !l.Fenced {
		return
	}
	for _, m := range p.behind {
		for _, x := range p.behind {
			link, ok := l.follows(m.Name, x.Name)
			if !ok {
				continue
			}
			quoted := pg.QuoteLiteral(link)
			p.add(sqlStep("D7", m.Name, fmt.Sprintf("Copy to %s again what %s has, if it has more", m.Name, x.Name),
				"SELECT count(spock.sub_resync_table("+quoted+", t.relation, false)) AS tables FROM (\n"+
					"  SELECT DISTINCT t.set_reloid AS relation FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id)\n"+
					"    JOIN spock.local_node l ON l.node_id = s.set_nodeid JOIN pg_catalog.pg_class c ON c.oid = t.set_reloid\n"+
					"   WHERE NOT c.relispartition AND '"+variable(m.Name, aheadKey)+"' = "+pg.QuoteLiteral(x.Name)+") t"))
			s := waitStep("D7", m.Name, fmt.Sprintf("Wait until %s has copied that", m.Name),
				"SELECT count(*) = 0 AS copied, string_agg(y.sync_nspname || '.' || y.sync_relname || ' ' || y.sync_status::text, ', ') AS state\n"+
					"  FROM spock.local_sync_status y JOIN spock.subscription s ON s.sub_id = y.sync_subid\n"+
					" WHERE s.sub_name = "+quoted+" AND y.sync_relname IS NOT NULL AND y.sync_status NOT IN ('y', 'r')")
			s.Progress = "SELECT sum(bytes_processed)::text FROM pg_catalog.pg_stat_progress_copy"
			s.Refuse = "the tables are not copied; the engine of " + m.Name + " says why"
			p.add(s)
		}
	}
}

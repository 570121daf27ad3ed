package workflow

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Member is a node of a cluster that grows or shrinks.
type Member struct {
	Name string
	// DSN is how the other servers reach it.
	DSN string
	// Sets are its replication sets.
	Sets []string
	// Bare says that the database is no node yet.
	Bare bool
}

// Link is a subscription that exists.
type Link struct {
	Name                 string
	Provider, Subscriber string // names of nodes
	Slot                 string // on the provider
}

// Joining says which node joins which cluster.
type Joining struct {
	Source   Member
	New      Member
	Replicas []Member // the other nodes
	// Slots are the names of the slots that the replicas keep for the new node.
	Slots []string
	// SkipSchemas exist on the new node already and are not copied.
	SkipSchemas             []string
	Location, Country, Info string
}

// SubscriptionName is the name that tools give to a subscription.
func SubscriptionName(provider, subscriber string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return '_'
	}, "sub_"+provider+"_"+subscriber)
}

// planner numbers the steps of a plan.
type planner struct {
	steps []Step
	group int
}

func (p *planner) add(s Step) {
	s.Number = len(p.steps) + 1
	s.Path = strconv.Itoa(s.Number)
	p.steps = append(p.steps, s)
}

// each adds one step for each member; they run at the same time.
func (p *planner) each(members []Member, step func(i int, m Member) Step) {
	p.group++
	for i, m := range members {
		s := step(i, m)
		if len(members) > 1 {
			s.Parallel = p.group
		}
		p.add(s)
	}
}

// commandStep is a step with a command; an empty option is left out.
func commandStep(phase, node, description, name string, options ...string) Step {
	s := Step{Type: TypeSpock, Phase: phase, Node: node, Description: description, Command: command(name), Options: map[string]string{}}
	for i := 0; i+1 < len(options); i += 2 {
		if options[i+1] != "" {
			s.Options[options[i]] = options[i+1]
		}
	}
	return s
}

func sqlStep(phase, node, description, sql string) Step {
	return Step{Type: TypeSQL, Phase: phase, Node: node, Description: description, SQL: sql}
}

func waitStep(phase, node, description, sql string) Step {
	return Step{Type: TypeWait, Phase: phase, Node: node, Description: description, SQL: sql}
}

// variable is a reference for any name of a node.
func variable(node, key string) string { return "${" + node + "}." + key }

// AddNode plans how a node joins. The order makes it exact: every replica keeps
// its changes for the new node before the source's copy is taken, the copy holds
// how far it contains each replica's changes, and each replica's stream begins
// there. Nothing depends on clocks.
func AddNode(j Joining) []Step {
	p := &planner{}
	if j.Source.Bare {
		p.add(commandStep("J2", j.Source.Name, "Create node "+j.Source.Name, CreateNode, "node_name", j.Source.Name, "dsn", j.Source.DSN))
	}
	p.add(commandStep("J2", j.New.Name, "Create node "+j.New.Name, CreateNode, "node_name", j.New.Name, "dsn", j.New.DSN,
		"location", j.Location, "country", j.Country, "info", j.Info))
	p.cover(j)
	p.copy(j)
	p.streams(j)
	p.reverse(j)
	return p.steps
}

// cover makes the replicas keep their changes, and the source have all from before.
func (p *planner) cover(j Joining) {
	p.each(j.Replicas, func(i int, r Member) Step {
		s := commandStep("J3", r.Name, fmt.Sprintf("Create slot %s on %s", j.Slots[i], r.Name), CreateSlot, "slot", j.Slots[i])
		s.Blockers = openTransactions
		return s
	})
	for _, r := range j.Replicas {
		p.add(subscription("J4", r, j.New.Name, "false", nil))
	}
	p.each(j.Replicas, func(_ int, r Member) Step { return mark("J5", r.Name, "settled_lsn") })
	p.each(j.Replicas, func(_ int, r Member) Step { return reached("J5", j.Source.Name, r.Name, "settled_lsn") })
}

// subscription subscribes a node to a provider without copying anything.
func subscription(phase string, provider Member, subscriber, enabled string, more []string) Step {
	name := SubscriptionName(provider.Name, subscriber)
	options := append([]string{
		"sub_name", name, "provider_dsn", provider.DSN, "replication_sets", ListLiteral(provider.Sets),
		"forward_origins", "{}", "enabled", enabled,
	}, more...)
	what := "Create subscription "
	if enabled == "false" {
		what = "Create disabled subscription "
	}
	return commandStep(phase, subscriber, what+name+" on "+subscriber, CreateSubscription, options...)
}

// mark writes a mark into a node's stream and keeps its position.
func mark(phase, node, key string) Step {
	return sqlStep(phase, node, "Write a mark on "+node, "SELECT spock.sync_event() AS "+key)
}

// reached waits until a node has applied another's changes up to a mark.
func reached(phase, node, provider, key string) Step {
	s := waitStep(phase, node, fmt.Sprintf("Wait until %s has the changes of %s", node, provider),
		"SELECT coalesce(max(o.remote_lsn) >= '"+variable(provider, key)+"'::pg_lsn, false) AS reached, max(o.remote_lsn) AS position, "+
			"'"+variable(provider, key)+"' AS wanted\n"+
			"  FROM spock.subscription s JOIN spock.node n ON n.node_id = s.sub_origin\n"+
			"  JOIN pg_catalog.pg_replication_origin_status o ON o.external_id = s.sub_slot_name::text\n"+
			" WHERE n.node_name = "+pg.QuoteLiteral(provider))
	s.Refuse = fmt.Sprintf("no subscription of %s to %s gets on", node, provider)
	return s
}

// copy brings structure and data of the source, and its replication sets.
func (p *planner) copy(j Joining) {
	name := SubscriptionName(j.Source.Name, j.New.Name)
	more := []string{"synchronize_structure", "true", "synchronize_data", "true"}
	if len(j.SkipSchemas) > 0 {
		more = append(more, "skip_schema", ListLiteral(j.SkipSchemas))
	}
	s := subscription("J6", j.Source, j.New.Name, "true", more)
	p.add(s)
	w := waitStep("J8", j.New.Name, fmt.Sprintf("Copy %s from %s to %s", "structure and data", j.Source.Name, j.New.Name),
		"SELECT coalesce(bool_and(y.sync_status IN ('r', 'y')) AND bool_or(y.sync_relname IS NULL AND y.sync_status = 'r'), false) AS copied,\n"+
			"       string_agg(DISTINCT y.sync_status::text, '') AS state\n"+
			"  FROM spock.local_sync_status y JOIN spock.subscription s ON s.sub_id = y.sync_subid WHERE s.sub_name = "+pg.QuoteLiteral(name))
	w.Progress = "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())::text" +
		" || coalesce((SELECT sum(bytes_processed)::text FROM pg_catalog.pg_stat_progress_copy), '')" +
		" || coalesce((SELECT sum(blocks_done + tuples_done)::text FROM pg_catalog.pg_stat_progress_create_index), '')"
	w.Refuse = "the copy does not get on; the engine of " + j.New.Name + " says why"
	p.add(w)
	p.add(sqlStep("J10", j.Source.Name, "Read the replication sets of "+j.Source.Name, readSets))
	p.add(sqlStep("J10", j.New.Name, "Give "+j.New.Name+" the same replication sets", writeSets(j.Source.Name)))
	p.handover(j)
	p.add(mark("J12", j.Source.Name, "copied_lsn"))
	p.add(reached("J12", j.New.Name, j.Source.Name, "copied_lsn"))
}

// handoverKey is the variable of the new node that holds a replica's position.
func handoverKey(i int) string { return "handover_" + strconv.Itoa(i+1) }

// handover reads how far the copy holds the changes of each replica.
func (p *planner) handover(j Joining) {
	p.each(j.Replicas, func(i int, r Member) Step {
		s := sqlStep("J11", j.New.Name, "Read how far the copy holds the changes of "+r.Name,
			"SELECT max(p.remote_lsn) AS "+handoverKey(i)+", coalesce(max(p.remote_lsn) >= '"+variable(r.Name, "lsn")+"'::pg_lsn, false) AS result\n"+
				"  FROM spock.progress p JOIN spock.local_node l ON l.node_id = p.node_id JOIN spock.node n ON n.node_id = p.remote_node_id\n"+
				" WHERE n.node_name = "+pg.QuoteLiteral(r.Name)+" AND p.remote_lsn > '0/0'")
		s.Refuse = fmt.Sprintf("the copy does not say how far it holds the changes of %s, or they begin after it", r.Name)
		return s
	})
}

// readSets describes the local node's replication sets and what is in them.
const readSets = `SELECT
  (SELECT coalesce(json_agg(json_build_object('name', s.set_name, 'ins', s.replicate_insert, 'upd', s.replicate_update,
     'del', s.replicate_delete, 'trunc', s.replicate_truncate)), '[]')
     FROM spock.replication_set s JOIN spock.local_node l ON l.node_id = s.set_nodeid) AS sets,
  (SELECT coalesce(json_agg(json_build_object('name', s.set_name, 'rel', format('%I.%I', n.nspname, c.relname), 'cols', t.set_att_list,
     'filter', pg_get_expr(t.set_row_filter, t.set_reloid))), '[]')
     FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id) JOIN spock.local_node l ON l.node_id = s.set_nodeid
     JOIN pg_catalog.pg_class c ON c.oid = t.set_reloid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace) AS members,
  (SELECT coalesce(json_agg(json_build_object('name', s.set_name, 'rel', format('%I.%I', n.nspname, c.relname))), '[]')
     FROM spock.replication_set_seq t JOIN spock.replication_set s USING (set_id) JOIN spock.local_node l ON l.node_id = s.set_nodeid
     JOIN pg_catalog.pg_class c ON c.oid = t.set_seqoid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace) AS sequences`

// writeSets makes the local node's replication sets those that were read.
func writeSets(source string) string {
	const own = "spock.replication_set s JOIN spock.local_node l ON l.node_id = s.set_nodeid"
	sets := "json_to_recordset('" + variable(source, "sets") + "') AS w(name name, ins boolean, upd boolean, del boolean, trunc boolean)"
	members := "json_to_recordset('" + variable(source, "members") + "') AS w(name name, rel text, cols text[], filter text)"
	sequences := "json_to_recordset('" + variable(source, "sequences") + "') AS w(name name, rel text)"
	return strings.Join([]string{
		"SELECT spock.repset_create(w.name, w.ins, w.upd, w.del, w.trunc) FROM " + sets +
			" WHERE NOT EXISTS (SELECT FROM " + own + " WHERE s.set_name = w.name)",
		"SELECT spock.repset_remove_table(s.set_name, t.set_reloid, false) FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id)" +
			" JOIN spock.local_node l ON l.node_id = s.set_nodeid" +
			" WHERE NOT EXISTS (SELECT FROM " + members + " WHERE w.name = s.set_name AND w.rel::regclass = t.set_reloid)",
		"SELECT spock.repset_alter(w.name, w.ins, w.upd, w.del, w.trunc) FROM " + sets +
			" JOIN (spock.replication_set s JOIN spock.local_node l ON l.node_id = s.set_nodeid) ON s.set_name = w.name" +
			" WHERE (w.ins, w.upd, w.del, w.trunc) <> (s.replicate_insert, s.replicate_update, s.replicate_delete, s.replicate_truncate)",
		"SELECT spock.repset_add_table(w.name, w.rel::regclass, false, w.cols, w.filter, false) FROM " + members +
			" WHERE NOT EXISTS (SELECT FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id)" +
			" JOIN spock.local_node l ON l.node_id = s.set_nodeid WHERE s.set_name = w.name AND t.set_reloid = w.rel::regclass)",
		"SELECT spock.repset_add_seq(w.name, w.rel::regclass) FROM " + sequences +
			" WHERE NOT EXISTS (SELECT FROM spock.replication_set_seq t JOIN spock.replication_set s USING (set_id)" +
			" JOIN spock.local_node l ON l.node_id = s.set_nodeid WHERE s.set_name = w.name AND t.set_seqoid = w.rel::regclass)",
	}, ";\n")
}

// streams lets the replicas' changes follow where the copy ends.
func (p *planner) streams(j Joining) {
	p.each(j.Replicas, func(i int, r Member) Step {
		at := "'" + variable(j.New.Name, handoverKey(i)) + "'::pg_lsn"
		s := sqlStep("J13", r.Name, fmt.Sprintf("Move slot %s to where the copy ends", j.Slots[i]),
			"SELECT count(*) = 1 AND bool_and(confirmed_flush_lsn <= "+at+" AND wal_status <> 'lost') AS result,\n"+
				"       max(CASE WHEN confirmed_flush_lsn < "+at+" THEN (pg_catalog.pg_replication_slot_advance(slot_name, "+at+")).end_lsn END) AS moved\n"+
				"  FROM pg_catalog.pg_replication_slots WHERE slot_name = "+pg.QuoteLiteral(j.Slots[i]))
		s.Refuse = fmt.Sprintf("slot %s is gone, has lost WAL, or was advanced past the copy: changes would be missing", j.Slots[i])
		return s
	})
	p.each(j.Replicas, func(i int, r Member) Step {
		return sqlStep("J13", j.New.Name, "Begin the changes of "+r.Name+" where the copy ends",
			"SELECT pg_catalog.pg_replication_origin_advance("+pg.QuoteLiteral(j.Slots[i])+", '"+variable(j.New.Name, handoverKey(i))+"'::pg_lsn)")
	})
	p.each(j.Replicas, func(_ int, r Member) Step {
		name := SubscriptionName(r.Name, j.New.Name)
		return commandStep("J13", j.New.Name, "Enable subscription "+name, EnableSubscription, "sub_name", name)
	})
	p.each(j.Replicas, func(_ int, r Member) Step { return mark("J13", r.Name, "joined_lsn") })
	p.each(j.Replicas, func(_ int, r Member) Step { return reached("J13", j.New.Name, r.Name, "joined_lsn") })
}

// reverse lets the others follow the new node, and sees that all do.
func (p *planner) reverse(j Joining) {
	provider := j.New
	provider.Sets = j.Source.Sets
	others := slices.Concat([]Member{j.Source}, j.Replicas)
	p.each(others, func(_ int, x Member) Step { return subscription("J14", provider, x.Name, "true", nil) })
	p.each(others, func(_ int, x Member) Step { return replicating("J14", x.Name, SubscriptionName(j.New.Name, x.Name)) })
	p.add(mark("J14", j.New.Name, "opened_lsn"))
	p.each(others, func(_ int, x Member) Step { return reached("J14", x.Name, j.New.Name, "opened_lsn") })
	p.each(append(others, j.New), func(_ int, x Member) Step { return replicating("J15", x.Name, "") })
}

// replicating waits until a subscription, or all of a node, is streaming.
func replicating(phase, node, name string) Step {
	what, condition := "all subscriptions of "+node, ""
	if name != "" {
		what, condition = "subscription "+name, " WHERE subscription_name = "+pg.QuoteLiteral(name)
	}
	s := waitStep(phase, node, "Wait until "+what+" replicate", "SELECT count(*) > 0 AND bool_and(status = 'replicating') AS replicating,\n"+
		"       string_agg(subscription_name || ' ' || status, ', ' ORDER BY subscription_name) AS state\n  FROM spock.sub_show_status()"+condition)
	if name != "" {
		s.Description = "Wait until " + what + " replicates"
	}
	return s
}

// openTransactions are what the creation of a slot waits for.
const openTransactions = `SELECT format('process %s of %s, in a transaction for %s', pid, coalesce(usename, 'nobody'),
       date_trunc('second', clock_timestamp() - xact_start))
  FROM pg_catalog.pg_stat_activity
 WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() AND clock_timestamp() - xact_start > interval '2 seconds'
UNION ALL SELECT format('prepared transaction %s of %s', gid, owner) FROM pg_catalog.pg_prepared_xacts`

// Leaving says which node leaves which cluster.
type Leaving struct {
	Target Member
	Peers  []Member // those that can be reached
	// Dead says that the target cannot be reached.
	Dead bool
	// Links are the subscriptions that one of them has with another.
	Links []Link
	// Slots are names of slots that a peer may keep for the target, by peer.
	Slots map[string][]string
	// NoDrain leaves out waiting for the target's last changes.
	NoDrain bool
}

// RemoveNode plans how a node leaves, also one that is dead or half added.
func RemoveNode(l Leaving) []Step {
	p := &planner{}
	target := l.Target.Name
	var followers []Member
	for _, m := range l.Peers {
		if slices.ContainsFunc(l.Links, func(x Link) bool { return x.Provider == target && x.Subscriber == m.Name }) {
			followers = append(followers, m)
		}
	}
	if !l.Dead && !l.NoDrain && !l.Target.Bare && len(followers) > 0 {
		p.add(mark("D1", target, "last_lsn"))
		p.each(followers, func(_ int, m Member) Step { return reached("D1", m.Name, target, "last_lsn") })
	}
	drop := func(phase string, x Link) {
		p.add(commandStep(phase, x.Subscriber, "Drop subscription "+x.Name+" on "+x.Subscriber, DropSubscription, "sub_name", x.Name, "ifexists", "true"))
	}
	for _, x := range l.Links {
		if x.Provider == target && x.Subscriber != target {
			drop("D2", x)
		}
	}
	for _, x := range l.Links {
		if x.Subscriber == target && !l.Dead {
			drop("D3", x)
		}
	}
	for _, m := range l.Peers {
		for _, slot := range l.Slots[m.Name] {
			p.add(sqlStep("D4", m.Name, fmt.Sprintf("Drop slot %s on %s if it is left", slot, m.Name),
				"SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots WHERE slot_name = "+pg.QuoteLiteral(slot)))
		}
	}
	if !l.Dead && !l.Target.Bare {
		p.add(commandStep("D5", target, "Drop node "+target, DropNode, "node_name", target, "ifexists", "true"))
	}
	for _, m := range l.Peers {
		p.add(commandStep("D6", m.Name, fmt.Sprintf("Forget node %s on %s", target, m.Name), DropNode, "node_name", target, "ifexists", "true"))
	}
	for _, m := range l.Peers {
		s := sqlStep("D7", m.Name, fmt.Sprintf("See that nothing on %s refers to %s", m.Name, target),
			"SELECT NOT EXISTS (SELECT FROM spock.node WHERE node_name = "+pg.QuoteLiteral(target)+") AS result")
		s.Refuse = fmt.Sprintf("%s still knows %s", m.Name, target)
		p.add(s)
	}
	return p.steps
}

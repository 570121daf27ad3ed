package workflow

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Newcomer is a node that joins.
type Newcomer struct {
	Member
	// Slots are the names of the slots that the replicas keep for it, in their
	// order; SourceSlot is that of the source.
	Slots      []string
	SourceSlot string
	// SkipSchemas are not copied: it has them already, or nobody wants them there.
	SkipSchemas             []string
	Location, Country, Info string
}

// Joining says which nodes join which cluster.
type Joining struct {
	// Run is the name of the run in the tables of the nodes; Owner who makes it.
	Run, Owner string
	Source     Member
	New        []Newcomer
	Replicas   []Member // the other nodes
	// Sets are the replication sets to subscribe to; all of the provider when there is none.
	Sets []string
	// Bare says that the nodes have Spock's interface only: no fence, no inventory.
	Bare bool
	// Position is the column of spock.progress that says how far another node's
	// changes are applied; remote_lsn when it is empty.
	Position string
	// AllowDDL lets definitions change during the join, at the operator's risk.
	AllowDDL bool
	// OnlyData says that rows alone are copied, into tables that exist.
	OnlyData bool
	// CreateRoles gives the new nodes' servers the roles of the source that they lack.
	CreateRoles bool
	// Tables are those whose rows are copied, as the source names them; only for
	// OnlyData, where they are there before.
	Tables []string
	// Limits bound what the copies take, as the engines read them; empty does not.
	Limits string
	// Stale are to be dropped before anything is made in their place.
	Stale []Leftover `json:",omitempty"`
}

// Names are those of the nodes that join.
func (j Joining) Names() []string {
	var names []string
	for _, n := range j.New {
		names = append(names, n.Name)
	}
	return names
}

// Members are all nodes of the plan, those that join last.
func (j Joining) Members() []Member {
	all := append([]Member{j.Source}, j.Replicas...)
	for _, n := range j.New {
		all = append(all, n.Member)
	}
	return all
}

func (j Joining) old() []Member { return append([]Member{j.Source}, j.Replicas...) }

// shared says that the new nodes copy one snapshot. It takes an engine of ours to
// copy what another session has seen.
func (j Joining) shared() bool {
	return !j.Bare && len(j.New) > 1 && !slices.ContainsFunc(j.New, func(n Newcomer) bool { return n.SourceSlot == "" })
}

// sets are those of a provider that a subscription takes.
func (j Joining) sets(provider Member) Member {
	if len(j.Sets) > 0 {
		provider.Sets = j.Sets
	}
	return provider
}

// AddNode plans how nodes join. The order makes it exact: every replica keeps
// its changes for the new nodes before the source's copy is taken, the copy holds
// how far it contains each replica's changes, and each replica's stream begins
// there. Nothing depends on clocks. Nobody may write on a new node before all
// others keep its changes.
func AddNode(j Joining) []Step {
	p := &planner{}
	p.begin(j)
	p.cover(j)
	p.copy(j)
	p.streams(j)
	p.reverse(j)
	p.open(j)
	if !j.Bare {
		p.troubled()
	}
	return p.steps
}

// newcomers adds one step for each new node; they run at the same time.
func (p *planner) newcomers(j Joining, step func(n Newcomer) Step) {
	var steps []Step
	for _, n := range j.New {
		s := step(n)
		s.For = []string{n.Name}
		steps = append(steps, s)
	}
	p.together(steps)
}

// pairs adds one step for each replica and new node; they run at the same time.
func (p *planner) pairs(j Joining, step func(n Newcomer, i int, r Member) Step) {
	var steps []Step
	for _, n := range j.New {
		for i, r := range j.Replicas {
			s := step(n, i, r)
			s.For = []string{n.Name}
			steps = append(steps, s)
		}
	}
	p.together(steps)
}

// members adds one step for each node; they run at the same time.
func (p *planner) members(j Joining, step func(m Member) Step) {
	p.each(j.Members(), func(_ int, m Member) Step {
		s := step(m)
		if slices.Contains(j.Names(), m.Name) {
			s.For = []string{m.Name}
		}
		return s
	})
}

// begin raises the fence, notes what the new nodes hold, closes them, and makes them nodes.
func (p *planner) begin(j Joining) {
	run := pg.QuoteLiteral(j.Run)
	if !j.Bare {
		p.members(j, func(m Member) Step {
			s := sqlStep("J1", m.Name, "Keep definitions as they are on "+m.Name, fmt.Sprintf("SELECT pgdrover.fence_raise(%s, %s, %s, %t)",
				run, pg.QuoteLiteral(j.Owner), pg.QuoteLiteral(strings.Join(j.Names(), ", ")), !j.AllowDDL))
			s.Undo = "SELECT pgdrover.fence_lower(" + run + ")"
			return s
		})
		p.adopt(j)
		p.roles(j)
		p.newcomers(j, func(n Newcomer) Step {
			s := sqlStep("J2", n.Name, "Note what "+n.Name+" holds", "SELECT pgdrover.take_inventory("+run+")")
			s.Undo = "CALL pgdrover.purge_copied(" + run + ")"
			return s
		})
		if j.OnlyData {
			p.newcomers(j, func(n Newcomer) Step {
				s := sqlStep("J2", n.Name, "Note which tables of "+n.Name+" get rows", "SELECT "+strconv.Itoa(len(j.Tables))+" AS tables")
				s.Undo = emptied(j.Tables)
				return s
			})
		}
		if j.Limits != "" {
			p.newcomers(j, func(n Newcomer) Step {
				s := sqlStep("J2", n.Name, "Limit the copy to "+n.Name+" ("+j.Limits+")", ofDatabase("SET pgdrover.copy_limits = "+pg.QuoteLiteral(j.Limits)))
				s.Undo = ofDatabase("RESET pgdrover.copy_limits")
				return s
			})
		}
		p.newcomers(j, func(n Newcomer) Step {
			s := sqlStep("J2", n.Name, "Close "+n.Name+" to writers", "SELECT pgdrover.close_node()")
			s.Undo = "SELECT pgdrover.open_node()"
			return s
		})
	}
	if j.Bare {
		p.adopt(j)
	}
	if j.Source.Bare {
		p.add(commandStep("J2", j.Source.Name, "Create node "+j.Source.Name, CreateNode, "node_name", j.Source.Name, "dsn", j.Source.DSN))
	}
	p.newcomers(j, func(n Newcomer) Step {
		return commandStep("J2", n.Name, "Create node "+n.Name, CreateNode, "node_name", n.Name, "dsn", n.DSN,
			"location", n.Location, "country", n.Country, "info", n.Info)
	})
}

// cover makes the replicas keep their changes, and the source have all from before.
func (p *planner) cover(j Joining) {
	p.pairs(j, func(n Newcomer, i int, r Member) Step {
		s := commandStep("J3", r.Name, fmt.Sprintf("Create slot %s on %s", n.Slots[i], r.Name), CreateSlot, "slot", n.Slots[i])
		s.Blockers = openTransactions
		return s
	})
	for _, n := range j.New {
		for _, r := range j.Replicas {
			s := subscription("J4", j.sets(r), n.Name, "false", nil)
			s.For = []string{n.Name}
			p.add(s)
		}
	}
	p.each(j.Replicas, func(_ int, r Member) Step { return mark("J5", r.Name, "settled_lsn") })
	p.each(j.Replicas, func(_ int, r Member) Step { return reached("J5", j.Source.Name, r.Name, "settled_lsn") })
}

// copy brings structure and data of the source, and its replication sets.
func (p *planner) copy(j Joining) {
	run := pg.QuoteLiteral(j.Run)
	if !j.Bare {
		p.each(j.old(), func(_ int, m Member) Step {
			return sqlStep("J6", m.Name, "Note the definitions on "+m.Name, "SELECT pgdrover.fence_mark("+run+")")
		})
	}
	p.share(j)
	p.newcomers(j, func(n Newcomer) Step {
		more := []string{"synchronize_structure", strconv.FormatBool(!j.OnlyData), "synchronize_data", "true"}
		if len(n.SkipSchemas) > 0 {
			more = append(more, "skip_schema", ListLiteral(n.SkipSchemas))
		}
		return subscription("J6", j.sets(j.Source), n.Name, "true", more)
	})
	p.newcomers(j, func(n Newcomer) Step { return copied(j, n) })
	p.unshare(j)
	if j.Limits != "" && !j.Bare {
		p.newcomers(j, func(n Newcomer) Step {
			return sqlStep("J8", n.Name, "Lift the limits of the copy to "+n.Name, ofDatabase("RESET pgdrover.copy_limits"))
		})
	}
	p.structure(j)
	p.views(j)
	p.add(sqlStep("J10", j.Source.Name, "Read the replication sets of "+j.Source.Name, readSets))
	p.newcomers(j, func(n Newcomer) Step {
		return sqlStep("J10", n.Name, "Give "+n.Name+" the same replication sets", writeSets(j.Source.Name, n.SkipSchemas))
	})
	p.handover(j)
	p.add(mark("J12", j.Source.Name, "copied_lsn"))
	p.newcomers(j, func(n Newcomer) Step { return reached("J12", n.Name, j.Source.Name, "copied_lsn") })
}

// snapshotSetting tells the engine of a new node's database which snapshot to copy.
const snapshotSetting = "pgdrover.copy_snapshot"

// share makes all copies begin with one snapshot of the source. The slots come
// first: each keeps all that is not in the snapshot.
func (p *planner) share(j Joining) {
	if !j.shared() {
		return
	}
	source := j.Source.Name
	p.newcomers(j, func(n Newcomer) Step {
		s := commandStep("J6", source, fmt.Sprintf("Create slot %s on %s", n.SourceSlot, source), CreateSlot, "slot", n.SourceSlot)
		s.Blockers = openTransactions
		return s
	})
	hold := Step{Type: TypeHold, Phase: "J6", Node: source, Description: "Hold one snapshot of " + source + " for all copies", Blockers: openTransactions}
	hold.SQL = "CREATE_REPLICATION_SLOT … TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')"
	p.add(hold)
	p.newcomers(j, func(n Newcomer) Step {
		s := sqlStep("J6", n.Name, "Let "+n.Name+" copy that snapshot", "SELECT pgdrover.run(pg_catalog.format('ALTER DATABASE %I SET "+snapshotSetting+
			" = %L', pg_catalog.current_database(), '"+variable(source, SharedSnapshot)+"'))")
		s.Undo = ofDatabase("RESET " + snapshotSetting)
		return s
	})
}

// unshare forgets the snapshot when everybody has copied it.
func (p *planner) unshare(j Joining) {
	if !j.shared() {
		return
	}
	p.newcomers(j, func(n Newcomer) Step {
		return sqlStep("J8", n.Name, "Forget the snapshot on "+n.Name, ofDatabase("RESET "+snapshotSetting))
	})
	p.add(Step{Type: TypeLetGo, Phase: "J8", Node: j.Source.Name, Description: "Let go of the snapshot of " + j.Source.Name})
}

// emptied makes tables empty again, as they were before rows were copied into
// them. Nobody is sent that: the node is none any more then.
func emptied(tables []string) string {
	return `DO $undo$ DECLARE
    there text[] := (SELECT coalesce(array_agg(CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END || x::text), '{}') FROM unnest(` + pg.QuoteLiteral(ListLiteral(tables)) + `::text[]) n
        CROSS JOIN LATERAL to_regclass(n) x JOIN pg_catalog.pg_class c ON c.oid = x);
    t text;
BEGIN
    PERFORM set_config('session_replication_role', 'replica', true);
    IF there <> '{}' THEN
        EXECUTE 'TRUNCATE ' || array_to_string(there, ', ');
    END IF;
EXCEPTION WHEN feature_not_supported THEN -- another table refers to one of them
    PERFORM set_config('session_replication_role', 'replica', true);
    FOREACH t IN ARRAY there LOOP
        EXECUTE 'DELETE FROM ' || t;
    END LOOP;
END $undo$`
}

// ofDatabase changes a setting of the local database.
func ofDatabase(change string) string {
	return "SELECT pgdrover.run(pg_catalog.format('ALTER DATABASE %I ', pg_catalog.current_database()) || " + pg.QuoteLiteral(change) + ")"
}

// copied waits for the end of a copy.
func copied(j Joining, n Newcomer) Step {
	name := pg.QuoteLiteral(SubscriptionName(j.Source.Name, n.Name))
	w := waitStep("J8", n.Name, fmt.Sprintf("Copy structure and data from %s to %s", j.Source.Name, n.Name),
		"SELECT coalesce(bool_and(y.sync_status IN ('r', 'y')) AND bool_or(y.sync_relname IS NULL AND y.sync_status = 'r'), false) AS copied,\n"+
			"       string_agg(DISTINCT y.sync_status::text, '') AS state\n"+
			"  FROM spock.local_sync_status y JOIN spock.subscription s ON s.sub_id = y.sync_subid WHERE s.sub_name = "+name)
	size := "pg_catalog.pg_database_size(pg_catalog.current_database())::text"
	if !j.Bare { // attempts that fail one after the other leave traces too
		size = "CASE WHEN EXISTS (SELECT FROM spock.pgdrover_subscription p JOIN spock.subscription s USING (sub_id)\n" +
			" WHERE s.sub_name = " + name + " AND p.failures > 1 AND p.last_error_at > clock_timestamp() - interval '1 minute') THEN '' ELSE " + size + " END"
	}
	w.Progress = "SELECT " + size +
		" || coalesce((SELECT sum(bytes_processed)::text FROM pg_catalog.pg_stat_progress_copy), '')" +
		" || coalesce((SELECT sum(blocks_done + tuples_done)::text FROM pg_catalog.pg_stat_progress_create_index), '')"
	if !j.Bare {
		w.Bar = "SELECT sum(CASE c.state WHEN 'done' THEN c.bytes_total ELSE least(c.bytes_done, c.bytes_total) END), sum(c.bytes_total)\n" +
			"  FROM spock.pgdrover_copy c JOIN spock.subscription s USING (sub_id) WHERE s.sub_name = " + name
	}
	w.Blockers, w.BlockersAt = whileSlotIsMade, j.Source.Name
	w.Refuse = "the copy does not get on; the engine of " + n.Name + " says why"
	return w
}

// structure compares what was restored with what was dumped; another major
// version words some definitions otherwise.
func (p *planner) structure(j Joining) {
	if j.Bare || j.OnlyData {
		return
	}
	const major = "current_setting('server_version_num')::int / 10000"
	for _, n := range j.New {
		digest := "md5(pgdrover.fingerprint(false, " + pg.QuoteLiteral(ListLiteral(n.SkipSchemas)) + "::text[])::text)"
		key := "structure_" + strconv.Itoa(slices.IndexFunc(j.New, func(x Newcomer) bool { return x.Name == n.Name })+1)
		take := sqlStep("J9", j.Source.Name, "Take the digest of the tables on "+j.Source.Name, "SELECT "+digest+" AS "+key+", "+major+" AS major")
		take.For = []string{n.Name}
		p.add(take)
		s := sqlStep("J9", n.Name, "Compare the tables on "+n.Name+" with it",
			"SELECT "+major+" <> '"+variable(j.Source.Name, "major")+"'::int OR "+digest+" = '"+variable(j.Source.Name, key)+"' AS result")
		s.Refuse = fmt.Sprintf("tables, constraints or indexes of %s are not those of %s", n.Name, j.Source.Name)
		s.IgnoreErrors, s.For = j.AllowDDL, []string{n.Name}
		p.add(s)
	}
}

// views fills the materialized views that are filled on the source.
func (p *planner) views(j Joining) {
	if j.Bare || j.OnlyData {
		return
	}
	p.add(sqlStep("J9", j.Source.Name, "Read which materialized views of "+j.Source.Name+" are filled", "SELECT pgdrover.filled_views() AS filled_views"))
	p.newcomers(j, func(n Newcomer) Step {
		return sqlStep("J9", n.Name, "Fill the materialized views of "+n.Name,
			"SELECT pgdrover.fill_views('"+variable(j.Source.Name, "filled_views")+"'::jsonb, "+pg.QuoteLiteral(ListLiteral(n.SkipSchemas))+"::text[]) AS filled")
	})
}

// roles creates those roles that the new nodes' servers lack.
func (p *planner) roles(j Joining) {
	if !j.CreateRoles {
		return
	}
	roles := "'" + variable(j.Source.Name, "roles") + "'::jsonb"
	p.add(sqlStep("J2", j.Source.Name, "Read the roles of "+j.Source.Name, "SELECT pgdrover.role_definitions() AS roles"))
	p.newcomers(j, func(n Newcomer) Step {
		return sqlStep("J2", n.Name, "See which of them "+n.Name+" lacks", "SELECT pgdrover.lacking_roles("+roles+") AS lacking_roles")
	})
	p.newcomers(j, func(n Newcomer) Step {
		s := sqlStep("J2", n.Name, "Create them on "+n.Name, "SELECT pgdrover.create_roles('"+variable(n.Name, "lacking_roles")+"'::jsonb) AS created")
		s.Undo = "SELECT pgdrover.drop_roles('" + variable(n.Name, "lacking_roles") + "'::jsonb)"
		return s
	})
}

// handoverKey is the variable of the new node that holds a replica's position.
func handoverKey(i int) string { return "handover_" + strconv.Itoa(i+1) }

// handover reads how far the copy holds the changes of each replica. That the
// slot begins before it is checked when the slot is moved there.
func (p *planner) handover(j Joining) {
	position := "p." + cmp.Or(j.Position, "remote_lsn")
	p.pairs(j, func(n Newcomer, i int, r Member) Step {
		s := sqlStep("J11", n.Name, "Read how far the copy holds the changes of "+r.Name,
			"SELECT max("+position+") AS "+handoverKey(i)+", count(*) > 0 AS result\n"+
				"  FROM spock.progress p JOIN spock.local_node l ON l.node_id = p.node_id JOIN spock.node n ON n.node_id = p.remote_node_id\n"+
				" WHERE n.node_name = "+pg.QuoteLiteral(r.Name)+" AND "+position+" > '0/0'")
		s.Refuse = "the copy does not say how far it holds the changes of " + r.Name
		return s
	})
}

// streams lets the replicas' changes follow where the copy ends.
func (p *planner) streams(j Joining) {
	if !j.Bare {
		p.each(j.old(), func(_ int, m Member) Step {
			s := sqlStep("J13", m.Name, "See that definitions on "+m.Name+" have not changed",
				"SELECT c IS NULL AS result, c AS why FROM pgdrover.fence_changes("+pg.QuoteLiteral(j.Run)+") AS c")
			s.Refuse = "definitions on " + m.Name + " have changed since the copy was taken"
			s.IgnoreErrors = j.AllowDDL
			return s
		})
	}
	p.pairs(j, func(n Newcomer, i int, r Member) Step {
		at := "'" + variable(n.Name, handoverKey(i)) + "'::pg_lsn"
		s := sqlStep("J13", r.Name, fmt.Sprintf("Move slot %s to where the copy ends", n.Slots[i]),
			"SELECT count(*) = 1 AND coalesce(bool_and(confirmed_flush_lsn <= "+at+" AND wal_status <> 'lost'), false) AS result,\n"+
				"       max(CASE WHEN confirmed_flush_lsn < "+at+" THEN (pg_catalog.pg_replication_slot_advance(slot_name, "+at+")).end_lsn END) AS moved\n"+
				"  FROM pg_catalog.pg_replication_slots WHERE slot_name = "+pg.QuoteLiteral(n.Slots[i]))
		s.Refuse = fmt.Sprintf("slot %s is gone, has lost WAL, or was advanced past the copy: changes would be missing", n.Slots[i])
		return s
	})
	p.pairs(j, func(n Newcomer, i int, r Member) Step {
		return sqlStep("J13", n.Name, "Begin the changes of "+r.Name+" where the copy ends",
			"SELECT pg_catalog.pg_replication_origin_advance("+pg.QuoteLiteral(n.Slots[i])+", '"+variable(n.Name, handoverKey(i))+"'::pg_lsn)\n"+
				" WHERE NOT (SELECT sub_enabled FROM spock.subscription WHERE sub_name = "+pg.QuoteLiteral(SubscriptionName(r.Name, n.Name))+")")
	})
	p.pairs(j, func(n Newcomer, _ int, r Member) Step {
		name := SubscriptionName(r.Name, n.Name)
		return commandStep("J13", n.Name, "Enable subscription "+name, EnableSubscription, "sub_name", name)
	})
	p.each(j.Replicas, func(_ int, r Member) Step { return mark("J13", r.Name, "joined_lsn") })
	p.pairs(j, func(n Newcomer, _ int, r Member) Step { return reached("J13", n.Name, r.Name, "joined_lsn") })
}

// reverse lets the others follow the new nodes, and these each other, and sees that all do.
func (p *planner) reverse(j Joining) {
	var links, followed, caught []Step
	for _, n := range j.New {
		provider := j.sets(Member{Name: n.Name, DSN: n.DSN, Sets: j.Source.Sets})
		for _, x := range j.Members() {
			if x.Name == n.Name {
				continue
			}
			serves := []string{n.Name}
			if slices.Contains(j.Names(), x.Name) {
				serves = append(serves, x.Name)
			}
			add := func(list *[]Step, s Step) {
				s.For = serves
				*list = append(*list, s)
			}
			add(&links, subscription("J14", provider, x.Name, "true", nil))
			add(&followed, replicating("J14", x.Name, SubscriptionName(n.Name, x.Name)))
			add(&caught, reached("J14", x.Name, n.Name, "opened_lsn"))
		}
	}
	p.together(links)
	p.together(followed)
	p.newcomers(j, func(n Newcomer) Step { return mark("J14", n.Name, "opened_lsn") })
	p.together(caught)
	p.members(j, func(x Member) Step { return replicating("J15", x.Name, "") })
}

// open lets clients write on the new nodes.
func (p *planner) open(j Joining) {
	if j.Bare {
		return
	}
	p.add(sqlStep("J15", j.Source.Name, "Read the sequences of "+j.Source.Name, "SELECT pgdrover.sequence_positions() AS sequences_at"))
	for _, n := range j.New {
		s := sqlStep("J15", n.Name, "Move the sequences of "+n.Name+" past them",
			"SELECT pgdrover.advance_sequences('"+variable(j.Source.Name, "sequences_at")+"'::jsonb) AS moved")
		s.For = []string{n.Name}
		p.add(s)
	}
	p.newcomers(j, func(n Newcomer) Step {
		return sqlStep("J16", n.Name, "Open "+n.Name+" to writers", "SELECT pgdrover.open_node()")
	})
	p.members(j, func(m Member) Step {
		return sqlStep("J16", m.Name, "Let definitions change on "+m.Name, "SELECT pgdrover.fence_lower("+pg.QuoteLiteral(j.Run)+")")
	})
}

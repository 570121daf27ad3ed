package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/spock"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// Topology is a cluster as its nodes describe it.
type Topology struct {
	// Members are the nodes, the one that was asked first.
	Members []workflow.Member
	Links   []workflow.Link
	// Unreachable are the members that could not be asked, with the reason.
	Unreachable map[string]error
}

// Member finds a node by its name.
func (t *Topology) Member(name string) (workflow.Member, bool) {
	for _, m := range t.Members {
		if m.Name == name {
			return m, true
		}
	}
	return workflow.Member{}, false
}

func (t *Topology) names() []string {
	names := make([]string, len(t.Members))
	for i, m := range t.Members {
		names[i] = m.Name
	}
	return names
}

// Nodes are the members as the tool reaches them: at the addresses at which
// their servers reach each other.
func (t *Topology) Nodes() ([]workflow.Node, error) {
	var nodes []workflow.Node
	for _, m := range t.Members {
		info, err := pg.ParseConnInfo(m.DSN)
		if err != nil {
			return nil, fmt.Errorf("connection string of node %s: %w", m.Name, err)
		}
		nodes = append(nodes, workflow.Node{Name: m.Name, ConnInfo: info})
	}
	return nodes, nil
}

// Surveyor asks nodes what they know.
type Surveyor struct {
	// Dial opens sessions; [Dial] when it is nil.
	Dial Dialer
	// OnNotice receives what servers say besides errors; it may be nil.
	OnNotice func(spock.Notice)
}

// opAsk is what failed when a node that could be reached has not answered as it should.
const opAsk = "ask"

// on asks one node; the error names it.
func (s *Surveyor) on(ctx context.Context, m workflow.Member, use func(Server) error) error {
	info, err := pg.ParseConnInfo(m.DSN)
	if err != nil {
		return &NodeError{Node: m.Name, Op: "read the connection string", Err: err}
	}
	dial := s.Dial
	if dial == nil {
		dial = Dial
	}
	notice := s.OnNotice
	if notice == nil {
		notice = func(spock.Notice) {}
	}
	server, err := dial(ctx, workflow.Node{Name: m.Name, ConnInfo: info}, notice)
	if err != nil {
		return &NodeError{Node: m.Name, Op: "connect", Err: serverError(err)}
	}
	defer func() { _ = server.Close(context.WithoutCancel(ctx)) }()
	if err := use(server); err != nil {
		return &NodeError{Node: m.Name, Op: opAsk, Err: Explain(m.Name, err)}
	}
	return nil
}

// queries about a node. All of them are documented tables and functions.
const (
	qLocalName = `SELECT n.node_name FROM spock.local_node l JOIN spock.node n ON n.node_id = l.node_id`
	qPeers     = `SELECT DISTINCT ON (n.node_name) n.node_name, i.if_dsn FROM spock.node n JOIN spock.node_interface i ON i.if_nodeid = n.node_id
 WHERE NOT EXISTS (SELECT FROM spock.local_node l WHERE l.node_id = n.node_id) ORDER BY n.node_name, i.if_name = n.node_name DESC, i.if_name`
	qSets  = `SELECT s.set_name FROM spock.replication_set s JOIN spock.local_node l ON l.node_id = s.set_nodeid ORDER BY s.set_name`
	qLinks = `SELECT s.sub_name, o.node_name, t.node_name, s.sub_slot_name, s.sub_enabled FROM spock.subscription s
  JOIN spock.node o ON o.node_id = s.sub_origin JOIN spock.node t ON t.node_id = s.sub_target ORDER BY s.sub_name`
)

// Survey asks a node for its cluster, and then every other node that it knows,
// and those that it may have forgotten. The node may be no node of a cluster
// yet: then it stands alone.
func (s *Surveyor) Survey(ctx context.Context, first workflow.Member, forgotten ...workflow.Member) (*Topology, error) {
	t := &Topology{Unreachable: map[string]error{}}
	var peers []workflow.Member
	if err := s.on(ctx, first, func(server Server) error {
		var err error
		peers, err = s.ask(ctx, server, t, &first)
		return err
	}); err != nil {
		return nil, err
	}
	for _, m := range forgotten {
		if m.Name != first.Name && !slices.ContainsFunc(peers, func(p workflow.Member) bool { return p.Name == m.Name }) {
			peers = append(peers, workflow.Member{Name: m.Name, DSN: m.DSN})
		}
	}
	t.Members = append([]workflow.Member{first}, t.Members...)
	for _, m := range peers {
		err := s.on(ctx, m, func(server Server) error {
			_, err := s.ask(ctx, server, t, &m)
			return err
		})
		if err != nil {
			t.Unreachable[m.Name] = err
		}
		t.Members = append(t.Members, m)
	}
	return t, nil
}

// ask fills a member in and returns the others that it knows.
func (s *Surveyor) ask(ctx context.Context, server Server, t *Topology, m *workflow.Member) ([]workflow.Member, error) {
	name, err := server.Ask(ctx, qLocalName)
	if err != nil {
		return nil, err
	}
	if len(name.Rows) == 0 {
		m.Bare, m.Sets = true, []string{"default", "default_insert_only", "ddl_sql"}
		return nil, nil
	}
	if m.Name != "" && name.text(0) != m.Name {
		return nil, &wrongNode{wanted: m.Name, found: name.text(0)}
	}
	m.Name = name.text(0)
	sets, err := server.Ask(ctx, qSets)
	if err != nil {
		return nil, err
	}
	for _, row := range sets.Rows {
		m.Sets = append(m.Sets, *row[0])
	}
	links, err := server.Ask(ctx, qLinks)
	if err != nil {
		return nil, err
	}
	for _, row := range links.Rows {
		t.Links = append(t.Links, workflow.Link{Name: *row[0], Provider: *row[1], Subscriber: *row[2], Slot: *row[3], Disabled: *row[4] != "t"})
	}
	rows, err := server.Ask(ctx, qPeers)
	if err != nil {
		return nil, err
	}
	var peers []workflow.Member
	for _, row := range rows.Rows {
		peers = append(peers, workflow.Member{Name: *row[0], DSN: *row[1]})
	}
	return peers, nil
}

// wrongNode is a connection string that leads to another node.
type wrongNode struct{ wanted, found string }

func (e *wrongNode) Error() string {
	return fmt.Sprintf("the connection string leads to node %q, not to %q", e.found, e.wanted)
}

// Hint says what to check.
func (e *wrongNode) Hint() string {
	return "compare the names and the connection strings that were given"
}

// Newcomers asks the new nodes what a plan has to know: the names of the slots
// that others will keep for them, and the schemas that they have already.
func (s *Surveyor) Newcomers(ctx context.Context, j *workflow.Joining) error {
	for i := range j.New {
		if err := s.newcomer(ctx, j, &j.New[i]); err != nil {
			return err
		}
	}
	for _, m := range j.Members() {
		if err := s.on(ctx, m, func(server Server) error {
			fenced, err := hasFence(ctx, server)
			j.Bare = j.Bare || !fenced
			return err
		}); err != nil {
			return err
		}
	}
	if j.Bare && len(j.Replicas) > 0 {
		for _, n := range j.New {
			if err := s.on(ctx, n.Member, func(server Server) error { return exactCopy(ctx, server, j) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// qExact asks a node with Spock's own extension whether its copies say how far
// they hold other nodes' changes, and in which column.
const qExact = `SELECT spock.spock_version_num(), spock.spock_version(),
       (SELECT min(a.attname) FROM pg_catalog.pg_attribute a WHERE a.attrelid = pg_catalog.to_regclass('spock.progress')
         AND a.attname IN ('remote_lsn', 'remote_commit_lsn') AND (a.attname = 'remote_lsn' OR NOT EXISTS (SELECT FROM pg_catalog.pg_attribute b
           WHERE b.attrelid = a.attrelid AND b.attname = 'remote_lsn')))`

// firstExact is the first release of Spock whose copies say that rightly.
const firstExact = 50007

func exactCopy(ctx context.Context, server Server, j *workflow.Joining) error {
	answer, err := server.Ask(ctx, qExact)
	if err != nil {
		return err
	}
	j.Position = answer.text(2)
	if n, err := strconv.Atoi(answer.text(0)); err != nil || n < firstExact || j.Position == "" {
		return &inexact{version: answer.text(1)}
	}
	return nil
}

// inexact is an extension whose copies do not say where they end.
type inexact struct{ version string }

func (e *inexact) Error() string {
	return "Spock " + e.version + " does not say rightly how far a copy holds other nodes' changes: a third node cannot join without gaps"
}

// Hint says from which release on it does.
func (e *inexact) Hint() string {
	return "update the extension to 5.0.7 or later on all nodes, or install pgdrover's schema: pgdrover spock install --dsn …"
}

// hasFence asks whether a node's schema can do more than Spock's.
func hasFence(ctx context.Context, server Server) (bool, error) {
	answer, err := server.Ask(ctx, "SELECT pg_catalog.to_regprocedure('pgdrover.fence_changes(text)') IS NOT NULL")
	return err == nil && answer.is(), err
}

func (s *Surveyor) newcomer(ctx context.Context, j *workflow.Joining, n *workflow.Newcomer) error {
	return s.on(ctx, n.Member, func(server Server) error {
		name, err := server.Ask(ctx, qLocalName)
		if err != nil {
			return err
		}
		n.Bare = len(name.Rows) == 0
		if !n.Bare && name.text(0) != n.Name {
			return &wrongNode{wanted: n.Name, found: name.text(0)}
		}
		n.Slots = nil
		for _, r := range j.Replicas {
			slot, err := slotName(ctx, server, r.Name, workflow.SubscriptionName(r.Name, n.Name))
			if err != nil {
				return err
			}
			n.Slots = append(n.Slots, slot)
		}
		if n.SourceSlot, err = slotName(ctx, server, j.Source.Name, workflow.SubscriptionName(j.Source.Name, n.Name)); err != nil {
			return err
		}
		if j.OnlyData {
			return nil // its tables are there to be filled, wherever they lie
		}
		schemas, err := server.Ask(ctx, `SELECT nspname FROM pg_catalog.pg_namespace
 WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'spock', 'pgdrover', 'public', 'lolor') ORDER BY nspname`)
		if err != nil {
			return err
		}
		for _, row := range schemas.Rows {
			if !slices.Contains(n.SkipSchemas, *row[0]) {
				n.SkipSchemas = append(n.SkipSchemas, *row[0])
			}
		}
		return nil
	})
}

// slotName is the name that the server itself gives to a subscription's slot.
func slotName(ctx context.Context, server Server, provider, subscription string) (string, error) {
	answer, err := server.Ask(ctx, "SELECT spock.spock_gen_slot_name(pg_catalog.current_database(), $1::name, $2::name)", &provider, &subscription)
	if err != nil {
		return "", err
	}
	return answer.text(0), nil
}

// qCopied are the tables in a node's replication sets, in those that are named or in all.
const qCopied = `SELECT DISTINCT format('%I.%I', n.nspname, c.relname) AS name FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id)
  JOIN spock.local_node l ON l.node_id = s.set_nodeid JOIN pg_catalog.pg_class c ON c.oid = t.set_reloid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE $1::text = '{}' OR s.set_name::text = ANY ($1::text[]) ORDER BY 1`

// copiedTables are the tables whose rows a copy brings.
func (s *Surveyor) copiedTables(ctx context.Context, source workflow.Member, sets []string) (tables []string, err error) {
	err = s.on(ctx, source, func(server Server) error {
		answer, err := server.Ask(ctx, qCopied, new(workflow.ListLiteral(sets)))
		for _, row := range answer.Rows {
			tables = append(tables, *row[0])
		}
		return err
	})
	return tables, err
}

// Leaving is what a plan has to know to remove a node: from itself, or from a
// survivor when it cannot be reached, or is no node any more and knows nobody.
func (s *Surveyor) Leaving(ctx context.Context, target, survivor workflow.Member, forgotten ...workflow.Member) (workflow.Leaving, error) {
	l := workflow.Leaving{Target: target, Slots: map[string][]string{}, Own: map[string][]string{}}
	var t *Topology
	var err error
	if target.DSN != "" {
		t, err = s.Survey(ctx, target, forgotten...)
	}
	switch {
	case target.DSN == "" || err != nil && survivor.DSN != "":
		l.Dead = true
		t, err = s.Survey(ctx, survivor, forgotten...)
	case err == nil && t.Members[0].Bare && survivor.DSN != "":
		l.Target.Bare = true
		t, err = s.Survey(ctx, survivor, forgotten...)
	}
	if err != nil {
		return l, noNode(survivor, target, err)
	}
	if known, ok := t.Member(target.Name); ok && !l.Target.Bare {
		l.Target = known
	}
	for _, m := range t.Members {
		if m.Name == target.Name || m.Bare {
			continue
		}
		if reason := t.Unreachable[m.Name]; reason != nil {
			return l, reason
		}
		l.Peers = append(l.Peers, m)
		if err := s.leftSlots(ctx, &l, m); err != nil {
			return l, err
		}
	}
	if len(l.Peers) == 0 && l.Dead {
		return l, &noSurvivor{target: target.Name, bare: t.Members[0].Bare, itself: t.Members[0].Name == target.Name}
	}
	l.Links = t.Links
	for _, x := range l.Links {
		switch {
		case x.Subscriber != target.Name:
			l.Own[x.Provider] = append(l.Own[x.Provider], x.Slot)
		case !slices.Contains(l.Slots[x.Provider], x.Slot) && l.Slots[x.Provider] != nil:
			l.Slots[x.Provider] = append(l.Slots[x.Provider], x.Slot)
		}
	}
	return l, s.fenced(ctx, &l)
}

// noSurvivor is a survivor's connection string that leads to no node which stays.
type noSurvivor struct {
	target string
	// bare says that it leads to a database that is no node, itself that it leads to the target.
	bare, itself bool
}

func (e *noSurvivor) Error() string {
	switch {
	case e.bare:
		return "--survivor-dsn leads to a database that is no node"
	case e.itself:
		return "--survivor-dsn leads to node " + strconv.Quote(e.target) + " itself"
	}
	return "no node that survives was found"
}

// Hint says what to give instead.
func (e *noSurvivor) Hint() string {
	return "give the connection string of a node that stays, with the database of the cluster: pgdrover spock status --dsn … shows which node a database is"
}

// noNode words an error of a survivor that has no schema at all.
func noNode(survivor, target workflow.Member, err error) error {
	if node, ok := errors.AsType[*NodeError](err); ok && node.Node == survivor.Name {
		if _, ok := errors.AsType[*schemaError](node.Err); ok {
			return &noSurvivor{target: target.Name, bare: true}
		}
	}
	return err
}

// fenced finds out whether the nodes' schemas can do more than Spock's, and
// which run has copied what is on the target.
func (s *Surveyor) fenced(ctx context.Context, l *workflow.Leaving) error {
	l.Fenced = true
	for _, m := range l.Peers {
		if err := s.on(ctx, m, func(server Server) error {
			fenced, err := hasFence(ctx, server)
			l.Fenced = l.Fenced && fenced
			return err
		}); err != nil {
			return err
		}
	}
	if l.Dead {
		return nil
	}
	return s.on(ctx, l.Target, func(server Server) error {
		fenced, err := hasFence(ctx, server)
		l.Fenced = l.Fenced && fenced
		if err != nil || !fenced {
			return err
		}
		answer, err := server.Ask(ctx, "SELECT run_id FROM spock.pgdrover_inventory ORDER BY taken_at DESC LIMIT 1")
		l.Purge = answer.text(0)
		return err
	})
}

// qJoining asks a database that is no node whether a join of a node has left anything in it.
const qJoining = `SELECT EXISTS (SELECT FROM spock.pgdrover_run WHERE kind = 'add_node' AND $1 = ANY (pg_catalog.string_to_array(target, ', ')))
    OR EXISTS (SELECT FROM spock.pgdrover_fence WHERE $1 = ANY (pg_catalog.string_to_array(joins, ', ')))`

// joining reports whether the journal or a fence of a join is on the target.
func (s *Surveyor) joining(ctx context.Context, target workflow.Member) (left bool, err error) {
	err = s.on(ctx, target, func(server Server) error {
		fenced, err := hasFence(ctx, server)
		if err != nil || !fenced {
			return err
		}
		answer, err := server.Ask(ctx, qJoining, &target.Name)
		left = err == nil && answer.is()
		return err
	})
	return left, err
}

// leftSlots computes which slots a peer may keep for the target.
func (s *Surveyor) leftSlots(ctx context.Context, l *workflow.Leaving, m workflow.Member) error {
	return s.on(ctx, m, func(server Server) error {
		slot, err := slotName(ctx, server, m.Name, workflow.SubscriptionName(m.Name, l.Target.Name))
		l.Slots[m.Name] = []string{slot}
		return err
	})
}

func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

package orchestrator

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/pgdrover/pgdrover/internal/workflow"
)

// Names that a join is about to give may be taken by what an earlier attempt, or
// an earlier life of the node, has left. Origins even outlive the database in
// which they were made. A stream that took one over would begin where the earlier
// one has ended.

// leftovers are what is in the way of a join by its name.
type leftovers struct {
	// stale is what can be dropped.
	stale []workflow.Leftover
	// used is what cannot: somebody uses it.
	used []string
}

// StaleError says that earlier attempts have left something that is in the way.
type StaleError struct {
	Left []workflow.Leftover
	Used []string
}

// Error lists it.
func (e *StaleError) Error() string {
	var all []string
	for _, l := range e.Left {
		all = append(all, l.String())
	}
	return "left by an earlier attempt: " + strings.Join(append(all, e.Used...), ", ")
}

// Hint says how to go on.
func (e *StaleError) Hint() string {
	if len(e.Used) > 0 {
		return "end what uses it first, or let the node join under another name"
	}
	return "--adopt-stale=drop drops it before the node joins"
}

const (
	// qTaken looks for slots and origins with certain names that no subscription here uses.
	qTaken = `SELECT '` + workflow.LeftSlot + `', s.slot_name::text, coalesce('process ' || s.active_pid, CASE WHEN s.database IS DISTINCT FROM pg_catalog.current_database()
         THEN coalesce('database ' || s.database, 'a standby') END)
  FROM pg_catalog.pg_replication_slots s JOIN json_array_elements_text($1::json) w(name) ON s.slot_name = w.name
UNION ALL SELECT '` + workflow.LeftOrigin + `', o.roname, NULL
  FROM pg_catalog.pg_replication_origin o JOIN json_array_elements_text($2::json) w(name) ON o.roname = w.name
 WHERE NOT EXISTS (SELECT FROM spock.subscription s WHERE s.sub_slot_name::text = o.roname)
 ORDER BY 1 DESC, 2`
	// qRegistered are the subscriptions and nodes of a database.
	qRegistered = `SELECT '` + workflow.LeftSubscription + `', sub_name::text FROM spock.subscription
UNION ALL SELECT '` + workflow.LeftNode + `', node_name::text FROM spock.node ORDER BY 1 DESC, 2`
)

// leftovers finds what bears the names that a join of a node would give, beside
// others that join with it, and what of it is in use. Nodes and subscriptions of the others that follow the node are
// none of that: such a node is removed first, with all that this takes.
func (s *Surveyor) leftovers(ctx context.Context, t *Topology, newcomer workflow.Member, beside []workflow.Member) (*leftovers, error) {
	l := &leftovers{}
	var others []workflow.Member
	for _, m := range append(slices.Clone(t.Members), beside...) {
		if m.Name != newcomer.Name && t.Unreachable[m.Name] == nil {
			others = append(others, m)
		}
	}
	var there, here []string // slots that the others keep for it, and it for them
	var stale []string       // slots on others of subscriptions that are left on it
	if err := s.on(ctx, newcomer, func(server Server) error {
		registered, err := server.Ask(ctx, qRegistered)
		if err != nil {
			return err
		}
		for _, m := range others {
			slot, err := slotName(ctx, server, m.Name, workflow.SubscriptionName(m.Name, newcomer.Name))
			if err != nil {
				return err
			}
			there = append(there, slot)
			if slices.ContainsFunc(registered.Rows, func(row []*string) bool {
				return *row[0] == workflow.LeftSubscription && *row[1] == workflow.SubscriptionName(m.Name, newcomer.Name)
			}) {
				stale = append(stale, slot)
			}
		}
		for _, row := range registered.Rows {
			if *row[0] == workflow.LeftNode || slices.ContainsFunc(others, func(m workflow.Member) bool {
				return *row[1] == workflow.SubscriptionName(m.Name, newcomer.Name)
			}) {
				l.stale = append(l.stale, workflow.Leftover{Kind: *row[0], Name: *row[1], Node: newcomer.Name})
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	l.stale = slices.DeleteFunc(l.stale, func(x workflow.Leftover) bool { // a node of another cluster is none of ours
		return x.Kind == workflow.LeftNode && x.Name != newcomer.Name && !slices.ContainsFunc(others, func(m workflow.Member) bool { return m.Name == x.Name })
	})
	for _, m := range others {
		slot := ""
		if err := s.on(ctx, m, func(server Server) error {
			var err error
			if slot, err = slotName(ctx, server, newcomer.Name, workflow.SubscriptionName(newcomer.Name, m.Name)); err != nil {
				return err
			}
			here = append(here, slot)
			return l.taken(ctx, server, m.Name, there, []string{slot}, stale)
		}); err != nil {
			return nil, err
		}
	}
	return l, s.on(ctx, newcomer, func(server Server) error { return l.taken(ctx, server, newcomer.Name, here, there, nil) })
}

// taken asks a node for slots and origins with certain names. Those in passing go
// with subscriptions, whoever reads them.
func (l *leftovers) taken(ctx context.Context, server Server, node string, slots, origins, passing []string) error {
	lists := make([]string, 2)
	for i, names := range [][]string{slots, origins} {
		text, err := json.Marshal(append([]string{}, names...))
		if err != nil {
			return err
		}
		lists[i] = string(text)
	}
	answer, err := server.Ask(ctx, qTaken, &lists[0], &lists[1])
	if err != nil {
		return err
	}
	for _, row := range answer.Rows {
		x := workflow.Leftover{Kind: *row[0], Name: *row[1], Node: node}
		if row[2] != nil && (!strings.HasPrefix(*row[2], "process ") || !slices.Contains(passing, x.Name)) {
			l.used = append(l.used, x.String()+" (used by "+*row[2]+")")
			continue
		}
		l.stale = append(l.stale, x)
	}
	return nil
}

// foreign are the registered subscriptions or nodes of a new node that are not among what can be dropped.
func (l *leftovers) foreign(kind, node, names string) string {
	if names == "" {
		return ""
	}
	return strings.Join(slices.DeleteFunc(strings.Split(names, ", "), func(name string) bool {
		return slices.Contains(l.stale, workflow.Leftover{Kind: kind, Name: name, Node: node})
	}), ", ")
}

// refused is the error of what is left, nil when there is nothing, or it may be dropped.
func (l *leftovers) refused(drop bool) *StaleError {
	if len(l.used) > 0 || len(l.stale) > 0 && !drop {
		return &StaleError{Left: l.stale, Used: l.used}
	}
	return nil
}

// knownBy are the nodes that know a node, or follow it.
func (s *Surveyor) knownBy(ctx context.Context, t *Topology, name string) ([]string, error) {
	var all []string
	for _, m := range t.Members {
		if m.Name == name || m.Bare || t.Unreachable[m.Name] != nil {
			continue
		}
		if err := s.on(ctx, m, func(server Server) error {
			answer, err := server.Ask(ctx, "SELECT EXISTS (SELECT FROM spock.node WHERE node_name = $1)", &name)
			if err == nil && answer.is() {
				all = append(all, m.Name)
			}
			return err
		}); err != nil {
			return nil, err
		}
	}
	return all, nil
}

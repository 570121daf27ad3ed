package apply

import (
	"maps"
	"slices"
)

// sets are the provider's replication sets at one point of its stream, as far
// as this node knows: a private copy that changes with the stream.
type sets struct {
	all     map[uint32]replicationSet
	members map[uint32]map[uint32]member // table there → set → membership
	wanted  []string                     // names of the sets that are subscribed to
}

type replicationSet struct {
	name                             string
	insert, update, delete, truncate bool
}

type member struct {
	columns []string // nil: all
	filter  string
}

// rule is what the sets say of one table.
type rule struct {
	insert, update, delete, truncate bool
	columns                          map[string]bool // nil: all
	filters                          []string
	// filtered: not every insert arrives here with all its columns.
	filtered bool
}

// rule joins the memberships of a table: an action is let through when any set
// does it, a row when all filters do.
func (s *sets) rule(table uint32) rule {
	var r rule
	for _, id := range slices.Sorted(maps.Keys(s.members[table])) {
		set, ok := s.all[id]
		if !ok {
			continue
		}
		// Whether a TRUNCATE is sent depends on all sets of the node.
		r.truncate = r.truncate || set.truncate
		if !slices.Contains(s.wanted, set.name) {
			continue
		}
		r.insert = r.insert || set.insert
		r.update = r.update || set.update
		r.delete = r.delete || set.delete
		m := s.members[table][id]
		for _, c := range m.columns {
			if r.columns == nil {
				r.columns = map[string]bool{}
			}
			r.columns[c] = true
		}
		if m.filter != "" {
			r.filters = append(r.filters, m.filter)
		}
	}
	r.filtered = !r.insert || r.columns != nil || len(r.filters) > 0
	return r
}

// overlap tells whether a message for these sets is for this subscription.
func (s *sets) overlap(names []string, all bool) bool {
	if all {
		return true
	}
	return slices.ContainsFunc(names, func(n string) bool { return slices.Contains(s.wanted, n) })
}

package orchestrator

import (
	"context"
	"fmt"

	"github.com/pgdrover/pgdrover/internal/workflow"
)

// qPlace tells a database from every other one that runs, those of copies of its
// server too, and says which node it is.
const qPlace = `SELECT pg_catalog.format('%s %s %s', s.system_identifier, extract(epoch FROM pg_catalog.pg_postmaster_start_time()), d.oid),
       (SELECT n.node_name FROM spock.local_node l JOIN spock.node n ON n.node_id = l.node_id)
  FROM pg_catalog.pg_control_system() s, pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()`

// PlaceTaken says that a new node's connection string leads to what is a node, or
// is to become another one.
type PlaceTaken struct{ New, Other string }

// Error names both.
func (e *PlaceTaken) Error() string {
	return fmt.Sprintf("the connection string of new node %s leads to %s", e.New, e.Other)
}

// Hint says what to check.
func (e *PlaceTaken) Hint() string {
	return "compare the names and the connection strings that were given"
}

// place is where a connection string leads, and the node that is there.
func (s *Surveyor) place(ctx context.Context, m workflow.Member) (place, node string, err error) {
	err = s.on(ctx, m, func(server Server) error {
		answer, err := server.Ask(ctx, qPlace)
		place, node = answer.text(0), answer.text(1)
		return err
	})
	return place, node, err
}

// free checks that a new node is not to become what is in the cluster already. A
// database that only says so, because it once was, may become one again.
func (s *Surveyor) free(ctx context.Context, t *Topology, n workflow.Member) error {
	place, node, err := s.place(ctx, n)
	if err != nil || place == "" || node == "" || node == n.Name {
		return err
	}
	m, ok := t.Member(node)
	if _, away := t.Unreachable[node]; !ok || away {
		return nil
	}
	there, _, err := s.place(ctx, m)
	if err == nil && there == place {
		return &PlaceTaken{New: n.Name, Other: "node " + node + " of the cluster"}
	}
	return err
}

// apart checks that new nodes are to become nodes of their own.
func (s *Surveyor) apart(ctx context.Context, t *Topology, news []workflow.Member) error {
	taken := map[string]string{}
	for _, n := range news {
		if err := s.free(ctx, t, n); err != nil {
			return err
		}
		if len(news) == 1 {
			return nil
		}
		place, _, err := s.place(ctx, n)
		switch {
		case err != nil:
			return err
		case place != "" && taken[place] != "":
			return &PlaceTaken{New: n.Name, Other: "the database of new node " + taken[place]}
		}
		taken[place] = n.Name
	}
	return nil
}

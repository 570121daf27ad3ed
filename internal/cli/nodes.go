package cli

import (
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/keeper"
)

// newFSMNodesCmd holds the commands about the nodes file of a node that works without a monitor.
func newFSMNodesCmd(env *Env) *cobra.Command {
	get := newMixedLeaf("get", "Get the nodes that a node without a monitor knows", func(cmd *cobra.Command, _ []string) error {
		n, err := monitorlessKeeper(env, cmd)
		if err != nil {
			return err
		}
		return printNeighbours(env, cmd, n)
	})
	set := newWordsLeaf("set <file>", "Set the nodes that a node without a monitor knows", func(cmd *cobra.Command, words []string) error {
		n, err := monitorlessKeeper(env, cmd)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(words[0])
		if err != nil {
			return withCode(exitBadArgs, err)
		}
		nodes, err := keeper.ParseNeighbours(text)
		if err != nil {
			return fail(exitInternal, "%w", err).
				withHint("the file holds an array of objects with node_id, node_name, node_host, node_port, node_lsn and node_is_primary")
		}
		if err := keeper.WriteNeighbours(n.nodes, nodes); err != nil {
			return withCode(exitInternal, err)
		}
		return printNeighbours(env, cmd, n)
	})
	pgdataFlag(get)
	pgdataFlag(set)
	return newSet("nodes", "Manually manage the keeper's nodes list", get, set)
}

// monitorlessKeeper is localKeeper for commands that only make sense without a monitor.
func monitorlessKeeper(env *Env, cmd *cobra.Command) (node, error) {
	n, err := localKeeper(env, cmd)
	if err == nil && !n.monitorDisabled() {
		err = fatal(exitBadConfig, "The node at %q has a monitor, which knows the nodes", n.pgdata).
			withHint("this command is for nodes whose monitor is disabled")
	}
	return n, err
}

func printNeighbours(env *Env, cmd *cobra.Command, n node) error {
	nodes, err := keeper.ReadNeighbours(n.nodes)
	if err != nil {
		return withCode(exitInternal, err)
	}
	slices.SortFunc(nodes, func(a, b keeper.Neighbour) int { return int(a.ID - b.ID) })
	if jsonWanted(cmd) {
		return writeJSON(env.Stdout, neighboursJSON(nodes))
	}
	return neighboursTable(nodes).write(env.Stdout)
}

func neighboursJSON(nodes []keeper.Neighbour) array {
	out := array{}
	for _, n := range nodes {
		out = append(out, object{
			{"node_id", n.ID},
			{"node_name", n.Name},
			{"node_host", n.Host},
			{"node_port", n.Port},
			{"node_lsn", n.LSN},
			{"node_is_primary", n.Primary},
		})
	}
	return out
}

func neighboursTable(nodes []keeper.Neighbour) *table {
	t := &table{columns: []column{
		{title: "Name", width: 4},
		{title: "Node", width: 5},
		{title: "Host:Port", width: 10},
		{title: "TLI: LSN", width: 21},
		{title: "Primary?", width: 8},
	}}
	for _, n := range nodes {
		t.add(n.Name, nodeID("", 0, n.ID), hostPort(n.Host, n.Port), n.LSN.String(), yesNo(n.Primary))
	}
	return t
}

package workflow

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Generating says what a generated file is to do.
type Generating struct {
	// Kind is add-node, remove-node, cross-wire or uncross-wire.
	Kind string
	// Source and New are names of nodes; the latter is the one that leaves, too.
	Source, New string
	Nodes       []Node
	// Slot is the name of the slot of a subscription, as the servers compute it.
	Slot func(provider, subscription string) (string, error)
}

// sets are what the generated subscriptions take.
const sets = "ARRAY['default', 'default_insert_only', 'ddl_sql']"

// generator gathers the steps of a file.
type generator struct {
	Generating
	steps []map[string]any
}

// Generate writes a file that spockctrl reads as well: the documented steps, for
// any number of nodes.
func Generate(g Generating) ([]byte, error) {
	w := &generator{Generating: g}
	var err error
	name, about := "", ""
	switch g.Kind {
	case "add-node":
		name, about = "Add Node", fmt.Sprintf("Let node %s join, with the content of %s.", g.New, g.Source)
		err = w.addNode()
	case "remove-node":
		name, about = "Remove Node", fmt.Sprintf("Take node %s out of the cluster; it must still be reachable.", g.New)
		w.removeNode()
	case "cross-wire":
		name, about = "Cross Wire", "Connect empty nodes in all directions."
		w.crossWire()
	case "uncross-wire":
		name, about = "Uncross Wire", "Take apart what cross-wire has built."
		w.uncrossWire()
	default:
		err = fmt.Errorf("there are add-node, remove-node, cross-wire and uncross-wire, but no %q", g.Kind)
	}
	if err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(map[string]any{"workflow_name": name, "description": about, "steps": w.steps}, "", "  ")
	return append(text, '\n'), err
}

func (g *generator) step(kind, node, command, description string, sleep int, args ...string) {
	g.steps = append(g.steps, map[string]any{kind: map[string]any{
		"node": node, "command": command, "description": description, "sleep": sleep, "args": args,
		"on_success": map[string]any{}, "on_failure": map[string]any{},
	}})
}

func (g *generator) sql(node, description string, sleep int, sql string) {
	g.step("sql", node, SQLCommand, description, sleep, "--sql="+sql)
}

// others are the nodes without some.
func (g *generator) others(without ...string) []string {
	var names []string
	for _, n := range g.Nodes {
		if !slices.Contains(without, n.Name) {
			names = append(names, n.Name)
		}
	}
	return names
}

func (g *generator) dsn(node string) string {
	for _, n := range g.Nodes {
		if n.Name == node {
			return n.ConnInfo.DSN()
		}
	}
	return ""
}

func (g *generator) createNode(node string) {
	g.step("spock", node, CreateNode, "Register "+node+" as a node of the cluster", 0, "--node_name="+node, "--dsn="+g.dsn(node))
}

func (g *generator) subscribe(subscriber, provider string, copied, enabled bool, description string) {
	g.step("spock", subscriber, CreateSubscription, description, 5, "--sub_name="+SubscriptionName(provider, subscriber),
		"--provider_dsn="+g.dsn(provider), "--replication_sets="+sets, fmt.Sprintf("--synchronize_structure=%t", copied),
		fmt.Sprintf("--synchronize_data=%t", copied), "--forward_origins='{}'::text[]", "--apply_delay='0'::interval",
		"--force_text_transfer=false", fmt.Sprintf("--enabled=%t", enabled))
}

func (g *generator) marked(node string) {
	g.sql(node, "On "+node+", write a sync marker", 0, "SELECT spock.sync_event();")
}

// awaited waits for the marker that was written last on another node.
func (g *generator) awaited(node, origin string) {
	g.sql(node, "On "+node+", wait until the marker of "+origin+" is applied", 0,
		fmt.Sprintf("CALL spock.wait_for_sync_event(true, %s, '$%s.sync_event'::pg_lsn, 1200000);", pg.QuoteLiteral(origin), origin))
}

func (g *generator) addNode() error {
	replicas := g.others(g.Source, g.New)
	g.createNode(g.New)
	for _, x := range g.others(g.New) {
		g.subscribe(x, g.New, false, true, fmt.Sprintf("On %s, subscribe to the still empty node %s", x, g.New))
	}
	slots := map[string]string{}
	for _, r := range replicas {
		name := SubscriptionName(r, g.New)
		slot, err := g.Slot(r, name)
		if err != nil {
			return err
		}
		slots[r] = slot
		g.subscribe(g.New, r, false, false, fmt.Sprintf("On %s, prepare a disabled subscription to %s", g.New, r))
		g.step("spock", r, CreateSlot, fmt.Sprintf("On %s, keep the changes for %s from now on", r, name), 0, "--slot="+slot, "--plugin=spock_output")
		g.marked(r)
		g.awaited(g.Source, r)
	}
	g.subscribe(g.New, g.Source, true, true, fmt.Sprintf("On %s, subscribe to %s and copy structure and data", g.New, g.Source))
	g.marked(g.Source)
	g.awaited(g.New, g.Source)
	for _, r := range replicas {
		g.sql(g.New, fmt.Sprintf("On %s, read the commit time of the newest transaction of %s in the copy", g.New, r), 1, fmt.Sprintf(
			"SELECT commit_timestamp FROM spock.lag_tracker WHERE origin_name = %s AND receiver_name = %s", pg.QuoteLiteral(r), pg.QuoteLiteral(g.New)))
		g.sql(r, fmt.Sprintf("On %s, move the slot past what %s has received through %s", r, g.New, g.Source), 0, fmt.Sprintf(
			"WITH pos AS (SELECT spock.get_lsn_from_commit_ts('%[1]s', '$%[2]s.commit_timestamp'::timestamp) AS lsn) "+
				"SELECT pg_replication_slot_advance('%[1]s', lsn) FROM pos;", slots[r], g.New))
	}
	for _, r := range replicas {
		g.step("spock", g.New, EnableSubscription, fmt.Sprintf("On %s, begin to follow %s", g.New, r), 0,
			"--sub_name="+SubscriptionName(r, g.New), "--immediate=true")
	}
	return nil
}

func (g *generator) removeNode() {
	rest := g.others(g.New)
	g.marked(g.New)
	for _, x := range rest {
		g.awaited(x, g.New)
	}
	for _, x := range rest {
		g.dropSubscription(x, g.New)
	}
	for _, x := range rest {
		g.dropSubscription(g.New, x)
	}
	g.dropNode(g.New)
}

func (g *generator) dropSubscription(subscriber, provider string) {
	name := SubscriptionName(provider, subscriber)
	g.step("spock", subscriber, DropSubscription, "Drop "+name+", its slot on the provider and its origin on "+subscriber, 0, "--sub_name="+name, "--ifexists")
}

func (g *generator) dropNode(node string) {
	g.step("spock", node, DropNode, "Unregister "+node, 0, "--node_name="+node, "--ifexists")
}

func (g *generator) crossWire() {
	for _, n := range g.others() {
		g.createNode(n)
	}
	g.eachPair(func(subscriber, provider string) {
		g.subscribe(subscriber, provider, false, true, fmt.Sprintf("On %s, subscribe to %s", subscriber, provider))
	})
	for _, provider := range g.others() {
		g.marked(provider)
		for _, x := range g.others(provider) {
			g.awaited(x, provider)
		}
	}
}

func (g *generator) uncrossWire() {
	g.eachPair(g.dropSubscription)
	for _, n := range g.others() {
		g.dropNode(n)
	}
}

func (g *generator) eachPair(do func(subscriber, provider string)) {
	for _, subscriber := range g.others() {
		for _, provider := range g.others(subscriber) {
			do(subscriber, provider)
		}
	}
}

// Kinds are the files that can be generated.
func Kinds() string {
	return strings.Join([]string{"add-node", "remove-node", "cross-wire", "uncross-wire"}, ", ")
}

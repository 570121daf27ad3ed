package orchestrator_test

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/orchestrator"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// members is a cluster of n1 and n2 that still know n3, which is no node any more.
func members(gone string) *cluster {
	c := newCluster()
	c.answer = func(node, sql string) *answer {
		switch {
		case sql == "connect":
			if node == gone {
				return &answer{err: errGone}
			}
			return nil
		case strings.HasPrefix(sql, "SELECT n.node_name FROM spock.local_node"):
			if node == "n3" {
				return &answer{}
			}
			return &answer{result: one("node_name", node)}
		case strings.HasPrefix(sql, "SELECT DISTINCT ON (n.node_name)"):
			var peers orchestrator.Result
			for _, name := range []string{"n1", "n2", "n3"} {
				if name != node {
					peers.Rows = append(peers.Rows, []*string{&name, new("host=" + name)})
				}
			}
			return &answer{result: peers}
		case strings.Contains(sql, "to_regprocedure") || strings.Contains(sql, "to_regclass"):
			return &answer{result: boolean("there", false)}
		}
		return nil
	}
	return c
}

// A node that has been dropped knows nobody; the journal of its unfinished
// removal knows who still knows it.
func TestRemovalGoesOn(t *testing.T) {
	t.Parallel()
	plan, err := json.Marshal(workflow.Leaving{Peers: []workflow.Member{{Name: "n1", DSN: "host=n1"}, {Name: "n2", DSN: "host=n2"}}})
	require.NoError(t, err)
	unfinished := orchestrator.Record{
		Version: 1, Run: "remove-n3-before", Serial: 7, State: orchestrator.RunRunning, Plan: plan,
		Steps: []orchestrator.StepRecord{{Path: "1", Status: orchestrator.OK}},
	}
	finished := unfinished
	finished.Finished = true
	for _, c := range []struct {
		name   string
		record *orchestrator.Record
		gone   string
		says   string
	}{
		{name: "never a member", says: "there is nothing to remove"},
		{name: "finished", record: &finished, says: "there is nothing to remove"},
		{name: "unfinished", record: &unfinished},
		{name: "a peer is away", record: &unfinished, gone: "n1", says: "connect on node n1: the connection is gone"},
	} {
		for _, purge := range []bool{false, true} {
			dir := t.TempDir()
			local := orchestrator.FileJournal{Path: filepath.Join(dir, "zodan", "remove-n3.json")}
			if c.record != nil {
				require.NoError(t, local.Save(t.Context(), c.record))
			}
			m := &orchestrator.Membership{Surveyor: &orchestrator.Surveyor{Dial: members(c.gone).dial}, StateDir: dir}
			cfg, err := m.Remove(t.Context(), orchestrator.Removal{Target: workflow.Member{Name: "n3", DSN: "host=n3"}, Purge: purge})
			if c.record != nil {
				kept, loadErr := local.Load(t.Context())
				require.NoError(t, loadErr)
				require.Equal(t, c.record.Serial, kept.Serial, "%s: until the next run has its own journal", c.name)
			}
			if c.says != "" {
				require.ErrorContains(t, err, c.says, c.name)
				continue
			}
			require.NoError(t, err, c.name)
			require.Equal(t, "remove-n3-before", cfg.Run)
			var lines []string
			for _, s := range cfg.Steps {
				lines = append(lines, s.Phase+" "+s.Node)
			}
			require.Equal(t, []string{"D4 n1", "D4 n2", "D6 n1", "D6 n2", "D7 n1", "D7 n2"}, lines)
			e, err := orchestrator.New(cfg)
			require.NoError(t, err)
			require.NoError(t, e.Run(t.Context()))
			kept, err := local.Load(t.Context())
			require.NoError(t, err)
			require.True(t, kept.Finished)
			require.Greater(t, kept.Serial, unfinished.Serial)
		}
	}
}

// nobody is the name of no node.
const nobody = "-"

// lone is a cluster of databases, of which those that are named are nodes; the
// one without a schema knows not even the tables.
func lone(bare, without string, nodes ...string) *cluster {
	c := newCluster()
	c.answer = func(node, sql string) *answer {
		switch {
		case strings.HasPrefix(sql, "SELECT n.node_name FROM spock.local_node"):
			switch node {
			case without:
				return refusal("42P01", `relation "spock.local_node" does not exist`)
			case bare:
				return &answer{}
			case "": // a survivor tells its name
				return &answer{result: one("node_name", nodes[0])}
			}
			return &answer{result: one("node_name", node)}
		case strings.HasPrefix(sql, "SELECT DISTINCT ON (n.node_name)"):
			var peers orchestrator.Result
			for _, name := range nodes {
				if name != node && (node != "" || name != nodes[0]) {
					peers.Rows = append(peers.Rows, []*string{&name, new("host=" + name)})
				}
			}
			return &answer{result: peers}
		case strings.Contains(sql, "sub_show_status"), strings.HasPrefix(sql, "SELECT 'subscription'"):
			return &answer{}
		case strings.HasPrefix(sql, "SELECT EXISTS (SELECT FROM pg_catalog.pg_proc"):
			return &answer{result: boolean("installed", true)}
		case strings.Contains(sql, "to_regprocedure") || strings.Contains(sql, "to_regclass"):
			return &answer{result: boolean("there", false)}
		}
		return nil
	}
	return c
}

// Names that differ only in what a subscription's name does not keep are refused before anything is changed.
func TestSameNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		nodes []string
		news  []string
		says  string
		hint  string
	}{
		{[]string{"n1"}, []string{"N1"}, `node names "n1" and "N1" give the same subscription name sub_n1_n1`, "choose another name"},
		{[]string{"n1"}, []string{"n-2", "n_2"}, `node names "n-2" and "n_2" give the same subscription name sub_n_2_n1`, "choose another name"},
		{[]string{"n1", "n-2"}, []string{"n.2"}, `node names "n-2" and "n.2" give the same subscription name sub_n_2_n1`, "choose another name"},
		{[]string{"n1", "n-2", "N-2"}, []string{"n3"}, `node names "n-2" and "N-2" give the same subscription name sub_n_2_n1`, "remove one of these nodes"},
	} {
		for _, skip := range []bool{true, false} {
			servers := lone(c.news[0], nobody, c.nodes...)
			var failed []string
			m := &orchestrator.Membership{Surveyor: &orchestrator.Surveyor{Dial: servers.dial}, OnCheck: func(c orchestrator.Check) {
				if c.Verdict == orchestrator.Fail {
					failed = append(failed, c.Text)
				}
			}}
			a := orchestrator.Addition{Source: workflow.Member{Name: "n1", DSN: "host=n1"}, SkipCheck: skip}
			for _, name := range c.news {
				a.New = append(a.New, workflow.Newcomer{Member: workflow.Member{Name: name, DSN: "host=" + name}})
			}
			_, err := m.Add(t.Context(), a)
			same, ok := errors.AsType[*orchestrator.SameNames](err)
			if !ok { // the checks have found it
				_, ok = errors.AsType[*orchestrator.Checked](err)
				require.True(t, ok && !skip, "%v", err)
				require.Condition(t, func() bool {
					return slices.ContainsFunc(failed, func(text string) bool { return strings.HasPrefix(text, c.says+"; "+c.hint) })
				}, "%q", failed)
				continue
			}
			require.EqualError(t, same, c.says)
			require.Contains(t, same.Hint(), c.hint)
			for _, sent := range servers.sent {
				require.NotRegexp(t, "_create|_drop|INSERT|CREATE", sent)
			}
		}
	}
}

// A survivor that is none is named, and what to give instead.
func TestRemovalFromNoNode(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		servers *cluster
		says    string
	}{
		{lone("", nobody), "--survivor-dsn leads to a database that is no node"},
		{lone(nobody, ""), "--survivor-dsn leads to a database that is no node"},
		{lone(nobody, nobody, "n3"), `--survivor-dsn leads to node "n3" itself`},
	} {
		m := &orchestrator.Membership{Surveyor: &orchestrator.Surveyor{Dial: c.servers.dial}}
		_, err := m.Remove(t.Context(), orchestrator.Removal{Target: workflow.Member{Name: "n3"}, Survivor: workflow.Member{DSN: "host=somewhere"}})
		require.EqualError(t, err, c.says)
		var hinted interface{ Hint() string }
		require.ErrorAs(t, err, &hinted)
		require.Contains(t, hinted.Hint(), "give the connection string of a node that stays")
	}
}

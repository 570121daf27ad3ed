package orchestrator_test

import (
	"encoding/json"
	"path/filepath"
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

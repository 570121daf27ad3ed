package workflow_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// What is generated is read without a complaint, for any number of nodes.
func TestGenerate(t *testing.T) {
	t.Parallel()
	var nodes []workflow.Node
	for _, name := range []string{"n1", "n2", "n3", "n4"} {
		nodes = append(nodes, workflow.Node{Name: name, ConnInfo: pg.NewConnInfo("host", name, "dbname", "shop", "password", "it's")})
	}
	counts := map[string]int{"add-node": 21, "remove-node": 11, "cross-wire": 32, "uncross-wire": 16}
	for _, kind := range []string{"add-node", "remove-node", "cross-wire", "uncross-wire"} {
		text, err := workflow.Generate(workflow.Generating{
			Kind: kind, Source: "n1", New: "n4", Nodes: nodes,
			Slot: func(provider, subscription string) (string, error) {
				return "spk_shop_" + provider + "_" + subscription, nil
			},
		})
		require.NoError(t, err)
		w, err := workflow.Parse(text, workflow.CheckConfig{Config: &workflow.Config{Nodes: nodes}})
		require.NoError(t, err, "%s\n%s", kind, text)
		require.Empty(t, w.Warnings)
		require.Len(t, w.Steps, counts[kind], kind)
		for _, s := range w.Steps {
			require.LessOrEqual(t, len(s.Options), 13)
		}
	}
	_, err := workflow.Generate(workflow.Generating{Kind: "x"})
	require.ErrorContains(t, err, "add-node")
}

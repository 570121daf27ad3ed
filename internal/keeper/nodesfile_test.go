package keeper

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNodesFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "deep", "nodes.json")
	nodes, err := ReadNeighbours(path)
	require.NoError(t, err)
	require.Empty(t, nodes)
	want := []Neighbour{
		{ID: 1, Name: "a", Host: "h1", Port: 5432, LSN: 0x3000060, Primary: true},
		{ID: 2, Name: "b", Host: "h2", Port: 5433},
	}
	require.NoError(t, WriteNeighbours(path, want))
	nodes, err = ReadNeighbours(path)
	require.NoError(t, err)
	require.Equal(t, want, nodes)
	peers, err := (&alone{paths: Paths{NodesFile: path}, self: 2}).OtherNodes(t.Context())
	require.NoError(t, err)
	require.Len(t, peers, 1)
	require.True(t, peers[0].Primary)
}

func TestNodesThatCannotBe(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{`:                                 "read nodes",
		`[{"node_host":"h","node_port":1}]`: "entry 1 has no node_id",
		`[{"node_id":1,"node_port":1}]`:     "node 1 has no node_host",
		`[{"node_id":1,"node_host":"h"}]`:   "node 1 has no valid node_port",
		`[{"node_id":1,"node_host":"h","node_port":1},{"node_id":1,"node_host":"h","node_port":2}]`:                                               "twice",
		`[{"node_id":1,"node_host":"h","node_port":1,"node_is_primary":true},{"node_id":2,"node_host":"h","node_port":2,"node_is_primary":true}]`: "2 of them",
	} {
		_, err := ParseNeighbours([]byte(text))
		require.ErrorContains(t, err, want, text)
	}
}

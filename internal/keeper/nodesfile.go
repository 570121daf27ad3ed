package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Neighbour is one entry of the nodes file: what a node without a monitor is
// told of its group, itself included.
type Neighbour struct {
	ID      int64  `json:"node_id"`
	Name    string `json:"node_name"`
	Host    string `json:"node_host"`
	Port    int    `json:"node_port"`
	LSN     pg.LSN `json:"node_lsn"`
	Primary bool   `json:"node_is_primary"`
}

// ParseNeighbours reads and checks the text of a nodes file.
func ParseNeighbours(text []byte) ([]Neighbour, error) {
	var nodes []Neighbour
	if err := json.Unmarshal(text, &nodes); err != nil {
		return nil, fmt.Errorf("read nodes: %w", err)
	}
	ids := make(map[int64]bool)
	primaries := 0
	for i, n := range nodes {
		switch {
		case n.ID <= 0:
			return nil, fmt.Errorf("read nodes: entry %d has no node_id", i+1)
		case ids[n.ID]:
			return nil, fmt.Errorf("read nodes: node_id %d is there twice", n.ID)
		case n.Host == "":
			return nil, fmt.Errorf("read nodes: node %d has no node_host", n.ID)
		case n.Port < 1 || n.Port > 65535:
			return nil, fmt.Errorf("read nodes: node %d has no valid node_port", n.ID)
		}
		ids[n.ID] = true
		if n.Primary {
			primaries++
		}
	}
	if primaries > 1 {
		return nil, fmt.Errorf("read nodes: %d of them are said to be the primary", primaries)
	}
	return nodes, nil
}

// ReadNeighbours reads a nodes file; without one there are no neighbours.
func ReadNeighbours(path string) ([]Neighbour, error) {
	text, err := os.ReadFile(path) //nolint:gosec // a file of ours
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read nodes: %w", err)
	}
	return ParseNeighbours(text)
}

// WriteNeighbours replaces a nodes file; a keeper that works without a monitor
// reads it at its next look.
func WriteNeighbours(path string, nodes []Neighbour) error {
	text, err := json.MarshalIndent(nodes, "", "    ")
	if err != nil {
		return fmt.Errorf("write nodes: %w", err)
	}
	return replaceFile(path, ".new", append(text, '\n'), 0o600)
}

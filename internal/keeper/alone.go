package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// assignPoll is how often a node without a monitor looks for a new goal.
const assignPoll = 200 * time.Millisecond

// errDisabled answers what only a monitor could.
var errDisabled = errors.New("this node has no monitor")

// alone is the monitorSession of a node without a monitor. Its goal is the
// assigned role in the state file, which an operator's command writes there;
// the other nodes are those of the nodes file. Reports go nowhere and are
// always answered.
//
// Invariant: number grows whenever the goal in the file is another one.
type alone struct {
	paths Paths
	self  int64

	mu     sync.Mutex
	goal   fsm.State
	number int64
}

// take reads the goal and numbers it.
func (a *alone) take() (assignment, error) {
	state, err := ReadState(a.paths.StateFile)
	if err != nil {
		return assignment{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.number == 0 || state.Assigned != a.goal {
		a.goal, a.number = state.Assigned, a.number+1
	}
	return assignment{Goal: a.goal, Number: a.number}, nil
}

func (a *alone) Known(context.Context) (known, error) {
	state, err := ReadState(a.paths.StateFile)
	return known{State: state.Current}, err
}

func (a *alone) Report(context.Context, report) (assignment, error) {
	return a.take()
}

func (a *alone) WaitNotification(ctx context.Context) (notification, error) {
	tick := time.NewTicker(assignPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return notification{}, context.Cause(ctx)
		case <-tick.C:
		}
		a.mu.Lock()
		last := a.goal
		a.mu.Unlock()
		if state, err := ReadState(a.paths.StateFile); err == nil && state.Assigned != last {
			return notification{}, nil
		}
	}
}

// fileNode is one entry of the nodes file.
type fileNode struct {
	ID      int64  `json:"node_id"`
	Name    string `json:"node_name"`
	Host    string `json:"node_host"`
	Port    int    `json:"node_port"`
	LSN     pg.LSN `json:"node_lsn"`
	Primary bool   `json:"node_is_primary"`
}

// OtherNodes reads the nodes file; without one the node is alone.
func (a *alone) OtherNodes(context.Context) ([]peer, error) {
	text, err := os.ReadFile(a.paths.NodesFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read nodes file: %w", err)
	}
	var nodes []fileNode
	if err := json.Unmarshal(text, &nodes); err != nil {
		return nil, fmt.Errorf("read nodes file %q: %w", a.paths.NodesFile, err)
	}
	var peers []peer
	for _, n := range nodes {
		if n.ID != a.self {
			peers = append(peers, peer{ID: n.ID, Name: n.Name, Host: n.Host, Port: n.Port, LSN: n.LSN, Primary: n.Primary})
		}
	}
	return peers, nil
}

// Candidate: nobody says which node is being promoted.
func (a *alone) Candidate(context.Context) (peer, bool, error) { return peer{}, false, nil }

func (a *alone) Primary(ctx context.Context) (peer, error) {
	peers, err := a.OtherNodes(ctx)
	if err != nil {
		return peer{}, err
	}
	for _, p := range peers {
		if p.Primary {
			return p, nil
		}
	}
	return peer{}, withHint(fmt.Errorf("find the primary: %w, and %q names none", errDisabled, a.paths.NodesFile),
		"write the group's nodes to that file, one with node_is_primary")
}

func (a *alone) MostAdvancedStandby(ctx context.Context) (best peer, found bool, err error) {
	peers, err := a.OtherNodes(ctx)
	for _, p := range peers {
		if !found || p.LSN > best.LSN {
			best, found = p, true
		}
	}
	return best, found, err
}

// List is any of the other nodes for a primary, and nobody otherwise.
func (a *alone) List(ctx context.Context, number int64) (pg.StandbyNames, bool, error) {
	goal, err := a.take()
	if err != nil || goal.Number != number {
		return pg.StandbyNames{}, false, err
	}
	if goal.Goal != fsm.Primary {
		return pg.StandbyNames{}, true, nil
	}
	peers, err := a.OtherNodes(ctx)
	names := pg.StandbyNames{K: 1}
	for _, p := range peers {
		names.Members = append(names.Members, pg.StandbyName(p.ID))
	}
	if len(names.Members) == 0 {
		names.Members = []string{"*"}
	}
	return names, err == nil, err
}

func (a *alone) StartMaintenance(context.Context) error                    { return errDisabled }
func (a *alone) Refused(context.Context) (string, error)                   { return "", nil }
func (a *alone) Copies(context.Context) error                              { return nil }
func (a *alone) StopMaintenance(context.Context) error                     { return nil }
func (a *alone) UpdateMetadata(context.Context, string, string, int) error { return nil }
func (a *alone) PublishHistory(context.Context, pg.History) error          { return nil }
func (a *alone) PublishVersion(context.Context, int, string, string) error { return nil }
func (a *alone) SetSystemIdentifier(context.Context, pg.SystemID) error    { return nil }
func (a *alone) Close(context.Context)                                     {}

// firstGoal is what a node without a monitor is created for: the first node
// begins a group, every other one waits until it is told what to be.
func firstGoal(nodeID int64) fsm.State {
	if nodeID == 1 {
		return fsm.Single
	}
	return fsm.Init
}

package keeper

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// This file decides what is to be said to a Citus coordinator, from what its
// metadata hold and from what the monitor knows. Nothing here touches a server.

// Roles of pg_dist_node.
const (
	citusPrimary   = "primary"
	citusSecondary = "secondary"
)

// coordinatorGroup is the group of the coordinator's nodes.
const coordinatorGroup = 0

// defaultCluster is the cluster that takes writes; members of any other are read replicas.
const defaultCluster = "default"

// distNode is one row of pg_dist_node.
type distNode struct {
	ID      int
	Group   int
	Host    string
	Port    int
	Role    string
	Cluster string
	Active  bool
}

func (d distNode) at(host string, port int) bool { return d.Host == host && d.Port == port }

// citusSelf is this node as the coordinator's metadata are to show it.
type citusSelf struct {
	Group     int
	Host      string
	Port      int
	Role      string
	Cluster   string
	ProxyPort int
}

// selfOf takes the node's entry from its configuration.
func selfOf(f File, group int) citusSelf {
	self := citusSelf{
		Group: group, Host: f.Hostname, Port: f.Port, Role: citusPrimary, Cluster: defaultCluster, ProxyPort: f.ProxyPort,
	}
	if f.CitusRole == citusSecondary {
		self.Role = citusSecondary
	}
	if f.CitusClusterName != "" {
		self.Cluster = f.CitusClusterName
	}
	return self
}

// prepared is a prepared transaction of ours that was found on a coordinator.
type prepared struct {
	GID   string
	Owner string
	At    string // when, in the server's words: with the name it tells one transaction from another
	Age   time.Duration
}

const gidPrefix = "master_update_node "

// updateGID names the prepared transaction that moves a group to its new primary.
func updateGID(group int) string { return gidPrefix + strconv.Itoa(group) }

// groupOfGID is the group that a prepared transaction is about.
func groupOfGID(gid string) (int, bool) {
	digits, ok := strings.CutPrefix(gid, gidPrefix)
	if !ok {
		return 0, false
	}
	group, err := strconv.Atoi(digits)
	return group, err == nil && group >= 0 && strconv.Itoa(group) == digits
}

// citusCatalog is what a coordinator's version of Citus has.
type citusCatalog struct {
	Functions map[string]int // name and the most arguments that it takes
	PoolInfo  bool           // table pg_dist_poolinfo
}

// function returns the qualified name of the first of these that exists.
func (c citusCatalog) function(names ...string) (string, error) {
	for _, name := range names {
		if _, ok := c.Functions[name]; ok {
			return "pg_catalog." + name, nil
		}
	}
	return "", fmt.Errorf("this version of Citus has no function %s", strings.Join(names, " or "))
}

// updateSQL moves a node to another address. Its arguments are node, host, port
// and, where the function knows them, whether to end transactions that are in
// the way and after how many milliseconds.
func (c citusCatalog) updateSQL() (sql string, forced bool, err error) {
	name, err := c.function("citus_update_node", "master_update_node")
	if err != nil {
		return "", false, err
	}
	if c.Functions[strings.TrimPrefix(name, "pg_catalog.")] >= 5 {
		return "SELECT " + name + "($1, $2, $3, true, $4)", true, nil
	}
	return "SELECT " + name + "($1, $2, $3)", false, nil
}

// addSQL makes a node known, to work at once or only once it is activated. Older versions
// return a record and not a number, so nobody looks at what is returned.
func (c citusCatalog) addSQL(active bool) (string, error) {
	names := []string{"citus_add_inactive_node", "master_add_inactive_node"}
	if active {
		names = []string{"citus_add_node", "master_add_node"}
	}
	name, err := c.function(names...)
	return "SELECT true FROM " + name + "($1, $2, $3, $4::text::noderole, $5)", err
}

func (c citusCatalog) activateSQL() (string, error) {
	name, err := c.function("citus_activate_node", "master_activate_node")
	return "SELECT true FROM " + name + "($1, $2)", err
}

func (c citusCatalog) removeSQL() (string, error) {
	name, err := c.function("citus_remove_node", "master_remove_node")
	return "SELECT " + name + "($1, $2)", err
}

const poolInfoSQL = `INSERT INTO pg_catalog.pg_dist_poolinfo (nodeid, poolinfo) VALUES ($1, $2)
ON CONFLICT (nodeid) DO UPDATE SET poolinfo = excluded.poolinfo`

// poolInfo is what pg_dist_poolinfo says of a node behind a pooler.
func (s citusSelf) poolInfo() string {
	return fmt.Sprintf("host=%s port=%d", s.Host, s.ProxyPort)
}

// entryAction is what makes the metadata show a node as it is.
type entryAction int

const (
	entryRight    entryAction = iota // nothing to do
	entryAdd                         // add it, at work at once
	entryAddFirst                    // add it, then activate it
	entryActivate                    // it is there and was never activated
	entryMove                        // its group is known by another address
)

// planEntry compares what the metadata say with what they should. row is the
// one to activate or to move.
func planEntry(rows []distNode, self citusSelf) (action entryAction, row distNode) {
	for _, r := range rows {
		if self.Role == citusSecondary {
			if r.Role == citusSecondary && r.at(self.Host, self.Port) {
				return entryRight, r
			}
			continue
		}
		if r.Group != self.Group || r.Role == citusSecondary {
			continue
		}
		switch {
		case !r.at(self.Host, self.Port):
			return entryMove, r
		case !r.Active:
			return entryActivate, r
		}
		return entryRight, r
	}
	if self.Role == citusSecondary || self.Group == coordinatorGroup {
		return entryAdd, distNode{}
	}
	return entryAddFirst, distNode{}
}

// knowsCoordinator reports whether the coordinator has an entry of its own.
func knowsCoordinator(rows []distNode) bool {
	return slices.ContainsFunc(rows, func(r distNode) bool { return r.Group == coordinatorGroup })
}

// findPrepared returns the group's prepared transaction, if there is one.
func findPrepared(list []prepared, group int) (prepared, bool) {
	i := slices.IndexFunc(list, func(p prepared) bool { return p.GID == updateGID(group) })
	if i < 0 {
		return prepared{}, false
	}
	return list[i], true
}

// preparation is what a candidate does about its group's prepared transaction.
type preparation int

const (
	prepareNothing preparation = iota // it is prepared, or there is nothing to announce
	prepareNew
	prepareInstead // of another candidate's, which would lead writes to that one
)

// planPreparation decides what a candidate has to do. mine is the transaction
// that this process is sure to have prepared.
func planPreparation(list []prepared, rows []distNode, self citusSelf, mine prepared) preparation {
	found, there := findPrepared(list, self.Group)
	switch action, _ := planEntry(rows, self); {
	case there && found.GID == mine.GID && found.At == mine.At:
		return prepareNothing
	case there:
		return prepareInstead
	case action == entryMove:
		return prepareNew
	}
	return prepareNothing
}

// preparedBound is how long a prepared transaction may stay while its promotion
// is on the way. Rolled back it is not missed: the promotion's end moves the
// entry by itself then.
const preparedBound = time.Minute

// preparedGrace is how long one is left alone by those who did not prepare it:
// what the monitor says of its candidate may be older.
const preparedGrace = 3 * time.Second

// abandoned reports whether a prepared transaction waits for nobody: no node of
// its group that is heard of is between the order to get ready and the word that it is open.
// Left there it would hold up the moves of other groups as well, whose entries it has locked.
func abandoned(p prepared, nodes []pgautofailover.NodeRow) bool {
	group, ok := groupOfGID(p.GID)
	if !ok || p.Age < preparedGrace {
		return false
	}
	heard := slices.DeleteFunc(slices.Clone(nodes), func(n pgautofailover.NodeRow) bool { return n.Health == fsm.HealthBad })
	return overdue(p) || !promoting(heard, group)
}

// overdue reports whether a prepared transaction has reached its bound, which asks nobody.
func overdue(p prepared) bool {
	_, ours := groupOfGID(p.GID)
	return ours && p.Age > preparedBound
}

// promoting reports whether a node of the group is on its way to being a primary.
func promoting(nodes []pgautofailover.NodeRow, group int) bool {
	return slices.ContainsFunc(nodes, func(n pgautofailover.NodeRow) bool {
		if n.Group != group {
			return false
		}
		return n.Goal.In(fsm.PreparePromotion, fsm.StopReplication) ||
			n.Goal.In(fsm.WaitPrimary, fsm.Single) && n.Reported.In(fsm.PreparePromotion, fsm.StopReplication, fsm.Secondary, fsm.CatchingUp)
	})
}

// strangers lists the entries whose group or cluster the monitor does not know.
func strangers(rows []distNode, nodes []pgautofailover.NodeRow) []distNode {
	var out []distNode
	for _, r := range rows {
		known := slices.ContainsFunc(nodes, func(n pgautofailover.NodeRow) bool {
			cluster := n.Cluster
			if cluster == "" {
				cluster = defaultCluster
			}
			return n.Group == r.Group && cluster == r.Cluster
		})
		if !known {
			out = append(out, r)
		}
	}
	return out
}

// leaving returns the entry that goes with a node that is dropped: a read
// replica's own, or that of a group whose last member it was.
func leaving(rows []distNode, nodes []pgautofailover.NodeRow, self citusSelf, nodeID int64) (distNode, bool) {
	last := !slices.ContainsFunc(nodes, func(n pgautofailover.NodeRow) bool {
		return n.Group == self.Group && n.ID != nodeID && n.Goal != fsm.Dropped
	})
	for _, r := range rows {
		if r.Group == self.Group && r.Role == self.Role && r.at(self.Host, self.Port) && (last || self.Role == citusSecondary) {
			return r, true
		}
	}
	return distNode{}, false
}

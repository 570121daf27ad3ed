package operations

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// course tells which goals the nodes are given from now on.
type course struct {
	g     *group.Group
	since int
}

func follow(t *testing.T, g *group.Group) course {
	t.Helper()
	events := g.Events(t)
	return course{g: g, since: len(events)}
}

// of answers the goals of a node, one after the other.
func (c course) of(t *testing.T, m *group.Member) string {
	t.Helper()
	var goals []string
	last, number := "", strconv.Itoa(1+slices.Index(c.g.Nodes, m))
	for i, line := range c.g.Events(t) {
		words := strings.Fields(line) // eventid node 1 reported/goal …
		if words[2] != number {
			continue
		}
		_, goal, _ := strings.Cut(words[3], "/")
		if goal != last && i >= c.since {
			goals = append(goals, goal)
		}
		last = goal
	}
	return strings.Join(goals, " → ")
}

// require compares the goals of both nodes with those of the manual.
func (c course) require(t *testing.T, what string, m *group.Member, goals string, other *group.Member, others string) {
	t.Helper()
	require.Equal(t, goals, c.of(t, m), "%s: %s", what, m.Name)
	require.Equal(t, others, c.of(t, other), "%s: %s", what, other.Name)
	manual, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	row := fmt.Sprintf("| %s | %s | %s |", what, goals, others)
	require.Contains(t, string(manual), row, "the manual says something else")
}

// TestManual does with a pair what the manual describes, and both nodes go
// through the states that the manual names, in its order and through no others,
// while clients write.
func TestManual(t *testing.T) {
	t.Parallel()
	g, w := inUse(t, 2)
	start := time.Now()
	primary := g.WaitReady(t)
	standby := g.Others(primary)[0]
	servers := remember(t, g)

	c := follow(t, g)
	g.Must(t, "enable", "maintenance", "--pgdata", standby.Dir)
	g.WaitState(t, primary, "wait_primary")
	w.WaitAck(t, time.Now())
	c.require(t, "maintenance of a standby begins", standby, "wait_maintenance → maintenance", primary, "wait_primary")
	c = follow(t, g)
	g.Must(t, "disable", "maintenance", "--pgdata", standby.Dir)
	g.WaitWhole(t)
	c.require(t, "and ends", standby, "catchingup → secondary", primary, "primary")
	delete(servers.postmasters, standby.Name)
	servers.requireServers(t, g, w)

	c = follow(t, g)
	res := g.Run(t, "enable", "maintenance", "--pgdata", primary.Dir)
	require.Equal(t, 1, res.Code, res.Stderr)
	require.Contains(t, res.Stderr, "--allow-failover")
	servers.requireServers(t, g, w)
	require.Empty(t, c.of(t, primary)+c.of(t, standby), "a refused command has changed something")

	g.WaitReady(t)
	c = follow(t, g)
	pgtest.Eventually(t, group.Patience, func() error {
		// A standby that has just returned takes over only once it has been probed.
		if res := g.Run(t, "enable", "maintenance", "--allow-failover", "--pgdata", primary.Dir); res.Code != 0 {
			return fmt.Errorf("%s", res.Stderr)
		}
		return nil
	})
	g.WaitState(t, standby, "wait_primary")
	w.WaitAck(t, time.Now())
	c.require(t, "maintenance of a primary begins, with `--allow-failover`", primary, "prepare_maintenance → maintenance", standby, "prepare_promotion → wait_primary")
	c = follow(t, g)
	g.Must(t, "disable", "maintenance", "--pgdata", primary.Dir)
	require.Equal(t, standby.Name, g.WaitReady(t).Name)
	c.require(t, "and ends", primary, "catchingup → secondary", standby, "primary")

	c = follow(t, g)
	g.Switchover(t)
	require.Equal(t, primary.Name, g.WaitReady(t).Name)
	c.require(t, "switchover", standby, "draining → demoted → catchingup → secondary", primary, "prepare_promotion → wait_primary → primary")

	c = follow(t, g)
	primary.KillBoth(t)
	g.NewPrimary(t, primary)
	w.WaitAck(t, time.Now())
	g.WaitState(t, standby, "wait_primary")
	primary.Start(t)
	require.Equal(t, standby.Name, g.WaitWhole(t).Name)
	c.require(t, "failover: the primary dies, and returns", primary, "draining → demote_timeout → demoted → catchingup → secondary", standby, "prepare_promotion → stop_replication → wait_primary → primary")
	finish(t, g, w, start)
}

// version is what the process that looks after a member calls itself.
func version(t *testing.T, m *group.Member) string {
	t.Helper()
	res := m.Group().Must(t, "status", "--json", "--pgdata", m.Dir)
	var answer struct {
		Service struct {
			Version string `json:"version"`
		} `json:"pg_autoctl"`
	}
	require.NoError(t, json.Unmarshal([]byte(res.Stdout), &answer))
	return answer.Service.Version
}

// install puts a program where the services look for it, as a package manager does.
func install(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	require.NoError(t, err)
	defer in.Close()
	out, err := os.OpenFile(to+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(out, in)
	require.NoError(t, err)
	require.NoError(t, out.Close())
	require.NoError(t, os.Rename(to+".new", to))
}

// TestMinorUpgrade replaces the program of every service of a group of three
// that clients write to: the monitor first, and the other way the monitor last.
// No server is restarted, nobody hands over, nothing is lost.
func TestMinorUpgrade(t *testing.T) {
	t.Parallel()
	program := filepath.Join(pgtest.Dir(t), "pgdrover")
	install(t, group.Program(t), program)
	g := group.Start(t, group.Config{
		Nodes: 3, MonitorSettings: settings(), Access: group.Access{Env: []string{"PG_AUTOCTL_DEBUG_BIN_PATH=" + program}},
	})
	g.CreateLedger(t)
	w := g.Write(t, clients())
	w.WaitAck(t, time.Now())
	before := remember(t, g)
	monitor := g.Monitor.Postmaster(t)
	old := version(t, g.Monitor)
	start := time.Now()
	for _, round := range []struct {
		program, version string
		members          []*group.Member
	}{
		{group.NextProgram(t), group.NextVersion, append([]*group.Member{g.Monitor}, g.Nodes...)},
		{group.Program(t), old, append(slices.Clone(g.Nodes), g.Monitor)},
	} {
		install(t, round.program, program)
		for _, m := range round.members {
			part := "node-active"
			if m == g.Monitor {
				part = "listener"
			}
			require.NotEqual(t, round.version, version(t, m))
			began := time.Now()
			res := g.Must(t, "manual", "service", "restart", part, "--pgdata", m.Dir)
			require.Equal(t, fmt.Sprintln(m.Process().Pid), res.Stdout, "a service manager would notice")
			require.Equal(t, round.version, version(t, m))
			before.require(t, g, w)
			t.Logf("%s is %s now, longest time without a write %s", m.Name, round.version, w.Gap(began).Round(time.Millisecond))
		}
	}
	require.Equal(t, monitor, g.Monitor.Postmaster(t), "the monitor's server was restarted")
	requireQuiet(t, g)
	finish(t, g, w, start)
}

// TestElectionOnServers: priorities and quorum as an operator sets them, on real
// servers: a node that acknowledges nothing takes over because it is preferred,
// with what it lacks; nobody does when nobody may, and the explanation names the
// command that unblocks.
func TestElectionOnServers(t *testing.T) {
	t.Parallel()
	g := group.New(t, group.Config{MonitorSettings: settings()})
	first := g.Create(t, "node1")
	g.WaitState(t, first, "single")
	voter := g.Create(t, "node2", "--candidate-priority", "0")
	g.WaitState(t, voter, "secondary")
	preferred := g.Create(t, "node3", "--candidate-priority", "100", "--replication-quorum", "false")
	require.Equal(t, first.Name, g.WaitReady(t).Name)
	require.Equal(t, "ANY 1 (pgautofailover_standby_2)", first.SyncNames(t))
	g.CreateLedger(t)
	w := g.Write(t, clients())
	w.WaitAck(t, time.Now())
	start := time.Now()

	c := follow(t, g)
	first.KillBoth(t)
	require.Equal(t, preferred.Name, g.NewPrimary(t, first).Name)
	w.WaitAck(t, time.Now())
	require.Regexp(t, "^report_lsn → (fast_forward → )?prepare_promotion → wait_primary", c.of(t, preferred))
	g.WaitState(t, voter, "secondary")
	require.Regexp(t, "^report_lsn → join_secondary → secondary", c.of(t, voter))
	first.Start(t)
	require.Equal(t, preferred.Name, g.WaitReady(t).Name)

	g.Must(t, "set", "node", "candidate-priority", "--name", "node1", "--pgdata", g.Monitor.Dir, "--", "0")
	g.WaitReady(t)
	c = follow(t, g)
	preferred.KillBoth(t)
	pgtest.Eventually(t, group.Patience, func() error {
		res := g.Run(t, "show", "blockers", "--pgdata", g.Monitor.Dir)
		if res.Code != 1 || !strings.Contains(res.Stdout, "set node candidate-priority 50 --name") {
			return fmt.Errorf("show blockers: exit code %d\n%s%s", res.Code, res.Stdout, res.Stderr)
		}
		return nil
	})
	require.Empty(t, c.of(t, first)+c.of(t, voter), "a node of priority 0 was told something")
	g.Must(t, "set", "node", "candidate-priority", "--name", "node2", "--pgdata", g.Monitor.Dir, "--", "50")
	require.Equal(t, voter.Name, g.NewPrimary(t, preferred).Name)
	w.WaitAck(t, time.Now())
	preferred.Start(t)
	require.Equal(t, voter.Name, g.WaitWhole(t).Name)
	finish(t, g, w, start)
}

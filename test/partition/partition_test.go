package partition

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// rig is a group on hosts of its own and a writer beside each node.
type rig struct {
	*group.Group

	net     *pgtest.Network
	writers []*group.Writer
}

// writerPause lets many groups share a small machine.
const writerPause = 10 * time.Millisecond

// silence is how long a node may be silent in groups in which nobody may take
// over: a small machine under many tests is silent for seconds by itself.
const silence = 8 * time.Second

var stallsAllowed = map[string]string{"node_considered_unhealthy_timeout": silence.String(), "health_check_timeout": "5s"}

func start(t *testing.T, nodes int, settings map[string]string) *rig {
	t.Helper()
	names := []string{"monitor"}
	for i := range nodes {
		names = append(names, fmt.Sprintf("node%d", i+1))
	}
	net := pgtest.NewNetwork(t, names...)
	r := &rig{net: net, Group: group.Start(t, group.Config{Nodes: nodes, Network: net, MonitorSettings: settings})}
	r.CreateLedger(t)
	for _, m := range r.Nodes {
		r.writers = append(r.writers, r.Write(t, group.WriterConfig{Only: m, Sessions: 1, Pause: writerPause}))
	}
	return r
}

// writer is the one beside a node.
func (r *rig) writer(m *group.Member) *group.Writer {
	return r.writers[slices.Index(r.Nodes, m)]
}

func (r *rig) acks() []group.Ack {
	var all []group.Ack
	for _, w := range r.writers {
		all = append(all, w.Acks()...)
	}
	return all
}

// gap is the longest time since a moment in which no node acknowledged a row.
func (r *rig) gap(since time.Time) time.Duration {
	acks := slices.DeleteFunc(r.acks(), func(a group.Ack) bool { return a.Got.Before(since) })
	slices.SortFunc(acks, func(a, b group.Ack) int { return a.Got.Compare(b.Got) })
	var longest time.Duration
	for _, a := range acks {
		longest = max(longest, a.Got.Sub(since))
		since = a.Got
	}
	return longest
}

// settle waits until the healed group is whole and takes writes, and checks
// everything that was acknowledged so far. A node that was silent for too long is
// replaced also when it has just come back: who is primary then is asked again.
func (r *rig) settle(t *testing.T) *group.Member {
	t.Helper()
	var primary *group.Member
	var start time.Time
	pgtest.Eventually(t, group.Patience, func() error {
		if now := r.WaitWhole(t); now != primary {
			primary, start = now, time.Now()
		}
		if !slices.ContainsFunc(r.writer(primary).Acks(), func(a group.Ack) bool { return a.Sent.After(start) }) {
			return fmt.Errorf("no row was acknowledged by %s", primary.Name)
		}
		return nil
	})
	acks := r.acks()
	group.RequireOneAtATime(t, acks)
	primary.RequireAll(t, acks)
	return primary
}

// cuts are the partitions, each made around the present primary.
var cuts = []struct {
	name string
	// stays means that nobody has a reason to take over.
	stays bool
	// waits means that with number_sync_standbys 1 (three nodes) no commit can
	// have the standby that it needs, and nobody has a reason to take over.
	waits bool
	make  func(t *testing.T, r *rig, primary *group.Member)
}{
	{name: "the primary from everybody", make: func(t *testing.T, r *rig, primary *group.Member) {
		t.Helper()
		r.net.Isolate(t, primary.Host)
	}},
	{name: "the primary from the monitor", make: func(t *testing.T, r *rig, primary *group.Member) {
		t.Helper()
		r.net.Cut(t, primary.Host, r.Monitor.Host)
	}},
	{name: "the primary from the standbys", waits: true, make: func(t *testing.T, r *rig, primary *group.Member) {
		t.Helper()
		for _, m := range r.Others(primary) {
			r.net.Cut(t, primary.Host, m.Host)
		}
	}},
	{name: "the monitor from everybody", stays: true, make: func(t *testing.T, r *rig, _ *group.Member) {
		t.Helper()
		r.net.Isolate(t, r.Monitor.Host)
	}},
	{name: "what the primary sends", make: func(t *testing.T, r *rig, primary *group.Member) {
		t.Helper()
		for _, h := range r.net.Hosts() {
			if h != primary.Host {
				r.net.CutOneWay(t, primary.Host, h)
			}
		}
	}},
}

// longest is a cut after which the group must have found a way to go on.
const longest = 40 * time.Second

func TestPartitions(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{2, 3} {
		for _, cut := range cuts {
			t.Run(fmt.Sprintf("%d nodes, %s", nodes, cut.name), func(t *testing.T) {
				t.Parallel()
				var settings map[string]string
				if cut.stays {
					settings = stallsAllowed
				}
				r := start(t, nodes, settings)
				for _, length := range []time.Duration{time.Second, 2*time.Second + rand.N(20*time.Second), longest} {
					before := r.settle(t)
					cut.make(t, r, before)
					start := time.Now()
					group.During(t, length)
					end := time.Now()
					r.net.Heal(t)
					after := r.settle(t)
					whole := time.Since(end)
					if length == longest && (nodes == 2 || !cut.waits) {
						require.True(t, slices.ContainsFunc(r.acks(), func(a group.Ack) bool {
							return a.Sent.After(start) && a.Got.Before(end)
						}), "writes must go on somewhere during a long cut")
					}
					t.Logf("cut for %s: %s was primary, %s is, whole again %s after the end, longest time without an acknowledgement %s, %d rows",
						length.Round(time.Millisecond), before.Name, after.Name, whole.Round(time.Millisecond), r.gap(start).Round(time.Millisecond), len(r.acks()))
					if cut.stays {
						require.Equal(t, before.Name, after.Name, "nobody may take over")
					}
				}
				for _, w := range r.writers {
					w.Stop()
				}
				r.RequireEqual(t)
			})
		}
	}
}

// TestEmptiedListIsFound shows that the checks above can fail: a primary whose
// list of synchronous standbys was emptied behind the monitor's back does
// acknowledge rows that the others never see.
func TestEmptiedListIsFound(t *testing.T) {
	t.Parallel()
	r := start(t, 3, nil)
	old := r.settle(t)
	old.Exec(t, "ALTER SYSTEM SET synchronous_standby_names TO ''")
	old.Exec(t, "SELECT pg_reload_conf()")
	pgtest.Eventually(t, group.Patience, func() error {
		if names := old.SyncNames(t); names != "" {
			return fmt.Errorf("synchronous_standby_names is still %q", names)
		}
		return nil
	})
	r.net.Isolate(t, old.Host)
	cutAt := time.Now()
	r.writer(old).WaitAck(t, cutAt)
	r.NewPrimary(t, old)
	r.net.Heal(t)
	after := r.WaitWhole(t)
	r.writer(after).WaitAck(t, time.Now())
	missing, err := after.Missing(r.acks())
	require.NoError(t, err)
	require.NotEmpty(t, missing, "the rows that the cut-off primary acknowledged must be reported as lost")
	for _, a := range missing {
		require.Equal(t, old.Port, a.Port)
	}
	t.Logf("%d acknowledged rows reported as lost", len(missing))
}

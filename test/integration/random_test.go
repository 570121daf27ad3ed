package integration

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgdrover/pgdrover/test/group"
)

const (
	// faultsVar says how many faults a group of TestRandomFaults goes through.
	faultsVar = "PGDROVER_TEST_FAULTS"
	// seedVar repeats the order and the delays of an earlier run.
	seedVar = "PGDROVER_TEST_SEED"
)

// fewFaults is for every run; the long one says how many it wants.
const fewFaults = 6

// trouble is a group that goes through faults.
type trouble struct {
	*group.Group

	w   *group.Writer
	rnd *rand.Rand
}

// upTo is a random time that is often short.
func (r *trouble) upTo(d time.Duration) time.Duration {
	f := r.rnd.Float64()
	return time.Duration(f * f * float64(d))
}

// standby picks a node that is not the primary.
func (r *trouble) standby(primary *group.Member) *group.Member {
	others := r.Others(primary)
	return others[r.rnd.IntN(len(others))]
}

// fault is something that happens to a whole group. It returns when all that
// was stopped or killed has been started again; the group need not be whole.
type fault struct {
	name  string
	cause func(t *testing.T, r *trouble, primary *group.Member)
}

// whom picks the member that a fault hits.
type whom func(r *trouble, primary *group.Member) *group.Member

func thePrimary(_ *trouble, primary *group.Member) *group.Member { return primary }
func aStandby(r *trouble, primary *group.Member) *group.Member   { return r.standby(primary) }
func theMonitor(r *trouble, _ *group.Member) *group.Member       { return r.Monitor }

// killed is the end of something of a member, which is started again within this time.
func killed(name string, who whom, kill func(*group.Member, testing.TB), within time.Duration) fault {
	return fault{name, func(t *testing.T, r *trouble, primary *group.Member) {
		t.Helper()
		victim := who(r, primary)
		kill(victim, t)
		group.During(t, r.upTo(within))
		victim.Start(t)
	}}
}

// silent is something of a member that stops, and goes on within this time.
func silent(name string, who whom, stop func(*group.Member, testing.TB) (resume func()), within time.Duration) fault {
	return fault{name, func(t *testing.T, r *trouble, primary *group.Member) {
		t.Helper()
		resume := stop(who(r, primary), t)
		group.During(t, r.upTo(within))
		resume()
	}}
}

// each does something to members in random order, with random pauses of up to this time between.
func (r *trouble) each(t *testing.T, members []*group.Member, do func(*group.Member, testing.TB), pause time.Duration) {
	t.Helper()
	members = slices.Clone(members)
	r.rnd.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	for _, m := range members {
		do(m, t)
		group.During(t, r.upTo(pause))
	}
}

// faults of one member.
var faults = []fault{
	{"primary's postmaster killed", func(t *testing.T, _ *trouble, primary *group.Member) {
		t.Helper()
		primary.KillPostmaster(t)
	}},
	{"primary killed until it is replaced", func(t *testing.T, r *trouble, primary *group.Member) {
		t.Helper()
		primary.KillBoth(t)
		r.NewPrimary(t, primary)
		primary.Start(t)
	}},
	{"primary refuses everybody", func(t *testing.T, r *trouble, primary *group.Member) {
		t.Helper()
		admit := primary.Refuse(t)
		r.NewPrimary(t, primary)
		admit()
	}},
	{"switchover", func(t *testing.T, r *trouble, _ *group.Member) {
		t.Helper()
		r.Switchover(t)
	}},
	killed("primary killed for a moment", thePrimary, (*group.Member).KillBoth, 4*time.Second),
	killed("primary's keeper killed for a moment", thePrimary, (*group.Member).KillKeeper, 6*time.Second),
	killed("primary stopped by its operator", thePrimary, (*group.Member).Stop, 2*time.Second),
	killed("a standby killed for a moment", aStandby, (*group.Member).KillBoth, 6*time.Second),
	killed("a standby's keeper killed for a moment", aStandby, (*group.Member).KillKeeper, 6*time.Second),
	killed("monitor killed for a moment", theMonitor, (*group.Member).KillBoth, 4*time.Second),
	silent("primary silent for a moment", thePrimary, (*group.Member).Freeze, 15*time.Second),
	silent("primary's keeper and postmaster stopped for a moment", thePrimary, (*group.Member).StopBoth, 15*time.Second),
	silent("primary's keeper stopped for a moment", thePrimary, (*group.Member).StopKeeper, 30*time.Second),
	silent("a standby silent for a moment", aStandby, (*group.Member).Freeze, 15*time.Second),
	silent("monitor silent for a moment", theMonitor, (*group.Member).Freeze, 15*time.Second),
}

// doubleFaults hit a second member while the group deals with the first.
var doubleFaults = []fault{
	{"a keeper killed during a switchover", func(t *testing.T, r *trouble, _ *group.Member) {
		t.Helper()
		victim := r.Nodes[r.rnd.IntN(len(r.Nodes))]
		asked := r.Begin(t, "perform", "switchover", "--pgdata", r.Monitor.Dir)
		group.During(t, r.upTo(1200*time.Millisecond))
		victim.KillKeeper(t)
		group.During(t, r.upTo(2*time.Second))
		victim.Start(t)
		asked.Wait(t, group.Patience)
	}},
	{"the monitor's process killed during a failover", func(t *testing.T, r *trouble, primary *group.Member) {
		t.Helper()
		primary.KillBoth(t)
		group.During(t, r.upTo(1500*time.Millisecond))
		r.Monitor.KillKeeper(t)
		group.During(t, r.upTo(2*time.Second))
		r.Monitor.Start(t)
		group.During(t, r.upTo(2*time.Second))
		primary.Start(t)
	}},
	{"a standby killed during a failover", func(t *testing.T, r *trouble, primary *group.Member) {
		t.Helper()
		standby := r.standby(primary)
		primary.KillBoth(t)
		group.During(t, r.upTo(2*time.Second))
		standby.KillBoth(t)
		group.During(t, r.upTo(4*time.Second))
		r.each(t, []*group.Member{primary, standby}, (*group.Member).Start, 2*time.Second)
	}},
	{"a standby silent during a failover", func(t *testing.T, r *trouble, primary *group.Member) {
		t.Helper()
		standby := r.standby(primary)
		primary.KillBoth(t)
		group.During(t, r.upTo(2*time.Second))
		resume := standby.Freeze(t)
		group.During(t, r.upTo(8*time.Second))
		primary.Start(t)
		group.During(t, r.upTo(4*time.Second))
		resume()
	}},
	{"the new primary killed as soon as it writes", func(t *testing.T, r *trouble, primary *group.Member) {
		t.Helper()
		primary.KillBoth(t)
		next := r.NewPrimary(t, primary)
		next.KillBoth(t)
		group.During(t, r.upTo(2*time.Second))
		primary.Start(t)
		group.During(t, r.upTo(2*time.Second))
		next.Start(t)
	}},
	{"a dead primary's server started by somebody else", func(t *testing.T, r *trouble, primary *group.Member) {
		t.Helper()
		primary.KillBoth(t)
		r.NewPrimary(t, primary)
		primary.StartServer(t)
		group.During(t, r.upTo(4*time.Second))
		primary.Start(t)
	}},
	{"everything killed", func(t *testing.T, r *trouble, _ *group.Member) {
		t.Helper()
		all := append([]*group.Member{r.Monitor}, r.Nodes...)
		r.each(t, all, (*group.Member).KillBoth, 0)
		r.each(t, all, (*group.Member).Start, time.Second)
	}},
}

// TestRandomFaults lets faults happen in random order, the next one as soon as
// the group is whole again, and looks for every acknowledged row after each.
func TestRandomFaults(t *testing.T) {
	t.Parallel()
	count, seed := group.Number(t, faultsVar, fewFaults), uint64(group.Number(t, seedVar, int(time.Now().UnixNano())))
	for _, nodes := range []int{2, 3} {
		t.Run(fmt.Sprintf("%d nodes", nodes), func(t *testing.T) {
			t.Parallel()
			t.Logf("%s=%d %s=%d", seedVar, seed, faultsVar, count)
			g, w := writtenWith(t, nodes, group.WriterConfig{Pause: 4 * time.Millisecond})
			r := &trouble{Group: g, w: w, rnd: rand.New(rand.NewPCG(seed, uint64(nodes)))}
			all := slices.Concat(faults, doubleFaults)
			var order []fault // each comes before any comes again
			for i := range count {
				if len(order) == 0 {
					order = slices.Clone(all)
					r.rnd.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
				}
				f := order[0]
				order = order[1:]
				step(t, fmt.Sprintf("%03d %s", i+1, f.name), func(t *testing.T) { r.endure(t, f) })
			}
			finish(t, g, w)
		})
	}
}

// endure causes a fault and waits until it is over.
func (r *trouble) endure(t *testing.T, f fault) {
	t.Helper()
	old := r.WaitReady(t)
	start := time.Now()
	f.cause(t, r, old)
	over := time.Since(start)
	primary := r.WaitReady(t)
	whole := time.Since(start) - over
	r.w.WaitAck(t, time.Now())
	acks := r.w.Acks()
	primary.RequireAll(t, acks)
	group.RequireOneAtATime(t, acks)
	gap := r.w.Gap(start)
	var notes []string
	if whole > time.Minute {
		notes = append(notes, "whole late")
	}
	if gap > over+10*time.Second {
		notes = append(notes, "long gap")
	}
	t.Logf("%s was primary, %s is, caused in %s, whole after %s more, write gap %s, %+v %s", old.Name, primary.Name, over.Round(time.Millisecond),
		whole.Round(time.Millisecond), gap.Round(time.Millisecond), r.w.Outcome(), strings.Join(notes, ", "))
}

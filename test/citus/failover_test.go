package citus

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// roundsVar asks for the long version: eight nodes, and so many rounds in which
// every primary is killed in turn.
const roundsVar = "PGDROVER_CITUS_ROUNDS"

// TestFormation breaks a formation, with the extension where it is installed and with its stand-in.
func TestFormation(t *testing.T) {
	t.Parallel()
	if bin, genuine := pgtest.Citus(t); genuine {
		t.Run("with the extension", func(t *testing.T) {
			t.Parallel()
			breakFormation(t, bin, true)
		})
	}
	t.Run("stand-in for the extension", func(t *testing.T) {
		t.Parallel()
		breakFormation(t, pgtest.CitusStandIn(t), false)
	})
}

func breakFormation(t *testing.T, bin string, genuine bool) {
	rounds := group.Number(t, roundsVar, 0)
	workers := 1
	switch {
	case rounds > 0:
		workers = 3
	case genuine:
		workers = 2
	}
	f := start(t, bin, genuine, workers)
	f.createLedger(t)
	if genuine {
		f.setApart(t)
	}
	f.requirePage(t)
	w := f.write(t)
	w.waitAck(t, time.Now())
	for range max(rounds, 1) {
		for number := f.workers; number >= 0; number-- {
			step(t, fmt.Sprintf("primary of group %d killed", number), func(t *testing.T) { f.killPrimary(t, w, number) })
		}
		step(t, "coordinator and worker killed in one instant", func(t *testing.T) { f.killTwo(t, w) })
		step(t, "old worker primary still written to", func(t *testing.T) { f.writeToOldPrimary(t, w) })
		step(t, "coordinator away while a worker fails over", func(t *testing.T) { f.coordinatorAway(t, w) })
		for i, s := range f.strikes() {
			if i == 0 || rounds > 0 {
				step(t, "in the middle of a promotion: "+s.what, func(t *testing.T) { f.strikeMidway(t, w, s) })
			}
		}
	}
	step(t, "switchover of a worker and of the coordinator, maintenance of both", func(t *testing.T) { f.switchovers(t, w) })
	step(t, "a coordinator, a worker and the last of a group dropped", func(t *testing.T) { f.dropEach(t, w) })
}

// setApart takes the metadata from the last worker: clients cannot use it in the
// coordinator's place, and nothing else is different.
func (f *formation) setApart(t *testing.T) {
	f.apart = f.workers
	m := f.primary(t, f.apart, nil)
	run(t, f.primary(t, 0, nil), fmt.Sprintf("SELECT stop_metadata_sync_to_node('localhost', %d)", m.Port))
}

func step(t *testing.T, name string, test func(t *testing.T)) {
	t.Helper()
	if !t.Run(name, test) {
		t.FailNow()
	}
}

func (f *formation) killPrimary(t *testing.T, w *writer, number int) {
	old := f.primary(t, number, nil)
	w.begin()
	old.KillBoth(t)
	f.primary(t, number, old)
	w.waitAck(t, time.Now())
	t.Logf("%s killed: write gap %s", old.Name, w.longest())
	old.Start(t)
	f.requireHealed(t, w)
}

func (f *formation) killTwo(t *testing.T, w *writer) {
	coordinator, worker := f.primary(t, 0, nil), f.primary(t, 1, nil)
	w.begin()
	coordinator.KillBoth(t)
	worker.KillBoth(t)
	f.primary(t, 0, coordinator)
	f.primary(t, 1, worker)
	w.waitAck(t, time.Now())
	t.Logf("%s and %s killed: write gap %s", coordinator.Name, worker.Name, w.longest())
	coordinator.Start(t)
	worker.Start(t)
	f.requireHealed(t, w)
}

// writeToOldPrimary stops a worker's whole node while a client writes straight to
// it, and wakes it when another one has taken over.
func (f *formation) writeToOldPrimary(t *testing.T, w *writer) {
	old := f.primary(t, 1, nil)
	straight := f.writeStraight(t, old)
	straight.waitAck(t, time.Now())
	w.begin()
	resume := old.Freeze(t)
	defer resume()
	if !pgtest.ReachesConnections(t) {
		t.Log("this system does not let a process reach another's connections: the old primary wakes up as soon as it is being replaced")
		f.WaitFor(t, "the failover to be ordered", func(all []group.Status) error {
			if slices.ContainsFunc(all, func(s group.Status) bool {
				return groupOf(s.Name) == 1 && s.Name != old.Name && s.Goal != "secondary"
			}) {
				return nil
			}
			return errors.New("it is not")
		})
		resume()
	}
	next := f.primary(t, 1, old)
	w.waitAck(t, time.Now())
	t.Logf("%s hangs: write gap %s", old.Name, w.longest())
	resume()
	f.requireHealed(t, w)
	straight.requireStraight(t, old, next)
}

// coordinatorAway stops the whole coordinator's group, then kills a worker.
func (f *formation) coordinatorAway(t *testing.T, w *writer) {
	old := f.primary(t, 1, nil)
	var resume []func()
	for _, m := range f.members(0) {
		resume = append(resume, m.Freeze(t))
	}
	wake := func() {
		for _, r := range resume {
			r()
		}
		resume = nil
	}
	defer wake()
	f.requirePlannedRefused(t, old)
	old.KillBoth(t)
	pgtest.Eventually(t, group.Patience, func() error {
		for _, line := range f.Events(t) {
			if strings.Contains(line, "waits for the coordinator") {
				return nil
			}
		}
		return errors.New("nothing says that the worker waits for the coordinator")
	})
	pgtest.Eventually(t, group.Patience, func() error {
		out := f.Run(t, "show", "state", "--pgdata", f.Monitor.Dir)
		if !strings.Contains(out.Stderr, "group 1 waits: ") || !strings.Contains(out.Stderr, "waits for the coordinator") {
			return fmt.Errorf("show state does not say what group 1 waits for: %s", out.Stderr)
		}
		return nil
	})
	all, err := f.States()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if groupOf(s.Name) == 1 && s.Name != old.Name && s.Reported != "secondary" {
			t.Fatalf("%s went on without the coordinator", s)
		}
	}
	answers := make(chan time.Time, 1)
	go func() {
		for {
			for _, m := range f.members(0) {
				if back, err := ask[bool](m, "SELECT NOT pg_is_in_recovery()"); err == nil && back[0] {
					answers <- time.Now()
					return
				}
			}
			pause(t.Context(), 5*time.Millisecond)
		}
	}()
	woken := time.Now()
	wake()
	f.WaitFor(t, "the worker to go on", func(all []group.Status) error {
		for _, s := range all {
			if groupOf(s.Name) == 1 && s.Name != old.Name && s.Reported != "secondary" {
				return nil
			}
		}
		return errors.New("it waits")
	})
	on := time.Now()
	f.primary(t, 1, old)
	open := time.Now()
	back := <-answers
	round := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	t.Logf("the coordinator took writes %s after it woke up; the worker went on %s after that, and was open after %s",
		round(back.Sub(woken)), round(on.Sub(back)), round(open.Sub(back)))
	old.Start(t)
	f.requireHealed(t, w)
}

// requirePlannedRefused waits until the monitor knows that the coordinator does not
// answer; what an operator wants of a worker's primary is refused then, and nothing changes.
func (f *formation) requirePlannedRefused(t *testing.T, primary *group.Member) {
	t.Helper()
	f.WaitFor(t, "the coordinator to be known as away", func(all []group.Status) error {
		for _, s := range all {
			if groupOf(s.Name) == 0 && s.Health != 0 {
				return fmt.Errorf("%s looks healthy", s.Name)
			}
		}
		return nil
	})
	for _, args := range [][]string{
		{"perform", "switchover", "--pgdata", f.Monitor.Dir, "--group", "1"},
		{"perform", "failover", "--pgdata", f.Monitor.Dir, "--group", "1"},
		{"enable", "maintenance", "--pgdata", primary.Dir, "--allow-failover"},
	} {
		out := f.Run(t, args...)
		if out.Code == 0 || !strings.Contains(out.Stderr, `cannot change the primary of group 1 in formation "default" now: the coordinator does not take writes`) ||
			!strings.Contains(out.Stderr, "HINT: The coordinator has to lead writes to the group's new primary.") {
			t.Fatalf("%q without the coordinator: exit code %d\n%s", args, out.Code, out.Stderr)
		}
	}
	all, err := f.States()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if groupOf(s.Name) == 1 && s.Reported+s.Goal != "primaryprimary" && s.Reported+s.Goal != "secondarysecondary" {
			t.Fatalf("a refused request changed %s", s)
		}
	}
}

func (f *formation) switchovers(t *testing.T, w *writer) {
	for _, number := range []int{1, 0} {
		old := f.primary(t, number, nil)
		w.begin()
		f.Must(t, "perform", "switchover", "--pgdata", f.Monitor.Dir, "--group", fmt.Sprint(number))
		f.primary(t, number, old)
		w.waitAck(t, time.Now())
		t.Logf("switchover from %s: write gap %s", old.Name, w.longest())
	}
	f.requireHealed(t, w)
	var idle []*group.Member
	for _, number := range []int{1, 0} {
		old := f.primary(t, number, nil)
		idle = append(idle, old)
		w.begin()
		f.Must(t, "enable", "maintenance", "--pgdata", old.Dir, "--allow-failover")
		f.primary(t, number, old)
		w.waitAck(t, time.Now())
		t.Logf("maintenance of %s: write gap %s", old.Name, w.longest())
	}
	for _, m := range idle {
		f.Must(t, "disable", "maintenance", "--pgdata", m.Dir)
	}
	f.requireHealed(t, w)
}

// dropEach drops the primaries of the coordinator's group and of the last worker's, then
// the one that is left of that worker's group, and the one that is left of the coordinator's.
func (f *formation) dropEach(t *testing.T, w *writer) {
	for _, number := range []int{0, f.workers} {
		old := f.primary(t, number, nil)
		w.begin()
		f.drop(t, old)
		f.primary(t, number, old)
		w.waitAck(t, time.Now())
		t.Logf("%s dropped: write gap %s", old.Name, w.longest())
	}
	f.requireHealed(t, w)
	w.end()
	f.requireNothingPrepared(t)
	w.requirePairs(t)
	coordinator := f.primary(t, 0, nil)
	last := f.primary(t, f.workers, nil)
	if f.genuine {
		// Shards are moved between workers that have metadata alone.
		run(t, coordinator, fmt.Sprintf("SELECT start_metadata_sync_to_node('localhost', %d)", last.Port))
		f.apart = 0
		run(t, coordinator, fmt.Sprintf("SELECT citus_drain_node('localhost', %d, shard_transfer_mode => 'block_writes')", last.Port))
	}
	f.drop(t, last)
	f.requireEntries(t, f.workers, 0)
	if f.genuine {
		f.dropWithShards(t, w)
	}
	f.drop(t, coordinator)
	out := f.Run(t, "show", "uri", "--pgdata", f.Monitor.Dir, "--formation", "default")
	if strings.Contains(out.Stdout, "postgres://") {
		t.Fatalf("there is a connection string and no coordinator: %s", out.Stdout)
	}
}

// dropWithShards drops all of group 1, whose shards are nowhere else: the entry stays, and the log says why.
func (f *formation) dropWithShards(t *testing.T, w *writer) {
	f.requireRows(t, w)
	coordinator := f.primary(t, 0, nil)
	id := query[int](t, coordinator, "SELECT nodeid FROM pg_dist_node WHERE groupid = 1 AND noderole = 'primary'")[0]
	for range 2 {
		m := f.primary(t, 1, nil)
		f.drop(t, m)
		if len(f.names(1)) > 0 {
			f.primary(t, 1, m)
		}
	}
	pgtest.Eventually(t, group.Patience, func() error {
		if !strings.Contains(coordinator.Log(), fmt.Sprintf("remove node %d ", id)) {
			return errors.New("the coordinator's log does not say that the entry cannot be removed")
		}
		return nil
	})
	f.requireEntries(t, 1, 1)
}

// requireEntries waits until the metadata have so many entries of a group.
func (f *formation) requireEntries(t *testing.T, number, want int) {
	t.Helper()
	coordinator := f.primary(t, 0, nil)
	pgtest.Eventually(t, group.Patience, func() error {
		got, err := ask[int](coordinator, "SELECT groupid FROM pg_dist_node WHERE groupid = $1", number)
		if err == nil && len(got) != want {
			err = fmt.Errorf("the metadata have %d entries of group %d", len(got), number)
		}
		return err
	})
}

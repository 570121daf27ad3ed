package citus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// strike is what happens to a formation in the middle of a worker's promotion, when
// the change of address is prepared; what it returns makes up for it.
type strike struct {
	what string
	hit  func(t *testing.T, candidate *group.Member) (heal func())
}

func (f *formation) strikes() []strike {
	return []strike{
		{"the keeper that promotes and the coordinator's server killed", func(t *testing.T, candidate *group.Member) func() {
			f.primary(t, 0, nil).KillPostmaster(t)
			candidate.KillKeeper(t)
			return func() { candidate.Start(t) }
		}},
		{"the whole candidate killed", func(t *testing.T, candidate *group.Member) func() {
			candidate.KillBoth(t)
			// The group is down; what it has prepared holds up nobody else, and does not stay.
			if f.workers > 1 {
				f.killPrimaryQuietly(t, 2)
			}
			f.requireNonePrepared(t, f.primary(t, 0, nil), "master_update_node 1")
			return func() { candidate.Start(t) }
		}},
		{"the coordinator killed", func(t *testing.T, _ *group.Member) func() {
			old := f.primary(t, 0, nil)
			old.KillBoth(t)
			f.primary(t, 0, old)
			return func() { old.Start(t) }
		}},
		{"the monitor killed", func(t *testing.T, _ *group.Member) func() {
			f.Monitor.KillBoth(t)
			pause(t.Context(), 3*time.Second) // so long nobody decides anything
			return func() { f.Monitor.Start(t) }
		}},
		{"the monitor away for longer than anything may stay prepared", func(t *testing.T, _ *group.Member) func() {
			coordinator := f.primary(t, 0, nil)
			f.Monitor.KillBoth(t)
			f.requireNonePrepared(t, coordinator, "master_update_node 1")
			return func() { f.Monitor.Start(t) }
		}},
		{"the coordinator's standby dropped", func(t *testing.T, _ *group.Member) func() {
			primary := f.primary(t, 0, nil)
			for _, m := range f.members(0) {
				if m != primary {
					f.drop(t, m)
					return func() { f.rejoin(t, m) }
				}
			}
			t.Fatal("the coordinator has no standby")
			return nil
		}},
	}
}

// killPrimaryQuietly kills a worker's primary while another group takes no writes.
func (f *formation) killPrimaryQuietly(t *testing.T, number int) {
	old := f.primary(t, number, nil)
	old.KillBoth(t)
	began := time.Now()
	f.primary(t, number, old)
	t.Logf("%s killed meanwhile: another primary after %s", old.Name, time.Since(began).Round(time.Millisecond))
	old.Start(t)
}

// rejoin has a dropped node take part again, with the directory that it had.
func (f *formation) rejoin(t *testing.T, m *group.Member) {
	m.Process().Wait(t, group.Patience)
	f.Must(t, slices.Concat([]string{"create", "coordinator"}, m.CreateArgs()[2:])...)
	m.Start(t)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dropped = slices.DeleteFunc(f.dropped, func(name string) bool { return name == m.Name })
}

// strikeMidway kills the primary of group 1, and strikes once its standby has prepared to take over.
func (f *formation) strikeMidway(t *testing.T, w *writer, s strike) {
	old := f.primary(t, 1, nil)
	members := f.members(1)
	candidate := members[slices.IndexFunc(members, func(m *group.Member) bool { return m != old })]
	ctx, cancel := context.WithTimeout(context.Background(), group.Patience)
	defer cancel()
	conn, err := f.primary(t, 0, nil).Connect(ctx, pgtest.Superuser, database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	w.begin()
	old.KillBoth(t)
	for there := false; !there; {
		if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE gid = 'master_update_node 1')").Scan(&there); err != nil {
			t.Fatal("wait for the change of address to be prepared: ", err)
		}
	}
	s.hit(t, candidate)()
	f.primary(t, 1, old)
	w.waitAck(t, time.Now())
	t.Logf("%s killed, and %s: write gap %s", old.Name, s.what, w.longest())
	old.Start(t)
	f.requireHealed(t, w)
}

// requireNonePrepared waits until a coordinator does not have this transaction prepared.
func (f *formation) requireNonePrepared(t *testing.T, coordinator *group.Member, gid string) {
	t.Helper()
	began := time.Now()
	pgtest.Eventually(t, group.Patience, func() error {
		there, err := ask[bool](coordinator, "SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE gid = $1)", gid)
		if err == nil && there[0] {
			err = errors.New(fmt.Sprint("still prepared: ", gid))
		}
		return err
	})
	t.Logf("%q is not prepared any more after %s", gid, time.Since(began).Round(time.Millisecond))
}

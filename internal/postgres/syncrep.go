package postgres

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
)

const syncNamesSetting = "synchronous_standby_names"

// SyncNames returns the list that is in force for this session.
func (s *Session) SyncNames(ctx context.Context) (string, error) {
	var value string
	if err := s.conn.QueryRow(ctx, `SELECT current_setting('synchronous_standby_names')`).Scan(&value); err != nil {
		return "", fmt.Errorf("ask for synchronous_standby_names: %w", err)
	}
	return value, nil
}

// SetSyncNames writes the list and has the server reload. Whether everybody
// goes by it is another question: see WaitVoters.
func (s *Session) SetSyncNames(ctx context.Context, names pg.StandbyNames) error {
	if err := s.AlterSystem(ctx, syncNamesSetting, names.String()); err != nil {
		return err
	}
	return s.Reload(ctx)
}

// ReleaseSyncWaiters cancels the wait of every session that waits for a
// standby, and returns how many there were. Their commits stand, with a
// warning to the client.
func (s *Session) ReleaseSyncWaiters(ctx context.Context) (int, error) {
	const query = `SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event_type = 'IPC' AND wait_event = 'SyncRep'`
	var n int
	if err := s.conn.QueryRow(ctx, query).Scan(&n); err != nil {
		return 0, fmt.Errorf("release sessions that wait for a standby: %w", err)
	}
	return n, nil
}

// SetSyncNamesOffline has the list in place before a stopped server next starts,
// an empty one too: postgresql.conf may have another.
func (i *Instance) SetSyncNamesOffline(names pg.StandbyNames) error {
	return i.setAutoConf(setting(syncNamesSetting, names.String()))
}

// WaitVoters returns when the list is in force for everybody and K of its members
// have flushed all that was written before it was. The order matters: a new
// session must see the list, then a checkpoint makes the process that
// evaluates the list for others go by it, and only then is a position noted.
func (i *Instance) WaitVoters(ctx context.Context, names pg.StandbyNames) error {
	target, err := i.listInForce(ctx, names)
	if err != nil || names.Empty() {
		return err
	}
	return i.With(ctx, func(s *Session) error {
		return s.waitFlushed(ctx, names, target)
	})
}

func (i *Instance) listInForce(ctx context.Context, names pg.StandbyNames) (target pg.LSN, err error) {
	want := names.String()
	for {
		done := false
		err := i.With(ctx, func(s *Session) error {
			have, err := s.SyncNames(ctx)
			if err != nil || have != want {
				return err
			}
			if names.Empty() {
				done = true
				return nil
			}
			if err := s.Checkpoint(ctx); err != nil {
				return err
			}
			done = true
			target, err = s.flushLSN(ctx)
			return err
		})
		if err != nil || done {
			return target, err
		}
		if err := pause(ctx, 2*pollPeriod); err != nil {
			return 0, fmt.Errorf("wait until synchronous_standby_names is %q: %w", want, err)
		}
	}
}

func (s *Session) flushLSN(ctx context.Context) (pg.LSN, error) {
	var text string
	if err := s.conn.QueryRow(ctx, `SELECT pg_current_wal_flush_lsn()::text`).Scan(&text); err != nil {
		return 0, fmt.Errorf("ask for the flush position: %w", err)
	}
	return pg.ParseLSN(text)
}

func (s *Session) waitFlushed(ctx context.Context, names pg.StandbyNames, target pg.LSN) error {
	for {
		standbys, err := s.standbys(ctx)
		if err != nil {
			return err
		}
		reached := make(map[int64]bool)
		for _, one := range standbys {
			member := slices.Contains(names.Members, pg.StandbyName(one.ID)) || slices.Contains(names.Members, "*")
			if member && one.Flush >= target && one.State == "streaming" {
				reached[one.ID] = true
			}
		}
		if len(reached) >= names.K {
			return nil
		}
		if err := pause(ctx, 2*pollPeriod); err != nil {
			return fmt.Errorf("wait until %d of %s have flushed %s: %d have: %w", names.K, names, target, len(reached), err)
		}
	}
}

// pause waits between two looks at something that announces nothing.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

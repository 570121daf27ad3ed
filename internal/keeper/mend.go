package keeper

import (
	"context"
	"fmt"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// mend looks at a standby that does not stream: it may have left the primary's
// line, the primary may have removed WAL that it needs, or its upstream's
// address is out of date.
func (n *node) mend(ctx context.Context) error {
	up, err := n.primary(ctx)
	if err != nil {
		return err
	}
	o, done, err := n.asStandby(ctx, up)
	if done || err != nil {
		return err
	}
	if held, err := n.heldBack(ctx, up, o); held || err != nil {
		return err
	}
	lineage, _, err := n.relation(ctx, up, o)
	if err != nil {
		return err
	}
	if lineage != postgres.LineageFollows {
		n.log.WarnContext(ctx, "this standby has left the primary's line", "lineage", lineage.String())
		return n.rejoin(ctx, up)
	}
	gone, err := n.walGone(ctx, up)
	if err != nil {
		return err
	}
	if gone {
		n.log.WarnContext(ctx, "the primary does not hold the WAL that this standby needs any more, copying it")
		err := n.ask(ctx, func(ctx context.Context, s monitorSession) error { return s.Copies(ctx) })
		if err != nil {
			n.log.WarnContext(ctx, "could not tell the monitor why the data directory is copied", "error", err)
		}
		return n.copyAndStart(ctx, up, true)
	}
	return n.instance().Follow(ctx, postgres.StandbyOf(up))
}

// stir has the primary write something: a receiver knows that it is served only
// once it has heard something, and asks for that after seconds. An upstream
// that is still in recovery cannot write, and need not.
func (n *node) stir(ctx context.Context) error {
	up, err := n.primary(ctx)
	if err != nil {
		return err
	}
	if err := postgres.Stir(ctx, postgres.CopyFrom(up)); err != nil {
		n.log.DebugContext(ctx, "could not have the primary write anything", "error", err)
	}
	return nil
}

// oldestSegment is the oldest WAL that a server holds, on whatever timeline.
const oldestSegment = `
SELECT coalesce(min(substr(name, 9)), ''), current_setting('wal_segment_size')
FROM pg_catalog.pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'`

// walGone reports whether the upstream has removed the segment that this
// standby would ask for next.
func (n *node) walGone(ctx context.Context, up postgres.UpstreamConfig) (bool, error) {
	control, err := n.readControl(ctx)
	if err != nil {
		return false, err
	}
	var at pg.LSN
	err = n.instance().With(ctx, func(s *postgres.Session) error {
		o, err := s.Observe(ctx)
		at = o.LSN
		return err
	})
	if err != nil || at == 0 || control.WalSegmentSize <= 0 {
		return false, err
	}
	var oldest, size string
	if err := postgres.Ask(ctx, postgres.CopyFrom(up), oldestSegment, &oldest, &size); err != nil {
		return false, fmt.Errorf("ask %s for its WAL: %w", postgres.HostPort(up.Host, up.Port), err)
	}
	return oldest != "" && segmentNumber(at, control.WalSegmentSize) < oldest, nil
}

// segmentNumber names the segment that holds a position, without its timeline.
func segmentNumber(at pg.LSN, size int64) string {
	number := uint64(at) / uint64(size)   //nolint:gosec // positive
	perID := uint64(1<<32) / uint64(size) //nolint:gosec // positive
	return fmt.Sprintf("%08X%08X", number/perID, number%perID)
}

// reconfigure brings server and monitor in line with a configuration that was
// read again.
func (n *node) reconfigure(ctx context.Context, role fsm.State) error {
	file := n.config()
	err := n.ask(ctx, func(ctx context.Context, s monitorSession) error {
		return s.UpdateMetadata(ctx, file.Name, file.Hostname, file.Port)
	})
	if err != nil {
		return err
	}
	if fsm.DutyOf(role).Postgres == fsm.PowerUntouched || !n.instance().Exists() {
		return nil
	}
	if err := n.configure(ctx); err != nil {
		return err
	}
	if !role.In(fsm.Secondary, fsm.CatchingUp) {
		return nil
	}
	up, err := n.primary(ctx)
	if err != nil {
		return err
	}
	return n.instance().Follow(ctx, postgres.StandbyOf(up))
}

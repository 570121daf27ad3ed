package keeper

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// closeTimeout bounds the farewell to a monitor that may be gone.
const closeTimeout = 200 * time.Millisecond

// identity is who this node is to the monitor.
type identity struct {
	formation string
	group     int
	nodeID    int64
}

// connectMonitor opens one connection to the monitor.
func connectMonitor(ctx context.Context, uri, app string) (*pgautofailover.DB, error) {
	info, err := pg.ParseConnInfo(uri)
	if err != nil {
		return nil, &ConfigError{Key: "pg_autoctl.monitor", Err: err, hint: "the monitor prints its URI with `show uri --monitor`"}
	}
	db, err := pgautofailover.Connect(ctx, pgautofailover.ConnectConfig{
		ConnInfo: info, ApplicationName: app, ConnectTimeout: 2 * time.Second,
		StatementTimeout: 3 * time.Second, LockTimeout: 2 * time.Second, Revoked: postgres.Revocations,
	})
	if err != nil {
		return nil, &MonitorError{Op: "connect to the monitor", Err: err}
	}
	return db, nil
}

// pgSession is the monitorSession of a real monitor.
type pgSession struct {
	db *pgautofailover.DB
	identity
}

// dialMonitor opens the session of a registered node: it is locked to the
// node, so that the monitor notices its end, and it listens.
func dialMonitor(ctx context.Context, uri string, who identity) (*pgSession, error) {
	db, err := connectMonitor(ctx, uri, fmt.Sprintf("pg_autoctl node %d", who.nodeID))
	if err != nil {
		return nil, err
	}
	s := &pgSession{db: db, identity: who}
	if err := db.Listen(ctx, pgautofailover.ChannelState); err != nil {
		s.Close(ctx)
		return nil, &MonitorError{Op: "listen to the monitor", Err: err}
	}
	if err := db.KeepSession(ctx, who.nodeID); err != nil {
		err = s.confirmed(ctx, err)
		s.Close(ctx)
		return nil, &MonitorError{Op: "take the session's lock", Err: err}
	}
	return s, nil
}

func (s *pgSession) Close(ctx context.Context) {
	// A farewell outlives what asked for it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = s.db.Close(ctx)
}

func (s *pgSession) Known(ctx context.Context) (known, error) {
	row, err := s.db.NodeByID(ctx, s.nodeID)
	return known{State: row.Reported, Reached: row.Reached}, s.confirmed(ctx, err)
}

func (s *pgSession) Report(ctx context.Context, r report) (assignment, error) {
	a, err := s.db.Report(ctx, pgautofailover.Report{
		Formation: s.formation, NodeID: s.nodeID, Group: s.group, State: r.State, Reached: r.Reached,
		PgIsRunning: r.Running, TLI: r.TLI, LSN: r.LSN, SyncState: r.SyncState,
		CleanStop: r.CleanStop, Streaming: r.Streaming,
	})
	if err != nil {
		return assignment{}, s.confirmed(ctx, err)
	}
	return assignment{Goal: a.Goal, Number: a.GoalNumber, Timeline: a.Timeline}, nil
}

// errUnknownNode is the monitor's word that it has no such node. A server is
// stopped for good on it, so it is never guessed from an error.
var errUnknownNode = errors.New("the monitor has no such node")

// unknownNode reports that the monitor does not know the node any more.
func unknownNode(err error) bool { return errors.Is(err, errUnknownNode) }

// confirmed adds errUnknownNode to an error where the same session finds no row
// of the node. The SQLSTATE alone proves nothing: servers and poolers have the
// same one for a connection option that they do not know.
func (s *pgSession) confirmed(ctx context.Context, err error) error {
	if !errors.Is(err, pgautofailover.ErrNotFound) && pgautofailover.SQLState(err) != pgerrcode.UndefinedObject {
		return err
	}
	if _, rowErr := s.db.NodeByID(ctx, s.nodeID); errors.Is(rowErr, pgautofailover.ErrNotFound) {
		return fmt.Errorf("%w: %w", errUnknownNode, err)
	}
	return err
}

func (s *pgSession) WaitNotification(ctx context.Context) (notification, error) {
	for {
		raw, err := s.db.WaitNotification(ctx)
		if err != nil {
			return notification{}, err
		}
		n, err := pgautofailover.ParseStateNotification(raw.Payload)
		if err != nil || n.Formation != s.formation || n.Group != s.group {
			continue
		}
		return notification{Node: n.NodeID}, nil
	}
}

func fromPeer(p pgautofailover.Peer) peer {
	return peer{ID: p.ID, Name: p.Name, Host: p.Host, Port: p.Port, LSN: p.LSN, Primary: p.IsPrimary}
}

func fromRow(n pgautofailover.NodeRow) peer {
	return peer{ID: n.ID, Name: n.Name, Host: n.Host, Port: n.Port, LSN: n.LSN, Goal: n.Goal, Primary: n.Reported.Writable()}
}

func (s *pgSession) OtherNodes(ctx context.Context) ([]peer, error) {
	rows, err := s.db.NodeRows(ctx, s.formation, &s.group)
	if err != nil {
		return nil, err
	}
	peers := make([]peer, 0, len(rows))
	for _, n := range rows {
		if n.ID != s.nodeID && n.Goal != fsm.Dropped {
			peers = append(peers, fromRow(n))
		}
	}
	return peers, nil
}

func (s *pgSession) Candidate(ctx context.Context) (peer, bool, error) {
	peers, err := s.OtherNodes(ctx)
	for _, p := range peers {
		if p.Goal.In(fsm.PreparePromotion, fsm.StopReplication, fsm.WaitPrimary) {
			return p, true, nil
		}
	}
	return peer{}, false, err
}

func (s *pgSession) Primary(ctx context.Context) (peer, error) {
	p, err := s.db.Primary(ctx, s.formation, s.group)
	return fromPeer(p), err
}

func (s *pgSession) MostAdvancedStandby(ctx context.Context) (peer, bool, error) {
	p, err := s.db.MostAdvancedStandby(ctx, s.formation, s.group, s.nodeID)
	if errors.Is(err, pgautofailover.ErrNotFound) {
		return peer{}, false, nil
	}
	return fromPeer(p), err == nil, err
}

func (s *pgSession) List(ctx context.Context, number int64) (pg.StandbyNames, bool, error) {
	return s.db.ListFor(ctx, s.nodeID, number)
}

func (s *pgSession) StartMaintenance(ctx context.Context) error {
	_, err := s.db.StartMaintenance(ctx, s.nodeID)
	return err
}

func (s *pgSession) Refused(ctx context.Context) (string, error) {
	last, err := s.db.LastRequest(ctx, s.formation, s.group)
	if err != nil || last.Kind != fsm.IntentStartMaintenance || last.NodeID != s.nodeID || last.Open || last.Applied {
		return "", err
	}
	return last.Outcome, nil
}

func (s *pgSession) Copies(ctx context.Context) error { return s.db.ReportCopy(ctx, s.nodeID) }

func (s *pgSession) StopMaintenance(ctx context.Context) error {
	_, err := s.db.StopMaintenance(ctx, s.nodeID)
	return err
}

func (s *pgSession) PublishHistory(ctx context.Context, h pg.History) error {
	return s.db.ReportTimelineHistory(ctx, s.nodeID, h)
}

func (s *pgSession) PublishVersion(ctx context.Context, number int, version, full string) error {
	return s.db.ReportVersion(ctx, s.nodeID, pgautofailover.Version{
		PgVersionNum: number, PgVersion: version, PgVersionString: full,
	})
}

func (s *pgSession) SetSystemIdentifier(ctx context.Context, id pg.SystemID) error {
	return s.db.SetNodeSystemIdentifier(ctx, s.nodeID, id)
}

func (s *pgSession) UpdateMetadata(ctx context.Context, name, host string, port int) error {
	return s.db.UpdateNodeMetadata(ctx, s.nodeID, name, host, port)
}

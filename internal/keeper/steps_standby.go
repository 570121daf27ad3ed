package keeper

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// upstreamConfig says how to reach another node of the group.
func (n *node) upstreamConfig(p peer) postgres.UpstreamConfig {
	file := n.config()
	return postgres.UpstreamConfig{
		ID: n.identity().nodeID, Host: p.Host, Port: p.Port, DBName: file.DBName,
		Password: file.ReplicationPassword, SSLMode: file.SSL.Mode,
		SSLRootCert: file.SSL.CAFile, SSLCRL: file.SSL.CRLFile,
	}
}

// primary asks for the node to follow and how it answers.
func (n *node) primary(ctx context.Context) (postgres.UpstreamConfig, error) {
	p, err := query(ctx, n, func(ctx context.Context, s monitorSession) (peer, error) { return s.Primary(ctx) })
	if err != nil {
		return postgres.UpstreamConfig{}, err
	}
	if p.ID == n.identity().nodeID {
		return postgres.UpstreamConfig{}, errors.New("the monitor names this node as the primary to follow")
	}
	return n.upstreamConfig(p), nil
}

// sameSystem refuses to work with a server that holds another database system.
func (n *node) sameSystem(ctx context.Context, up postgres.UpstreamConfig) (postgres.SystemInfo, error) {
	info, err := postgres.Identify(ctx, postgres.CopyFrom(up))
	if err != nil {
		return info, fmt.Errorf("ask %s: %w", postgres.HostPort(up.Host, up.Port), err)
	}
	return info, n.requireSystem(ctx, up, info)
}

// meet is sameSystem for a server that is asked more than that.
func (n *node) meet(ctx context.Context, up postgres.UpstreamConfig) (*postgres.Remote, error) {
	r, err := postgres.Meet(ctx, postgres.CopyFrom(up))
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", postgres.HostPort(up.Host, up.Port), err)
	}
	if err := n.requireSystem(ctx, up, r.Info); err != nil {
		r.Close(ctx)
		return nil, err
	}
	return r, nil
}

func (n *node) requireSystem(ctx context.Context, up postgres.UpstreamConfig, info postgres.SystemInfo) error {
	if !n.instance().Exists() {
		return nil
	}
	control, ok := n.lastControl()
	if !ok {
		var err error
		if control, err = n.readControl(ctx); err != nil {
			return err
		}
	}
	if control.SystemID != info.SystemID {
		return withHint(fmt.Errorf("%w: %s has %s, we have %s", postgres.ErrForeignSystem,
			postgres.HostPort(up.Host, up.Port), info.SystemID, control.SystemID), "move the data directory away if its contents are not needed")
	}
	return nil
}

// clonePrimary makes the data directory a copy of the primary, taken through
// our own slot there, and starts it as its standby. A data directory that is
// there already, brought along by the operator or copied by an earlier try, is
// brought in line and copied only when that cannot be done.
func (n *node) clonePrimary(ctx context.Context) error {
	up, err := n.primary(ctx)
	if err != nil {
		return err
	}
	if n.instance().Exists() {
		return n.rejoin(ctx, up)
	}
	return n.copyAndStart(ctx, up, true)
}

// copyAndStart replaces the data directory and starts the copy.
func (n *node) copyAndStart(ctx context.Context, up postgres.UpstreamConfig, follow bool) error {
	cfg := postgres.BackupConfig{
		Source: postgres.CopyFrom(up), MaxRate: n.config().MaximumBackupRate,
		BackupDir: n.backupDir(), Ours: n.backupDir() == defaultBackupDir(n.config().PGData, n.identity().nodeID), Progress: n.progress(up),
	}
	if follow {
		cfg.Standby = postgres.StandbyOf(up)
		cfg.Slot = cfg.Standby.Slot
		if err := n.waitSlot(ctx, up, cfg.Slot); err != nil {
			return err
		}
	}
	if err := n.stop(ctx); err != nil {
		return err
	}
	n.log.InfoContext(ctx, "copying the data directory", "source", postgres.HostPort(up.Host, up.Port))
	if err := n.baseBackup(ctx, cfg); err != nil {
		return err
	}
	n.mu.Lock()
	n.unrecovered = 0
	n.mu.Unlock()
	return n.dressAndStart(ctx)
}

// baseBackup copies through the slot that it is given, and through a temporary one
// where the server has given that up: the checkpoint that a copy begins with may
// be what it takes, if slots may hold little, and the next one may be the same.
func (n *node) baseBackup(ctx context.Context, cfg postgres.BackupConfig) error {
	err := n.instance().BaseBackup(ctx, cfg)
	if err == nil || cfg.Slot == "" || ctx.Err() != nil {
		return err
	}
	if lost, lostErr := postgres.SlotLost(ctx, cfg.Source, cfg.Slot); lostErr != nil || !lost {
		return err
	}
	n.log.WarnContext(ctx, "the replication slot holds no WAL any more, copying through a temporary one", "slot", cfg.Slot, "error", err)
	cfg.Slot = ""
	return n.instance().BaseBackup(ctx, cfg)
}

// dressAndStart gives a standby that was copied or rewound this node's own
// files and starts it.
func (n *node) dressAndStart(ctx context.Context) error {
	if err := n.configure(ctx); err != nil {
		return err
	}
	if err := n.peerRules(ctx); err != nil {
		return err
	}
	if err := n.instance().SetSyncNamesOffline(guardList()); err != nil {
		return err
	}
	if err := n.startStandby(ctx); err != nil {
		return err
	}
	return n.publishSystem(ctx)
}

// progress logs a copy's progress by tenths.
func (n *node) progress(up postgres.UpstreamConfig) func(postgres.Progress) {
	tenth := int64(-1)
	return func(p postgres.Progress) {
		if p.Total <= 0 || p.Done*10/p.Total <= tenth {
			return
		}
		tenth = p.Done * 10 / p.Total
		n.log.Info("copying", "source", postgres.HostPort(up.Host, up.Port), "done_kb", p.Done, "total_kb", p.Total)
	}
}

// waitSlot waits until the primary has made a slot for this node: it does as
// soon as it hears of us.
func (n *node) waitSlot(ctx context.Context, up postgres.UpstreamConfig, slot string) error {
	tick := time.NewTicker(slotPoll)
	defer tick.Stop()
	var failures int
	for round := 0; ; round++ {
		found, err := postgres.SlotExists(ctx, postgres.CopyFrom(up), slot)
		switch {
		case err != nil:
			if failures++; failures >= createAttempts {
				return fmt.Errorf("look for replication slot %s on %s: %w", slot, postgres.HostPort(up.Host, up.Port), err)
			}
		case found:
			return nil
		case round == 30:
			n.log.WarnContext(ctx, "waiting for a replication slot", "slot", slot, "source", postgres.HostPort(up.Host, up.Port))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// cloneStandby copies the most advanced standby and starts as a standby
// without upstream: the group has no primary now.
func (n *node) cloneStandby(ctx context.Context) error {
	source, found, err := n.mostAdvanced(ctx)
	if err != nil {
		return err
	}
	if !found {
		return errors.New("no standby to copy from")
	}
	if inst := n.instance(); inst.Exists() && inst.IsStandby() && !inst.Sealed() {
		if _, err := n.sameSystem(ctx, n.upstreamConfig(source)); err == nil {
			return n.standbyAlone(ctx)
		}
	}
	return n.copyAndStart(ctx, n.upstreamConfig(source), false)
}

func (n *node) mostAdvanced(ctx context.Context) (p peer, found bool, err error) {
	best, err := query(ctx, n, func(ctx context.Context, s monitorSession) (*peer, error) {
		p, found, err := s.MostAdvancedStandby(ctx)
		if !found {
			return nil, err
		}
		return &p, err
	})
	if best != nil {
		p, found = *best, true
	}
	return p, found, err
}

// rewindOrInit turns whatever is here into a standby of the current primary.
func (n *node) rewindOrInit(ctx context.Context) error {
	up, err := n.primary(ctx)
	if err != nil {
		return err
	}
	return n.rejoin(ctx, up)
}

// rejoin makes whatever is here a standby of that server: by its configuration
// alone, by a rewind, or by a copy when neither helps.
func (n *node) rejoin(ctx context.Context, up postgres.UpstreamConfig) error {
	if _, err := n.sameSystem(ctx, up); err != nil {
		return err
	}
	for range rejoinRounds {
		if err := n.stop(ctx); err != nil {
			return err
		}
		n.publishHistory(ctx)
		joined, err := n.rewind(ctx, up)
		switch {
		case err == nil && joined:
			return n.dropSlots(ctx)
		case err == nil:
			// It knows by now what it holds.
		case errors.Is(err, postgres.ErrCannotRewind), errors.Is(err, errHopeless):
			n.log.WarnContext(ctx, "cannot rewind, copying the data directory instead", "error", err)
			return n.copyInstead(ctx, up)
		default:
			return err
		}
	}
	n.log.WarnContext(ctx, "still not on the primary's line, copying the data directory instead")
	return n.copyInstead(ctx, up)
}

// rejoinRounds: the first may find out only with the server running that it
// holds WAL which the primary's line left out, the second rewinds it.
const rejoinRounds = 2

// copyInstead copies what could not be brought in line.
func (n *node) copyInstead(ctx context.Context, up postgres.UpstreamConfig) error {
	if err := n.copyAndStart(ctx, up, true); err != nil {
		return err
	}
	return n.dropSlots(ctx)
}

// rewind brings the stopped server in line and starts it; false when it turned
// out then that it holds more than its control file knew.
func (n *node) rewind(ctx context.Context, up postgres.UpstreamConfig) (joined bool, err error) {
	inst := n.instance()
	proved, err := inst.Rewind(ctx, postgres.RewindConfig{Source: postgres.CopyFrom(up), Standby: postgres.StandbyOf(up)})
	if err != nil {
		return false, err
	}
	if err := n.dressAndStart(ctx); err != nil || proved {
		return err == nil, err
	}
	last, err := n.lastWord(ctx)
	if err != nil {
		return false, err
	}
	lineage, _, err := n.relation(ctx, up, last)
	if err != nil {
		return false, err
	}
	if lineage != postgres.LineageFollows {
		n.log.WarnContext(ctx, "this standby holds WAL that the primary's line left out", "lineage", lineage.String(), "lsn", last.LSN.String())
		return false, nil
	}
	return true, n.point(ctx, up)
}

// relation compares the running standby, as it was seen a moment ago, with
// another server. The positions are taken in the order in which a standby that
// follows can never seem ahead.
//
// What was received is not all WAL: a piece of a record at its end is
// nothing, and a receiver that changes its timeline still shows the position
// that it had on the old one. What was replayed is not all that there is. Where
// the two disagree the receiver is ended and the replay comes to its end before anything
// is said; ended tells that the standby has no upstream since.
func (n *node) relation(ctx context.Context, up postgres.UpstreamConfig, o postgres.Observation) (lineage postgres.Lineage, ended bool, err error) {
	if !o.InRecovery {
		return postgres.LineageDiverged, false, nil
	}
	lineage, final, err := n.compare(ctx, up, o)
	if final || err != nil {
		return lineage, false, err
	}
	if o, err = n.lastWord(ctx); err != nil {
		return lineage, true, err
	}
	o.Receiver, o.ReplayIdle = postgres.Receiver{}, true // there is no more to come
	lineage, _, err = n.compare(ctx, up, o)
	return lineage, true, err
}

// compare relates what was seen of the running standby to another server's line;
// it is not final while the receiver and the replay disagree.
func (n *node) compare(ctx context.Context, up postgres.UpstreamConfig, o postgres.Observation) (lineage postgres.Lineage, final bool, err error) {
	inst := n.instance()
	remote, err := n.meet(ctx, up)
	if err != nil {
		return postgres.LineageForeign, false, err
	}
	defer remote.Close(ctx)
	local, err := inst.HistoryOf(o.TLI)
	if err != nil {
		return postgres.LineageForeign, false, err
	}
	lineage = postgres.Relate(local, o.LSN, remote.Info)
	follows, receiver := lineage == postgres.LineageFollows, o.Receiver.Status != ""
	final = o.ReplayIdle && !receiver || follows && receiver || postgres.Relate(local, o.Replayed, remote.Info) != postgres.LineageFollows
	if !final || !follows {
		return lineage, final, nil
	}
	// Two servers promoted at one position have the same history.
	same, err := inst.SameLineAs(ctx, remote, local)
	if err == nil && !same {
		lineage = postgres.LineageAmbiguous
	}
	return lineage, true, err
}

// errBehind: a standby that others are to follow has not yet what this one has.
var errBehind = errors.New("it is in recovery and does not hold yet what this standby holds")

// standing looks at the running server and gives it its guard if it is a
// standby that lost it.
func (n *node) standing(ctx context.Context) (o postgres.Observation, err error) {
	err = n.glance(ctx, func(ctx context.Context, s *postgres.Session) error {
		if o, err = s.Observe(ctx); err != nil || !o.InRecovery || o.SyncNames == guardList().String() {
			return err
		}
		return s.SetSyncNames(ctx, guardList())
	})
	return o, err
}

// asStandby has a standby running here and tells what it looks like; done says
// that it had to be made one, of the primary, and needs nothing else.
func (n *node) asStandby(ctx context.Context, up postgres.UpstreamConfig) (o postgres.Observation, done bool, err error) {
	inst := n.instance()
	if !inst.Exists() || inst.RewindInterrupted() {
		return o, true, n.copyAndStart(ctx, up, true)
	}
	if !inst.IsStandby() {
		return o, true, n.rejoin(ctx, up)
	}
	pm, err := n.server()
	if err != nil {
		return o, false, err
	}
	if pm != nil {
		o, err = n.standing(ctx)
	}
	if pm == nil || err != nil {
		fits, err := n.startFitting(ctx, up)
		if err != nil {
			return o, false, err
		}
		if !fits {
			return o, true, n.rejoin(ctx, up)
		}
		if o, err = n.standing(ctx); err != nil {
			return o, false, err
		}
	}
	if !o.InRecovery {
		return o, true, n.rejoin(ctx, up)
	}
	return o, false, nil
}

// startFitting has the standby running and answering; false when it cannot
// follow that server as it is: what it must replay before it is consistent may lie on a
// line that is not the server's, or may be gone, and then it would never answer.
func (n *node) startFitting(ctx context.Context, up postgres.UpstreamConfig) (fits bool, err error) {
	pm, err := n.server()
	if err != nil {
		return false, err
	}
	if pm == nil {
		if fits, err := n.fits(ctx, up); !fits || err != nil {
			return false, err
		}
		if err := n.writeAlone(ctx); err != nil {
			return false, err
		}
	}
	err = n.startStandby(ctx)
	switch {
	case errors.Is(err, errHopeless):
		n.log.WarnContext(ctx, "this standby does not come up", "error", err)
		return false, nil
	case err != nil:
		return false, err
	}
	return true, nil
}

// fits compares what the control file knows with a server's line.
func (n *node) fits(ctx context.Context, up postgres.UpstreamConfig) (bool, error) {
	info, err := n.sameSystem(ctx, up)
	if err != nil {
		return false, err
	}
	lineage, err := n.instance().Compare(ctx, info)
	if err != nil {
		return false, err
	}
	if lineage != postgres.LineageFollows {
		n.log.WarnContext(ctx, "this standby cannot follow the primary", "lineage", lineage.String())
	}
	return lineage == postgres.LineageFollows, nil
}

// follow points the standby at the current primary. Its line was compared
// before: to stream from a foreign one would mix two histories.
func (n *node) follow(ctx context.Context) error {
	if up, ok := n.justCompared(); ok {
		return n.point(ctx, up)
	}
	up, err := n.primary(ctx)
	if err != nil {
		return err
	}
	if _, done, err := n.asStandby(ctx, up); done || err != nil {
		return err
	}
	return n.point(ctx, up)
}

// justCompared is the server that the step before has found this standby to be
// on the line of.
func (n *node) justCompared() (postgres.UpstreamConfig, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.checkedUp, n.checked.host != "" && n.clock()-n.checked.at < justNow
}

// point gives a running standby an upstream. What streams, and from where, is
// looked at by the steps that follow.
func (n *node) point(ctx context.Context, up postgres.UpstreamConfig) error {
	upstream := postgres.StandbyOf(up)
	upstream.Hurry = true
	return n.instance().Repoint(ctx, upstream)
}

// checked is the last comparison that found a standby on a server's line.
type checked struct {
	host string
	port int
	tli  pg.Timeline
	// Both: a receiver that connects again shows the old position for a while.
	received, replayed pg.LSN
	at                 time.Duration
}

// checkTimeline compares the standby with its upstream and brings back one
// that diverged. One that has received nothing since it was compared a moment
// ago needs no second look.
func (n *node) checkTimeline(ctx context.Context) error {
	up, err := n.primary(ctx)
	if err != nil {
		return err
	}
	o, done, err := n.asStandby(ctx, up)
	if done || err != nil {
		return err
	}
	now := checked{host: up.Host, port: up.Port, tli: o.TLI, received: o.Received, replayed: o.Replayed, at: n.clock()}
	n.mu.Lock()
	last := n.checked
	n.mu.Unlock()
	since := now.at - last.at
	if last.at = now.at; last == now && since < checkedFor {
		return nil
	}
	n.mu.Lock()
	n.checked = checked{} // until it is known again
	n.mu.Unlock()
	if held, err := n.heldBack(ctx, up, o); held || err != nil {
		return err
	}
	o, freed, err := n.letGo(ctx, up, o)
	if err != nil {
		return err
	}
	lineage, ended, err := n.relation(ctx, up, o)
	if err == nil && lineage == postgres.LineageAhead {
		// One that is about to be promoted may only be late.
		var late bool
		if late, err = postgres.InRecovery(ctx, postgres.CopyFrom(up)); err == nil && late {
			err = fmt.Errorf("compare with %s: %w", postgres.HostPort(up.Host, up.Port), errBehind)
		}
	}
	if err != nil {
		return errors.Join(err, n.leaveFormer(ctx, up))
	}
	if lineage != postgres.LineageFollows {
		n.log.WarnContext(ctx, "this standby has left the primary's line", "lineage", lineage.String())
		return n.rejoin(ctx, up)
	}
	if ended || freed {
		return n.point(ctx, up)
	}
	now.at = n.clock()
	n.mu.Lock()
	n.checked, n.checkedUp = now, up
	n.mu.Unlock()
	return nil
}

// leaveFormer takes the upstream of a standby away when it is another server
// than up, which cannot be compared with now. The former one may come back as a
// standby on another timeline of the same number, and PostgreSQL would stream
// that without a word. A stream from up itself goes on.
func (n *node) leaveFormer(ctx context.Context, up postgres.UpstreamConfig) error {
	other, err := n.instance().FollowsOther(up)
	if err != nil || !other {
		return err
	}
	return n.instance().Repoint(ctx, postgres.Upstream{})
}

// heardByNow is when a receiver should have heard something where anybody writes.
const heardByNow = 150 * time.Millisecond

// checkConnection waits until the receiver streams; it makes a real connection to see it.
func (n *node) checkConnection(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, streamPatience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- n.instance().WaitStreaming(waiting) }()
	timer := time.NewTimer(heardByNow)
	defer timer.Stop()
	for streaming := false; !streaming; {
		select {
		case err := <-done:
			if err != nil {
				return err
			}
			streaming = true
		case <-timer.C:
			// A primary where nobody writes has nothing to say.
			if err := n.stir(waiting); err != nil {
				n.log.DebugContext(ctx, "could not ask for the primary", "error", err)
			}
			timer.Reset(stirEvery)
		}
	}
	return n.instance().EndHurry()
}

// endReceiver makes the standby's position final. A server that is no standby
// becomes one: it was promoted by an edge that did not come to its end.
func (n *node) endReceiver(ctx context.Context) error {
	recovery, err := n.inRecovery(ctx)
	if err != nil {
		return err
	}
	if !recovery {
		if err := n.stop(ctx); err != nil {
			return err
		}
		if err := n.standbyAlone(ctx); err != nil {
			return err
		}
	}
	if err := errors.Join(n.dropLeftOut(), n.guard(ctx)); err != nil {
		return err
	}
	last, err := n.lastWord(ctx)
	if err != nil {
		return err
	}
	n.log.InfoContext(ctx, "the WAL receiver has ended", "tli", last.TLI, "lsn", last.LSN.String())
	return nil
}

// dropLeftOut takes back what a promotion that did not come left in the way of
// the timelines that this standby is to follow. A server that is started has it done anyway.
func (n *node) dropLeftOut() error {
	n.mu.Lock()
	left := n.leftOut
	n.leftOut = false
	n.mu.Unlock()
	if !left {
		return nil
	}
	return n.instance().DropSkipped()
}

// writeAlone makes a stopped server a guarded standby without upstream.
func (n *node) writeAlone(ctx context.Context) error {
	if n.instance().RewindInterrupted() {
		return errHalfRewound
	}
	if err := n.instance().WriteStandby(ctx, postgres.Upstream{}); err != nil {
		return err
	}
	return n.instance().SetSyncNamesOffline(guardList())
}

// standbyAlone starts a stopped server as a standby without upstream.
func (n *node) standbyAlone(ctx context.Context) error {
	pm, err := n.server()
	if err != nil {
		return err
	}
	if pm == nil {
		if err := n.writeAlone(ctx); err != nil {
			return err
		}
	}
	return n.startStandby(ctx)
}

// fetchWAL streams from the most advanced standby until its position is
// reached, and ends the receiver again. The monitor's patience ends it when
// the source does not deliver.
func (n *node) fetchWAL(ctx context.Context) error {
	source, found, err := n.mostAdvanced(ctx)
	if err != nil {
		return err
	}
	if !found {
		return nil
	}
	up := n.upstreamConfig(source)
	inst := n.instance()
	o, err := n.standing(ctx)
	if err != nil {
		return err
	}
	lineage, _, err := n.relation(ctx, up, o)
	switch {
	case err != nil:
		return err
	case lineage == postgres.LineageAhead:
		return nil // it has nothing that we have not
	case lineage != postgres.LineageFollows:
		return fmt.Errorf("fetch WAL from %s: its line is not ours: %s", postgres.HostPort(up.Host, up.Port), lineage)
	}
	if err := inst.Follow(ctx, postgres.StandbyOf(up)); err != nil {
		return err
	}
	if err := n.waitReceived(ctx, source.LSN); err != nil {
		return err
	}
	_, err = n.lastWord(ctx)
	return err
}

func (n *node) waitReceived(ctx context.Context, target pg.LSN) error {
	tick := time.NewTicker(stopPoll)
	defer tick.Stop()
	return n.instance().With(ctx, func(s *postgres.Session) error {
		for {
			o, err := s.Observe(ctx)
			if err != nil || o.LSN >= target {
				return err
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-tick.C:
			}
		}
	})
}

package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgdrover/pgdrover/internal/pg"
)

const (
	settingsFile = "postgresql-auto-failover.conf"
	standbyFile  = "postgresql-auto-failover-standby.conf"
	autoConfFile = "postgresql.auto.conf"
	signalFile   = "standby.signal"
)

// Upstream is the server that a standby follows; zero for none.
type Upstream struct {
	ConnInfo pg.ConnInfo
	Slot     string
	// Hurry: commits on the upstream may be waiting for this standby. The WAL
	// segment that it begins the new timeline with is not written in full, and brought
	// to disk, before the first record is; see EndHurry.
	Hurry bool
}

// UpstreamConfig says how node ID reaches another node of its group.
type UpstreamConfig struct {
	ID          int64 // the node that connects
	Host        string
	Port        int
	DBName      string
	Password    string
	SSLMode     string
	SSLRootCert string
	SSLCRL      string
}

// StandbyOf returns the upstream of node ID's standby. Only its receiver may use this connection string.
func StandbyOf(cfg UpstreamConfig) Upstream {
	return Upstream{ConnInfo: cfg.connInfo(pg.StandbyName(cfg.ID)), Slot: pg.StandbyName(cfg.ID)}
}

// CopyFrom returns the connection string for everything else that node ID does
// on the other node: questions, base backup, rewind.
func CopyFrom(cfg UpstreamConfig) pg.ConnInfo { return cfg.connInfo(pg.CopyName(cfg.ID)) }

func (cfg UpstreamConfig) connInfo(applicationName string) pg.ConnInfo {
	info := pg.NewConnInfo(
		"application_name", applicationName, "host", cfg.Host, "port", strconv.Itoa(cfg.Port),
		"user", pg.ReplicationRole, "dbname", cfg.DBName, "password", cfg.Password, "sslmode", cfg.SSLMode)
	if cfg.SSLMode == "verify-ca" || cfg.SSLMode == "verify-full" {
		info = info.With("sslrootcert", cfg.SSLRootCert).With("sslcrl", cfg.SSLCRL)
	}
	return info
}

// IsStandby reports whether the server starts, or runs, as a standby by its files.
// One whose recovery was interrupted is one, too: see RecoverCrash.
func (i *Instance) IsStandby() bool {
	_, standby := os.Stat(i.path(signalFile))
	_, recovering := os.Stat(i.path(recoverySignal))
	return standby == nil || recovering == nil
}

// FollowsOther reports whether the files of a standby name another upstream than
// up. One without upstream follows nobody.
func (i *Instance) FollowsOther(up UpstreamConfig) (bool, error) {
	now, err := i.namedUpstream()
	return !now.IsZero() && !up.names(now), err
}

// Follows reports whether the files of a standby name up as its upstream.
func (i *Instance) Follows(up UpstreamConfig) (bool, error) {
	now, err := i.namedUpstream()
	return !now.IsZero() && up.names(now), err
}

func (cfg UpstreamConfig) names(info pg.ConnInfo) bool {
	return info.Get("host") == cfg.Host && info.Get("port") == strconv.Itoa(cfg.Port)
}

// namedUpstream is the connection string in the files of a standby, zero for none.
func (i *Instance) namedUpstream() (pg.ConnInfo, error) {
	text, err := os.ReadFile(i.path(standbyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return pg.ConnInfo{}, nil
	}
	if err != nil {
		return pg.ConnInfo{}, fmt.Errorf("read %s: %w", standbyFile, err)
	}
	settings, err := pg.ParseSettings(string(text))
	if err != nil {
		return pg.ConnInfo{}, fmt.Errorf("read %s: %w", standbyFile, err)
	}
	conninfo, ok := settings.Get("primary_conninfo")
	if !ok || conninfo == "" {
		return pg.ConnInfo{}, nil
	}
	now, err := pg.ParseConnInfo(conninfo)
	if err != nil {
		return pg.ConnInfo{}, fmt.Errorf("read %s: %w", standbyFile, err)
	}
	return now, nil
}

// upstreamSettings say whom a standby follows, and how far. In postgresql.auto.conf
// they would win over our files; a restore to a point in time leaves its target
// there, where a standby would promote itself, or replay nothing from then on.
func upstreamSettings() []string {
	return append([]string{"primary_conninfo", "primary_slot_name", "recovery_target_timeline"}, recoveryTargets()...)
}

func recoveryTargets() []string {
	return []string{
		"recovery_target", "recovery_target_time", "recovery_target_xid", "recovery_target_lsn", "recovery_target_name",
		"recovery_target_inclusive", "recovery_target_action",
	}
}

// WriteStandby writes the files of a standby; a running server reads them at its next reload.
func (i *Instance) WriteStandby(ctx context.Context, up Upstream) error {
	if err := i.forgetSeal(); err != nil {
		return fmt.Errorf("write standby configuration: %w", err)
	}
	if err := i.clearWay(ctx, up); err != nil {
		return fmt.Errorf("write standby configuration: %w", err)
	}
	if err := i.writeStandbyFiles(up); err != nil {
		return fmt.Errorf("write standby configuration: %w", err)
	}
	return nil
}

// Repoint gives a running standby another upstream by a reload, and does not
// wait for that. The server goes by the file before it is on disk, where it is when
// Repoint returns: commits may be waiting for this standby.
func (i *Instance) Repoint(ctx context.Context, up Upstream) error {
	err := errors.Join(i.forgetSeal(), i.clearWay(ctx, up))
	if err == nil {
		_, err = updateFile(i.path(signalFile), 0o600, func(string) string { return "" })
	}
	if err == nil {
		err = i.ensureInclude(standbyFile)
	}
	if err != nil {
		return fmt.Errorf("write standby configuration: %w", err)
	}
	if err := i.placePassword(up, false); err != nil {
		return fmt.Errorf("write standby configuration: %w", err)
	}
	place, err := placeFile(i.path(standbyFile), []byte(standbySettings(up).Render()), 0o600, false)
	if err != nil {
		return fmt.Errorf("write standby configuration: %w", err)
	}
	if err := i.AskReload(); err != nil {
		return fmt.Errorf("reload configuration: %w", err)
	}
	if err := errors.Join(i.syncPassword(), syncDir(place), syncDir(filepath.Dir(place))); err != nil {
		return fmt.Errorf("write standby configuration: %w", diskHint(err))
	}
	return nil
}

func standbySettings(up Upstream) pg.Settings {
	settings := pg.Settings{}
	if !up.ConnInfo.IsZero() {
		settings = append(settings, pg.Setting{Name: "primary_conninfo", Value: withPassFile(up.ConnInfo).DSN()})
	}
	if up.Slot != "" {
		settings = append(settings, pg.Setting{Name: "primary_slot_name", Value: up.Slot})
	}
	if up.Hurry {
		settings = append(settings, pg.Setting{Name: hurrySetting, Value: "off"})
	}
	return append(settings, pg.Setting{Name: "recovery_target_timeline", Value: "latest"})
}

const hurrySetting = "wal_init_zero"

// EndHurry takes back what was for the first moments behind a new upstream only:
// segments that are filled when they are made keep the later writes short.
func (i *Instance) EndHurry() error {
	text, _ := os.ReadFile(i.path(standbyFile)) // without one nobody is in a hurry
	if !strings.Contains(string(text), hurrySetting) {
		return nil
	}
	_, err := updateFile(i.path(standbyFile), 0o600, func(image string) string {
		var b strings.Builder
		for line := range strings.Lines(image) {
			if !strings.HasPrefix(line, hurrySetting) {
				b.WriteString(line)
			}
		}
		return b.String()
	})
	if err != nil {
		return fmt.Errorf("write standby configuration: %w", err)
	}
	return i.AskReload()
}

func (i *Instance) writeStandbyFiles(up Upstream) error {
	// The signal first: with it and an old upstream the server is still a standby.
	if _, err := updateFile(i.path(signalFile), 0o600, func(string) string { return "" }); err != nil {
		return err
	}
	if err := i.placePassword(up, true); err != nil {
		return err
	}
	if _, err := updateFile(i.path(standbyFile), 0o600, func(string) string { return standbySettings(up).Render() }); err != nil {
		return err
	}
	return i.ensureInclude(standbyFile)
}

func (i *Instance) ensureInclude(file string) error {
	_, err := updateFile(i.path("postgresql.conf"), 0o600, func(image string) string {
		image, _ = pg.EnsureInclude(image, file)
		return image
	})
	return err
}

// RemoveStandby removes the files of a standby. The server is not touched.
func (i *Instance) RemoveStandby() error {
	err := removeFile(i.path(signalFile))
	if err == nil {
		err = i.emptyStandbyFile()
	}
	if err != nil {
		return fmt.Errorf("remove standby configuration: %w", err)
	}
	return nil
}

// emptyStandbyFile takes the upstream of a server away that is no standby.
func (i *Instance) emptyStandbyFile() error {
	if _, err := os.Stat(i.path(standbyFile)); err == nil {
		if _, err := updateFile(i.path(standbyFile), 0o600, func(string) string { return "" }); err != nil {
			return err
		}
	}
	return errors.Join(i.removePassword(), i.forgetSeal())
}

// clearWay has nothing in postgresql.auto.conf that would win over the files of a
// standby of up. With an upstream comes the operator's delay again.
func (i *Instance) clearWay(ctx context.Context, up Upstream) error {
	if err := i.resetOverrides(ctx, upstreamSettings()...); err != nil || up.ConnInfo.IsZero() {
		return err
	}
	return i.delayAgain(ctx)
}

// resetOverrides removes settings from postgresql.auto.conf, where they would win over our files.
func (i *Instance) resetOverrides(ctx context.Context, names ...string) error {
	settings, err := i.autoConf()
	if err != nil {
		return err
	}
	var present []string
	for _, name := range names {
		if _, ok := settings.Get(name); ok {
			present = append(present, name)
		}
	}
	if len(present) == 0 {
		return nil
	}
	st, err := i.Status()
	if err != nil {
		return err
	}
	if st.Running {
		return i.With(ctx, func(s *Session) error { return s.ResetSystem(ctx, present...) })
	}
	return i.setAutoConf(removals(present)...)
}

// change is one of postgresql.auto.conf: a name gets a value there, or goes, and
// what other files say of it is in force again.
type change struct {
	pg.Setting
	remove bool
}

func setting(name, value string) change {
	return change{Setting: pg.Setting{Name: name, Value: value}}
}

// removals are changes that take names out.
func removals(names []string) []change {
	gone := make([]change, len(names))
	for n, name := range names {
		gone[n] = change{Setting: pg.Setting{Name: name}, remove: true}
	}
	return gone
}

// setAutoConf edits postgresql.auto.conf of a stopped server.
func (i *Instance) setAutoConf(changes ...change) error {
	_, err := updateFile(i.path(autoConfFile), 0o600, func(image string) string {
		var b strings.Builder
		for line := range strings.Lines(image) {
			name := strings.TrimRight(strings.TrimSpace(strings.SplitN(line, "=", 2)[0]), " \t")
			if !touches(changes, name) {
				b.WriteString(line)
			}
		}
		for _, c := range changes {
			if !c.remove {
				fmt.Fprintf(&b, "%s = %s\n", c.Name, pg.QuoteConf(c.Value))
			}
		}
		return b.String()
	})
	return err
}

func touches(changes []change, name string) bool {
	for _, c := range changes {
		if strings.EqualFold(c.Name, name) {
			return true
		}
	}
	return false
}

// Reload has a running server read its files again, and returns when new
// sessions go by them. A stopped server is fine: it will read them.
func (i *Instance) Reload(ctx context.Context) error {
	st, err := i.Status()
	if err != nil || !st.Running {
		return err
	}
	s, err := i.reloaded(ctx)
	if err != nil {
		return err
	}
	s.Close(ctx)
	return nil
}

// AskReload has a running server read its files again, at a time of its own. A
// stopped server is fine.
func (i *Instance) AskReload() error { return i.signalServer(hangup) }

// reloadPatience is how long a reload may take before it is asked for again.
const reloadPatience = time.Second

// reloadWarning is how long it may take before somebody should know.
const reloadWarning = 5 * time.Second

// reloaded has a running server read its files again, and returns a session
// that began afterwards: one to whom the server says that it read them since.
func (i *Instance) reloaded(ctx context.Context) (*Session, error) {
	begun, warned := time.Now(), false
	for {
		if !warned && time.Since(begun) > reloadWarning {
			i.log.WarnContext(ctx, "the server does not take over its configuration: see its log, a mistake in postgresql.conf makes it keep the old one")
			warned = true
		}
		// Both clocks are this machine's. When it is set back in between, the next round is right.
		asked := time.Now()
		if err := i.signalServer(hangup); err != nil {
			return nil, fmt.Errorf("reload configuration: %w", err)
		}
		for time.Since(asked) < reloadPatience {
			s, err := i.Connect(ctx, ConnectConfig{})
			if err != nil {
				return nil, fmt.Errorf("reload configuration: %w", err)
			}
			since := false
			err = s.conn.QueryRow(ctx, `SELECT pg_conf_load_time() >= $1`, asked.Truncate(time.Microsecond)).Scan(&since)
			if err == nil && since {
				return s, nil
			}
			s.Close(ctx)
			if err == nil {
				err = pause(ctx, pollPeriod)
			}
			if err != nil {
				return nil, withHint(fmt.Errorf("wait until the configuration is in force: %w", err),
					"see the server's log: a mistake in postgresql.conf makes it keep the old configuration")
			}
		}
	}
}

// signalServer signals the verified postmaster; none is fine.
func (i *Instance) signalServer(sig unix.Signal) error {
	f, ok, err := i.readPidFile()
	if err != nil || !ok {
		return err
	}
	fd, v, err := i.openServer(f)
	if err != nil || v == verdictGone {
		return err
	}
	if v == verdictForeign {
		return foreignError(f.pid)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", f.pid, err)
	}
	return nil
}

// Follow points a standby at an upstream, by a reload when it runs. It does
// not wait until WAL flows: see WaitStreaming.
func (i *Instance) Follow(ctx context.Context, up Upstream) error {
	if err := i.WriteStandby(ctx, up); err != nil {
		return err
	}
	return i.Reload(ctx)
}

// WaitStreaming waits until the WAL receiver streams.
func (i *Instance) WaitStreaming(ctx context.Context) error {
	return i.With(ctx, func(s *Session) error {
		for {
			st, err := s.receiverState(ctx)
			if err != nil || st.status == "streaming" {
				return err
			}
			if err := pause(ctx, 2*pollPeriod); err != nil {
				return fmt.Errorf("wait until the WAL receiver streams: it is %q: %w", st.status, err)
			}
		}
	})
}

type receiverState struct {
	status           string
	process          bool   // a receiver process exists, shown by the view above or not yet
	wait             string // what the startup process waits for
	received, replay pg.LSN
	conninfo, delay  string
}

const receiverQuery = `
SELECT coalesce((SELECT ` + receiverStatus + ` FROM pg_stat_wal_receiver r), ''),
  EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'walreceiver'),
  coalesce((SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup' LIMIT 1), ''),
  coalesce(pg_last_wal_receive_lsn(), '0/0')::text, coalesce(pg_last_wal_replay_lsn(), '0/0')::text,
  current_setting('primary_conninfo'), current_setting('recovery_min_apply_delay')`

func (s *Session) receiverState(ctx context.Context) (receiverState, error) {
	var st receiverState
	var received, replay string
	if err := s.conn.QueryRow(ctx, receiverQuery).Scan(&st.status, &st.process, &st.wait, &received, &replay, &st.conninfo, &st.delay); err != nil {
		return receiverState{}, fmt.Errorf("ask for the WAL receiver: %w", err)
	}
	return st, parseLSNs([]string{received, replay}, &st.received, &st.replay)
}

// EndReceiver takes the upstream out of a running standby's configuration and
// returns when no receiver is left, none can come back, and replay has reached
// the end of the local WAL, also where an operator paused or delays it. What it
// returns is the server's last word: from here on it acknowledges nothing to
// anybody. ErrStalled: the replay does not get there. ErrLimits: nor can it before a restart.
func (i *Instance) EndReceiver(ctx context.Context) (Observation, error) {
	if err := i.WriteStandby(ctx, Upstream{}); err != nil {
		return Observation{}, fmt.Errorf("end the WAL receiver: %w", err)
	}
	s, err := i.reloaded(ctx)
	if err != nil {
		return Observation{}, fmt.Errorf("end the WAL receiver: %w", err)
	}
	defer s.Close(ctx)
	var r release
	progress := newProgress(i, endStall)
	for {
		st, err := s.receiverState(ctx)
		if err != nil {
			return Observation{}, fmt.Errorf("end the WAL receiver: %w", err)
		}
		if st.conninfo != "" {
			return Observation{}, withHint(errors.New("end the WAL receiver: primary_conninfo is still set by another file"),
				"remove primary_conninfo from postgresql.conf and the files that it includes")
		}
		// The reload reached the startup process before this session began. If it now waits
		// for its next try, it reads the new configuration before that try.
		if !st.process && st.status == "" && st.wait == waitsForWAL {
			return s.Observe(ctx)
		}
		err = r.look(ctx, s, st)
		if err == nil && progress.stalled() {
			err = fmt.Errorf("%w for %s", ErrStalled, endStall)
		}
		if err == nil {
			err = pause(ctx, pollPeriod)
		}
		if err != nil {
			return Observation{}, fmt.Errorf("end the WAL receiver: it is %q, received %s, replayed %s, the replay waits for %q, its delay is %s: %w",
				st.status, st.received, st.replay, st.wait, st.delay, err)
		}
	}
}

// Promote has a running server out of recovery, with the history of its new
// timeline, which it returns, in pg_wal and no standby files left. It makes no
// checkpoint: others can be rewound to this server only after one.
func (i *Instance) Promote(ctx context.Context) (pg.History, error) {
	return i.PromoteWhile(ctx, func(*Session) error { return nil })
}

// PromoteWhile is Promote; meanwhile is done on a session while recovery comes to its end.
func (i *Instance) PromoteWhile(ctx context.Context, meanwhile func(*Session) error) (pg.History, error) {
	// By its files, so that recovery ends while the session begins.
	st, err := i.Status()
	asked := err == nil && st.State == "ready" && i.IsStandby()
	if asked {
		err = i.triggerPromotion()
	}
	if err != nil {
		return nil, fmt.Errorf("promote: %w", err)
	}
	var tli pg.Timeline
	err = i.With(ctx, func(s *Session) (err error) {
		if err = meanwhile(s); err != nil {
			return err
		}
		if err = s.awaitPromotion(ctx, asked); err == nil {
			tli, err = s.writtenTimeline(ctx)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("promote: %w", err)
	}
	history, err := i.HistoryOf(tli)
	if err != nil {
		return nil, fmt.Errorf("promote: %w", err)
	}
	// Usually the server has removed its signal, for good, and only its upstream is left.
	if i.IsStandby() {
		return history, i.RemoveStandby()
	}
	return history, i.emptyStandbyFile()
}

// awaitPromotion waits for the end of recovery, and asks for it unless somebody has.
func (s *Session) awaitPromotion(ctx context.Context, asked bool) error {
	for {
		recovers, err := s.inRecovery(ctx)
		if err != nil || !recovers {
			return err
		}
		if !asked {
			if err := s.instance.triggerPromotion(); err != nil {
				return err
			}
			asked = true
		}
		if err := pause(ctx, pollPeriod); err != nil {
			return err
		}
	}
}

// writtenTimeline asks a primary for the timeline that it writes.
func (s *Session) writtenTimeline(ctx context.Context) (pg.Timeline, error) {
	var text string
	if err := s.conn.QueryRow(ctx, `SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)`).Scan(&text); err != nil {
		return 0, fmt.Errorf("ask for the timeline: %w", err)
	}
	return parseHexTimeline(text)
}

func (s *Session) inRecovery(ctx context.Context) (bool, error) {
	var yes bool
	if err := s.conn.QueryRow(ctx, `SELECT pg_is_in_recovery()`).Scan(&yes); err != nil {
		return false, fmt.Errorf("ask whether the server is in recovery: %w", err)
	}
	return yes, nil
}

func (i *Instance) triggerPromotion() error {
	// It has to be there for a moment only, whatever a power cut leaves of it.
	if err := touch(i.path("promote")); err != nil {
		return err
	}
	return i.signalServer(unix.SIGUSR1)
}

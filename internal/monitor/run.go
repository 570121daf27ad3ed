package monitor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/postgres"
	"github.com/pgdrover/pgdrover/internal/supervisor"
)

const (
	// steadyAfter is how long the server must have run to be started again at
	// once when it ends; otherwise attempts are further and further apart, up to this.
	steadyAfter = 10 * time.Second
	// firstPause is the pause after the first short life; it doubles.
	firstPause = 250 * time.Millisecond
	// startTimeout bounds one start, crash recovery included.
	startTimeout = 10 * time.Minute
	// guardInterval is how often the pid file is looked at.
	guardInterval = time.Second
	// stopTimeout bounds the stop of the server.
	stopTimeout = time.Minute
)

// Monitor is the monitor program.
type Monitor struct {
	cfg      Config // its file is changed by reloads, in the goroutine of serve alone
	log      *slog.Logger
	instance *postgres.Instance
}

// New checks the configuration and touches nothing.
func New(cfg Config) (*Monitor, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Monitor{cfg: cfg, log: cfg.logger(), instance: cfg.instance()}, nil
}

// Run keeps the monitor's server running and decides, until ctx ends; then it
// ends the decisions first and stops the server. A server that is running
// already, because an earlier process died, is adopted as it is.
func (m *Monitor) Run(ctx context.Context) (err error) {
	pidFile, err := m.cfg.lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release(pidFile)) }()
	if path := m.cfg.Paths.ConfigFile; path != "" {
		// Another program may have written it so that everybody can read its passwords.
		if err := os.Chmod(path, 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("protect configuration file: %w", err)
		}
	}
	if pidFile != nil {
		if err := pidFile.SetServices(services()...); err != nil {
			return err
		}
	}
	ctx, lost := context.WithCancel(ctx)
	defer lost()
	m.log.InfoContext(ctx, "the monitor starts", "uri", m.cfg.File.URI())
	host, err := os.Hostname()
	if err != nil {
		host = m.cfg.File.Hostname
	}
	holder := fmt.Sprintf("%s pid %d", host, os.Getpid())

	// The server outlives the decisions by as long as they need to end.
	serving, stopServer := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServer()
	up := make(chan struct{}, 1)
	var running errgroup.Group
	running.Go(func() error {
		defer lost() // without a server there is nothing to decide about
		return m.serve(serving, ctx, up)
	})
	running.Go(func() error {
		defer stopServer()
		return m.decideWhenUp(ctx, up, holder)
	})
	running.Go(func() error {
		m.guard(ctx, pidFile, lost)
		return nil
	})
	return running.Wait()
}

// services are the names of our parts in the pid file.
func services() []string { return []string{"postgres", "listener"} }

// guard ends the program when its pid file is taken away: that is how an
// operator, or a command that destroys the node, asks for the end.
func (m *Monitor) guard(ctx context.Context, p *supervisor.PidFile, lost context.CancelFunc) {
	if p == nil {
		return
	}
	for pause(ctx, guardInterval) {
		if err := p.Check(); err != nil {
			m.log.ErrorContext(ctx, "the pid file is not this process's any more, stopping", "error", err)
			lost()
		}
	}
}

// decideWhenUp runs the decisions, in the name of holder, once the server has
// answered for the first time.
func (m *Monitor) decideWhenUp(ctx context.Context, up <-chan struct{}, holder string) error {
	select {
	case <-ctx.Done():
		return nil
	case <-up:
	}
	if err := m.upgrade(ctx); err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // asked to end
		}
		return err
	}
	backend := &database{info: m.ownConnInfo, holder: holder, log: m.log}
	d := newDecider(backend, newPostgresDialer(), m.log, m.cfg.Ready)
	return d.Run(ctx)
}

func (m *Monitor) ownConnInfo() (pg.ConnInfo, error) {
	info, err := m.instance.ConnInfo()
	if err != nil {
		return pg.ConnInfo{}, fmt.Errorf("find the monitor's server: %w", err)
	}
	return info.With("dbname", databaseName), nil
}

// upgrade brings the schema to this program's version. A server that goes away
// meanwhile is waited for; a schema that cannot be upgraded ends the program.
func (m *Monitor) upgrade(ctx context.Context) error {
	for {
		err := m.tryUpgrade(ctx)
		if err == nil || !pgautofailover.Retryable(err) || isFinal(err) {
			return err
		}
		m.log.WarnContext(ctx, "the schema is not looked at yet", "error", err)
		if !pause(ctx, time.Second) {
			return context.Cause(ctx)
		}
	}
}

// isFinal reports whether the schema itself is what is wrong.
func isFinal(err error) bool {
	var hinted interface{ Hint() string }
	return errors.Is(err, pgautofailover.ErrNotInstalled) || pgautofailover.SQLState(err) == "" && errors.As(err, &hinted)
}

func (m *Monitor) tryUpgrade(ctx context.Context) error {
	db, err := connectOwn(ctx, m.instance)
	if err != nil {
		return err
	}
	defer closeDB(ctx, db)
	return pgautofailover.Upgrade(ctx, db)
}

// pause waits and reports whether the context is still on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// serve keeps the server running until serving ends, then stops it the way
// that the cause of asked says. The first time that it is ready it says so on up.
func (m *Monitor) serve(serving, asked context.Context, up chan<- struct{}) error {
	var wait time.Duration
	for serving.Err() == nil {
		began := time.Now()
		err := m.serveOnce(serving, asked, up)
		if serving.Err() != nil {
			return err
		}
		if errors.Is(err, postgres.ErrForeignServer) {
			return err
		}
		m.log.ErrorContext(serving, "the monitor's server is not running, starting it again", "error", err)
		if time.Since(began) >= steadyAfter {
			wait = 0
			continue
		}
		wait = min(max(2*wait, firstPause), steadyAfter)
		pause(serving, wait)
	}
	return nil
}

// serveOnce is one life of the server.
func (m *Monitor) serveOnce(serving, asked context.Context, up chan<- struct{}) error {
	if _, err := m.instance.WriteSettings(serverSettings(m.cfg.File)); err != nil {
		// An old settings file is no reason to be without a monitor.
		m.log.WarnContext(serving, "the server's settings are not rewritten", "error", err)
	}
	p, err := m.instance.Start(serving, postgres.StartConfig{})
	if err != nil {
		return err
	}
	defer p.Release()
	if p.Adopted() {
		m.log.InfoContext(serving, "the server runs already and is adopted", "pid", p.PID())
	}
	starting, cancel := context.WithTimeout(serving, startTimeout)
	_, err = p.WaitReady(starting)
	cancel()
	if err != nil && serving.Err() == nil {
		return m.giveUp(serving, p, err)
	}
	select {
	case up <- struct{}{}:
	default:
	}
	for {
		select {
		case <-serving.Done():
			if errors.Is(context.Cause(asked), ErrDetach) {
				m.log.InfoContext(serving, "leaving the monitor's server running", "pid", p.PID())
				return nil
			}
			return m.stop(serving, asked, p)
		case <-p.Exited():
			return fmt.Errorf("%w: %s", postgres.ErrExited, p.ExitText())
		case <-m.cfg.Reload:
			m.reload(serving, p)
		}
	}
}

// giveUp ends a server that did not become ready.
func (m *Monitor) giveUp(ctx context.Context, p *postgres.Postmaster, because error) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if err := p.Stop(ctx, postgres.StopFast); err != nil {
		return errors.Join(because, err)
	}
	return because
}

// stop ends the server; a fast stop that hangs becomes an immediate one.
func (m *Monitor) stop(serving, asked context.Context, p *postgres.Postmaster) error {
	mode := postgres.StopFast
	if by, ok := context.Cause(asked).(stopSignal); ok && by.Signal() == syscall.SIGQUIT {
		mode = postgres.StopImmediate
	}
	m.log.InfoContext(serving, "stopping the monitor's server", "mode", mode.String())
	for {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(serving), stopTimeout)
		err := p.Stop(ctx, mode)
		cancel()
		if err == nil || mode == postgres.StopImmediate {
			return err
		}
		m.log.WarnContext(serving, "the server does not stop, ending it now", "error", err)
		mode = postgres.StopImmediate
	}
}

// reload reads the configuration file again. A bad file changes nothing.
func (m *Monitor) reload(ctx context.Context, p *postgres.Postmaster) {
	if m.cfg.Paths.ConfigFile != "" {
		f, err := LoadFile(m.cfg.Paths.ConfigFile)
		if err != nil {
			m.log.WarnContext(ctx, "the configuration file is not taken over", "error", err)
			return
		}
		f.PGData, f.Port = m.cfg.File.PGData, m.cfg.File.Port // these need a restart
		m.cfg.File = f
	}
	if _, err := m.instance.WriteSettings(serverSettings(m.cfg.File)); err != nil {
		m.log.WarnContext(ctx, "the server's settings are not rewritten", "error", err)
		return
	}
	if err := p.Reload(); err != nil {
		m.log.WarnContext(ctx, "the server is not reloaded", "error", err)
		return
	}
	m.log.InfoContext(ctx, "configuration read again")
}

// ConnInfo is how a process on this host reaches the monitor's database as a
// role; an empty role is the system user.
func (m *Monitor) ConnInfo(role string) (pg.ConnInfo, error) {
	info, err := m.ownConnInfo()
	if err == nil && role != "" {
		info = info.With("user", role)
	}
	return info, err
}

package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

const (
	// pollPeriod is how often files and processes are looked at that nobody announces.
	pollPeriod = 5 * time.Millisecond
	// orphanPatience is how long children of a dead postmaster may take to notice before they are killed.
	orphanPatience = 3 * time.Second
)

// Status is what the files and processes say of the server, without a connection.
type Status struct {
	Running   bool
	PID       int
	Started   time.Time
	Port      int
	SocketDir string
	Listen    string
	// State is starting, ready (a primary or a standby that accepts
	// connections), standby (in recovery and not accepting any) or stopping.
	State string
}

// Status looks at the server. A process that cannot be proved to be ours is an error, ErrForeignServer.
func (i *Instance) Status() (Status, error) {
	f, ok, err := i.readPidFile()
	if err != nil || !ok {
		return Status{}, err
	}
	fd, v, err := i.openServer(f)
	switch {
	case err != nil:
		return Status{}, err
	case v == verdictForeign:
		return Status{}, foreignError(f.pid)
	case v == verdictGone:
		return Status{}, nil
	}
	_ = unix.Close(fd)
	return f.status(), nil
}

func (f pidFile) status() Status {
	return Status{
		Running: true, PID: f.pid, Started: f.started, Port: f.port,
		SocketDir: f.socketDir, Listen: f.listen, State: f.state,
	}
}

func foreignError(pid int) error {
	return withHint(fmt.Errorf("%w: process %d", ErrForeignServer, pid),
		"stop that process or, when it is none of PostgreSQL, remove postmaster.pid")
}

// StopMode is how a server is asked to end.
type StopMode int

// The three shutdowns of the postmaster.
const (
	// StopSmart waits for the clients to leave.
	StopSmart StopMode = iota
	// StopFast ends the sessions and writes a shutdown checkpoint; it waits for
	// every WAL sender to deliver it, a silent one until wal_sender_timeout.
	StopFast
	// StopImmediate ends everything now; the next start recovers.
	StopImmediate
)

func (m StopMode) signal() syscall.Signal {
	return [...]syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT}[m]
}

// String returns the mode as pg_ctl spells it.
func (m StopMode) String() string { return [...]string{"smart", "fast", "immediate"}[m] }

// Postmaster is a running server that this process watches: its child, or one
// that it adopted. The server outlives this process.
type Postmaster struct {
	instance *Instance
	pid      int
	adopted  bool
	fd       int // pidfd
	exited   chan struct{}
	released chan struct{}
	wake     int // eventfd that ends the watch
	watch    sync.WaitGroup
	release  sync.Once

	mu   sync.Mutex
	text string
}

// StartConfig is one start.
type StartConfig struct {
	// Options are further arguments, for example "-c", "name=value".
	Options []string
}

// Start has the server running: it adopts one that runs already, else it waits
// until no process of an earlier life is left and starts one in a session of
// its own, with its output in startup.log. It does not wait until the server is ready.
func (i *Instance) Start(ctx context.Context, cfg StartConfig) (*Postmaster, error) {
	p, err := i.Adopt()
	if !errors.Is(err, ErrNotRunning) {
		return p, err
	}
	if i.RewindInterrupted() {
		return nil, withHint(fmt.Errorf("start PostgreSQL: %w: a rewind was interrupted", ErrCannotRewind),
			"the data directory needs a base backup")
	}
	if err := i.standbyAgain(); err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	if err := i.setAsideHalf(ctx); err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	if i.IsStandby() {
		// It may have replayed since its last start that its primary has larger ones.
		if err := i.raiseLimits(ctx); err != nil {
			i.log.WarnContext(ctx, "could not compare settings with those of the primary", "error", err)
		}
	}
	return i.launch(ctx, cfg)
}

// launch starts a server where none runs, of the files as they are.
func (i *Instance) launch(ctx context.Context, cfg StartConfig) (*Postmaster, error) {
	if err := i.EndOrphans(ctx); err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	if err := errors.Join(i.removeStaleFiles(), i.DropSkipped()); err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	log, err := os.OpenFile(i.path("startup.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", diskHint(err))
	}
	defer func() { _ = log.Close() }()
	fd := -1
	// Not CommandContext: the server must not end with whoever waited for its start.
	cmd := exec.Command(i.cfg.Tools.Path("postgres"), i.serverArgs(cfg)...) //nolint:noctx,gosec // see above
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, PidFD: &fd}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	if fd < 0 {
		// A kernel without pidfds: nothing else here would work either.
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, errors.New("start PostgreSQL: this kernel has no process descriptors")
	}
	i.log.InfoContext(ctx, "started PostgreSQL", "pid", cmd.Process.Pid, "pgdata", i.cfg.DataDir, "port", i.cfg.Port)
	return i.newPostmaster(cmd.Process.Pid, fd, cmd)
}

func (i *Instance) serverArgs(cfg StartConfig) []string {
	args := []string{"-D", i.cfg.DataDir, "-p", strconv.Itoa(i.cfg.Port)}
	if i.cfg.ListenAddresses != "" {
		args = append(args, "-h", i.cfg.ListenAddresses)
	}
	if i.cfg.SocketDir != "" {
		args = append(args, "-k", i.cfg.SocketDir)
	}
	if i.IsStandby() && (i.Sealed() || i.isOurStandby()) {
		for _, o := range noTarget() {
			args = append(args, "-c", o)
		}
	}
	return append(args, cfg.Options...)
}

// isOurStandby reports whether a standby's files are of our making. Others may
// be a restore to a point in time that an operator has not started yet.
func (i *Instance) isOurStandby() bool {
	text, _ := os.ReadFile(i.path(standbyFile)) // without one it is none of ours
	return strings.Contains(string(text), "recovery_target_timeline")
}

// noTarget has a standby replay all that there is, whatever point in time a
// configuration file still names: an operator restored the primary to it once.
func noTarget() []string {
	options := []string{"recovery_target_timeline=latest"}
	for _, name := range recoveryTargets() {
		if name != "recovery_target_inclusive" && name != "recovery_target_action" { // they mean nothing by themselves
			options = append(options, name+"=")
		}
	}
	return options
}

// Adopt watches a server that runs already. ErrNotRunning: there is none.
func (i *Instance) Adopt() (*Postmaster, error) {
	f, ok, err := i.readPidFile()
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, ErrNotRunning
	}
	fd, v, err := i.openServer(f)
	switch {
	case err != nil:
		return nil, err
	case v == verdictForeign:
		return nil, foreignError(f.pid)
	case v == verdictGone:
		return nil, ErrNotRunning
	}
	return i.newPostmaster(f.pid, fd, nil)
}

// removeStaleFiles removes lock files whose process number now belongs to
// something else, or to a dead server that its parent has not reaped: the
// server would refuse to start for fear of it. Where nobody has the number the
// server removes the file itself.
func (i *Instance) removeStaleFiles() error {
	f, ok, err := i.readPidFile()
	if err != nil {
		return err
	}
	if ok && i.stale(f) {
		if err := removeFile(i.path("postmaster.pid")); err != nil {
			return err
		}
	}
	for _, dir := range i.socketDirs(f) {
		socket := filepath.Join(dir, ".s.PGSQL."+strconv.Itoa(i.cfg.Port))
		text, err := os.ReadFile(socket + ".lock") //nolint:gosec // a socket directory
		if err != nil {
			continue
		}
		// The same first lines as postmaster.pid; the socket is ours only when it says so.
		lock, ok := parsePidFile(string(text))
		if !ok || !sameFile(lock.dataDir, i.cfg.DataDir) || !i.stale(lock) {
			continue
		}
		if err := errors.Join(removeFile(socket), removeFile(socket+".lock")); err != nil {
			return err
		}
	}
	return nil
}

// stale reports whether a lock file names a process that exists and is no server of this directory.
func (i *Instance) stale(f pidFile) bool {
	if f.pid <= 0 {
		return false
	}
	fd, v, err := i.openServer(f)
	if err != nil || v != verdictGone {
		if v == verdictOurs {
			_ = unix.Close(fd)
		}
		return false
	}
	return syscall.Kill(f.pid, 0) == nil
}

// socketDirs are the places where this server's sockets may lie.
func (i *Instance) socketDirs(f pidFile) []string {
	dirs := []string{f.socketDir, "/var/run/postgresql", "/tmp"}
	for dir := range strings.SplitSeq(i.cfg.SocketDir, ",") {
		dirs = append(dirs, strings.TrimSpace(dir))
	}
	dirs = slices.DeleteFunc(dirs, func(dir string) bool { return dir == "" })
	for n, dir := range dirs {
		if !filepath.IsAbs(dir) {
			dirs[n] = i.path(dir)
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// EndOrphans waits until no process of an earlier postmaster is left. They are
// asked to end, then made to: without a postmaster nothing they hold survives.
func (i *Instance) EndOrphans(ctx context.Context) error {
	patience := time.NewTimer(orphanPatience)
	defer patience.Stop()
	sig := syscall.SIGQUIT
	asked := make(map[int]syscall.Signal)
	for {
		pids, err := i.Orphans()
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if asked[pid] == sig {
				continue
			}
			if err := killVerified(pid, sig, i.isServerProcess); err != nil {
				return err
			}
			asked[pid] = sig
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for processes %v of the previous server: %w", pids, context.Cause(ctx))
		case <-patience.C:
			sig = syscall.SIGKILL
		case <-time.After(pollPeriod):
		}
	}
}

// collectorPatience is how long a log collector may take to write down the
// last words of its server.
const collectorPatience = 5 * time.Second

// awaitOrphans gives the children of a postmaster that is gone the time to end by themselves.
func (i *Instance) awaitOrphans(ctx context.Context, patience time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		pids, err := i.Orphans()
		if err != nil || len(pids) == 0 || pause(ctx, pollPeriod) != nil {
			return
		}
	}
}

func (i *Instance) newPostmaster(pid, fd int, cmd *exec.Cmd) (*Postmaster, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	p := &Postmaster{
		instance: i, pid: pid, adopted: cmd == nil, fd: fd, wake: wake,
		exited: make(chan struct{}), released: make(chan struct{}),
	}
	p.watch.Go(func() { p.wait(cmd) })
	return p, nil
}

// wait blocks until the process ends or Release is called.
func (p *Postmaster) wait(cmd *exec.Cmd) {
	fds := []unix.PollFd{pollFd(p.fd), pollFd(p.wake)}
	for {
		_, err := unix.Poll(fds, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			panic(fmt.Sprintf("poll of pidfd %d and eventfd %d: %v", p.fd, p.wake, err))
		}
		if fds[0].Revents != 0 {
			break
		}
		if fds[1].Revents != 0 {
			return
		}
	}
	text := "the process is gone"
	if cmd != nil {
		_ = cmd.Wait()
		text = cmd.ProcessState.String()
	}
	p.mu.Lock()
	p.text = text
	p.mu.Unlock()
	close(p.exited)
}

// PID returns the postmaster's process number.
func (p *Postmaster) PID() int { return p.pid }

// Adopted reports whether somebody else started the server.
func (p *Postmaster) Adopted() bool { return p.adopted }

// Exited is closed as soon as the postmaster has ended. Children may still be there: see Wait.
func (p *Postmaster) Exited() <-chan struct{} { return p.exited }

// ExitText says how the postmaster ended, "" while it runs.
func (p *Postmaster) ExitText() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text
}

// Release stops watching; the server is left alone. The value is of no use afterwards.
func (p *Postmaster) Release() {
	p.release.Do(func() {
		close(p.released)
		_, _ = unix.Write(p.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		p.watch.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		_ = unix.Close(p.wake)
		_ = unix.Close(p.fd)
		p.fd = -1
	})
}

func (p *Postmaster) send(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return fmt.Errorf("signal PostgreSQL: %w", os.ErrClosed)
	}
	if err := unix.PidfdSendSignal(p.fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal PostgreSQL: %w", err)
	}
	return nil
}

// Reload has the server read its configuration again.
func (p *Postmaster) Reload() error { return p.send(syscall.SIGHUP) }

// Signal begins a shutdown and does not wait for it. A stronger mode may follow.
func (p *Postmaster) Signal(mode StopMode) error {
	p.instance.log.Info("stopping PostgreSQL", "pid", p.pid, "mode", mode.String())
	return errors.Join(p.send(mode.signal()), p.send(syscall.SIGCONT), p.instance.wakeStopped())
}

// wakeStopped has processes that somebody stopped (SIGSTOP) see what else they
// were sent. All others do not notice.
func (i *Instance) wakeStopped() error {
	pids, err := i.serverProcesses()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := killVerified(pid, syscall.SIGCONT, i.isServerProcess); err != nil {
			return err
		}
	}
	return nil
}

// Stop shuts the server down and waits until nothing of it is left.
func (p *Postmaster) Stop(ctx context.Context, mode StopMode) error {
	if err := p.Signal(mode); err != nil {
		return err
	}
	return p.Wait(ctx)
}

// Wait returns when the postmaster and all its children are gone.
func (p *Postmaster) Wait(ctx context.Context) error {
	select {
	case <-p.exited:
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of PostgreSQL: %w", context.Cause(ctx))
	}
	return p.instance.EndOrphans(ctx)
}

// WaitReady waits until the server accepts connections and answers one; standby
// tells as what. It returns ErrExited with the server's words when it ends instead.
func (p *Postmaster) WaitReady(ctx context.Context) (standby bool, err error) {
	return p.waitReady(ctx, 0)
}

// WaitRecovered is WaitReady for a standby that may never come so far: it also
// returns when the server has made no progress for that long (ErrStalled), and
// tells a server that ended while it recovered (ErrNotRecovered as well as
// ErrExited) from one that could not begin.
func (p *Postmaster) WaitRecovered(ctx context.Context, stall time.Duration) (standby bool, err error) {
	return p.waitReady(ctx, stall)
}

func (p *Postmaster) waitReady(ctx context.Context, stall time.Duration) (standby bool, err error) {
	tick := time.NewTicker(pollPeriod)
	defer tick.Stop()
	progress := newProgress(p.instance, stall)
	last := lastWords{instance: p.instance, pid: p.pid}
	defer last.close()
	for {
		last.open()
		ready, standby, err := p.look(ctx)
		if err != nil || ready {
			return standby, err
		}
		if progress.stalled() {
			return false, fmt.Errorf("wait until PostgreSQL is ready: %w for %s", ErrStalled, stall)
		}
		select {
		case <-p.exited:
			err := p.exitError(ctx)
			if last.state() != "" && stall > 0 {
				err = fmt.Errorf("%w: %w", ErrNotRecovered, err)
			}
			return false, err
		case <-ctx.Done():
			return false, fmt.Errorf("wait until PostgreSQL is ready: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// exitError tells why a server ended, once its log collector has written that down.
func (p *Postmaster) exitError(ctx context.Context) error {
	// A postmaster that ended by itself leaves nothing but its log collector, which
	// ends by itself too. A signal may kill that before it has written anything: a
	// process that was just made does not ignore it yet.
	if strings.HasPrefix(p.ExitText(), "exit status") {
		p.instance.awaitOrphans(ctx, collectorPatience)
	}
	err := p.instance.EndOrphans(ctx)
	return errors.Join(fmt.Errorf("start PostgreSQL: %w (%s): %s", ErrExited, p.ExitText(), p.instance.StartupLog()), err)
}

// waitState waits for a status in postmaster.pid, without a connection.
func (p *Postmaster) waitState(ctx context.Context, state string, stall time.Duration) error {
	progress := newProgress(p.instance, stall)
	for {
		f, ok, err := p.instance.readPidFile()
		if err != nil {
			return err
		}
		if ok && f.pid == p.pid && f.state == state {
			return nil
		}
		if progress.stalled() {
			return fmt.Errorf("wait until PostgreSQL is %s: %w for %s", state, ErrStalled, stall)
		}
		select {
		case <-p.exited:
			return p.exitError(ctx)
		case <-ctx.Done():
			return fmt.Errorf("wait until PostgreSQL is %s, it is %q: %w", state, f.state, context.Cause(ctx))
		case <-time.After(pollPeriod):
		}
	}
}

// look looks once.
func (p *Postmaster) look(ctx context.Context) (ready, standby bool, err error) {
	f, ok, err := p.instance.readPidFile()
	if err != nil || !ok || f.pid != p.pid {
		return false, false, err
	}
	if f.state != "ready" && f.state != "standby" {
		return false, false, nil
	}
	session, err := p.instance.Connect(ctx, ConnectConfig{})
	if err == nil {
		defer session.Close(ctx)
		standby, err = session.inRecovery(ctx)
		return err == nil, standby, err
	}
	// Any answer but "starting up" or "shutting down" shows a server that serves.
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok && answer.Code != pgerrcode.CannotConnectNow {
		return true, p.instance.IsStandby(), nil
	}
	return false, false, nil
}

// StartupLog returns the last lines of startup.log and of the server's own log files
// that were written since, in one line.
func (i *Instance) StartupLog() string {
	files := []string{i.path("startup.log")}
	if start, err := os.Stat(files[0]); err == nil {
		logs, _ := filepath.Glob(i.path("log", "*")) // the pattern is not malformed
		for _, name := range logs {
			if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() && !info.ModTime().Before(start.ModTime()) {
				files = append(files, name)
			}
		}
	}
	var text strings.Builder
	for _, name := range files {
		text.WriteString(strings.ToValidUTF8(endOfFile(name), "?") + "\n")
	}
	return oneLine(text.String())
}

// endOfFile returns the last few kB of a file, "" when it cannot be read.
func endOfFile(name string) string {
	const most = 4096
	f, err := os.Open(name) //nolint:gosec // a log of our instance
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return ""
		}
	}
	text, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return ""
	}
	return string(text)
}

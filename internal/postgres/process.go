package postgres

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pidFile is the contents of postmaster.pid.
type pidFile struct {
	pid       int // negative: a single-user server
	dataDir   string
	started   time.Time
	port      int
	socketDir string
	listen    string
	shmID     string // identifier of the shared memory segment
	state     string // starting, ready, standby, stopping; empty before the server wrote it
}

// readPidFile returns ok = false when there is no usable file: absent, or
// still being written.
func (i *Instance) readPidFile() (f pidFile, ok bool, err error) {
	text, err := os.ReadFile(i.path("postmaster.pid"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return pidFile{}, false, nil
	}
	if err != nil {
		return pidFile{}, false, fmt.Errorf("read postmaster.pid: %w", err)
	}
	f, ok = parsePidFile(string(text))
	return f, ok, nil
}

func parsePidFile(text string) (pidFile, bool) {
	lines := strings.Split(text, "\n")
	get := func(n int) string {
		if n >= len(lines) {
			return ""
		}
		return strings.TrimSpace(lines[n])
	}
	pid, err := strconv.Atoi(get(0))
	if err != nil || pid == 0 {
		return pidFile{}, false
	}
	f := pidFile{pid: pid, dataDir: get(1), socketDir: get(4), listen: get(5), state: get(7)}
	if epoch, err := strconv.ParseInt(get(2), 10, 64); err == nil {
		f.started = time.Unix(epoch, 0)
	}
	if port, err := strconv.Atoi(get(3)); err == nil {
		f.port = port
	}
	if fields := strings.Fields(get(6)); len(fields) == 2 {
		f.shmID = fields[1]
	}
	return f, true
}

// lastWords keeps a server's postmaster.pid open, which can be read when the
// server has ended and removed it: one that cannot recover its data says for some
// milliseconds only that it has begun to.
type lastWords struct {
	instance *Instance
	pid      int
	file     *os.File
}

func (l *lastWords) open() {
	if l.file != nil {
		return
	}
	file, err := os.Open(l.instance.path("postmaster.pid"))
	if err != nil {
		return // not yet there, or gone already
	}
	l.file = file
	if f, ok := l.read(); !ok || f.pid != l.pid {
		l.close() // an earlier server's, or still being written
	}
}

func (l *lastWords) read() (pidFile, bool) {
	text, err := io.ReadAll(io.NewSectionReader(l.file, 0, math.MaxInt64))
	if err != nil {
		return pidFile{}, false
	}
	return parsePidFile(string(text))
}

// state is what the server said last; "" until it recovers its data.
func (l *lastWords) state() string {
	if l.file == nil {
		return ""
	}
	f, _ := l.read()
	return f.state
}

func (l *lastWords) close() {
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
}

// verdict is what a look at the process behind postmaster.pid showed.
type verdict int

const (
	verdictGone    verdict = iota // no such process, or plainly not a server of this directory
	verdictOurs                   // proved to be the server of this directory
	verdictForeign                // a server process in this directory that does not fit the file
)

// openServer opens a pidfd on the process of postmaster.pid and proves through
// it that it is the server of this data directory. The descriptor pins the
// process: facts read from /proc while it lives are facts about it.
// The caller closes fd when the verdict is ours.
func (i *Instance) openServer(f pidFile) (fd int, v verdict, err error) {
	if f.pid <= 0 {
		return -1, verdictGone, nil
	}
	fd, err = unix.PidfdOpen(f.pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return -1, verdictGone, nil
	}
	if err != nil {
		return -1, verdictGone, fmt.Errorf("open process %d: %w", f.pid, err)
	}
	v = i.inspect(f)
	if v == verdictOurs && pidfdExited(fd) {
		v = verdictGone
	}
	if v != verdictOurs {
		_ = unix.Close(fd)
		return -1, v, nil
	}
	return fd, v, nil
}

func (i *Instance) inspect(f pidFile) verdict {
	if !i.isServerProcess(f.pid) {
		return verdictGone
	}
	started, err := processStart(f.pid)
	if err != nil {
		return verdictGone
	}
	// The server notes its start within moments of its process's start. A clock
	// that was set in the meantime spoils the comparison, not the mapping of
	// the segment that the file names.
	if diff := f.started.Sub(started).Abs(); diff <= 5*time.Second || mapsSegment(f.pid, f.shmID) {
		return verdictOurs
	}
	return verdictForeign
}

// isServerProcess reports whether pid is a live server process that works in this data directory.
func (i *Instance) isServerProcess(pid int) bool {
	dir := procPath(pid)
	cwd, err := os.Stat(dir + "/cwd")
	if err != nil {
		return false
	}
	data, err := os.Stat(i.cfg.DataDir)
	if err != nil || !os.SameFile(cwd, data) {
		return false
	}
	proc, err := os.Stat(dir)
	if err != nil {
		return false
	}
	owner, okOwner := proc.Sys().(*syscall.Stat_t)
	dataOwner, okData := data.Sys().(*syscall.Stat_t)
	if !okOwner || !okData || owner.Uid != dataOwner.Uid {
		return false
	}
	exe, err := os.Readlink(dir + "/exe")
	if err != nil {
		return false
	}
	// An upgrade of the package replaces the program under a running server.
	name := filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
	if name != "postgres" && name != "postmaster" {
		return false
	}
	state, _, err := processStat(pid)
	return err == nil && state != 'Z' && state != 'X'
}

func sameFile(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

func procPath(pid int) string { return "/proc/" + strconv.Itoa(pid) }

// processStat returns a process's state letter and the fields after it.
func processStat(pid int) (state byte, fields []string, err error) {
	text, err := os.ReadFile(procPath(pid) + "/stat")
	if err != nil {
		return 0, nil, err
	}
	// The command, in parentheses, may itself hold spaces and parentheses.
	end := bytes.LastIndexByte(text, ')')
	fields = strings.Fields(string(text[end+1:]))
	if end < 0 || len(fields) < 20 {
		return 0, nil, fmt.Errorf("read %s/stat: too short", procPath(pid))
	}
	return fields[0][0], fields, nil
}

// clockTicks is USER_HZ: the unit of /proc/<pid>/stat, 100 on every Linux.
const clockTicks = 100

func processStart(pid int) (time.Time, error) {
	_, fields, err := processStat(pid)
	if err != nil {
		return time.Time{}, err
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("read start time of process %d: %w", pid, err)
	}
	var realtime, boottime unix.Timespec
	if err := errors.Join(unix.ClockGettime(unix.CLOCK_REALTIME, &realtime), unix.ClockGettime(unix.CLOCK_BOOTTIME, &boottime)); err != nil {
		return time.Time{}, err
	}
	boot := time.Unix(0, realtime.Nano()-boottime.Nano())
	return boot.Add(time.Duration(ticks) * (time.Second / clockTicks)), nil
}

func parentOf(pid int) int {
	_, fields, err := processStat(pid)
	if err != nil {
		return 0
	}
	ppid, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return ppid
}

// mapsSegment reports whether the process has the System V segment with that
// identifier in its memory.
func mapsSegment(pid int, shmID string) bool {
	if shmID == "" {
		return false
	}
	maps, err := os.ReadFile(procPath(pid) + "/maps")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(maps)) {
		// address perms offset device inode path: the inode of a segment is its identifier
		fields := strings.Fields(line)
		if len(fields) >= 6 && strings.HasPrefix(fields[5], "/SYSV") && fields[4] == shmID {
			return true
		}
	}
	return false
}

func pollFd(fd int) unix.PollFd {
	return unix.PollFd{Fd: int32(fd), Events: unix.POLLIN} //nolint:gosec // descriptors are small
}

func pidfdExited(fd int) bool {
	fds := []unix.PollFd{pollFd(fd)}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// serverProcesses lists the live server processes of this data directory.
func (i *Instance) serverProcesses() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && i.isServerProcess(pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Orphans lists server processes of this data directory that have lost their
// postmaster: they are attached to its shared memory, may still acknowledge
// commits, and keep a new server from starting. With a postmaster there are none.
func (i *Instance) Orphans() ([]int, error) {
	pids, err := i.serverProcesses()
	if err != nil || len(pids) == 0 {
		return nil, err
	}
	st, err := i.Status()
	if err != nil || st.Running {
		return nil, err
	}
	return pids, nil
}

// killVerified sends a signal to a process after it was verified through a pidfd.
func killVerified(pid int, sig syscall.Signal, verify func(pid int) bool) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if !verify(pid) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", pid, err)
	}
	return nil
}

// Signals that the server understands, under their names there.
const (
	hangup    = unix.SIGHUP
	terminate = syscall.SIGTERM
)

// childrenOf lists the processes that a process has started. The kernel's own
// list of them, /proc/<pid>/task/<pid>/children, leaves out some while others end.
func childrenOf(parent int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && parentOf(pid) == parent {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// holdsSocket reports whether a process has a socket open.
func holdsSocket(pid int) bool {
	fds, err := os.ReadDir(procPath(pid) + "/fd")
	if err != nil {
		return false
	}
	for _, fd := range fds {
		target, err := os.Readlink(procPath(pid) + "/fd/" + fd.Name())
		if err == nil && strings.HasPrefix(target, "socket:") {
			return true
		}
	}
	return false
}

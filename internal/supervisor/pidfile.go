package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// PidInfo is the contents of a pid file.
type PidInfo struct {
	PID              int
	DataDir          string
	Version          string
	ExtensionVersion string
	Semaphore        int
	Services         []ServicePID
}

// ServicePID is one service and the process it runs in.
type ServicePID struct {
	PID  int
	Name string
}

func (p PidInfo) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d\n%s\n%s\n%s\n%d\n", p.PID, p.DataDir, p.Version, p.ExtensionVersion, p.Semaphore)
	for _, s := range p.Services {
		fmt.Fprintf(&b, "%d %s\n", s.PID, s.Name)
	}
	return b.String()
}

// ParsePidInfo reads a pid file; only its first line must be there.
func ParsePidInfo(text string) (PidInfo, error) {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid <= 0 {
		return PidInfo{}, fmt.Errorf("parse pid file: first line %q is not a process number", lines[0])
	}
	p := PidInfo{PID: pid}
	for n, field := range []*string{&p.DataDir, &p.Version, &p.ExtensionVersion} {
		if n+1 < len(lines) {
			*field = lines[n+1]
		}
	}
	if len(lines) > 4 {
		// A file without a semaphore has some other word there, which is nobody's business.
		p.Semaphore, _ = strconv.Atoi(lines[4])
	}
	for n := 5; n < len(lines); n++ {
		number, name, ok := strings.Cut(lines[n], " ")
		if pid, err := strconv.Atoi(number); ok && err == nil {
			p.Services = append(p.Services, ServicePID{PID: pid, Name: name})
		}
	}
	return p, nil
}

// ErrNotRunning says that no process holds the pid file.
var ErrNotRunning = errors.New("not running")

// AlreadyRunningError is the answer to a second process for one data directory.
type AlreadyRunningError struct {
	PID  int // 0 when it has not written its pid file yet
	Path string
}

// Error implements error.
func (e *AlreadyRunningError) Error() string {
	if e.PID == 0 {
		return "an instance of pg_autoctl is already running for this data directory"
	}
	return fmt.Sprintf("an instance of pg_autoctl is already running with pid %d", e.PID)
}

// Hint says what to do.
func (e *AlreadyRunningError) Hint() string {
	return "stop it first with pg_autoctl stop; its pid file is " + e.Path
}

// PidFile is the pid file of this process, and the lock beside it that tells
// that it lives. The kernel releases the lock with the process, and no
// program that the process starts inherits it.
type PidFile struct {
	path string
	lock *os.File

	mu   sync.Mutex
	info PidInfo
}

// Whoever may look for a process may read its pid file.
const (
	dirMode  = 0o755
	fileMode = 0o644
)

// lockPath is never removed: a lock on a removed file would exclude nobody.
func lockPath(path string) string { return path + ".lock" }

// AcquirePidFile takes the lock and writes the file. *AlreadyRunningError: somebody else has it.
func AcquirePidFile(path string, info PidInfo) (*PidFile, error) {
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return nil, fmt.Errorf("create pid file: %w", err)
	}
	lock, err := os.OpenFile(lockPath(path), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create pid file: %w", err)
	}
	if err := flock(lock); err != nil {
		closeErr := lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			other, _ := readPidInfo(path)
			return nil, &AlreadyRunningError{PID: other.PID, Path: path}
		}
		return nil, fmt.Errorf("lock %s: %w", lockPath(path), errors.Join(err, closeErr))
	}
	if other, err := readPidInfo(path); err == nil && other.PID != os.Getpid() && withoutLock(other.PID) {
		return nil, errors.Join(&AlreadyRunningError{PID: other.PID, Path: path}, lock.Close())
	}
	info.PID = os.Getpid()
	p := &PidFile{path: path, lock: lock, info: info}
	if err := p.write(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return p, nil
}

// flock takes the lock. A reader holds it for a moment, an owner for good.
func flock(lock *os.File) error {
	const tries = 20
	var err error
	for range tries {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// withoutLock reports whether pid is a live pg_autoctl that takes no lock:
// upstream's. A process that runs our own program would hold it.
func withoutLock(pid int) bool {
	exe := fmt.Sprintf("/proc/%d/exe", pid)
	target, err := os.Readlink(exe)
	if err != nil {
		return false
	}
	if filepath.Base(strings.TrimSuffix(target, " (deleted)")) != "pg_autoctl" {
		return false
	}
	theirs, err := os.Stat(exe)
	if err != nil {
		return false
	}
	mine, err := os.Stat("/proc/self/exe")
	return err == nil && !os.SameFile(theirs, mine)
}

// SetServices lists the services in the file; they run in this process.
func (p *PidFile) SetServices(names ...string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.info.Services = nil
	for _, name := range names {
		p.info.Services = append(p.info.Services, ServicePID{PID: p.info.PID, Name: name})
	}
	return p.write()
}

func (p *PidFile) write() error {
	temporary := p.path + ".new"
	if err := os.WriteFile(temporary, []byte(p.info.text()), fileMode); err != nil {
		return fmt.Errorf("write pid file: %w", errors.Join(err, os.Remove(temporary)))
	}
	if err := os.Rename(temporary, p.path); err != nil {
		return fmt.Errorf("write pid file: %w", err)
	}
	return nil
}

// Check returns an error when the file is gone or names another process: an
// operator who removes it asks the process to end.
func (p *PidFile) Check() error {
	info, err := readPidInfo(p.path)
	if err != nil {
		return fmt.Errorf("check pid file: %w", err)
	}
	if info.PID != os.Getpid() {
		return fmt.Errorf("check pid file: it names process %d", info.PID)
	}
	return nil
}

// Release removes the file and gives up the lock.
func (p *PidFile) Release() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	if info, readErr := readPidInfo(p.path); readErr == nil && info.PID == p.info.PID {
		err = os.Remove(p.path)
	}
	if err := errors.Join(err, p.lock.Close()); err != nil {
		return fmt.Errorf("release pid file: %w", err)
	}
	return nil
}

func readPidInfo(path string) (PidInfo, error) {
	text, err := os.ReadFile(path) //nolint:gosec // the pid file
	if err != nil {
		return PidInfo{}, err
	}
	return ParsePidInfo(string(text))
}

// ReadPidFile returns who runs. A file that a dead process left is removed. ErrNotRunning: nobody.
func ReadPidFile(path string) (PidInfo, error) {
	info, err := readPidInfo(path)
	if errors.Is(err, fs.ErrNotExist) {
		return PidInfo{}, ErrNotRunning
	}
	if err != nil {
		return PidInfo{}, fmt.Errorf("read pid file: %w", err)
	}
	free, release, err := tryLock(path)
	if err != nil {
		return PidInfo{}, err
	}
	if !free || withoutLock(info.PID) {
		return info, nil
	}
	defer release()
	// Nobody can become the owner while we hold the lock, and the file is as it was.
	if again, err := readPidInfo(path); err == nil && again.PID == info.PID {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return PidInfo{}, fmt.Errorf("remove pid file of a dead process: %w", err)
		}
	}
	return PidInfo{}, ErrNotRunning
}

// tryLock takes the lock when nobody has it.
func tryLock(path string) (free bool, release func(), err error) {
	lock, err := os.Open(lockPath(path))
	if errors.Is(err, fs.ErrNotExist) {
		return true, func() {}, nil
	}
	if err != nil {
		return false, nil, fmt.Errorf("read pid file: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil, lock.Close()
		}
		return false, nil, fmt.Errorf("read pid file: %w", errors.Join(err, lock.Close()))
	}
	return true, func() { _ = lock.Close() }, nil
}

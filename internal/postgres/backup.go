package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// BackupConfig is one base backup.
type BackupConfig struct {
	// Source is where to copy from: CopyFrom's string, never a standby's.
	Source pg.ConnInfo
	// Slot keeps the WAL that the copy needs; empty means a temporary slot.
	Slot string
	// MaxRate is pg_basebackup's limit, for example 100M; empty means none.
	MaxRate string
	// BackupDir receives the copy, and must be on the file system of the data
	// directory. It has to be empty, or to hold an earlier copy that was not completed.
	BackupDir string
	// Ours says that nobody else uses BackupDir: whatever is in it may be removed.
	Ours bool
	// Standby is the upstream of the standby that the copy becomes; zero for none.
	Standby Upstream
	// Progress is told how far the copy is; nil for nobody.
	Progress func(Progress)
}

// Progress is how much of a copy is done, in kB.
type Progress struct{ Done, Total int64 }

// BaseBackup replaces the data directory by a copy of another server that starts
// as a standby. The old contents stay until the copy is complete; the swap is one
// step. Only those of tablespaces are in the way of the copy, which goes to the
// same places: they are removed once the source has proved to be one to copy from,
// and from then until the copy is complete the directory is marked as one that
// must not be started. A WAL directory elsewhere stays the WAL's. After a kill at any
// point the same call begins again.
func (i *Instance) BaseBackup(ctx context.Context, cfg BackupConfig) error {
	if strings.HasPrefix(cfg.Source.Get("application_name"), pg.StandbyPrefix) {
		return errors.New("base backup: refusing to copy under a standby's application name, it would acknowledge commits")
	}
	if err := i.requireStopped(); err != nil {
		return fmt.Errorf("base backup: %w", err)
	}
	dir, err := i.apart(cfg.BackupDir)
	if err != nil {
		return fmt.Errorf("base backup: %w", err)
	}
	cfg.BackupDir = dir
	if err := i.prepareBackupDir(ctx, dir, cfg.Ours); err != nil {
		return fmt.Errorf("base backup: %w", err)
	}
	if err := i.checkSource(ctx, cfg.Source); err != nil {
		return fmt.Errorf("base backup: %w", err)
	}
	if err := i.emptyTablespaces(); err != nil {
		return fmt.Errorf("base backup: %w", err)
	}
	if err := writeFile(dir+copyMark, nil, 0o600); err != nil {
		return fmt.Errorf("base backup: %w", err)
	}
	if err := i.copyServer(ctx, cfg); err != nil {
		// Half a copy is of no use, and its space may be what is missing.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), killDelay)
		defer cancel()
		return errors.Join(err, i.killCopies(clean, dir), removeCopy(dir))
	}
	if err := i.dressCopy(ctx, cfg); err != nil {
		return fmt.Errorf("base backup: %w", err)
	}
	wal := i.walPlace(ctx)
	if err := i.swapIn(dir); err != nil {
		return fmt.Errorf("base backup: %w", err)
	}
	i.moveWAL(ctx, wal, dir)
	return removeCopy(dir)
}

// copyMark is beside a backup directory while a copy, or the data directory
// that it has replaced, is in it.
const copyMark = ".copy"

// removeCopy empties a backup directory whose contents are marked as ours.
func removeCopy(dir string) error {
	if err := removeContents(dir); err != nil {
		return fmt.Errorf("empty backup directory: %w", err)
	}
	return removeFile(dir + copyMark)
}

// apart returns a backup directory's true path, and refuses one that cannot
// change places with the data directory: emptying it would remove that as well.
func (i *Instance) apart(dir string) (string, error) {
	dir, err := truePath(dir)
	if err != nil {
		return "", fmt.Errorf("find backup directory: %w", err)
	}
	data, err := truePath(i.cfg.DataDir)
	if err != nil {
		return "", fmt.Errorf("find data directory: %w", err)
	}
	if liesIn(dir, data) || liesIn(data, dir) {
		return "", withHint(fmt.Errorf("use backup directory %s: it is the data directory %s, holds it, or lies in it", dir, data),
			"set replication.backup_directory to a directory next to the data directory")
	}
	return dir, nil
}

// truePath is a path without links, as far as it exists.
func truePath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	target, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return target, err
	}
	parent, err := truePath(filepath.Dir(path))
	return filepath.Join(parent, filepath.Base(path)), err
}

// liesIn reports whether a path is a directory, or lies in it.
func liesIn(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// checkSource refuses to replace the data of one database system by another's.
func (i *Instance) checkSource(ctx context.Context, source pg.ConnInfo) error {
	info, err := Identify(ctx, source)
	if err != nil || !i.Exists() {
		return err
	}
	control, err := i.ControlData(ctx)
	if err != nil {
		// A damaged directory is what a base backup is for.
		i.log.WarnContext(ctx, "replacing a data directory whose control file cannot be read", "error", err)
		return nil
	}
	if control.SystemID != info.SystemID {
		return withHint(fmt.Errorf("%w: %s has %s, we have %s", ErrForeignSystem, source, info.SystemID, control.SystemID),
			"move "+i.cfg.DataDir+" away if its contents are not needed")
	}
	return nil
}

// prepareBackupDir has an empty directory on the file system of the data directory.
func (i *Instance) prepareBackupDir(ctx context.Context, dir string, ours bool) error {
	if err := i.killCopies(ctx, dir); err != nil {
		return err
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 && !ours {
		if _, err := os.Lstat(dir + copyMark); err != nil {
			return withHint(fmt.Errorf("use backup directory %s: it holds files that are no copy's, %s for one", dir, entries[0].Name()),
				"set replication.backup_directory to a directory that is used for nothing else, or empty this one")
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create backup directory: %w", diskHint(err))
	}
	if err := os.MkdirAll(filepath.Dir(filepath.Clean(i.cfg.DataDir)), parentMode); err != nil {
		return fmt.Errorf("create data directory: %w", err)
	}
	same, err := sameFileSystem(dir, i.cfg.DataDir)
	if err != nil {
		return err
	}
	if !same {
		return withHint(fmt.Errorf("use backup directory %s: it is not on the file system of %s", dir, i.cfg.DataDir),
			"set replication.backup_directory to a directory next to the data directory; a data directory cannot be a mount point itself")
	}
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a directory
		return fmt.Errorf("create backup directory: %w", err)
	}
	return removeCopy(dir)
}

// sameFileSystem compares what a rename would have to do with.
func sameFileSystem(dir, dataDir string) (bool, error) {
	if target, err := filepath.EvalSymlinks(dataDir); err == nil {
		dataDir = target
	}
	devices := make([]uint64, 0, 3)
	for _, path := range []string{dir, filepath.Dir(filepath.Clean(dataDir)), dataDir} {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) && path == dataDir {
			continue
		}
		if err != nil {
			return false, err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			devices = append(devices, st.Dev)
		}
	}
	for _, d := range devices {
		if d != devices[0] {
			return false, nil
		}
	}
	return true, nil
}

// emptyTablespaces makes room at the places outside the data directory that
// the copy will use as well; the links in pg_tblspc stay. What is left is no
// server any more, although it looks like one: it could be asked for its vote, and elected.
func (i *Instance) emptyTablespaces() error {
	links, err := os.ReadDir(i.path("pg_tblspc"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list tablespaces: %w", err)
	}
	for _, link := range links {
		if link.Type()&fs.ModeSymlink == 0 {
			continue
		}
		if err := i.RequireCopy(); err != nil {
			return err
		}
		if err := removeContents(i.path("pg_tblspc", link.Name())); err != nil {
			return fmt.Errorf("empty tablespace %s: %w", link.Name(), err)
		}
	}
	return nil
}

func (i *Instance) copyServer(ctx context.Context, cfg BackupConfig) error {
	args := []string{
		"--no-password", "--dbname", toolSource(cfg.Source), "--pgdata", cfg.BackupDir, "--username", pg.ReplicationRole,
		"--verbose", "--progress", "--wal-method=stream", "--checkpoint=fast", "--no-sync",
	}
	if cfg.MaxRate != "" {
		args = append(args, "--max-rate", cfg.MaxRate)
	}
	if cfg.Slot != "" {
		args = append(args, "--slot", cfg.Slot)
	}
	err := i.run(ctx, runConfig{program: "pg_basebackup", args: args, env: passwordEnv(cfg.Source), line: func(line string) {
		if p, ok := parseProgress(line); ok && cfg.Progress != nil {
			cfg.Progress(p)
		}
	}})
	if err != nil {
		return err
	}
	if err := syncTree(ctx, cfg.BackupDir); err != nil {
		return fmt.Errorf("base backup: %w", err)
	}
	if !cfg.Standby.ConnInfo.IsZero() {
		i.stir(ctx, cfg.Source)
	}
	return nil
}

// stir has the source write something that the copy has not, or else a standby
// of an idle source does not know for seconds that it streams.
func (i *Instance) stir(ctx context.Context, source pg.ConnInfo) {
	if err := Stir(ctx, source); err != nil {
		i.log.DebugContext(ctx, "could not have the source write anything", "error", err)
	}
}

func passwordEnv(source pg.ConnInfo) []string {
	env := []string{"PGCONNECT_TIMEOUT=2", "PGAPPNAME=" + source.Get("application_name")}
	if password := source.Get("password"); password != "" {
		env = append(env, "PGPASSWORD="+password)
	}
	return env
}

// progressLine is "12345/67890 kB (18%), 0/1 tablespace".
func progressLine() *regexp.Regexp { return regexp.MustCompile(`^(\d+)/(\d+) kB \(\d+%\)`) }

func parseProgress(line string) (Progress, bool) {
	if !strings.Contains(line, " kB (") {
		return Progress{}, false
	}
	words := progressLine().FindStringSubmatch(line)
	if words == nil {
		return Progress{}, false
	}
	done, errDone := strconv.ParseInt(words[1], 10, 64)
	total, errTotal := strconv.ParseInt(words[2], 10, 64)
	return Progress{Done: done, Total: total}, errDone == nil && errTotal == nil
}

// dressCopy makes the copy a standby of ours while nobody can start it yet:
// the source's own files would make it a primary, or a standby under a
// stranger's name.
func (i *Instance) dressCopy(ctx context.Context, cfg BackupConfig) error {
	own, err := i.readOwnFiles()
	if err != nil {
		return err
	}
	c := i.config(cfg.BackupDir)
	if err := own.restore(c); err != nil {
		return err
	}
	if err := c.forgetSource(cfg.Standby); err != nil {
		return err
	}
	if len(own) > 0 {
		if err := c.raiseLimits(ctx); err != nil {
			return err
		}
	}
	return syncDir(cfg.BackupDir)
}

// config returns the same instance in another directory.
func (i *Instance) config(dir string) *Instance {
	cfg := i.cfg
	cfg.DataDir = dir
	return New(cfg)
}

// forgetSource removes what the source's configuration says of the source, and makes a standby of it.
func (i *Instance) forgetSource(up Upstream) error {
	err := i.setAutoConf(removals(append(upstreamSettings(), syncNamesSetting))...)
	if err = errors.Join(err, i.forgetSeal()); err != nil {
		return err
	}
	if _, err := os.Stat(i.path(hbaFile)); err == nil {
		if _, err := updateFile(i.path(hbaFile), 0o600, pg.OpenGate); err != nil {
			return err
		}
	}
	return i.writeStandbyFiles(up)
}

// swapIn puts the copy in the place of the data directory in one step.
func (i *Instance) swapIn(dir string) error {
	if err := i.requireStopped(); err != nil {
		return err
	}
	data := filepath.Clean(i.cfg.DataDir)
	if _, err := os.Lstat(data); errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(dir, data); err != nil {
			return fmt.Errorf("put the copy in place: %w", err)
		}
	} else if err := exchange(dir, data); err != nil {
		return fmt.Errorf("put the copy in place: %w", err)
	}
	if err := errors.Join(syncDir(filepath.Dir(data)), syncDir(filepath.Dir(dir))); err != nil {
		return fmt.Errorf("put the copy in place: %w", err)
	}
	return removeFile(data + rewindMark)
}

// exchange swaps two directories. File systems that cannot do it in one step
// see the old one moved aside first: a kill in between leaves no data
// directory, and the next call copies again.
func exchange(dir, data string) error {
	if target, err := filepath.EvalSymlinks(data); err == nil {
		data = target
	}
	err := unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, data, unix.RENAME_EXCHANGE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	aside := dir + ".old"
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	if err := os.Rename(data, aside); err != nil {
		return err
	}
	if err := os.Rename(dir, data); err != nil {
		return errors.Join(err, os.Rename(aside, data))
	}
	return os.RemoveAll(aside)
}

// killCopies ends what an earlier, killed caller left running: pg_basebackup's
// streaming child does not notice that its parent is gone, and keeps the slot.
func (i *Instance) killCopies(ctx context.Context, dir string) error {
	copies := func(pid int) bool { return isCopyInto(pid, dir) }
	for {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return fmt.Errorf("list processes: %w", err)
		}
		found := false
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil || !copies(pid) {
				continue
			}
			found = true
			if err := killVerified(pid, syscall.SIGKILL, copies); err != nil {
				return err
			}
		}
		if !found {
			return nil
		}
		if err := pause(ctx, pollPeriod); err != nil {
			return fmt.Errorf("wait for the end of an earlier copy into %s: %w", dir, err)
		}
	}
}

func isCopyInto(pid int, dir string) bool {
	cmdline, err := os.ReadFile(procPath(pid) + "/cmdline")
	if err != nil {
		return false
	}
	args := bytes.Split(bytes.TrimSuffix(cmdline, []byte{0}), []byte{0})
	if filepath.Base(string(args[0])) != "pg_basebackup" {
		return false
	}
	for n, arg := range args {
		if string(arg) == "--pgdata" && n+1 < len(args) && string(args[n+1]) == dir {
			state, _, err := processStat(pid)
			return err == nil && state != 'Z' && state != 'X'
		}
	}
	return false
}

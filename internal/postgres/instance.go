package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Config describes one instance. Tools, DataDir and Port are required.
type Config struct {
	Tools   Tools
	DataDir string
	Port    int
	// ListenAddresses is given to the server when set.
	ListenAddresses string
	// Host is where local connections go; empty means the server's socket directory.
	Host string
	// SocketDir is given to the server when set; else it uses its default.
	SocketDir string
	// User and DBName are for local connections; empty means the system user and "postgres".
	User   string
	DBName string
	Logger *slog.Logger
}

// Instance is a data directory and the server that may run on it. It holds no
// connection and no process, and is safe for concurrent use.
type Instance struct {
	cfg Config
	log *slog.Logger
}

// New returns the instance; it touches nothing.
func New(cfg Config) *Instance {
	if cfg.DBName == "" {
		cfg.DBName = "postgres"
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Instance{cfg: cfg, log: log}
}

// Config returns what the instance was made from.
func (i *Instance) Config() Config { return i.cfg }

// DataDir returns the data directory.
func (i *Instance) DataDir() string { return i.cfg.DataDir }

// Port returns the port that the server is started on.
func (i *Instance) Port() int { return i.cfg.Port }

// Tools returns the installation that serves this data directory.
func (i *Instance) Tools() Tools { return i.cfg.Tools }

func (i *Instance) path(elem ...string) string {
	return filepath.Join(append([]string{i.cfg.DataDir}, elem...)...)
}

// Exists reports whether there is a data directory with a database system in it.
func (i *Instance) Exists() bool {
	_, err := os.Stat(i.path("global", "pg_control"))
	return err == nil
}

// SystemUser returns the name of the system user that runs this process, who
// is the server's bootstrap superuser when we create the instance.
func SystemUser() (string, error) {
	u, err := user.Current()
	if err != nil {
		return "", fmt.Errorf("find the system user: %w", err)
	}
	return u.Username, nil
}

func (i *Instance) localUser() (string, error) {
	if i.cfg.User != "" {
		return i.cfg.User, nil
	}
	return SystemUser()
}

// InitDBConfig are the choices of a new data directory.
type InitDBConfig struct {
	Checksums bool
	// Args are given to initdb as they are.
	Args []string
}

// parentMode is for directories above a data directory, which others may share.
const parentMode = 0o755

// initMark is there while initdb works in the directory.
const initMark = ".initdb"

func (i *Instance) initMark() string { return filepath.Clean(i.cfg.DataDir) + initMark }

// madeByInitDB is what initdb makes, or leaves when it is killed. A server that
// was started once, or restored from a backup, has more: postmaster.opts, a backup_label.
func madeByInitDB() []string {
	return []string{
		"PG_VERSION", "base", "global", "pg_commit_ts", "pg_dynshmem", "pg_hba.conf", "pg_ident.conf", "pg_logical",
		"pg_multixact", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat", "pg_stat_tmp", "pg_subtrans",
		"pg_tblspc", "pg_twophase", "pg_wal", "pg_xact", "postgresql.auto.conf", "postgresql.conf", "postmaster.pid",
	}
}

// InitInterrupted reports whether the directory is the remains of an initdb
// that was interrupted. The mark alone does not say so: an operator may have
// given up and brought his own data since.
func (i *Instance) InitInterrupted() bool {
	if _, err := os.Lstat(i.initMark()); err != nil {
		return false
	}
	other, err := i.notOfInitDB()
	return other == "" && err == nil
}

// notOfInitDB is the name of something in the directory that initdb has not made; empty for nothing.
func (i *Instance) notOfInitDB() (string, error) {
	entries, err := os.ReadDir(i.cfg.DataDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	for _, e := range entries {
		if !slices.Contains(madeByInitDB(), e.Name()) {
			return e.Name(), nil
		}
	}
	return "", nil
}

// ForgetInit removes the mark of an initdb that was interrupted, beside a
// directory that holds something else by now.
func (i *Instance) ForgetInit() error {
	if _, err := os.Lstat(i.initMark()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return removeFile(i.initMark())
}

// InitDB creates the data directory when there is none. What an interrupted
// earlier call left behind is removed first; anything else in the directory is refused.
func (i *Instance) InitDB(ctx context.Context, cfg InitDBConfig) error {
	mark := i.initMark()
	if _, err := os.Lstat(mark); err == nil {
		other, err := i.notOfInitDB()
		if err != nil {
			return fmt.Errorf("create data directory: %w", err)
		}
		if other != "" {
			return withHint(fmt.Errorf("create data directory %s: an earlier initdb was interrupted there, but it holds %s, which is not initdb's", i.cfg.DataDir, other),
				"remove the file "+mark+" if the directory holds your data; empty the directory if it does not")
		}
		// A killed initdb may have left its server program at work.
		if err := i.EndOrphans(ctx); err != nil {
			return fmt.Errorf("create data directory: %w", err)
		}
		if err := removeContents(i.cfg.DataDir); err != nil {
			return fmt.Errorf("remove what an interrupted initdb left: %w", err)
		}
	} else if i.Exists() {
		return nil
	}
	if entries, err := os.ReadDir(i.cfg.DataDir); err == nil && len(entries) > 0 {
		return withHint(fmt.Errorf("create data directory %s: it is not empty and holds no database system", i.cfg.DataDir),
			"choose another --pgdata or empty the directory")
	}
	if err := os.MkdirAll(filepath.Dir(filepath.Clean(i.cfg.DataDir)), parentMode); err != nil {
		return fmt.Errorf("create data directory: %w", err)
	}
	// A parent that is not ours to write (the directory is a mount point, say) only costs the cleanup above.
	if err := writeFile(mark, nil, 0o600); err != nil && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("create data directory: %w", err)
	}
	// What it would bring to disk file by file follows below, all at once.
	args := []string{"--pgdata", i.cfg.DataDir, "--auth=trust", "--no-sync"}
	if i.cfg.User == "" {
		// The bootstrap superuser is the system user; a configured user is created later.
		if name, err := SystemUser(); err == nil {
			args = append(args, "--username", name)
		}
	}
	if cfg.Checksums {
		args = append(args, "--data-checksums")
	}
	if err := i.run(ctx, runConfig{program: "initdb", args: append(args, cfg.Args...)}); err != nil {
		return err
	}
	if err := syncTree(ctx, i.cfg.DataDir); err != nil {
		return fmt.Errorf("create data directory: %w", err)
	}
	if err := removeFile(mark); err != nil {
		return fmt.Errorf("create data directory: %w", err)
	}
	return nil
}

// Remove deletes everything in the data directory, and what is this server's
// where the links in it lead to: its WAL, and its part of each tablespace. The
// directory itself goes as well when its parent allows; a link of an operator's in its
// place stays. The marks beside it go: they would be taken for the next server's.
func (i *Instance) Remove() error {
	if err := i.requireStopped(); err != nil {
		return fmt.Errorf("remove data directory: %w", err)
	}
	if err := i.removeElsewhere(); err != nil {
		return fmt.Errorf("remove data directory: %w", err)
	}
	link := false
	if info, err := os.Lstat(filepath.Clean(i.cfg.DataDir)); err == nil {
		link = info.Mode().Type() == fs.ModeSymlink
	}
	if link || os.RemoveAll(i.cfg.DataDir) != nil {
		if err := removeContents(i.cfg.DataDir); err != nil {
			return fmt.Errorf("remove data directory: %w", err)
		}
	}
	if i.RewindInterrupted() {
		if err := removeFile(i.rewindMark()); err != nil {
			return err
		}
	}
	return i.ForgetInit()
}

// removeElsewhere deletes what is this server's outside of its data directory.
func (i *Instance) removeElsewhere() error {
	if info, err := os.Lstat(i.path("pg_wal")); err == nil && info.Mode().Type() == fs.ModeSymlink {
		if err := removeWAL(i.path("pg_wal")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove WAL: %w", err)
		}
	}
	major, err := os.ReadFile(i.path("PG_VERSION"))
	if err != nil {
		return nil //nolint:nilerr // half a directory has no tablespaces
	}
	// Servers of other versions may have theirs at the same places.
	parts, err := filepath.Glob(i.path("pg_tblspc", "*", "PG_"+strings.TrimSpace(string(major))+"_*"))
	for _, part := range parts {
		err = errors.Join(err, os.RemoveAll(part)) //nolint:gosec // in our own data directory
	}
	if err != nil {
		return fmt.Errorf("remove tablespaces: %w", err)
	}
	return nil
}

func (i *Instance) requireStopped() error {
	st, err := i.Status()
	if err != nil {
		return err
	}
	if st.Running {
		return ErrRunning
	}
	orphans, err := i.Orphans()
	if err != nil {
		return err
	}
	if len(orphans) > 0 {
		return fmt.Errorf("%w: processes %v are still there", ErrRunning, orphans)
	}
	return nil
}

// ControlData reads the control file through pg_controldata.
func (i *Instance) ControlData(ctx context.Context) (pg.ControlData, error) {
	// A read in the middle of the server's write shows a wrong checksum; the next one does not.
	var last error
	for range 3 {
		cmd := exec.CommandContext(ctx, i.cfg.Tools.Path("pg_controldata"), "-D", i.cfg.DataDir) //nolint:gosec // the configured program
		cmd.Env = append(cmd.Environ(), "LC_ALL=C", "LANG=C")
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			return pg.ControlData{}, fmt.Errorf("run pg_controldata: %w: %s", err, oneLine(stderr.String()))
		}
		if strings.Contains(stdout.String(), "WARNING: Calculated CRC") {
			last = errors.New("run pg_controldata: the control file's checksum is wrong")
			continue
		}
		return pg.ParseControlData(stdout.String())
	}
	return pg.ControlData{}, last
}

// ShutdownLocation returns the location of the shutdown checkpoint of a server
// that was stopped in an orderly way as a primary. The answer is there before the
// postmaster ends: WAL senders may still be sending the record.
func (i *Instance) ShutdownLocation(ctx context.Context) (at pg.LSN, clean bool, err error) {
	control, err := i.ControlData(ctx)
	if err != nil || !control.CleanShutdown() {
		return 0, false, err
	}
	return control.Checkpoint, true, nil
}

// HistoryOf reads the history of one timeline from pg_wal.
func (i *Instance) HistoryOf(tli pg.Timeline) (pg.History, error) {
	if tli == 1 {
		return pg.ParseHistory(1, "")
	}
	text, err := os.ReadFile(i.path("pg_wal", tli.HistoryFile()))
	if err != nil {
		return nil, fmt.Errorf("read history of timeline %d: %w", tli, err)
	}
	return pg.ParseHistory(tli, string(text))
}

// History returns the line of timelines that the data directory is on, as its control file knows it.
func (i *Instance) History(ctx context.Context) (pg.History, error) {
	control, err := i.ControlData(ctx)
	if err != nil {
		return nil, err
	}
	return i.HistoryOf(max(control.TLI, control.MinRecoveryTLI))
}

// runConfig is one run of a program of the installation.
type runConfig struct {
	program string
	args    []string
	env     []string
	line    func(string) // sees each line of output; nil for none
}

// oneLine folds a program's output into one line, its end when it is long.
func oneLine(s string) string {
	lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(s), "\n"), func(l string) bool { return strings.TrimSpace(l) == "" })
	if len(lines) > 5 {
		lines = lines[len(lines)-5:]
	}
	return strings.Join(lines, "; ")
}

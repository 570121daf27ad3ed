package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// dump is the structure of the provider's database in a file.
type dump struct {
	dir   string
	file  string
	list  string // of what is in it for us, in a file
	tools string
	local pg.ConnInfo
	build string // an option of the session that builds indexes
}

// dumpStructure dumps what the provider has at the snapshot, without what
// belongs to replication itself.
func (c *copier) dumpStructure(ctx context.Context) (*dump, error) {
	w := c.w
	s, err := readSettings(ctx, w.db, w.log)
	if err != nil {
		return nil, err
	}
	dir, err := w.structureDir(ctx, s.values["spock.temp_directory"])
	if err != nil {
		return nil, err
	}
	d := &dump{dir: dir, file: filepath.Join(dir, "structure"), list: filepath.Join(dir, "list"), tools: w.engine.cfg.BinDir, local: w.engine.cfg.ConnInfo}
	provider, err := pg.ParseConnInfo(w.engine.peerDSN(w.sub.dsn))
	if err != nil {
		d.remove()
		return nil, fmt.Errorf("parse connection string of provider: %w", err)
	}
	// Indexes are built with as much memory as the server has for its cache, within
	// bounds, and do not wait a second for a vacuum to give way. That they are on disk
	// is seen to by the commit that notes the end of the copy.
	if err := w.db.QueryRow(ctx, `SELECT ' -c synchronous_commit=off -c deadlock_timeout=100ms -c maintenance_work_mem=' || greatest(pg_size_bytes(current_setting('maintenance_work_mem')),
		least(pg_size_bytes(current_setting('shared_buffers')), pg_size_bytes('256MB'))) / 1024`).Scan(&d.build); err != nil {
		d.remove()
		return nil, fmt.Errorf("read memory of server: %w", err)
	}
	args := []string{"-Fc", "-s", "--snapshot=" + c.snapshot, "--no-publications", "--no-subscriptions", "-f", d.file}
	for _, schema := range w.leftOut() {
		args = append(args, "--exclude-schema="+pg.QuoteIdent(schema))
	}
	if _, err := d.run(ctx, "pg_dump", provider, args...); err != nil {
		d.remove()
		return nil, err
	}
	if err := d.choose(ctx); err != nil {
		d.remove()
		return nil, err
	}
	return d, nil
}

// structureDir makes a directory for the structure, in that one or where temporary
// files are, and takes away what an engine has left there that was killed: nobody
// else copies for this subscription of this database.
func (w *Worker) structureDir(ctx context.Context, parent string) (string, error) {
	var server string
	if err := w.db.QueryRow(ctx, "SELECT system_identifier::text FROM pg_control_system()").Scan(&server); err != nil {
		return "", fmt.Errorf("read system identifier: %w", err)
	}
	if parent == "" {
		parent = os.TempDir()
	}
	name := fmt.Sprintf("pgdrover-structure-%s-%d-%d-", server, w.engine.database, w.sub.id)
	if old, err := filepath.Glob(filepath.Join(parent, name+"*")); err == nil {
		for _, dir := range old {
			_ = os.RemoveAll(dir) // what stays does no harm
		}
	}
	dir, err := os.MkdirTemp(parent, name)
	if err != nil {
		return "", fmt.Errorf("make directory for structure: %w", err)
	}
	return dir, nil
}

// leftOut are the schemas whose structure does not travel.
func (w *Worker) leftOut() []string {
	return append([]string{"spock", "pgdrover", "pgedge_ace", "snowflake"}, w.sub.schemas...)
}

// choose leaves out of the archive's list what every node makes itself.
func (d *dump) choose(ctx context.Context) error {
	out, err := d.run(ctx, "pg_restore", pg.ConnInfo{}, "-l", d.file)
	if err != nil {
		return err
	}
	var kept bytes.Buffer
	for line := range strings.Lines(string(out)) {
		ours := strings.Contains(line, " pgdrover_") && (strings.Contains(line, " TRIGGER ") || strings.Contains(line, " PUBLICATION"))
		ours = ours || strings.Contains(line, " EXTENSION - spock ") || strings.Contains(line, " EXTENSION spock ")
		if !ours {
			kept.WriteString(line)
		}
	}
	if err := os.WriteFile(d.list, kept.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write list of structure: %w", err)
	}
	return nil
}

// restoreTables restores what comes before the data, all or nothing.
func (d *dump) restoreTables(ctx context.Context) error {
	_, err := d.run(ctx, "pg_restore", d.local, "--section=pre-data", "--exit-on-error", "-1", "-L", d.list, d.file)
	return err
}

func (d *dump) remove() { _ = os.RemoveAll(d.dir) }

// run runs one of the server's programs against a database; its password goes
// through the environment.
func (d *dump) run(ctx context.Context, program string, conn pg.ConnInfo, args ...string) ([]byte, error) {
	return d.runWith(ctx, program, "", conn, args...)
}

func (d *dump) runWith(ctx context.Context, program, options string, conn pg.ConnInfo, args ...string) ([]byte, error) {
	path := program
	if d.tools != "" {
		path = filepath.Join(d.tools, program)
	}
	if !conn.IsZero() {
		args = append([]string{"-d", conn.With("password", "").DSN()}, args...)
	}
	cmd := exec.CommandContext(ctx, path, args...) //nolint:gosec // the program of the configured directory
	// It may have children, and it cancels what its sessions do.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = closeTime
	cmd.Env = append(cmd.Environ(), "LC_ALL=C", "PGCLIENTENCODING=UTF8", "PGOPTIONS=-c session_replication_role=replica -c row_security=off -c default_transaction_read_only=off -c lc_messages=C"+options)
	if password := conn.Get("password"); password != "" {
		cmd.Env = append(cmd.Env, "PGPASSWORD="+password)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, fmt.Errorf("run %s: %w", program, errors.Join(err, errors.New(strings.TrimSpace(stderr.String())))) //nolint:err113 // its words
	}
	return stdout.Bytes(), nil
}

package postgres

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Tools is the bin directory of one PostgreSQL installation.
type Tools struct{ Dir string }

// Path returns the path of one program.
func (t Tools) Path(program string) string { return filepath.Join(t.Dir, program) }

// PgCtl returns the path that stands for the installation in configuration files.
func (t Tools) PgCtl() string { return t.Path("pg_ctl") }

// FindConfig is what an operator said about the installation to use.
type FindConfig struct {
	PgCtl    string // path given on the command line or in the configuration
	PgConfig string // value of $PG_CONFIG
	Path     string // value of $PATH
}

// FindTools chooses the installation: the given pg_ctl, else the bin directory
// of $PG_CONFIG, else the only pg_ctl in the path, else the bin directory of the only
// pg_config there.
func FindTools(ctx context.Context, cfg FindConfig) (Tools, error) {
	switch {
	case cfg.PgCtl != "":
		return toolsAt(ctx, cfg.PgCtl)
	case cfg.PgConfig != "":
		return toolsOfPgConfig(ctx, cfg.PgConfig)
	}
	ctls := inPath("pg_ctl", cfg.Path)
	if len(ctls) == 1 {
		return toolsAt(ctx, ctls[0])
	}
	if configs := inPath("pg_config", cfg.Path); len(configs) == 1 {
		return toolsOfPgConfig(ctx, configs[0])
	}
	if len(ctls) == 0 {
		return Tools{}, withHint(fmt.Errorf("find pg_ctl in PATH: none found"),
			"install the PostgreSQL server, add its bin directory to PATH, set PG_CONFIG, or use --pgctl")
	}
	found := make([]string, len(ctls))
	for i, ctl := range ctls {
		found[i] = ctl
		if v, err := (Tools{Dir: filepath.Dir(ctl)}).Version(ctx); err == nil {
			found[i] += " (" + v.Text + ")"
		}
	}
	return Tools{}, withHint(fmt.Errorf("find pg_ctl in PATH: found %s", strings.Join(found, ", ")),
		"choose one of them with --pgctl or set PG_CONFIG")
}

func toolsAt(ctx context.Context, pgCtl string) (Tools, error) {
	t := Tools{Dir: filepath.Dir(pgCtl)}
	if !executable(pgCtl) {
		return Tools{}, withHint(fmt.Errorf("use %s: not an executable file", pgCtl), "check the path given with --pgctl")
	}
	if _, err := t.Version(ctx); err != nil {
		return Tools{}, withHint(fmt.Errorf("use %s: %w", pgCtl, err), "pg_ctl must stand in the bin directory of a PostgreSQL server")
	}
	return t, nil
}

func toolsOfPgConfig(ctx context.Context, pgConfig string) (Tools, error) {
	out, err := exec.CommandContext(ctx, pgConfig, "--bindir").Output()
	if err != nil {
		return Tools{}, withHint(fmt.Errorf("run %s --bindir: %w", pgConfig, err), "check PG_CONFIG")
	}
	return toolsAt(ctx, filepath.Join(strings.TrimSpace(string(out)), "pg_ctl"))
}

// inPath returns every program of that name in the path, one for each file.
func inPath(program, path string) []string {
	var found []string
	for _, dir := range filepath.SplitList(path) {
		candidate := filepath.Join(dir, program)
		if dir == "" || !executable(candidate) {
			continue
		}
		target, err := filepath.EvalSymlinks(candidate)
		if err != nil || slices.Contains(found, target) {
			continue
		}
		found = append(found, target)
	}
	return found
}

func executable(path string) bool {
	_, err := exec.LookPath(path)
	return err == nil && strings.ContainsRune(path, filepath.Separator)
}

// Version is the version of a server.
type Version struct {
	Number int    // 150020
	Text   string // 15.20
	Full   string // as the program prints it
}

// Major returns the major version.
func (v Version) Major() int { return v.Number / 10000 }

// Version asks the installation's server program.
func (t Tools) Version(ctx context.Context) (Version, error) {
	out, err := exec.CommandContext(ctx, t.Path("postgres"), "--version").Output() //nolint:gosec // the configured program
	if err != nil {
		return Version{}, fmt.Errorf("run %s --version: %w", t.Path("postgres"), err)
	}
	return parseVersion(string(out))
}

// parseVersion reads "postgres (PostgreSQL) 15.20 (Debian …)", and development versions such as 19devel.
func parseVersion(out string) (Version, error) {
	full := strings.TrimSpace(out)
	_, rest, ok := strings.Cut(full, "(PostgreSQL) ")
	word, _, _ := strings.Cut(rest, " ")
	major, tail := cutNumber(word)
	minor, _ := cutNumber(strings.TrimPrefix(tail, "."))
	if !ok || major == 0 {
		return Version{}, fmt.Errorf("read version %q: no number in it", full)
	}
	return Version{Number: major*10000 + minor, Text: word, Full: full}, nil
}

// cutNumber reads leading digits; none are 0.
func cutNumber(s string) (int, string) {
	rest := strings.TrimLeft(s, "0123456789")
	n, err := strconv.Atoi(s[:len(s)-len(rest)])
	if err != nil {
		return 0, rest
	}
	return n, rest
}

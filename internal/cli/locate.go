package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/keeper"
	"github.com/pgdrover/pgdrover/internal/monitor"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// The roles of a data directory, as pg_autoctl.role in its configuration file names them.
const (
	roleKeeper  = "keeper"
	roleMonitor = "monitor"
)

// site is one data directory of ours and the files that belong to it.
type site struct {
	pgdata                                  string
	config, state, init, nodes, pid, orders string
}

func (s site) keeperPaths() keeper.Paths {
	return keeper.Paths{
		ConfigFile: s.config, StateFile: s.state, InitFile: s.init,
		NodesFile: s.nodes, PIDFile: s.pid, PostgresFile: s.orders,
	}
}

func (s site) monitorPaths() monitor.Paths {
	return monitor.Paths{ConfigFile: s.config, PIDFile: s.pid}
}

// siteOf derives every file's place from a data directory and the XDG variables.
func siteOf(env *Env, pgdata string) (site, error) {
	home := env.getenv("HOME")
	if home == "" {
		return site{}, fatal(exitInternal, "environment variable HOME is not set").
			withHint("set HOME: configuration and state files live below it")
	}
	pgdata, err := absolute(pgdata)
	if err != nil {
		return site{}, err
	}
	runtimeDir := env.getenv("XDG_RUNTIME_DIR")
	if runtimeDir == "" || !isDir(runtimeDir) {
		runtimeDir = "/tmp"
	}
	tail := filepath.Join("pg_autoctl", strings.TrimPrefix(pgdata, "/"))
	config := filepath.Join(orDefault(env.getenv("XDG_CONFIG_HOME"), filepath.Join(home, ".config")), tail)
	data := filepath.Join(orDefault(env.getenv("XDG_DATA_HOME"), filepath.Join(home, ".local", "share")), tail)
	run := filepath.Join(runtimeDir, tail)
	return site{
		pgdata: pgdata,
		config: filepath.Join(config, "pg_autoctl.cfg"),
		state:  filepath.Join(data, "pg_autoctl.state"),
		init:   filepath.Join(data, "pg_autoctl.init"),
		nodes:  filepath.Join(data, "nodes.json"),
		pid:    filepath.Join(run, "pg_autoctl.pid"),
		orders: filepath.Join(run, "pg_autoctl.pg"),
	}, nil
}

func orDefault(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}

// pgdataFlag adds --pgdata.
func pgdataFlag(cmd *cobra.Command) {
	cmd.Flags().StringP("pgdata", "D", "", "path to the data `directory` (default $PGDATA)")
}

// sitePGData finds the data directory a command is about.
func sitePGData(env *Env, cmd *cobra.Command) (site, error) {
	pgdata := text(cmd, "pgdata")
	if pgdata == "" {
		pgdata = env.getenv("PGDATA")
	}
	if pgdata == "" {
		return site{}, fatal(exitBadArgs, "Failed to get PGDATA either from the environment or from --pgdata")
	}
	s, err := siteOf(env, pgdata)
	if err != nil {
		return site{}, err
	}
	env.setenv("PGDATA", s.pgdata)
	return s, nil
}

// text answers a string option, "" when the command does not have it.
func text(cmd *cobra.Command, name string) string {
	v, _ := cmd.Flags().GetString(name)
	return v
}

func number(cmd *cobra.Command, name string) int {
	v, _ := cmd.Flags().GetInt(name)
	return v
}

func on(cmd *cobra.Command, name string) bool {
	v, _ := cmd.Flags().GetBool(name)
	return v
}

// node is a data directory with its configuration read: a monitor's or a keeper's.
type node struct {
	site
	role    string
	keeper  keeper.File  // of a keeper
	monitor monitor.File // of a monitor
}

func (n node) isMonitor() bool { return n.role == roleMonitor }

// monitorDisabled reports a keeper that works without a monitor.
func (n node) monitorDisabled() bool {
	return n.role == roleKeeper && n.keeper.Monitor == keeper.MonitorDisabled
}

// port, host and tools of the local server, whatever the role.
func (n node) pgPort() int {
	if n.isMonitor() {
		return n.monitor.Port
	}
	return n.keeper.Port
}

func (n node) pgHost() string {
	if n.isMonitor() {
		return n.monitor.Host
	}
	return n.keeper.Host
}

func (n node) pgCtl() string {
	if n.isMonitor() {
		return n.monitor.PgCtl
	}
	return n.keeper.PgCtl
}

// localNode finds the data directory and reads its configuration.
func localNode(env *Env, cmd *cobra.Command) (node, error) {
	s, err := sitePGData(env, cmd)
	if err != nil {
		return node{}, err
	}
	return readNode(env, s)
}

// readNode reads the configuration of a data directory.
func readNode(env *Env, s site) (node, error) {
	n := node{site: s}
	if _, err := os.Stat(s.config); err != nil {
		missing := fatal(exitBadArgs, "Expected configuration file does not exist: %q", s.config)
		if !isDir(s.pgdata) {
			return n, missing.withHint("check the PGDATA environment variable and --pgdata: directory %q does not exist", s.pgdata)
		}
		if owner := ownerOf(s.pgdata); owner != nil && owner.Uid != strconv.Itoa(env.EUID) {
			return n, missing.withHint("%q belongs to user %s, whose configuration it is: run the command as that user", s.pgdata, owner.Username)
		}
		return n, missing.withHint("%q is not a data directory of this program: create it with the create command", s.pgdata)
	}
	role, err := readRole(s.config)
	if err != nil {
		return n, err
	}
	n.role = role
	switch role {
	case roleMonitor:
		n.monitor, err = monitor.LoadFile(s.config)
	case roleKeeper:
		n.keeper, err = keeper.LoadFile(s.config)
	default:
		return n, fail(exitBadConfig, "unknown role %q in configuration file %q", role, s.config)
	}
	return n, withCode(exitBadConfig, err)
}

// ownerOf is the user whom a file belongs to, nil when that cannot be told.
func ownerOf(path string) *user.User {
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	owner, err := user.LookupId(strconv.FormatUint(uint64(stat.Uid), 10))
	if err != nil {
		return nil
	}
	return owner
}

// readRole reads which program a configuration file is for.
func readRole(path string) (string, error) {
	file, _, err := readConfig(path)
	if err != nil {
		return "", err
	}
	role, _ := file.Get("pg_autoctl", "role")
	return role, nil
}

// localKeeper is localNode for commands that only make sense on a data node.
func localKeeper(env *Env, cmd *cobra.Command) (node, error) {
	n, err := localNode(env, cmd)
	if err != nil {
		return n, err
	}
	if n.isMonitor() {
		return n, fatal(exitBadConfig, "This command does not apply to a monitor node: %q", n.pgdata).
			withHint("use --pgdata with the data directory of a PostgreSQL node")
	}
	return n, nil
}

// keeperState reads the state file of a keeper.
func (n node) keeperState() (keeper.State, error) {
	st, err := keeper.ReadState(n.state)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return st, fail(exitBadState, "Failed to read keeper state file %q: it does not exist", n.state).
			withHint("the node at %q has not been created, or its creation did not finish", n.pgdata)
	case err != nil:
		return st, withCode(exitBadState, err)
	}
	return st, nil
}

// monitorConnInfo is how this data directory reaches its monitor.
func (n node) monitorConnInfo() (pg.ConnInfo, error) {
	if n.isMonitor() {
		info, err := n.instance(nil).ConnInfo()
		return info.With("user", "autoctl_node"), err
	}
	if n.monitorDisabled() {
		return pg.ConnInfo{}, fail(exitBadConfig, "Monitor is disabled in the configuration").
			withHint("register the node to a monitor with the enable monitor command")
	}
	info, err := pg.ParseConnInfo(n.keeper.Monitor)
	if err != nil {
		return info, withCode(exitBadConfig, fmt.Errorf("read monitor URI of %q: %w", n.config, err))
	}
	return info, nil
}

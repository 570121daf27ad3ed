package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

func newCreateCmd(env *Env) *cobra.Command {
	return newSet("create", "Create a pg_auto_failover node, or formation",
		newCreateMonitorCmd(env),
		newCreatePostgresCmd(env),
		newCreateCoordinatorCmd(env),
		newCreateWorkerCmd(env),
		newCreateFormationCmd(env),
	)
}

// createFlags adds the options that a monitor and a node have in common.
func createFlags(cmd *cobra.Command) {
	pgdataFlag(cmd)
	f := cmd.Flags()
	f.StringP("pgctl", "C", "", "`path` to pg_ctl")
	f.StringP("pgport", "p", "", "Postgres `port` number (default $PGPORT or 5432)")
	f.StringP("listen", "l", "", "Postgres listen_addresses, `addresses` (default *)")
	f.StringP("hostname", "n", "", "`hostname` by which others reach this node")
	f.StringP("auth", "A", "", "authentication `method` for connections from the monitor and other nodes")
	f.BoolP("skip-pg-hba", "S", false, "skip editing pg_hba.conf rules")
	f.BoolP("run", "x", false, "create node then run the service")
	sslFlags(cmd)
}

// creation is what both kinds of creation read from their options.
type creation struct {
	site   site
	fresh  bool // no configuration file yet
	auth   string
	hba    string // skip, minimal, app or "" for the default
	ssl    sslChoice
	tools  postgres.Tools
	port   int
	server postgres.Status
}

// readCreation checks the options that both kinds have, in the documented order.
func readCreation(env *Env, cmd *cobra.Command) (creation, error) {
	var c creation
	if given(cmd, "auth") && on(cmd, "skip-pg-hba") {
		return c, misuse("Please use either --auth or --skip-pg-hba")
	}
	if err := checkTexts(cmd); err != nil {
		return c, err
	}
	var err error
	if c.site, err = sitePGData(env, cmd); err != nil {
		return c, err
	}
	_, statErr := os.Stat(c.site.config)
	c.fresh = errors.Is(statErr, os.ErrNotExist)
	if err := c.readAuth(env, cmd); err != nil {
		return c, err
	}
	if c.ssl, err = readSSL(env, cmd); err != nil {
		return c, err
	}
	if c.fresh {
		if err := c.ssl.required(); err != nil {
			return c, err
		}
	}
	return c, nil
}

// readAuth reads how others authenticate on this server.
func (c *creation) readAuth(env *Env, cmd *cobra.Command) error {
	c.auth = text(cmd, "auth")
	if on(cmd, "skip-pg-hba") {
		c.auth, c.hba = "trust", "skip"
		return nil
	}
	if c.auth == "" {
		c.auth = env.getenv("PG_AUTOCTL_AUTH_METHOD")
	}
	if c.auth == "" && c.fresh {
		return fatal(exitBadArgs, "Please use either --auth trust|md5|... or --skip-pg-hba").
			withHint("auth method chosen with --auth is written to pg_hba.conf for connections from the monitor and the other nodes; with --skip-pg-hba the file is left to you")
	}
	return nil
}

// findTools looks for the PostgreSQL installation to use.
func findTools(ctx context.Context, env *Env, pgCtl string) (postgres.Tools, error) {
	tools, err := postgres.FindTools(ctx, postgres.FindConfig{
		PgCtl: pgCtl, PgConfig: env.getenv("PG_CONFIG"), Path: env.getenv("PATH"),
	})
	return tools, withCode(exitPgCtl, err)
}

// choosePort takes the port of the option, of a running server, of the
// environment, or PostgreSQL's own.
func (c *creation) choosePort(env *Env, cmd *cobra.Command, configured int) error {
	value := text(cmd, "pgport")
	switch {
	case value != "":
	case !c.fresh && configured > 0:
		value = strconv.Itoa(configured)
	case c.server.Running && c.server.Port > 0:
		value = strconv.Itoa(c.server.Port)
	default:
		value = orDefault(env.getenv("PGPORT"), "5432")
	}
	port, err := parsePort(value)
	c.port = port
	return err
}

// chooseSocketDirectory answers the directory for the socket of a new server
// when its own default is not for this user to write to; empty means that the
// default will do, or that somebody chose already. What was chosen must do.
func (c *creation) chooseSocketDirectory(ctx context.Context, env *Env, chosen string) (string, error) {
	value, told := env.lookupenv("PG_REGRESS_SOCK_DIR")
	if !c.fresh || c.server.Running || isFile(filepath.Join(c.site.pgdata, "PG_VERSION")) {
		return "", nil
	}
	if chosen = orDefault(chosen, value); filepath.IsAbs(chosen) && unwritable(chosen) != "" {
		return "", fatal(exitBadState, "this user may not write to %q, where the server is to put its socket", unwritable(chosen)).
			withHint("choose another directory with --pghost")
	}
	if chosen != "" || told {
		return "", nil
	}
	standard, err := c.tools.SocketDirectories(ctx)
	if err != nil {
		return "", withCode(exitPgCtl, err)
	}
	unusable := unwritable(standard)
	if unusable == "" {
		return "", nil
	}
	const fallback = "/tmp"
	env.warnf("The server's socket goes to %q, since this user may not write to %q: local clients need --host %s", fallback, unusable, fallback)
	return fallback, nil
}

// unwritable answers the first directory of a list that this user may not write to.
func unwritable(directories string) string {
	for dir := range strings.SplitSeq(directories, ",") {
		if dir = strings.TrimSpace(dir); dir != "" && !strings.HasPrefix(dir, "@") && syscall.Access(dir, 2) != nil {
			return dir
		}
	}
	return ""
}

// checkPidDirectory refuses a place for the pid file that belongs to somebody else.
func (s site) checkPidDirectory(code int) error {
	dir := filepath.Dir(s.pid)
	for !isDir(dir) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
	}
	if syscall.Access(dir, 2) == nil {
		return nil
	}
	whose := ""
	if owner := ownerOf(dir); owner != nil {
		whose = ", which belongs to user " + owner.Username
	}
	return fatal(code, "this user may not write the pid file %q below %q%s", s.pid, dir, whose).
		withHint("set XDG_RUNTIME_DIR to a directory of this user's own, here and for every later command")
}

// refuseRunning refuses a data directory whose service runs.
func (c *creation) refuseRunning() error {
	svc, err := findService(c.site)
	if err != nil {
		return err
	}
	if svc.running {
		return fatal(exitBadState, "%s is already running with pid %d", nameAutoctl, svc.pid()).
			withHint("the data directory is %q; stop the service first", c.site.pgdata)
	}
	return c.site.checkPidDirectory(exitBadState)
}

// lookAtServer reads what runs on the data directory.
func (c *creation) lookAtServer() error {
	status, err := postgres.New(postgres.Config{Tools: c.tools, DataDir: c.site.pgdata, Port: 5432}).Status()
	if err != nil {
		return withCode(exitBadState, err)
	}
	c.server = status
	return nil
}

// checkDirectory refuses a directory that is not ours to fill. resuming says
// that an earlier creation of ours got as far as starting the server.
func (c *creation) checkDirectory(resuming bool) error {
	if c.server.Running && !resuming {
		return fatal(exitBadState, "PostgreSQL is already running at %q with pid %d", c.site.pgdata, c.server.PID).
			withHint("stop it first, with: pg_ctl stop -D %s", c.site.pgdata)
	}
	info, err := os.Stat(c.site.pgdata)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return c.checkParent()
	case err != nil:
		return withCode(exitBadState, err)
	case !info.IsDir():
		return fatal(exitBadState, "%q is not a directory", c.site.pgdata).withHint("choose another path with --pgdata")
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && int(owner.Uid) != os.Geteuid() {
		return fatal(exitBadState, "directory %q belongs to another user (uid %d)", c.site.pgdata, owner.Uid).
			withHint("run the command as the owner of the data directory, or choose another one with --pgdata")
	}
	entries, err := os.ReadDir(c.site.pgdata)
	if err != nil {
		return withCode(exitBadState, err)
	}
	if len(entries) > 0 && !resuming && !isFile(filepath.Join(c.site.pgdata, "PG_VERSION")) {
		return fatal(exitBadState, "directory %q is not empty and is not a PostgreSQL data directory", c.site.pgdata).
			withHint("empty it, or choose another one with --pgdata")
	}
	return nil
}

// checkParent refuses a data directory that we could not create.
func (c *creation) checkParent() error {
	dir := filepath.Dir(c.site.pgdata)
	for !isDir(dir) {
		if _, err := os.Lstat(dir); err == nil {
			return fatal(exitBadState, "%q is not a directory", dir).withHint("choose another path with --pgdata")
		}
		dir = filepath.Dir(dir)
	}
	if err := syscall.Access(dir, 2); err != nil {
		return fatal(exitBadState, "directory %q is not writable", dir).
			withHint("run the command as a user who may write there, or choose another path with --pgdata")
	}
	return nil
}

// checkPort refuses a port that another program listens on.
func (c *creation) checkPort(ctx context.Context, listen string) error {
	if c.server.Running {
		return nil
	}
	var unusable error
	usable := false
	for _, address := range listenAddresses(listen) {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(c.port)))
		if err == nil {
			usable = true
			_ = l.Close()
			continue
		}
		unusable = err
		if errors.Is(err, syscall.EADDRINUSE) {
			return fatal(exitBadState, "port %d is already in use on this host", c.port).
				withHint("choose another one with --pgport")
		}
		if errors.Is(err, syscall.EACCES) {
			return fatal(exitBadState, "port %d is reserved to the superuser", c.port).
				withHint("choose a port above 1023 with --pgport")
		}
	}
	if !usable {
		// The server would not start with nothing to listen on.
		return fatal(exitBadState, "no address of --listen %q is one of this host: %w", listen, plainCause(unusable)).
			withHint("name addresses of this host, separated by commas, or leave --listen out for all of them")
	}
	return nil
}

// listenAddresses are the addresses to try for a value of listen_addresses.
func listenAddresses(listen string) []string {
	if listen == "" || listen == "*" {
		return []string{""}
	}
	var out []string
	for a := range strings.SplitSeq(listen, ",") {
		out = append(out, strings.TrimSpace(a))
	}
	return out
}

// reachMonitor connects to the monitor that a new node shall register with,
// and finds the formation there, before anything is written. A monitor that is
// about to start, or that is being created, is waited for.
func reachMonitor(ctx context.Context, env *Env, info pg.ConnInfo, formation string) (*session, error) {
	patience := monitorStartPatience
	if env.getenv("PGCONNECT_TIMEOUT") != "" {
		patience = env.patience()
	}
	deadline := time.Now().Add(patience)
	s := &session{env: env, info: info}
	for warned := false; ; warned = true {
		err := s.connect(ctx)
		if err == nil {
			if err = s.formationExists(ctx, formation); err == nil {
				return s, nil
			}
			s.close(ctx)
		}
		wait := worthWaiting(err)
		if noMonitor(err) {
			// The monitor's own database has no schema yet while it is being created.
			wait = info.Get("dbname") == monitorDatabase
			err = fail(exitMonitor, "the database at %s is no monitor", info).
				withHint("take the URI that the monitor shows with: %s show uri --formation monitor", env.program())
		}
		err = withCode(exitMonitor, err)
		if ctx.Err() != nil || !wait || time.Now().After(deadline) {
			return nil, err
		}
		if !warned {
			env.warnf("%s; trying again for %d s", err, int(time.Until(deadline).Seconds()))
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// monitorStartPatience is how long a creation waits for a monitor that does not answer yet.
const monitorStartPatience = 30 * time.Second

// monitorDatabase is the database of every monitor.
const monitorDatabase = "pg_auto_failover"

// noMonitor tells a database that does not hold a monitor's schema.
func noMonitor(err error) bool {
	switch pgautofailover.SQLState(err) {
	case pgerrcode.InvalidSchemaName, pgerrcode.UndefinedTable, pgerrcode.UndefinedFunction:
		return true
	}
	return false
}

// worthWaiting tells a monitor that may be starting, or that is just being
// created, from an URI that is wrong.
func worthWaiting(err error) bool {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return !dns.IsNotFound
	}
	switch pgautofailover.SQLState(err) {
	case "":
		_, refused := errors.AsType[*net.OpError](err)
		return refused
	case pgerrcode.InvalidAuthorizationSpecification, pgerrcode.InvalidCatalogName:
		return true
	}
	return pgautofailover.Retryable(err)
}

// findHostname is the name others use for this node: what was given, or what
// the way to the monitor shows.
func findHostname(ctx context.Context, env *Env, given string, monitorHost pg.HostPort) (string, error) {
	if given != "" {
		checkHostname(ctx, env, given)
		return given, nil
	}
	name, err := discoverHostname(ctx, env, monitorHost)
	if err != nil {
		return "", fatal(exitBadArgs, "Failed to find this node's hostname: %w", err).withHint("use the option --hostname")
	}
	env.infof("Using hostname %q for this node: use --hostname to choose another one", name)
	return name, nil
}

// checkHostname warns of a name that others may not be able to use.
func checkHostname(ctx context.Context, env *Env, host string) {
	var resolver net.Resolver
	addrs, err := resolver.LookupHost(ctx, host)
	if err != nil {
		env.warnf("Failed to resolve hostname %q: other nodes may not be able to connect (%s)", host, err)
		return
	}
	if !anyLocal(addrs) {
		env.warnf("Hostname %q resolves to %s, which is no address of this host", host, strings.Join(addrs, ", "))
	}
}

// anyLocal reports whether one of the addresses belongs to an interface of this host.
func anyLocal(addrs []string) bool {
	local, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		ip := net.ParseIP(a)
		if ip == nil {
			continue
		}
		for _, l := range local {
			if n, ok := l.(*net.IPNet); ok && n.IP.Equal(ip) || ip.IsLoopback() {
				return true
			}
		}
	}
	return false
}

// discoverHostname takes the local address of a connection towards the
// monitor, and the name of that address when the name leads back here.
func discoverHostname(ctx context.Context, env *Env, towards pg.HostPort) (string, error) {
	address := net.JoinHostPort(towards.Host, orDefault(towards.Port, "5432"))
	if towards.Host == "" || strings.HasPrefix(towards.Host, "/") {
		address = "8.8.8.8:53"
	}
	dialer := net.Dialer{Timeout: 5 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		if value, ok := env.lookupenv("PG_REGRESS_SOCK_DIR"); ok && value == "" {
			return firstAddress()
		}
		return "", fmt.Errorf("connect to %s: %w", address, err)
	}
	defer conn.Close() //nolint:errcheck // nothing was sent
	host, _, err := net.SplitHostPort(conn.LocalAddr().String())
	if err != nil {
		return "", fmt.Errorf("read local address: %w", err)
	}
	var resolver net.Resolver
	names, err := resolver.LookupAddr(ctx, host)
	if err != nil || len(names) == 0 {
		return host, nil
	}
	name := strings.TrimSuffix(names[0], ".")
	if addrs, err := resolver.LookupHost(ctx, name); err != nil || !anyLocal(addrs) {
		return host, nil
	}
	return name, nil
}

// firstAddress is the first address of this host that others can reach.
func firstAddress() (string, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("list interfaces: %w", err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.To4() != nil {
			return n.IP.String(), nil
		}
	}
	return "127.0.0.1", nil
}

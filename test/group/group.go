package group

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// Patience bounds every wait for the group to reach a state. It says nothing
// about how long that should take.
const Patience = 2 * time.Minute

// Config describes a group. Only Nodes has to be set.
type Config struct {
	Nodes   int
	Network *pgtest.Network // with hosts "monitor", "node1", "node2", …; nil means loopback
	Bin     string          // directory of server programs; pgtest.Bin(t) when empty
	Program string          // of the monitor; the one that was built from this tree when empty
	// Settings of the monitor's database (pgautofailover.*), without the prefix.
	MonitorSettings map[string]string
	Access          Access
}

// Access is how the members let one another in. Its zero value is trust and no
// encryption.
type Access struct {
	// Options of a member's creation, instead of "--auth trust --no-ssl".
	Options func(m *Member) []string
	// Monitor is what follows in the monitor's URI after its database, with ?, and
	// Password what autoctl_node has in it.
	Monitor, Password string
	// Env are more variables of a member's programs.
	Env []string
	// Client is what writers put into their connection strings instead of a user without encryption.
	Client string
}

// Group is a monitor and its nodes.
type Group struct {
	Monitor *Member
	Nodes   []*Member // in the order of creation; Nodes[0] became the first primary

	outsiders []*Member // every node, also those that are not among Nodes

	cfg     Config
	program string
	root    string
	owner   testing.TB // the test that the group ends with

	mu   sync.Mutex
	conn *pgx.Conn // to the monitor's database
}

// Member is the monitor or a node: one data directory, one server, one process
// of the program that looks after it.
type Member struct {
	Name string
	Dir  string // data directory
	Port int
	Host *pgtest.Host // nil: this host

	// Program runs instead of the one that was built from this tree; Root has it
	// run as root, so that it can prepare something and step down.
	Program string
	Root    bool

	group *Group
	proc  *pgtest.Process
}

// Start makes a group and waits until it is whole: one primary, all others
// secondary.
func Start(t testing.TB, cfg Config) *Group {
	t.Helper()
	g := New(t, cfg)
	for i := range cfg.Nodes {
		g.Create(t, fmt.Sprintf("node%d", i+1))
		if i == 0 {
			g.WaitState(t, g.Nodes[0], "single")
		}
	}
	g.WaitWhole(t)
	return g
}

// New starts a monitor without nodes.
func New(t testing.TB, cfg Config) *Group {
	t.Helper()
	if cfg.Bin == "" {
		cfg.Bin = pgtest.Bin(t)
	}
	g := &Group{cfg: cfg, program: Program(t), root: pgtest.Dir(t), owner: t}
	for _, dir := range []string{"home", "run"} {
		pgtest.Mkdir(t, filepath.Join(g.root, dir))
	}
	// Runs after every process of the program is dead, and so cannot restart
	// what is ended here.
	t.Cleanup(func() { g.endServers(t) })
	g.Monitor = g.member(t, "monitor")
	g.Monitor.Program = cfg.Program
	g.Monitor.start(t, append(g.Monitor.createArgs("monitor"), "--run")...)
	t.Cleanup(func() { g.disconnect() })
	pgtest.Eventually(t, Patience, func() error {
		if err := g.Monitor.Alive(); err != nil {
			t.Fatal(err)
		}
		return g.query(func(ctx context.Context, conn *pgx.Conn) error {
			var n int
			return conn.QueryRow(ctx, "SELECT count(*) FROM pgautofailover.formation").Scan(&n)
		})
	})
	for name, value := range cfg.MonitorSettings {
		g.setMonitor(t, name, value)
	}
	return g
}

func (g *Group) member(t testing.TB, name string) *Member {
	t.Helper()
	m := &Member{Name: name, Dir: filepath.Join(g.root, name), group: g}
	if g.cfg.Network != nil {
		m.Host = g.cfg.Network.Host(name)
	}
	m.Port = pgtest.FreePort(g.owner)
	return m
}

// Group is the group that the member belongs to.
func (m *Member) Group() *Group { return m.group }

// IP is the address of the member's host.
func (m *Member) IP() string {
	if m.Host == nil {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}).String()
	}
	return m.Host.IP.String()
}

// hostname is what --hostname is given.
func (m *Member) hostname() string {
	if m.Host == nil {
		return "localhost"
	}
	return m.IP()
}

// CreateArgs are the arguments of "create postgres" for the member.
func (m *Member) CreateArgs(options ...string) []string {
	args := append(m.createArgs("postgres"), "--name", m.Name, "--monitor", m.group.MonitorURI())
	return append(args, options...)
}

func (m *Member) createArgs(kind string) []string {
	args := []string{
		"create", kind, "--pgdata", m.Dir, "--pgport", strconv.Itoa(m.Port), "--hostname", m.hostname(),
		"--pgctl", filepath.Join(m.group.cfg.Bin, "pg_ctl"),
	}
	if options := m.group.cfg.Access.Options; options != nil {
		return append(args, options(m)...)
	}
	return append(args, "--auth", "trust", "--no-ssl")
}

// MonitorURI is what nodes are given as --monitor.
func (g *Group) MonitorURI() string {
	user, options := "autoctl_node", "?sslmode=prefer"
	if a := g.cfg.Access; a.Password != "" {
		user += ":" + a.Password
	}
	if a := g.cfg.Access; a.Monitor != "" {
		options = a.Monitor
	}
	return fmt.Sprintf("postgres://%s@%s:%d/pg_auto_failover%s", user, g.Monitor.hostname(), g.Monitor.Port, options)
}

// Path is a place for a test's own files, removed with the group.
func (g *Group) Path(name string) string { return filepath.Join(g.root, name) }

// Create starts a new node with further options of "create postgres" and does
// not wait for anything.
func (g *Group) Create(t testing.TB, name string, options ...string) *Member {
	t.Helper()
	m := g.Outsider(t, name)
	m.Create(t, append(options, "--run")...)
	g.Nodes = append(g.Nodes, m)
	return m
}

// Outsider makes a place for a node that is not counted among the group's. The
// caller creates it, and ends it.
func (g *Group) Outsider(t testing.TB, name string) *Member {
	t.Helper()
	m := g.member(t, name)
	g.outsiders = append(g.outsiders, m)
	return m
}

// Create runs "create postgres" for the member with further options.
func (m *Member) Create(t testing.TB, options ...string) {
	t.Helper()
	m.start(t, m.CreateArgs(options...)...)
}

// Start runs the program for a data directory that exists already.
func (m *Member) Start(t testing.TB) {
	t.Helper()
	m.start(t, "run", "--pgdata", m.Dir)
}

func (m *Member) start(t testing.TB, args ...string) {
	t.Helper()
	program := m.Program
	if program == "" {
		program = m.group.program
	}
	m.proc = pgtest.Start(t, pgtest.Command{
		Name: m.Name, Path: program, Args: args, Env: m.group.environment(), Dir: m.group.root, Host: m.Host,
		Owner: m.group.owner, Root: m.Root,
	})
	if m.Program != "" {
		m.group.owner.Cleanup(m.killPrograms) // it may have started more
	}
}

// Alive returns nil while the member's process of the program runs, and the end
// of its log otherwise.
func (m *Member) Alive() error {
	select {
	case <-m.proc.Done():
		return fmt.Errorf("the process of %s has ended:\n%s", m.Name, m.proc.Tail(30))
	default:
		return nil
	}
}

// Log is what the member's present process has written.
func (m *Member) Log() string { return m.proc.Log() }

// Process is the member's present process of the program.
func (m *Member) Process() *pgtest.Process { return m.proc }

// dialer connects to a fixed address from a host.
func dialer(from *pgtest.Host, address string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		if from == nil {
			var d net.Dialer
			return d.DialContext(ctx, network, address)
		}
		return from.DialContext(ctx, network, address)
	}
}

// Connect opens a connection to the member's server as superuser, from its own
// host. The caller closes it.
func (m *Member) Connect(ctx context.Context, user, database string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s sslmode=disable connect_timeout=5", m.Port, user, database))
	if err != nil {
		return nil, err
	}
	cfg.DialFunc = dialer(m.Host, net.JoinHostPort("127.0.0.1", strconv.Itoa(m.Port)))
	return pgx.ConnectConfig(ctx, cfg)
}

// Exec runs statements on the member's server as superuser.
func (m *Member) Exec(t testing.TB, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	conn := m.superuser(ctx, t)
	defer conn.Close(ctx)
	if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		t.Fatalf("execute %q on %s: %v", sql, m.Name, err)
	}
}

// superuser opens a connection to the member's server, which the caller closes.
func (m *Member) superuser(ctx context.Context, t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := m.Connect(ctx, pgtest.Superuser, "postgres")
	if err != nil {
		t.Fatalf("connect to %s: %v", m.Name, err)
	}
	return conn
}

// Ask runs a query that answers one text on the member's server as superuser.
func (m *Member) Ask(t testing.TB, sql string, args ...any) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	conn := m.superuser(ctx, t)
	defer conn.Close(ctx)
	var answer string
	if err := conn.QueryRow(ctx, sql, args...).Scan(&answer); err != nil {
		t.Fatalf("ask %q on %s: %v", sql, m.Name, err)
	}
	return answer
}

func (g *Group) setMonitor(t testing.TB, name, value string) {
	t.Helper()
	g.Monitor.Exec(t, fmt.Sprintf("ALTER SYSTEM SET pgautofailover.%s TO '%s'", name, value))
	g.Monitor.Exec(t, "SELECT pg_reload_conf()")
}

// query runs code on the connection to the monitor's database, which is opened
// again when it was lost.
func (g *Group) query(code func(ctx context.Context, conn *pgx.Conn) error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if g.conn == nil {
		conn, err := g.Monitor.Connect(ctx, "autoctl_node", "pg_auto_failover")
		if err != nil {
			return err
		}
		g.conn = conn
	}
	err := code(ctx, g.conn)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		_ = g.conn.Close(ctx)
		g.conn = nil
	}
	return err
}

func (g *Group) disconnect() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = g.conn.Close(ctx)
		g.conn = nil
	}
}

// endServers kills the servers of the group, whoever started them.
func (g *Group) endServers(t testing.TB) {
	t.Helper()
	for _, m := range append([]*Member{g.Monitor}, g.outsiders...) {
		if pgtest.WantLogs(t) {
			m.keepServerLogs(t)
		}
		m.killServer()
	}
}

// keepServerLogs leaves the server's own logs among the test's artifacts.
func (m *Member) keepServerLogs(t testing.TB) {
	t.Helper()
	logs, _ := filepath.Glob(filepath.Join(m.Dir, "log", "*"))
	logs = append(logs, filepath.Join(m.Dir, "startup.log"))
	for _, log := range logs {
		if _, err := os.Stat(log); err == nil {
			pgtest.Keep(t, m.Name+"-"+filepath.Base(log), log)
		}
	}
}

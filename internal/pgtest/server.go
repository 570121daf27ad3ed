package pgtest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// patience bounds every wait of this package for a server. It is generous: the
// machine may be busy with other tests.
const patience = 60 * time.Second

// Superuser is the role that initdb made; everybody may connect as anybody.
const Superuser = "postgres"

// ServerConfig describes a server. The zero value is a good one.
type ServerConfig struct {
	Name     string            // in messages and log files; "postgres" when empty
	Bin      string            // directory of the server's programs; Bin(t) when empty
	Settings map[string]string // on top of ours, as in postgresql.conf
}

// Server is a running PostgreSQL server that goes away with its test.
type Server struct {
	Bin    string // directory of the programs
	Dir    string // data directory
	Socket string // directory of the unix socket
	Port   int

	name string
	proc *Process
}

// New starts a server for this test alone.
func New(t testing.TB) *Server {
	t.Helper()
	return NewServer(t, ServerConfig{})
}

// NewServer starts a server as configured: a copy of a data directory that is
// initialised once per process, without fsync, with wal_level logical, on a
// unix socket and a free port of 127.0.0.1.
func NewServer(t testing.TB, cfg ServerConfig) *Server {
	t.Helper()
	if cfg.Bin == "" {
		cfg.Bin = Bin(t)
	}
	template, err := shared.template(cfg.Bin)
	if err != nil {
		t.Fatal(err)
	}
	root := Dir(t)
	s := &Server{
		Bin: cfg.Bin, Dir: filepath.Join(root, "data"), Socket: root, Port: FreePort(t),
		name: cfg.Name,
	}
	if s.name == "" {
		s.name = "postgres"
	}
	if err := copyTree(template, s.Dir); err != nil {
		t.Fatal(err)
	}
	if err := s.configure(cfg.Settings); err != nil {
		t.Fatal(err)
	}
	if err := giveToServerUser(s.Dir); err != nil {
		t.Fatal(err)
	}
	s.Start(t)
	return s
}

func (s *Server) configure(settings map[string]string) error {
	all := map[string]string{
		"fsync": "off", "full_page_writes": "off", "wal_level": "logical",
		"listen_addresses": "'127.0.0.1'", "port": fmt.Sprint(s.Port),
		"unix_socket_directories": "'" + s.Socket + "'",
		"shared_buffers":          "16MB", "max_wal_senders": "20", "max_replication_slots": "20",
		"log_line_prefix": "'%m [%p] %q%a '", "log_statement": "ddl",
	}
	maps.Copy(all, settings)
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&text, "%s = %s\n", name, all[name])
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "postgresql.auto.conf"), []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return nil
}

// Start starts a stopped server again and waits until it answers.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	s.proc = Start(t, Command{
		Name: s.name, Path: filepath.Join(s.Bin, "postgres"), Args: []string{"-D", s.Dir},
		ended: func(p *Process) { s.end(p) },
	})
	Eventually(t, patience, func() error {
		if err := s.proc.running(); err != nil {
			t.Fatalf("start server: %v\n%s", err, s.proc.Tail(20))
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		conn, err := pgx.Connect(ctx, s.DSN("postgres"))
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
}

// end is how a server goes when its test is over: at once, data and all.
func (s *Server) end(p *Process) {
	if p.Signal(syscall.SIGQUIT) != nil {
		return
	}
	_ = WaitFor(10*time.Second, func() error {
		if p.running() == nil {
			return fmt.Errorf("server %s still runs", s.name)
		}
		return nil
	})
}

// Stop ends the server with this signal (SIGINT: fast, SIGQUIT: immediate,
// SIGKILL: a crash) and waits until its postmaster and all its children are
// gone.
func (s *Server) Stop(t testing.TB, how syscall.Signal) {
	t.Helper()
	if err := s.proc.Signal(how); err != nil {
		t.Fatalf("stop server: %v", err)
	}
	s.proc.Wait(t, patience)
	Eventually(t, patience, func() error {
		if _, attached, ok := sharedMemory(s.Dir); ok && attached > 0 {
			return fmt.Errorf("%d processes of server %s are left", attached, s.name)
		}
		return nil
	})
}

// Process is the postmaster.
func (s *Server) Process() *Process { return s.proc }

// DSN is a connection string for one of the server's databases, through the
// unix socket and as superuser.
func (s *Server) DSN(database string) string {
	return fmt.Sprintf("host=%s port=%d user=%s dbname=%s", s.Socket, s.Port, Superuser, database)
}

// URI is a connection string for one of the server's databases over TCP.
func (s *Server) URI(database string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", Superuser, s.Port, database)
}

// Connect opens a connection as superuser that is closed with the test.
func (s *Server) Connect(t testing.TB, database string) *pgx.Conn {
	t.Helper()
	return Connect(t, s.DSN(database))
}

// Connect opens a connection that is closed with the test.
func Connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = conn.Close(ctx)
	})
	return conn
}

// Exec runs statements in a database of the server, as superuser.
func (s *Server) Exec(t testing.TB, database, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.DSN(database))
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		t.Fatalf("execute %q: %v", sql, err)
	}
}

// Log is what the server has written so far.
func (s *Server) Log() string { return s.proc.Log() }

// Database makes an empty database for this test, on a server that all tests of
// the process share, and returns a connection string for it. The server has no
// settings of the caller's, and a test must not change any for all databases.
func Database(t testing.TB) string {
	t.Helper()
	bin := Bin(t)
	s, err := shared.server(bin)
	if err != nil {
		t.Fatal(err)
	}
	name := shared.nextDatabase()
	s.Exec(t, "postgres", "CREATE DATABASE "+name)
	t.Cleanup(func() { s.Exec(t, "postgres", "DROP DATABASE "+name+" WITH (FORCE)") })
	return s.DSN(name)
}

// commons are the things of a process that are too expensive to make for each
// test.
type commons struct {
	binaries func() []Binaries

	mu        sync.Mutex
	templates map[string]string // bin directory → initialised data directory
	databases int

	starting sync.Mutex // held while a shared server starts, which takes mu
	servers  map[string]*Server
	holder   holder
}

var shared = &commons{
	binaries:  sync.OnceValue(AllBinaries),
	templates: map[string]string{},
	servers:   map[string]*Server{},
}

func (c *commons) allBinaries() []Binaries { return c.binaries() }

func (c *commons) nextDatabase() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.databases++
	return fmt.Sprintf("test_%d", c.databases)
}

func (c *commons) template(bin string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if dir, ok := c.templates[bin]; ok {
		return dir, nil
	}
	root, err := os.MkdirTemp("", "template")
	if err != nil {
		return "", fmt.Errorf("make a directory: %w", err)
	}
	if err := giveToServerUser(root); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	dir := filepath.Join(root, "data")
	cmd, err := Command{Path: filepath.Join(bin, "initdb"), Args: []string{
		"--pgdata", dir, "--no-sync", "--username", Superuser, "--auth", "trust", "--encoding", "UTF8", "--locale", "C",
	}}.build(ctx)
	if err != nil {
		return "", err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("run initdb: %w: %s", err, out)
	}
	c.templates[bin] = dir
	return dir, nil
}

func (c *commons) server(bin string) (*Server, error) {
	c.starting.Lock()
	defer c.starting.Unlock()
	if s := c.servers[bin]; s != nil {
		return s, nil
	}
	var s *Server
	if err := c.holder.do(func() { s = NewServer(&c.holder, ServerConfig{Name: "shared", Bin: bin}) }); err != nil {
		return nil, err
	}
	c.servers[bin] = s
	return s, nil
}

// close ends what all tests shared.
func (c *commons) close() {
	c.holder.end()
	for _, dir := range c.templates {
		_ = os.RemoveAll(filepath.Dir(dir))
	}
}

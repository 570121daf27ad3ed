package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// demoCluster is the set of processes that the demonstration starts, each a
// run of this very program.
type demoCluster struct {
	env     *Env
	cfg     demoConfig
	members []*demoMember // the monitor first
	// monitorUp is when the monitor was first seen to decide.
	monitorUp time.Time
}

// demoMember is a monitor or a node.
type demoMember struct {
	name   string
	pgdata string
	port   int
	args   []string // of the first start
	cmd    *exec.Cmd
	exited chan struct{}
}

// startAll starts the monitor, the first node and the others, and waits until
// every standby replicates.
func (c *demoCluster) startAll(ctx context.Context, say func(string, ...any)) error {
	ports, err := c.ports(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.socketDir(), 0o700); err != nil {
		return withCode(exitInternal, err)
	}
	monitor := c.member("monitor", ports[0], "create", "monitor")
	if err := c.start(monitor, monitor.args); err != nil {
		return err
	}
	s, err := c.openMonitor(ctx)
	if err != nil {
		return err
	}
	defer s.close(ctx)
	c.monitorUp = time.Now()
	say("the monitor is up on port %d", monitor.port)
	uri := "postgres://autoctl_node@localhost:" + strconv.Itoa(monitor.port) + "/pg_auto_failover?sslmode=prefer"
	for i := 1; i <= c.cfg.nodes; i++ {
		name := "node_" + strconv.Itoa(i)
		m := c.member(name, ports[i], "create", "postgres", "--name", name, "--monitor", uri, "--pghost", c.socketDir())
		if err := c.start(m, m.args); err != nil {
			return err
		}
		if i == 1 {
			if err := c.await(ctx, s, func(nodes []demoNode) bool { return writableOf(nodes) == name }); err != nil {
				return err
			}
			say("%s is up on port %d and takes writes", name, m.port)
		}
	}
	err = c.await(ctx, s, func(nodes []demoNode) bool { return len(nodes) == c.cfg.nodes && allSettled(nodes) })
	if err == nil {
		say("%d standbys replicate synchronously", c.cfg.nodes-1)
	}
	return err
}

// await waits until the group is as wanted, and notices when a process ends early.
func (c *demoCluster) await(ctx context.Context, s *session, done func([]demoNode) bool) error {
	deadline := time.Now().Add(demoPatience)
	for {
		states, err := s.db.CurrentState(ctx, defaultFormation, nil)
		if err != nil {
			return err
		}
		if done(demoNodes(states)) {
			return nil
		}
		if m := c.ended(); m != nil {
			return fail(exitInternal, "%s ended early: %s", m.name, c.lastLine(m)).withHint("its log is %s", c.logFile(m.name))
		}
		if time.Now().After(deadline) {
			return fail(exitInternal, "the nodes were not ready within %s", demoPatience).withHint("look into the logs below %s", c.cfg.directory)
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

func (c *demoCluster) ended() *demoMember {
	for _, m := range c.members {
		select {
		case <-m.exited:
			return m
		default:
		}
	}
	return nil
}

// ports are free ones, unless the operator chose.
func (c *demoCluster) ports(ctx context.Context) ([]int, error) {
	ports := make([]int, 0, c.cfg.nodes+1)
	var lc net.ListenConfig
	for i := range c.cfg.nodes + 1 {
		port := 0
		if c.cfg.port > 0 {
			port = c.cfg.port + i
		}
		l, err := lc.Listen(ctx, "tcp", net.JoinHostPort("localhost", strconv.Itoa(port)))
		if err != nil {
			return nil, fail(exitBadArgs, "port %d is not free: %w", port, err).withHint("choose another one with --port")
		}
		// Held until all are chosen, so that no two are the same.
		defer l.Close() //nolint:errcheck // only a reservation
		_, chosen, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, err
		}
		if port, err = strconv.Atoi(chosen); err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return ports, nil
}

func (c *demoCluster) socketDir() string          { return filepath.Join(c.cfg.directory, "s") }
func (c *demoCluster) logFile(name string) string { return filepath.Join(c.cfg.directory, name+".log") }

// member adds a member that is created and runs in one go.
func (c *demoCluster) member(name string, port int, create ...string) *demoMember {
	m := &demoMember{name: name, port: port, pgdata: filepath.Join(c.cfg.directory, name)}
	m.args = append(slices.Clone(create), "--run", "--pgdata", m.pgdata, "--pgport", strconv.Itoa(port), "--pgctl", c.cfg.tools.PgCtl(),
		"--listen", "localhost", "--hostname", "localhost", "--auth", "trust", "--no-ssl")
	c.members = append(c.members, m)
	return m
}

// start runs this program again as a member's service. It gets a process group
// of its own: Ctrl-C is for the demonstration alone.
func (c *demoCluster) start(m *demoMember, args []string) error {
	log, err := os.OpenFile(c.logFile(m.name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return withCode(exitInternal, err)
	}
	defer log.Close()                                                                 //nolint:errcheck // the child has its own
	cmd := exec.Command(c.env.Executable, append(args, c.env.verbosityFlags()...)...) //nolint:gosec,noctx // ourselves; stopped by pid
	cmd.Args[0] = nameDrover
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = c.cfg.directory
	cmd.Env = c.childEnv()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fail(exitInternal, "start %s: %w", m.name, err)
	}
	exited := make(chan struct{})
	m.cmd, m.exited = cmd, exited
	// It ends with the process, which stop awaits.
	go func() {
		defer close(exited)
		_ = cmd.Wait()
	}()
	return nil
}

// childEnv keeps the members' files below the demonstration's directory, and
// the operator's own settings out.
func (c *demoCluster) childEnv() []string {
	var env []string
	for _, v := range c.env.Environ {
		name, _, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, "PG") && !strings.HasPrefix(name, "XDG_") && name != "HOME" {
			env = append(env, v)
		}
	}
	dir := c.cfg.directory
	return append(env, "HOME="+dir, "XDG_RUNTIME_DIR="+dir, "PG_REGRESS_SOCK_DIR="+c.socketDir())
}

// openMonitor connects to the monitor as soon as it decides.
func (c *demoCluster) openMonitor(ctx context.Context) (*session, error) {
	monitor := c.members[0]
	info := pg.NewConnInfo("host", "localhost", "port", strconv.Itoa(monitor.port), "user", "autoctl_node",
		"dbname", "pg_auto_failover", "sslmode", "disable")
	deadline := time.Now().Add(demoPatience)
	for {
		s := &session{env: c.env, info: info}
		err := s.connect(ctx)
		if err == nil {
			if alive, aliveErr := s.db.MonitorAlive(ctx); aliveErr == nil && alive {
				return s, nil
			}
			s.close(ctx)
		}
		if m := c.ended(); m != nil {
			return nil, fail(exitInternal, "%s ended early: %s", m.name, c.lastLine(m)).withHint("its log is %s", c.logFile(m.name))
		}
		if time.Now().After(deadline) {
			return nil, fail(exitInternal, "the monitor was not ready within %s: %w", demoPatience, err)
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// lastLine is the last thing a member said.
func (c *demoCluster) lastLine(m *demoMember) string {
	data, err := os.ReadFile(c.logFile(m.name))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return lines[len(lines)-1]
}

// find answers the member of that name.
func (c *demoCluster) find(name string) (*demoMember, error) {
	for _, m := range c.members {
		if m.name == name {
			return m, nil
		}
	}
	return nil, fmt.Errorf("find %s: not one of ours", name)
}

// processes are the pids of a member: keeper, postmaster, and its children.
func (c *demoCluster) processes(m *demoMember) []int {
	pids := []int{m.cmd.Process.Pid}
	status, err := postgres.New(postgres.Config{Tools: c.cfg.tools, DataDir: m.pgdata, Port: m.port}).Status()
	if err != nil || !status.Running {
		return pids
	}
	return append(append(pids, status.PID), childrenOf(status.PID)...)
}

// childrenOf lists the children of a process.
func childrenOf(parent int) []int {
	var pids []int
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	for _, path := range stats {
		data, err := os.ReadFile(path) //nolint:gosec // below /proc
		if err != nil {
			continue
		}
		// The command's name may hold anything, so fields count from its last parenthesis.
		text := string(data)
		fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
		if len(fields) < 2 || fields[1] != strconv.Itoa(parent) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func signalAll(pids []int, sig syscall.Signal) error {
	var all error
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			all = errors.Join(all, fmt.Errorf("send %s to process %d: %w", sig, pid, err))
		}
	}
	return all
}

// kill ends keeper and server of a node at once; heal starts its service again.
func (c *demoCluster) kill(name string, say func(string, ...any)) (func(context.Context) error, error) {
	m, err := c.find(name)
	if err != nil {
		return nil, err
	}
	if err := signalAll(c.processes(m), syscall.SIGKILL); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		select {
		case <-m.exited:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		say("starting the service of %s again", name)
		return c.start(m, []string{"run", "--pgdata", m.pgdata})
	}, nil
}

// freeze stops all processes of a node where they are; heal lets them go on.
func (c *demoCluster) freeze(name string, say func(string, ...any)) (func(context.Context) error, error) {
	m, err := c.find(name)
	if err != nil {
		return nil, err
	}
	pids := c.processes(m)
	if err := signalAll(pids, syscall.SIGSTOP); err != nil {
		return nil, err
	}
	return func(context.Context) error {
		say("thawing keeper and server of %s (SIGCONT)", name)
		return signalAll(pids, syscall.SIGCONT)
	}, nil
}

// stopPatience is how long a member may take to stop before it is killed.
const stopPatience = 20 * time.Second

// stop ends everything that was started, nodes before the monitor, by pid.
func (c *demoCluster) stop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 3*stopPatience)
	defer cancel()
	if len(c.members) == 0 {
		return
	}
	c.stopMembers(ctx, c.members[1:])
	c.stopMembers(ctx, c.members[:1])
}

func (c *demoCluster) stopMembers(ctx context.Context, members []*demoMember) {
	for _, m := range members {
		if m.cmd == nil {
			continue
		}
		pids := c.processes(m)
		_ = signalAll(pids, syscall.SIGCONT) // one of them may be frozen
		_ = signalAll(pids[:1], syscall.SIGINT)
	}
	for _, m := range members {
		if m.cmd == nil {
			continue
		}
		ended, cancel := context.WithTimeout(ctx, stopPatience)
		select {
		case <-m.exited:
		case <-ended.Done():
			c.env.warnf("%s does not stop, killing it", m.name)
			_ = signalAll([]int{m.cmd.Process.Pid}, syscall.SIGKILL)
			<-m.exited
		}
		cancel()
		c.stopServer(ctx, m)
	}
}

// stopServer ends a server that its keeper left behind.
func (c *demoCluster) stopServer(ctx context.Context, m *demoMember) {
	in := postgres.New(postgres.Config{Tools: c.cfg.tools, DataDir: m.pgdata, Port: m.port})
	postmaster, err := in.Adopt()
	if err != nil {
		return
	}
	if err := postmaster.Stop(ctx, postgres.StopImmediate); err != nil {
		c.env.warnf("stop the server of %s: %s", m.name, err)
	}
}

package pgtest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { MainAsRoot(m) }

func TestRedirect(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		args []string
		kept []string
		outs []output
	}{
		{
			name: "nothing to redirect",
			args: []string{"-test.run=TestX", "-test.v=true", "-rewrite"},
			kept: []string{"-test.run=TestX", "-test.v=true", "-rewrite"},
		},
		{
			name: "the log of the cache is dropped",
			args: []string{"-test.testlogfile=/private/testlog.txt", "-test.timeout=10m0s"},
			kept: []string{"-test.timeout=10m0s"},
		},
		{
			name: "an absolute profile",
			args: []string{"-test.coverprofile=/private/_cover_.out"},
			kept: []string{"-test.coverprofile=/d/coverprofile"},
			outs: []output{{from: "/d/coverprofile", to: "/private/_cover_.out"}},
		},
		{
			name: "a relative profile goes to the output directory",
			args: []string{"-test.cpuprofile=cpu.out", "-test.outputdir=/src/pkg"},
			kept: []string{"-test.cpuprofile=/d/cpuprofile"},
			outs: []output{{from: "/d/cpuprofile", to: "/src/pkg/cpu.out"}},
		},
		{
			name: "artifacts",
			args: []string{"-test.artifacts=true", "-test.outputdir=/out"},
			kept: []string{"-test.artifacts=true", "-test.outputdir=/d/outputdir"},
			outs: []output{{from: "/d/outputdir", to: "/out"}},
		},
		{
			name: "coverage data of programs",
			args: []string{"-test.gocoverdir=/private/cov"},
			kept: []string{"-test.gocoverdir=/d/gocoverdir"},
			outs: []output{{from: "/d/gocoverdir", to: "/private/cov"}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			kept, outs := redirect(c.args, "/d")
			require.Equal(t, c.kept, kept)
			require.Equal(t, c.outs, outs)
		})
	}
}

func TestChildEnvIsClean(t *testing.T) {
	t.Parallel()
	env := childEnv([]string{
		"PATH=/bin", "PGDATA=/elsewhere", "PGHOST=h", "PG_AUTOCTL_MONITOR=m", "PGDROVER_PG_BINDIRS=/x",
		"XDG_CONFIG_HOME=/c", "HOME=/root", "TMPDIR=/var/tmp", "CI=true",
	}, "/d/home", "/d/t", nil)
	require.Equal(t, []string{"PATH=/bin", "PGDROVER_PG_BINDIRS=/x", "CI=true", childVar + "=1", "HOME=/d/home", "TMPDIR=/d/t"}, env)
}

func TestServer(t *testing.T) {
	t.Parallel()
	EachMajor(t, func(t *testing.T, bin string) {
		t.Parallel()
		s := NewServer(t, ServerConfig{Bin: bin, Settings: map[string]string{"work_mem": "'7MB'"}})
		var level, mem string
		require.NoError(t, s.Connect(t, "postgres").QueryRow(t.Context(),
			"SELECT current_setting('wal_level'), current_setting('work_mem')").Scan(&level, &mem))
		require.Equal(t, "logical", level)
		require.Equal(t, "7MB", mem)
		require.NoError(t, Connect(t, s.URI("postgres")).Ping(t.Context()))

		s.Exec(t, "postgres", "CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)")
		s.Stop(t, syscall.SIGKILL)
		_, err := pgx.Connect(t.Context(), s.URI("postgres"))
		require.Error(t, err)
		s.Start(t)
		var n int
		require.NoError(t, s.Connect(t, "postgres").QueryRow(t.Context(), "SELECT count(*) FROM kept").Scan(&n))
		require.Equal(t, 1, n)
		s.Stop(t, syscall.SIGINT)
		require.Contains(t, s.Log(), "database system is shut down")
	})
}

func TestDatabasesAreSeparate(t *testing.T) {
	t.Parallel()
	for i := range 3 {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			conn := Connect(t, Database(t))
			_, err := conn.Exec(t.Context(), "CREATE TABLE same_name (id int)")
			require.NoError(t, err)
		})
	}
}

func TestFreePortsDiffer(t *testing.T) {
	t.Parallel()
	seen := map[int]bool{}
	for range 50 {
		p := FreePort(t)
		require.False(t, seen[p])
		seen[p] = true
	}
}

func TestWaitForTellsTheLastObservation(t *testing.T) {
	t.Parallel()
	err := WaitFor(50*time.Millisecond, func() error { return errors.New("three of five rows") })
	require.ErrorContains(t, err, "three of five rows")
	looks := 0
	require.NoError(t, WaitFor(time.Minute, func() error {
		if looks++; looks < 3 {
			return errors.New("not yet")
		}
		return nil
	}))
}

func TestProcess(t *testing.T) {
	t.Parallel()
	res := Run(t, time.Minute, Command{Path: "sh", Args: []string{"-c", "id -u; echo $GREETING >&2; exit 3"}, Env: []string{"GREETING=hello"}})
	require.Equal(t, Result{Code: 3, Stdout: res.Stdout, Stderr: "hello\n"}, res)
	require.NotEqual(t, "0\n", res.Stdout, "programs must not run as root")

	p := Start(t, Command{Path: "sh", Args: []string{"-c", "echo started; exec sleep 1000"}})
	Eventually(t, time.Minute, func() error {
		if p.Log() != "started\n" {
			return fmt.Errorf("log is %q", p.Log())
		}
		return p.running()
	})
	require.NoError(t, p.Signal(syscall.SIGTERM))
	require.Equal(t, -1, p.Wait(t, time.Minute))
	require.Error(t, p.running())
}

// echoServer answers every byte with itself.
func echoServer(t *testing.T) string {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

func exchange(c net.Conn, timeout time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

func TestLink(t *testing.T) {
	t.Parallel()
	l := NewLink(t, echoServer(t))
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr())
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	c := dial()
	require.NoError(t, exchange(c, time.Minute))

	l.Stall()
	var timeout net.Error
	require.ErrorAs(t, exchange(c, 50*time.Millisecond), &timeout)
	require.True(t, timeout.Timeout())
	held := dial()
	require.Error(t, exchange(held, 50*time.Millisecond))
	l.Restore()
	require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
	_, err := io.ReadFull(c, make([]byte, 1))
	require.NoError(t, err, "what was held back arrives")

	l.Delay(30 * time.Millisecond)
	start := time.Now()
	require.NoError(t, exchange(c, time.Minute))
	require.GreaterOrEqual(t, time.Since(start), 60*time.Millisecond, "there and back")

	l.Cut()
	require.Error(t, exchange(c, time.Minute))
	// The reset may come before or after the system calls it a connection.
	if refused, err := net.Dial("tcp", l.Addr()); err == nil {
		require.Error(t, exchange(refused, time.Minute))
		require.NoError(t, refused.Close())
	}
	l.Restore()
	require.NoError(t, exchange(dial(), time.Minute))
}

func TestNetwork(t *testing.T) {
	t.Parallel()
	n := NewNetwork(t, "a", "b", "c")
	a, b := n.Host("a"), n.Host("b")
	// Nothing is served inside the namespaces: a refusal is an answer too.
	const port = "5432"
	answers := func(from, to *Host) bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		conn, err := from.DialContext(ctx, "tcp", net.JoinHostPort(to.IP.String(), port))
		if err == nil {
			_ = conn.Close()
		}
		return err == nil || errors.Is(err, syscall.ECONNREFUSED)
	}
	require.True(t, answers(a, b))
	n.CutOneWay(t, b, a)
	require.False(t, answers(a, b), "the answer is lost")
	require.True(t, answers(a, n.Host("c")))
	n.Heal(t)
	require.True(t, answers(a, b))
	n.Isolate(t, b)
	require.False(t, answers(a, b))
	require.False(t, answers(b, n.Host("c")))
	n.Join(t, a, b)
	require.True(t, answers(a, b))

	res := Run(t, time.Minute, Command{Path: "ip", Args: []string{"-o", "addr", "show", "dev", "eth0"}, Host: b})
	require.Contains(t, res.Stdout, b.IP.String()+"/24")
	require.NotEqual(t, 0, Run(t, time.Minute, Command{Path: "ip", Args: []string{"link", "set", "eth0", "down"}, Host: b}).Code,
		"programs must not run as root")
}

// TestLeftovers is not a test of its own: the next one runs it in a process.
func TestLeftovers(t *testing.T) {
	out := os.Getenv("PGDROVER_PGTEST_LEFTOVER")
	if out == "" {
		return
	}
	// The shell ends at once, its child loses its parent and lives on.
	text, err := exec.Command("sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!").Output()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(out, "pid"), text, 0o600))
}

func TestOrphansAreEndedAndReported(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	dir := Dir(t)
	res := Run(t, time.Minute, Command{
		Path: self, Args: []string{"-test.run=^TestLeftovers$"},
		Env: []string{childVar + "=", "PGDROVER_PGTEST_LEFTOVER=" + dir},
	})
	require.Equal(t, 1, res.Code, res)
	require.Contains(t, res.Stderr, "leave processes behind")
	require.Contains(t, res.Stderr, "sleep 1000")
	text, err := os.ReadFile(filepath.Join(dir, "pid"))
	require.NoError(t, err)
	_, err = os.Stat("/proc/" + strings.TrimSpace(string(text)))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestAvailableMemory(t *testing.T) {
	t.Parallel()
	require.EqualValues(t, 18158080<<10, availableMemory("MemTotal:       24684092 kB\nMemFree:        13996752 kB\nMemAvailable:   18158080 kB\nBuffers: 1 kB\n"))
	require.Zero(t, availableMemory("MemTotal: 1 kB\n"))
	require.Zero(t, availableMemory("MemAvailable: much\n"))
}

// A server that was killed leaves its shared memory: that goes, what a running
// one uses stays, and so does what was there before the tests began. Tests of
// other packages kill servers at the same time, so only these two are looked at.
func TestSegmentsOfAKilledServerGo(t *testing.T) {
	t.Parallel()
	owner, err := serverOwner()
	require.NoError(t, err)
	uid := os.Getuid()
	if owner != nil {
		uid = int(owner.Uid)
	}
	begin := time.Now()
	killed, running := NewServer(t, ServerConfig{Name: "killed"}), NewServer(t, ServerConfig{Name: "running"})
	left, used := segmentsOf(t, killed), segmentsOf(t, running)
	killed.Stop(t, syscall.SIGKILL)
	require.Eventually(t, func() bool {
		found := leftSegments(uid, begin)
		return !slices.ContainsFunc(left, func(name string) bool {
			_, err := os.Stat(name) // a package that ends at this moment may have been faster
			return found[name].IsZero() && err == nil
		})
	}, time.Minute, 50*time.Millisecond)
	require.Empty(t, leftSegments(uid, time.Now().Add(time.Hour)))
	removeSegments(uid, begin)
	for _, name := range left {
		require.NoFileExists(t, name)
	}
	for _, name := range used {
		require.FileExists(t, name)
	}
}

// What a running server has made for processes of later is in no process's map,
// but in the list of its first segment.
func TestSegmentsThatAServerListsStay(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	segment := func(number uint32) string { return fmt.Sprintf("%s/PostgreSQL.%d", memoryPlace, number) }
	list := filepath.Join(dir, "list")
	require.NoError(t, os.WriteFile(list, binary.NativeEndian.AppendUint32(make([]byte, 8), 3000000001), 0o600))
	now := time.Now()
	left := map[string]time.Time{segment(3000000001): now, segment(3000000003): now, memoryPlace + "/PostgreSQL.other": now}
	keepListed(left, map[string]bool{list: true, filepath.Join(dir, "gone"): true})
	require.Equal(t, map[string]time.Time{segment(3000000003): now, memoryPlace + "/PostgreSQL.other": now}, left)
}

// A server keeps its statistics in such a segment: it does without a session.
func TestSegmentsOfARunningServerStay(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	s := NewServer(t, ServerConfig{})
	conn := s.Connect(t, "postgres")
	// So many tables have statistics that these do not fit into the main memory.
	_, err := conn.Exec(t.Context(), `DO $$ BEGIN FOR i IN 1 .. 4000 LOOP EXECUTE format('CREATE TABLE t%s AS SELECT', i); END LOOP; END $$`)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "SELECT count(*) FROM pg_stat_all_tables")
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	removeSegments(int(ownerOf(t, s)), begin)
	s.Exec(t, "postgres", "SELECT count(*) FROM pg_stat_all_tables")
}

func ownerOf(t *testing.T, s *Server) uint32 {
	t.Helper()
	var info unix.Stat_t
	require.NoError(t, unix.Stat(fmt.Sprintf("/proc/%d", s.Process().Pid), &info))
	return info.Uid
}

// segmentsOf names the dynamic shared memory of a server.
func segmentsOf(t *testing.T, s *Server) []string {
	t.Helper()
	s.Exec(t, "postgres", "SELECT 1")
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", s.Process().Pid))
	require.NoError(t, err)
	var names []string
	for line := range strings.Lines(string(text)) {
		if at := strings.Index(line, memoryPlace+"/PostgreSQL."); at >= 0 {
			names = append(names, strings.Fields(line[at:])[0])
		}
	}
	require.NotEmpty(t, names)
	return slices.Compact(names)
}

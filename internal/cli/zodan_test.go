package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/apply"
	"github.com/pgdrover/pgdrover/internal/orchestrator"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/spock"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// meshServer is a server of a multi-master cluster with one database, pgedge,
// of a role of that name, and the engine that serves it.
type meshServer struct {
	*pgtest.Server
	info pg.ConnInfo
	conn *pgx.Conn // that asks
}

// newMeshServer makes a server with the schema and a running engine; it is no node yet.
func newMeshServer(t *testing.T, name string) *meshServer {
	t.Helper()
	s := &meshServer{Server: pgtest.NewServer(t, pgtest.ServerConfig{Name: name, Settings: map[string]string{
		"track_commit_timestamp": "on", "max_replication_slots": "20", "max_wal_senders": "20",
	}})}
	s.Exec(t, "postgres", "CREATE ROLE pgedge SUPERUSER LOGIN")
	s.Exec(t, "postgres", "CREATE DATABASE pgedge OWNER pgedge")
	var err error
	s.info, err = pg.ParseConnInfo(s.DSN("pgedge"))
	require.NoError(t, err)
	s.info = pg.NewConnInfo("host", "127.0.0.1", "port", strconv.Itoa(s.Port), "user", "pgedge", "dbname", "pgedge")
	installSpock(t, s.info)
	engine, err := apply.New(apply.Config{ConnInfo: s.info, BinDir: pgtest.Bin(t)})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var group sync.WaitGroup
	group.Go(func() { _ = engine.Run(ctx) })
	t.Cleanup(func() { cancel(); group.Wait() })
	return s
}

// query asks the server's database for one text.
func (s *meshServer) query(t *testing.T, sql string) string {
	t.Helper()
	var text string
	if s.conn == nil || s.conn.IsClosed() {
		s.conn = s.Connect(t, "pgedge")
	}
	require.NoError(t, s.conn.QueryRow(t.Context(), "SELECT coalesce(("+sql+")::text, '')").Scan(&text), sql)
	return text
}

// same waits until a query has the same answer on all servers, and returns it.
func same(t *testing.T, sql string, servers ...*meshServer) string {
	t.Helper()
	var answers []string
	pgtest.Eventually(t, 10*time.Minute, func() error {
		answers = nil
		for _, s := range servers {
			answers = append(answers, s.query(t, sql))
		}
		for _, a := range answers {
			if a != answers[0] {
				return fmt.Errorf("the answers differ: %q", answers)
			}
		}
		return nil
	})
	return answers[0]
}

// callProgram runs the program in this process.
func callProgram(t *testing.T, dir string, words ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out bytes.Buffer
	code, stderr = callProgramTo(t.Context(), &out, dir, words...)
	return code, out.String(), stderr
}

func callProgramTo(ctx context.Context, stdout io.Writer, dir string, words ...string) (code int, stderr string) {
	var errs bytes.Buffer
	code = Main(ctx, Env{
		Name: words[0], Args: words[1:], Version: "1.2.3", Stdout: stdout, Stderr: &errs,
		Getenv: func(name string) (string, bool) { return dir, name == "HOME" }, PID: os.Getpid(), EUID: 1000,
	})
	return code, errs.String()
}

// until is an output that ends something when it has been told a text.
type until struct {
	bytes.Buffer
	text string
	end  context.CancelFunc
}

func (u *until) Write(b []byte) (int, error) {
	n, err := u.Buffer.Write(b)
	if strings.Contains(u.String(), u.text) {
		u.end()
	}
	return n, err
}

// published are three servers with the workflow files, in which only the ports are changed.
type published struct {
	dir, config string
	ports       []string
	nodes       []*meshServer
}

func newPublished(t *testing.T) *published {
	t.Helper()
	p := &published{dir: pgtest.Dir(t)}
	var config []string
	for i := 1; i <= 3; i++ {
		s := newMeshServer(t, "n"+strconv.Itoa(i))
		p.nodes = append(p.nodes, s)
		p.ports = append(p.ports, "port="+strconv.Itoa(5430+i), "port="+strconv.Itoa(s.Port))
		config = append(config, fmt.Sprintf(`{"node_name": "n%d", "postgres": {"postgres_ip": "127.0.0.1", "postgres_port": %d, `+
			`"postgres_user": "pgedge", "postgres_password": "pgedge", "postgres_db": "pgedge"}}`, i, s.Port))
	}
	p.config = filepath.Join(p.dir, "spockctrl.json")
	require.NoError(t, os.WriteFile(p.config, []byte(`{"spock-nodes": [`+strings.Join(config, ",")+"]}"), 0o600))
	return p
}

// words are the command line that runs a file.
func (p *published) words(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../workflow/testdata", file))
	require.NoError(t, err)
	path := filepath.Join(p.dir, file)
	require.NoError(t, os.WriteFile(path, []byte(strings.NewReplacer(p.ports...).Replace(string(text))), 0o600))
	return []string{"spockctrl", "-c", p.config, "-w", path, "--no-sleep", "-v", "2"}
}

func (p *published) run(t *testing.T, file string) {
	t.Helper()
	code, stdout, stderr := callProgram(t, p.dir, p.words(t, file)...)
	require.Zero(t, code, "%s\n%s", stdout, stderr)
	require.Contains(t, stdout, "[OK]")
	require.NotContains(t, stdout, "[FAILED]")
}

// link lets slots name the plugin spock_output, as install-extension does.
func (p *published) link(t *testing.T) {
	t.Helper()
	out, err := exec.Command(filepath.Join(pgtest.Bin(t), "pg_config"), "--pkglibdir").Output()
	require.NoError(t, err)
	dirs := spock.ExtensionDirs{Lib: filepath.Join(p.dir, "lib"), Share: filepath.Join(p.dir, "share")}
	pgtest.Mkdir(t, dirs.Lib)
	pgtest.Mkdir(t, dirs.Share)
	pgtest.Mkdir(t, filepath.Join(dirs.Share, "extension"))
	require.NoError(t, os.Symlink(filepath.Join(strings.TrimSpace(string(out)), "pgoutput.so"), filepath.Join(dirs.Lib, "pgoutput.so")))
	require.NoError(t, spock.InstallExtension(t.Context(), dirs))
	for _, s := range p.nodes {
		s.Exec(t, "postgres", "ALTER SYSTEM SET dynamic_library_path = '"+dirs.Lib+":$libdir'")
		db, err := spock.Connect(t.Context(), spock.ConnectConfig{ConnInfo: s.info})
		require.NoError(t, err)
		settings, err := db.ExtensionSettings(t.Context())
		require.NoError(t, err)
		require.NoError(t, db.Close(t.Context()))
		if settings.Hint != "" { // newer servers have a list of plugins
			s.Exec(t, "postgres", settings.Hint)
		}
		s.Exec(t, "postgres", "SELECT pg_reload_conf()")
		pgtest.Eventually(t, 10*time.Minute, func() error {
			if path := s.query(t, "current_setting('dynamic_library_path')"); !strings.HasPrefix(path, dirs.Lib) {
				return errors.New(path)
			}
			return nil
		})
	}
}

// nothingLeft sees that no node is one any more.
func (p *published) nothingLeft(t *testing.T) {
	t.Helper()
	for _, s := range p.nodes {
		require.Equal(t, "0", s.query(t, "SELECT count(*) FROM pg_replication_slots"))
		require.Equal(t, "0", s.query(t, "SELECT count(*) FROM spock.node"))
		require.Equal(t, "0", s.query(t, "SELECT count(*) FROM spock.subscription"))
	}
}

const content = "SELECT count(*) || ' ' || md5(string_agg(t::text, ',' ORDER BY id)) FROM public.t"

// crossWire makes a cluster of two with a table.
func (p *published) crossWire(t *testing.T) {
	t.Helper()
	p.run(t, "cross-wire.json")
	for _, s := range p.nodes[:2] {
		s.Exec(t, "pgedge", "CREATE TABLE public.t (id int PRIMARY KEY, who text)")
		s.Exec(t, "pgedge", "CREATE TABLE public.journal (id int)")
		s.Exec(t, "pgedge", "SELECT spock.repset_add_table('default', 'public.t'), spock.repset_add_table('default_insert_only', 'public.journal')")
	}
	p.nodes[0].Exec(t, "pgedge", "INSERT INTO public.t SELECT g, 'n1' FROM generate_series(1, 50) g")
	p.nodes[1].Exec(t, "pgedge", "INSERT INTO public.t SELECT g, 'n2' FROM generate_series(51, 100) g")
	require.Contains(t, same(t, content, p.nodes[:2]...), "100 ")
}

// plugin is that of the slot which the file makes.
func (p *published) plugin(t *testing.T) string {
	t.Helper()
	return p.nodes[1].query(t, "SELECT plugin FROM pg_replication_slots WHERE slot_name = 'spk_pgedge_n2_sub_n2_n3'")
}

// The published workflow files, with no change but the servers' ports: while
// nothing is written, and while both nodes are; both without a library of that
// name for the slot's plugin, and with the link that install-extension makes.
func TestWorkflowFilesOnServers(t *testing.T) {
	t.Parallel()
	pgtest.Bin(t)
	p := newPublished(t)
	p.crossWire(t)
	p.cancelled(t)
	p.idle(t, "pgoutput")
	p.loaded(t, "pgoutput", func(t *testing.T) { p.run(t, "add_node.json") })
	p.run(t, "uncross-wire.json")
	p.run(t, "uncross-wire.json")
	p.nothingLeft(t)
	for _, s := range p.nodes {
		s.Exec(t, "pgedge", "DROP TABLE public.t, public.journal")
	}

	p.link(t)
	p.crossWire(t)
	p.idle(t, "spock_output")
	p.loaded(t, "spock_output", p.failed)
	p.run(t, "uncross-wire.json")
	p.nothingLeft(t)
	for _, s := range p.nodes[1:] {
		s.Exec(t, "pgedge", "DROP TABLE public.t, public.journal")
	}
	p.nodes[0].Exec(t, "pgedge", "DROP TABLE public.journal")
	withoutOurs(t, p.nodes)
	p.nothingLeft(t)
}

// idle lets the third node join and leave while nothing is written.
func (p *published) idle(t *testing.T, plugin string) {
	t.Helper()
	p.run(t, "add_node.json")
	require.Equal(t, plugin, p.plugin(t))
	p.nodes[1].Exec(t, "pgedge", "INSERT INTO public.t SELECT g, 'n2' FROM generate_series(101, 120) g")
	p.nodes[0].Exec(t, "pgedge", "INSERT INTO public.t SELECT g, 'n1' FROM generate_series(121, 130) g")
	require.Contains(t, same(t, content, p.nodes...), "130 ")
	p.run(t, "remove_node.json")
	p.nodes[2].Exec(t, "pgedge", "DROP TABLE public.t, public.journal")
}

// loaded lets it join and leave while both others are written to.
func (p *published) loaded(t *testing.T, plugin string, join func(t *testing.T)) {
	t.Helper()
	first, second := writer(t, p.nodes[0], 10_000), writer(t, p.nodes[1], 1_000_000)
	join(t)
	require.Equal(t, plugin, p.plugin(t))
	p.everywhere(t, 1, first, second)
	first, second = writer(t, p.nodes[0], 3_000_000), writer(t, p.nodes[1], 4_000_000)
	p.run(t, "remove_node.json")
	p.everywhere(t, 2, first, second)
}

// everywhere ends the writing and compares the nodes but for the last ones.
func (p *published) everywhere(t *testing.T, left int, stops ...func() int) {
	t.Helper()
	for _, stop := range stops {
		require.Positive(t, stop())
	}
	nodes := p.nodes[:len(p.nodes)+1-left]
	same(t, content, nodes...)
	counts := strings.Fields(same(t, "SELECT count(*) || ' ' || count(DISTINCT id) FROM public.journal", nodes...))
	require.Equal(t, counts[0], counts[1], "a row without a key is there twice")
}

// cancelled runs the file until it has made most of what it makes; what is left
// of it then is what there was before.
func (p *published) cancelled(t *testing.T) {
	t.Helper()
	before := everything(t, p.nodes)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &until{text: "[Step - 07]", end: cancel}
	code, stderr := callProgramTo(ctx, out, p.dir, append(p.words(t, "add_node.json"), "--on-failure=rollback")...)
	require.Equal(t, 130, code, "%s\n%s", out, stderr)
	pgtest.Eventually(t, 10*time.Minute, func() error {
		for i, now := range everything(t, p.nodes) {
			if now != before[i] {
				return fmt.Errorf("n%d: %s, not %s", i+1, now, before[i])
			}
		}
		return nil
	})
}

// failed runs the file to a step that fails, and again to its end.
func (p *published) failed(t *testing.T) {
	t.Helper()
	n2 := p.nodes[1]
	n2.Exec(t, "pgedge", "ALTER FUNCTION spock.sync_event(boolean) RENAME TO hidden")
	code, stdout, stderr := callProgram(t, p.dir, p.words(t, "add_node.json")...)
	require.Equal(t, 3, code, "%s\n%s", stdout, stderr)
	require.Regexp(t, `\[Step - 07\] .*\[FAILED\]`, stdout)
	n2.Exec(t, "pgedge", "ALTER FUNCTION spock.hidden(boolean) RENAME TO sync_event")
	code, stdout, stderr = callProgram(t, p.dir, p.words(t, "add_node.json")...)
	require.Zero(t, code, "%s\n%s", stdout, stderr)
	require.NotContains(t, stdout, "[Step - 06]", "what is done is not done again")
	require.Contains(t, stdout, "[Step - 15]")
}

// plainSpock is a server that has what Spock's release 5 documents, and nothing
// else: whatever of ours is asked of it goes by another name, which does not
// exist, and the server says so itself.
type plainSpock struct {
	orchestrator.Server
	plain *plain
}

// plain remembers what servers did not know.
type plain struct {
	version string // that it says it has; empty is its own
	mu      sync.Mutex
	unknown []string
}

func (p *plain) dial(ctx context.Context, node workflow.Node, notice func(spock.Notice)) (orchestrator.Server, error) {
	server, err := orchestrator.Dial(ctx, node, notice)
	if err != nil {
		return nil, err
	}
	return &plainSpock{server, p}, nil
}

func (p *plain) hide(sql string) string {
	if p.version != "" {
		sql = strings.ReplaceAll(sql, "spock.spock_version_num()", p.version)
	}
	return strings.NewReplacer("spock.pgdrover_", "spock.absent_", "pgdrover.", "absent.", "'pgdrover'", "'absent'").Replace(sql)
}

// note remembers a statement that nobody should have sent without asking first.
func (p *plain) note(sql string, err error) {
	switch spock.SQLState(err) {
	case pgerrcode.UndefinedTable, pgerrcode.UndefinedFunction, pgerrcode.UndefinedColumn, pgerrcode.InvalidSchemaName:
		p.mu.Lock()
		defer p.mu.Unlock()
		p.unknown = append(p.unknown, sql)
	}
}

func (s *plainSpock) Run(ctx context.Context, sql string) (orchestrator.Result, error) {
	answer, err := s.Server.Run(ctx, s.plain.hide(sql))
	s.plain.note(sql, err)
	return answer, err
}

func (s *plainSpock) Ask(ctx context.Context, sql string, args ...*string) (orchestrator.Result, error) {
	answer, err := s.Server.Ask(ctx, s.plain.hide(sql), args...)
	s.plain.note(sql, err)
	return answer, err
}

// withoutOurs lets nodes join and leave by what Spock documents alone.
func withoutOurs(t *testing.T, nodes []*meshServer) {
	t.Helper()
	p := &plain{}
	surveyor := &orchestrator.Surveyor{Dial: p.dial}
	m := &orchestrator.Membership{Surveyor: surveyor, Owner: "a test", StateDir: pgtest.Dir(t)}
	member := func(i int) workflow.Member {
		return workflow.Member{Name: "n" + strconv.Itoa(i+1), DSN: nodes[i].info.DSN()}
	}
	run := func(cfg orchestrator.Config, err error) {
		t.Helper()
		require.NoError(t, err)
		e, err := orchestrator.New(cfg)
		require.NoError(t, err)
		require.NoError(t, e.Run(t.Context()))
	}
	join := func(i int) orchestrator.Addition {
		return orchestrator.Addition{Source: member(0), New: []workflow.Newcomer{{Member: member(i), Location: "NY", Country: "USA", Info: "{}"}}}
	}
	nodes[0].Exec(t, "pgedge", "CREATE TABLE public.journal (id int)")
	nodes[0].Exec(t, "pgedge", "SELECT spock.node_create('n1', '"+nodes[0].info.DSN()+"')")
	nodes[0].Exec(t, "pgedge", "SELECT spock.repset_add_table('default', 'public.t'), spock.repset_add_table('default_insert_only', 'public.journal')")
	run(m.Add(t.Context(), join(1)))

	p.version = "50004"
	_, err := m.Add(t.Context(), join(2))
	require.ErrorContains(t, err, "does not say rightly how far a copy holds other nodes' changes")
	require.Equal(t, "0", nodes[2].query(t, "SELECT count(*) FROM spock.node"), "nothing was changed")
	p.version = ""
	_, err = m.Add(t.Context(), orchestrator.Addition{Source: member(0), New: join(2).New, Limits: orchestrator.Limits(2, 0, 0)})
	require.ErrorContains(t, err, "are for nodes that are all served by pgdrover's engine")

	stop := writer(t, nodes[1], 2_000_000)
	run(m.Add(t.Context(), join(2)))
	require.Positive(t, stop())
	same(t, "SELECT count(*) || ' ' || md5(string_agg(t::text, ',' ORDER BY id)) FROM public.t", nodes...)
	for _, c := range surveyor.Health(t.Context(), orchestrator.HealthConfig{Source: member(0), New: member(2), Post: true, Patience: 2 * time.Minute}, nil) {
		require.NotEqual(t, orchestrator.Fail, c.Verdict, c.Text)
	}
	_, err = surveyor.Runs(t.Context(), member(0))
	require.ErrorContains(t, err, "it keeps no journals")
	for i := range nodes {
		run(m.Remove(t.Context(), orchestrator.Removal{Target: member(len(nodes) - 1 - i)}))
	}
	require.Empty(t, p.unknown, "asked without knowing whether it is there")
}

// writer inserts rows on one server until it is stopped, and fails the test on any error.
func writer(t *testing.T, s *meshServer, from int) (stop func() int) {
	t.Helper()
	conn := s.Connect(t, "pgedge")
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	n := 0
	var failure error
	group.Go(func() {
		// At a pace that a machine under load can apply.
		pace := time.NewTicker(20 * time.Millisecond)
		defer pace.Stop()
		for ; ctx.Err() == nil; n++ {
			<-pace.C
			// A context that ends would leave a transaction of which nobody knows whether it was.
			_, err := conn.Exec(context.WithoutCancel(ctx), fmt.Sprintf(`BEGIN; INSERT INTO public.t VALUES (%[1]d, 'x');
				INSERT INTO public.journal VALUES (%[1]d); UPDATE public.t SET who = 'y' WHERE id = %[1]d; COMMIT`, from+n))
			if err != nil {
				failure = err
				return
			}
		}
	})
	return func() int {
		cancel()
		group.Wait()
		require.NoError(t, failure)
		return n
	}
}

// A third node joins while both others are written to, leaves, and joins again;
// no row is missing anywhere, and none is there twice.
func TestZodanOnServers(t *testing.T) {
	t.Parallel()
	pgtest.Bin(t)
	dir := pgtest.Dir(t)
	var nodes []*meshServer
	for i := 1; i <= 3; i++ {
		nodes = append(nodes, newMeshServer(t, "n"+strconv.Itoa(i)))
	}
	dsn := func(i int) string { return nodes[i].info.DSN() }
	nodes[0].Exec(t, "pgedge", "CREATE TABLE public.t (id int PRIMARY KEY, who text)")
	nodes[0].Exec(t, "pgedge", "CREATE TABLE public.journal (id int)")
	nodes[0].Exec(t, "pgedge", "INSERT INTO public.t SELECT g, 'old' FROM generate_series(1, 1000) g")
	nodes[0].Exec(t, "pgedge", "SELECT spock.node_create('n1', '"+dsn(0)+"')")
	nodes[0].Exec(t, "pgedge", "SELECT spock.repset_add_table('default', 'public.t')")
	nodes[0].Exec(t, "pgedge", "SELECT spock.repset_add_table('default_insert_only', 'public.journal')")
	zodan := func(wanted int, words ...string) (stdout, stderr string) {
		t.Helper()
		code, stdout, stderr := callProgram(t, dir, append([]string{"zodan"}, words...)...)
		require.Equal(t, wanted, code, "%s\n%s", stdout, stderr)
		return stdout, stderr
	}
	add := func(i int) []string {
		return []string{
			"add_node", "--src-node-name=n1", "--src-dsn", dsn(0), "--new-node-name", "n" + strconv.Itoa(i+1), "--new-node-dsn=" + dsn(i),
			"--new-node-info", `{"why": "test | it"}`, "--stall-timeout=10m",
		}
	}
	stdout, _ := zodan(0, append(add(1), "--dry-run")...)
	require.Contains(t, stdout, "[J6] Create subscription sub_n1_n2 on n2")
	require.Equal(t, "0", nodes[1].query(t, "SELECT count(*) FROM spock.node"), "a plan changes nothing")
	zodan(0, add(1)...)
	require.Equal(t, "2", nodes[1].query(t, "SELECT count(*) FROM spock.node"))
	require.Equal(t, "2", nodes[1].query(t, "SELECT count(*) FROM spock.replication_set_table"))

	const rows = "SELECT count(*) || ' ' || md5(string_agg(t::text, ',' ORDER BY id)) FROM public.t"
	const journal = "SELECT count(*) || ' ' || count(DISTINCT id) FROM public.journal"
	first, second := writer(t, nodes[0], 10_000), writer(t, nodes[1], 1_000_000)
	// What cannot join is refused with its reason before anything is changed.
	nodes[2].Exec(t, "pgedge", `CREATE TABLE public.stray (id int); ALTER FUNCTION spock.spock_version() RENAME TO kept_version;
		CREATE FUNCTION spock.spock_version() RETURNS text LANGUAGE sql AS $$ SELECT '5.0.4'::text $$`)
	nodes[0].Exec(t, "pgedge", "CREATE ROLE clerk LOGIN")
	before := everything(t, nodes)
	stdout, stderr := zodan(5, add(2)...)
	for _, line := range []string{"new node n3 is not empty: public.stray", "new node n3 lacks the roles clerk", "n3 has version 5.0.4, the source has 5.0.11"} {
		require.Contains(t, stdout, "\n    FAIL: "+line+"\n")
	}
	require.Regexp(t, `(?m)^\S+ \d+ (ERROR|FATAL) 3 of \d+ checks failed; nothing was changed$`, stderr)
	away := add(2)
	away[6] = "--new-node-dsn=host=127.0.0.1 port=1 dbname=pgedge"
	stdout, _ = zodan(5, away...)
	require.Regexp(t, `(?m)^    FAIL: connect to new node n3: .*connection refused.*$`, stdout)
	_, stderr = zodan(2, append(add(2), "--new", "n3="+dsn(2))...)
	require.Regexp(t, `(?m)^\S+ \d+ (ERROR|FATAL) node "n3" is named twice$`, stderr)
	require.Equal(t, before, everything(t, nodes), "nothing was changed")
	nodes[2].Exec(t, "pgedge", `DROP TABLE public.stray; DROP FUNCTION spock.spock_version(); ALTER FUNCTION spock.kept_version() RENAME TO spock_version;
		CREATE ROLE clerk LOGIN`)
	olderNewcomer(t, nodes)
	stdout, _ = zodan(0, add(2)...)
	require.Contains(t, stdout, "[J13] Enable subscription sub_n2_n3 [OK]")
	require.Positive(t, first())
	require.Positive(t, second())
	same(t, rows, nodes...)
	counts := strings.Fields(same(t, journal, nodes...))
	require.Equal(t, counts[0], counts[1], "a row without a key is there twice")
	stdout, _ = zodan(0, "health-check", "--src-node-name=n1", "--src-dsn="+dsn(0), "--new-node-name=n3", "--new-node-dsn="+dsn(2), "--check-type=post")
	require.Contains(t, stdout, "PASS: every node subscribes to every other")
	require.Contains(t, stdout, "Failed: 0")

	// A node that is gone is removed from one that is left; one that is there leaves by itself.
	nodes[2].Stop(t, syscall.SIGQUIT)
	_, stderr = zodan(1, "status", "nosuch", "--src-dsn="+dsn(0))
	require.Contains(t, stderr, `there is no run "nosuch"`)
	_, stderr = zodan(1, "remove_node", "--target-node-name=n3", "--target-node-dsn="+dsn(2))
	require.Contains(t, stderr, "--survivor-dsn=")
	zodan(0, "remove_node", "--target-node-name=n3", "--target-node-dsn="+dsn(2), "--survivor-dsn="+dsn(0))
	requireForgotten(t, "n3", nodes[:2])
	zodan(0, "remove_node", "--target-node-name=n3", "--survivor-dsn="+dsn(0))
	zodan(0, "remove_node", "--target-node-name=n2", "--target-dsn="+dsn(1))
	requireForgotten(t, "n2", nodes[:2])
}

// newerServer is a server that says it is of the next major version.
type newerServer struct{ orchestrator.Server }

func (s newerServer) Ask(ctx context.Context, sql string, args ...*string) (orchestrator.Result, error) {
	return s.Server.Ask(ctx, strings.ReplaceAll(sql, "current_setting('server_version_num')::int / 10000", "current_setting('server_version_num')::int / 10000 + 1"), args...)
}

// olderNewcomer has a source of a later major version than the new node.
func olderNewcomer(t *testing.T, nodes []*meshServer) {
	t.Helper()
	surveyor := &orchestrator.Surveyor{Dial: func(ctx context.Context, node workflow.Node, notice func(spock.Notice)) (orchestrator.Server, error) {
		server, err := orchestrator.Dial(ctx, node, notice)
		if err != nil || node.Name != "n1" {
			return server, err
		}
		return newerServer{server}, nil
	}}
	member := func(i int) workflow.Member {
		return workflow.Member{Name: "n" + strconv.Itoa(i+1), DSN: nodes[i].info.DSN()}
	}
	var failed []string
	for _, c := range surveyor.Health(t.Context(), orchestrator.HealthConfig{Source: member(0), New: member(2), Patience: 2 * time.Minute}, nil) {
		if c.Verdict == orchestrator.Fail {
			failed = append(failed, c.Text)
		}
	}
	major, err := strconv.Atoi(nodes[0].query(t, "SELECT current_setting('server_version_num')::int / 10000"))
	require.NoError(t, err)
	require.Equal(t, []string{fmt.Sprintf("new node n3 has PostgreSQL %d, the source %d", major, major+1)}, failed)
}

// everything is what a join could change on nodes, but for rows.
func everything(t *testing.T, nodes []*meshServer) []string {
	t.Helper()
	var all []string
	for _, s := range nodes {
		all = append(all, s.query(t, `SELECT string_agg(x, ', ' ORDER BY x) FROM (SELECT 'node ' || node_name FROM spock.node
			UNION ALL SELECT 'subscription ' || sub_name || sub_enabled FROM spock.subscription
			UNION ALL SELECT 'set ' || set_name || set_nodeid FROM spock.replication_set
			UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots UNION ALL SELECT 'origin ' || roname FROM pg_replication_origin
			UNION ALL SELECT 'fence ' || run_id FROM spock.pgdrover_fence UNION ALL SELECT 'run ' || run_id || state FROM spock.pgdrover_run
			UNION ALL SELECT 'inventory ' || run_id FROM spock.pgdrover_inventory
			UNION ALL SELECT 'setting ' || setconfig::text FROM pg_db_role_setting
			UNION ALL SELECT 'object ' || oid::regclass FROM pg_class WHERE relnamespace::regnamespace::text !~ '^pg_') AS c(x)`))
	}
	return all
}

// requireForgotten sees that nothing of a node is left.
func requireForgotten(t *testing.T, name string, nodes []*meshServer) {
	t.Helper()
	for _, s := range nodes {
		require.Equal(t, "0", s.query(t, "SELECT count(*) FROM pg_replication_slots WHERE slot_name ~ '"+name+"'"))
		require.Equal(t, "0", s.query(t, "SELECT count(*) FROM spock.node WHERE node_name = '"+name+"'"))
		require.Equal(t, "0", s.query(t, "SELECT count(*) FROM spock.subscription WHERE sub_name ~ '"+name+"'"))
	}
}

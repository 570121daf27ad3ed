package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/apply"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// meshServer is a server of a multi-master cluster with one database, pgedge,
// of a role of that name, and the engine that serves it.
type meshServer struct {
	*pgtest.Server
	info pg.ConnInfo
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
	require.NoError(t, s.Connect(t, "pgedge").QueryRow(t.Context(), "SELECT coalesce(("+sql+")::text, '')").Scan(&text), sql)
	return text
}

// same waits until a query has the same answer on all servers, and returns it.
func same(t *testing.T, sql string, servers ...*meshServer) string {
	t.Helper()
	var answers []string
	pgtest.Eventually(t, 3*time.Minute, func() error {
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
	var out, errs bytes.Buffer
	code = Main(t.Context(), Env{
		Name: words[0], Args: words[1:], Version: "1.2.3", Stdout: &out, Stderr: &errs,
		Getenv: func(name string) (string, bool) { return dir, name == "HOME" }, PID: os.Getpid(), EUID: 1000,
	})
	return code, out.String(), errs.String()
}

// The published workflow files, with no change but the servers' ports.
func TestWorkflowFilesOnServers(t *testing.T) {
	t.Parallel()
	pgtest.Bin(t)
	dir := pgtest.Dir(t)
	var nodes []*meshServer
	var config []string
	ports := []string{}
	for i := 1; i <= 3; i++ {
		s := newMeshServer(t, "n"+strconv.Itoa(i))
		nodes = append(nodes, s)
		ports = append(ports, "port="+strconv.Itoa(5430+i), "port="+strconv.Itoa(s.Port))
		config = append(config, fmt.Sprintf(`{"node_name": "n%d", "postgres": {"postgres_ip": "127.0.0.1", "postgres_port": %d, `+
			`"postgres_user": "pgedge", "postgres_password": "pgedge", "postgres_db": "pgedge"}}`, i, s.Port))
	}
	configFile := filepath.Join(dir, "spockctrl.json")
	require.NoError(t, os.WriteFile(configFile, []byte(`{"spock-nodes": [`+strings.Join(config, ",")+"]}"), 0o600))
	run := func(file string) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join("../workflow/testdata", file))
		require.NoError(t, err)
		path := filepath.Join(dir, file)
		require.NoError(t, os.WriteFile(path, []byte(strings.NewReplacer(ports...).Replace(string(text))), 0o600))
		code, stdout, stderr := callProgram(t, dir, "spockctrl", "-c", configFile, "-w", path, "--no-sleep", "-v", "2")
		require.Zero(t, code, "%s\n%s", stdout, stderr)
		require.Contains(t, stdout, "[OK]")
		require.NotContains(t, stdout, "[FAILED]")
	}
	run("cross-wire.json")
	for _, s := range nodes[:2] {
		s.Exec(t, "pgedge", "CREATE TABLE public.t (id int PRIMARY KEY, who text)")
		s.Exec(t, "pgedge", "SELECT spock.repset_add_table('default', 'public.t')")
	}
	nodes[0].Exec(t, "pgedge", "INSERT INTO public.t SELECT g, 'n1' FROM generate_series(1, 50) g")
	nodes[1].Exec(t, "pgedge", "INSERT INTO public.t SELECT g, 'n2' FROM generate_series(51, 100) g")
	const content = "SELECT count(*) || ' ' || md5(string_agg(t::text, ',' ORDER BY id)) FROM public.t"
	require.Contains(t, same(t, content, nodes[:2]...), "100 ")

	run("add_node.json")
	nodes[1].Exec(t, "pgedge", "INSERT INTO public.t SELECT g, 'n2' FROM generate_series(101, 120) g")
	nodes[0].Exec(t, "pgedge", "INSERT INTO public.t SELECT g, 'n1' FROM generate_series(121, 130) g")
	require.Contains(t, same(t, content, nodes...), "130 ")

	run("remove_node.json")
	run("uncross-wire.json")
	run("uncross-wire.json")
	for _, s := range nodes {
		require.Equal(t, "0", s.query(t, "SELECT count(*) FROM pg_replication_slots"))
		require.Equal(t, "0", s.query(t, "SELECT count(*) FROM spock.node"))
		require.Equal(t, "0", s.query(t, "SELECT count(*) FROM spock.subscription"))
	}
}

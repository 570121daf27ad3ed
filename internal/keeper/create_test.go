package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// tree lists what is below a directory, to compare.
func tree(t *testing.T, root string) []string {
	t.Helper()
	var all []string
	require.NoError(t, filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() && filepath.Ext(path) != ".lock" {
			all = append(all, fmt.Sprint(path, info.Size(), info.ModTime().UnixNano()))
		}
		return err
	}))
	return all
}

// members lists who is in the group, in which state.
func (g *group) members(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, n := range g.nodes(t) {
		all = append(all, fmt.Sprintf("%d %s %s/%s", n.ID, n.Name, n.Reported, n.Goal))
	}
	return all
}

// refused requires that a creation fails with a hint and leaves everything as it was.
func (g *group) refused(t *testing.T, cfg Config) error {
	t.Helper()
	before, nodes := tree(t, filepath.Dir(cfg.File.PGData)), g.members(t)
	err := Create(t.Context(), CreateConfig{Config: cfg, CandidatePriority: 50, ReplicationQuorum: true})
	require.Error(t, err)
	require.NotEmpty(t, hintOf(err), err)
	require.Equal(t, before, tree(t, filepath.Dir(cfg.File.PGData)))
	require.Equal(t, nodes, g.members(t))
	return err
}

func TestCreateRefusesAndChangesNothing(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	first := g.place(t, "n1")
	first.run(t, true)
	g.wait(t, map[string]fsm.State{"n1": fsm.Single})

	t.Run("other contents", func(t *testing.T) {
		p := g.place(t, "n2")
		require.NoError(t, os.MkdirAll(p.config().File.PGData, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(p.config().File.PGData, "holiday.jpg"), []byte("x"), 0o600))
		require.ErrorContains(t, g.refused(t, p.config()), "not empty")
	})
	t.Run("a file", func(t *testing.T) {
		p := g.place(t, "n2")
		require.NoError(t, os.WriteFile(p.config().File.PGData, nil, 0o600))
		require.ErrorContains(t, g.refused(t, p.config()), "not a directory")
	})
	t.Run("no place", func(t *testing.T) {
		p := g.place(t, "n2")
		require.NoError(t, os.MkdirAll(filepath.Join(p.Root, "locked"), 0o500))
		cfg := p.config()
		cfg.File.PGData = filepath.Join(p.Root, "locked", "data")
		_ = g.refused(t, cfg)
	})
	t.Run("running server and other system identifier", func(t *testing.T) {
		p := g.place(t, "n2")
		inst := p.instance()
		require.NoError(t, inst.InitDB(t.Context(), postgres.InitDBConfig{}))
		require.ErrorContains(t, g.refused(t, p.config()), "register this node")
		pm, err := inst.Start(t.Context(), postgres.StartConfig{})
		require.NoError(t, err)
		_, err = pm.WaitReady(t.Context())
		require.NoError(t, err)
		err = Create(t.Context(), CreateConfig{Config: p.config()})
		require.ErrorContains(t, err, "PostgreSQL runs in it")
		require.NotEmpty(t, hintOf(err))
		require.NoError(t, pm.Stop(t.Context(), postgres.StopFast))
	})
	t.Run("port in use", func(t *testing.T) {
		p := g.place(t, "n2")
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p.Port))
		require.NoError(t, err)
		defer l.Close()
		require.ErrorContains(t, g.refused(t, p.config()), "port")
	})
	t.Run("unknown formation", func(t *testing.T) {
		cfg := g.place(t, "n2").config()
		cfg.File.Formation = "nowhere"
		require.ErrorContains(t, g.refused(t, cfg), "nowhere")
	})
}

func TestHopelessCreationIsTakenBack(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	first, second := g.place(t, "n1"), g.place(t, "n2")
	first.run(t, true)
	g.wait(t, map[string]fsm.State{"n1": fsm.Single})
	cfg := second.config()
	cfg.File.BackupDirectory = filepath.Join(pgtest.OtherFileSystem(t, second.Root), "backup")
	before := tree(t, second.Root)
	err := Create(t.Context(), CreateConfig{Config: cfg, CandidatePriority: 50, ReplicationQuorum: true})
	require.Error(t, err)
	require.NotEmpty(t, hintOf(err))
	require.Equal(t, before, tree(t, second.Root))
	g.wait(t, map[string]fsm.State{"n1": fsm.Single})
}

// A creation was killed during initdb some time ago, and the operator then made
// the database himself: it is in use, and he wants it to be managed.
func TestCreateTakesADatabaseBesideAForgottenMark(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	p := g.place(t, "n1")
	inst := p.instance()
	require.NoError(t, inst.InitDB(t.Context(), postgres.InitDBConfig{Args: []string{"--no-sync"}}))
	pm, err := inst.Start(t.Context(), postgres.StartConfig{})
	require.NoError(t, err)
	_, err = pm.WaitReady(t.Context())
	require.NoError(t, err)
	p.query(t, `CREATE TABLE precious AS SELECT 1 AS id`, `SELECT id::text FROM precious`)
	require.NoError(t, pm.Stop(t.Context(), postgres.StopFast))
	pm.Release()
	require.NoError(t, os.WriteFile(inst.DataDir()+".initdb", nil, 0o600))

	p.run(t, true)
	g.wait(t, map[string]fsm.State{"n1": fsm.Single})
	require.NoFileExists(t, inst.DataDir()+".initdb")
	require.Equal(t, "1", p.query(t, `SELECT id::text FROM precious`))
}

func TestWrongMonitorIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	for name, uri := range map[string]string{
		"database": "dbname", "user": "user",
	} {
		t.Run(name, func(t *testing.T) {
			cfg := g.place(t, "n1").config()
			info, err := pg.ParseConnInfo(cfg.File.Monitor)
			require.NoError(t, err)
			cfg.File.Monitor = info.With(uri, "nobody_here").URI()
			err = g.refused(t, cfg)
			_, ok := errors.AsType[*MonitorError](err)
			require.True(t, ok, err)
		})
	}
}

package spock_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/spock"
)

func pgConfig(t *testing.T, bin, what string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "pg_config"), what).Output()
	if err != nil {
		t.Skip("no pg_config in " + bin)
	}
	return strings.TrimSpace(string(out))
}

// installation makes an installation of the server whose directories can be
// written: links to the real one's files, but for the two programs that look
// for their directories beside themselves.
func installation(t *testing.T) (bin string, dirs spock.ExtensionDirs) {
	t.Helper()
	installed := pgtest.Bin(t)
	root := t.TempDir()
	require.NoError(t, os.Chmod(root, 0o755))
	mirror := func(from string) string {
		to := filepath.Join(root, from)
		require.NoError(t, filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() {
				return os.MkdirAll(filepath.Join(root, path), 0o755)
			}
			if name := filepath.Base(path); filepath.Dir(path) == installed && (name == "postgres" || name == "initdb") {
				text, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				return os.WriteFile(filepath.Join(root, path), text, 0o755)
			}
			return os.Symlink(path, filepath.Join(root, path))
		}))
		return to
	}
	return mirror(installed), spock.ExtensionDirs{Share: mirror(pgConfig(t, installed, "--sharedir")), Lib: mirror(pgConfig(t, installed, "--pkglibdir"))}
}

func TestExtension(t *testing.T) {
	t.Parallel()
	bin, dirs := installation(t)
	ctx := t.Context()
	for range 2 {
		require.NoError(t, spock.InstallExtension(ctx, dirs))
	}
	s := pgtest.NewServer(t, pgtest.ServerConfig{Bin: bin, Settings: map[string]string{
		"track_commit_timestamp": "on", "shared_preload_libraries": "'spock'",
	}})
	n := open(t, s.DSN("postgres"), false)
	n.exec(t, `CREATE EXTENSION spock`)
	require.Equal(t, spock.CompatVersion, n.text(t, `SELECT extversion FROM pg_extension WHERE extname = 'spock'`))
	require.NoError(t, spock.Install(ctx, n.db), "it is installed already")

	// The script gives what the program gives.
	s.Exec(t, "postgres", `CREATE DATABASE script`)
	script := open(t, s.DSN("script"), true)
	require.Equal(t, script.lines(t, catalog), n.lines(t, catalog))

	n.exec(t, `CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1)`)
	n.exec(t, `SELECT spock.node_create('n1', $1)`, n.dsn)
	n.exec(t, `SELECT spock.repset_add_table('default', 'a')`)
	settings, err := n.db.ExtensionSettings(ctx)
	require.NoError(t, err)
	require.Equal(t, "spock", settings.Preload)
	if settings.Hint != "" {
		n.exec(t, settings.Hint)
		n.exec(t, `SELECT pg_reload_conf()`)
		pgtest.Eventually(t, patience, func() error {
			_, err := n.session(t).Exec(ctx, `SELECT 1/(position('spock_output' IN current_setting('output_plugin_libraries')) > 0)::int`)
			return err
		})
	}
	n.exec(t, `SELECT pg_create_logical_replication_slot('spk_x', 'spock_output')`)
	require.Equal(t, "spock_output", n.text(t, `SELECT plugin FROM pg_replication_slots WHERE slot_name = 'spk_x'`))
	n.exec(t, `SELECT * FROM pg_logical_slot_get_binary_changes('spk_x', NULL, NULL, 'proto_version', '1', 'publication_names', 'pgdrover_ins')`)

	// DROP EXTENSION takes the triggers along and leaves the table alone; nothing has to be CASCADEd.
	n.exec(t, `SELECT spock.node_drop('n1'); SELECT spock.node_create('n1', $1)`, n.dsn)
	require.Equal(t, "0", n.text(t, `SELECT count(*) FROM pg_replication_slots`), "ours under that plugin's name too")
	n.exec(t, `SELECT spock.repset_add_table('default', 'a')`)
	require.Equal(t, "3", n.text(t, `SELECT count(*) FROM pg_trigger WHERE tgrelid = 'a'::regclass`))
	n.exec(t, `DROP EXTENSION spock`)
	require.Equal(t, "0", n.text(t, `SELECT count(*) FROM pg_trigger WHERE tgrelid = 'a'::regclass`))
	n.exec(t, `DELETE FROM a; CREATE TABLE b (id int); DROP TABLE a, b`)
	n.exec(t, `CREATE EXTENSION spock VERSION '5.0.1'; ALTER EXTENSION spock UPDATE`)
	require.Equal(t, spock.CompatVersion, n.text(t, `SELECT extversion FROM pg_extension WHERE extname = 'spock'`))
	require.NoError(t, spock.Uninstall(ctx, n.db))
	require.Equal(t, "0", n.text(t, `SELECT count(*) FROM pg_namespace WHERE nspname IN ('spock', 'pgdrover')`))

	// An extension of the first version is brought up to date in the same way, and what came new belongs to it.
	script1, err := os.ReadFile("testdata/schema-1.sql")
	require.NoError(t, err)
	file := filepath.Join(dirs.Share, "extension", "spock--"+spock.CompatVersion+".sql")
	require.NoError(t, os.WriteFile(file, script1, 0o644))
	n.exec(t, `CREATE EXTENSION spock; CREATE TABLE a (id int PRIMARY KEY); SELECT spock.node_create('n1', $1)`, n.dsn)
	n.exec(t, `SELECT spock.repset_add_table('default', 'a')`)
	require.NoError(t, spock.InstallExtension(ctx, dirs))
	require.NoError(t, spock.Upgrade(ctx, n.db))
	require.Equal(t, script.lines(t, catalog), n.lines(t, catalog))
	n.exec(t, `DROP EXTENSION spock`)
	require.Equal(t, "0", n.text(t, `SELECT count(*) FROM pg_event_trigger`))
	require.Equal(t, "0", n.text(t, `SELECT count(*) FROM pg_trigger WHERE tgrelid = 'a'::regclass`))
	require.Equal(t, "0", n.text(t, `SELECT count(*) FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass AND refobjid = 'spock'::regnamespace`))
	require.Equal(t, "NULL", n.text(t, `SELECT to_regnamespace('pgdrover')`))

	err = spock.RemoveExtension(ctx, dirs, settings.Preload)
	require.ErrorContains(t, err, "shared_preload_libraries names spock")
	require.NotEmpty(t, hint(t, err))
	for range 2 {
		require.NoError(t, spock.RemoveExtension(ctx, dirs, "pg_stat_statements"))
	}
	left, err := filepath.Glob(filepath.Join(dirs.Share, "extension", "spock*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestExtensionRefuses(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dirs := spock.ExtensionDirs{Share: filepath.Join(root, "share"), Lib: filepath.Join(root, "lib")}
	require.NoError(t, os.MkdirAll(filepath.Join(dirs.Share, "extension"), 0o755))
	require.NoError(t, os.MkdirAll(dirs.Lib, 0o755))
	ctx := context.WithoutCancel(t.Context())
	require.ErrorContains(t, spock.InstallExtension(ctx, dirs), "find the server's output plugin")
	require.NoError(t, os.WriteFile(filepath.Join(dirs.Lib, "pgoutput.so"), nil, 0o644))
	control := filepath.Join(dirs.Share, "extension", "spock.control")
	require.NoError(t, os.WriteFile(control, []byte("default_version = '5.0.4'\n"), 0o644))
	require.ErrorContains(t, spock.InstallExtension(ctx, dirs), "belongs to another installation")
	require.ErrorContains(t, spock.RemoveExtension(ctx, dirs, ""), "belongs to another installation")
	require.NoError(t, os.Remove(control))
	require.NoError(t, os.WriteFile(filepath.Join(dirs.Lib, "spock.so"), nil, 0o644))
	require.ErrorContains(t, spock.InstallExtension(ctx, dirs), "a library of this name is installed")
}

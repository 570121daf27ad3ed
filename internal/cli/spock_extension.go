package cli

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/spock"
)

// extensionFlags are the ways to say which installation of PostgreSQL is meant.
func extensionFlags(cmd *cobra.Command) {
	cmd.Flags().StringP("dsn", "d", "", "`connection string` of a server on this host, which is asked for its directories and its settings")
	cmd.Flags().StringP("pgctl", "C", "", "`path` to the pg_ctl of the installation, when no server runs")
	cmd.Flags().String("sharedir", "", "`directory` of shared files (pg_config --sharedir)")
	cmd.Flags().String("pkglibdir", "", "`directory` of libraries (pg_config --pkglibdir)")
}

func newSpockInstallExtensionCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("install-extension", "Put the files of the extension spock into an installation of PostgreSQL",
		func(cmd *cobra.Command, words []string) error {
			if err := noWords(words); err != nil {
				return err
			}
			return installExtension(cmd.Context(), env, cmd)
		})
	extensionFlags(cmd)
	return cmd
}

func newSpockRemoveExtensionCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("remove-extension", "Remove the files that install-extension has put there",
		func(cmd *cobra.Command, words []string) error {
			if err := noWords(words); err != nil {
				return err
			}
			return removeExtension(cmd.Context(), env, cmd)
		})
	extensionFlags(cmd)
	cmd.Flags().Bool("force", false, "without a look at shared_preload_libraries of a server")
	return cmd
}

func installExtension(ctx context.Context, env *Env, cmd *cobra.Command) error {
	dirs, settings, err := installation(ctx, env, cmd)
	if err != nil {
		return err
	}
	if err := spock.InstallExtension(ctx, dirs); err != nil {
		return withCode(exitInternal, err)
	}
	env.infof("Extension spock is in %s and %s", filepath.Join(dirs.Share, "extension"), dirs.Lib)
	env.hint("CREATE EXTENSION spock now works in every database of this installation, and shared_preload_libraries = 'spock' does no harm")
	if settings.Hint != "" {
		env.hint("replication slots with the plugin spock_output need one more setting on this server: %s; then reload it", settings.Hint)
	}
	return nil
}

func removeExtension(ctx context.Context, env *Env, cmd *cobra.Command) error {
	dirs, settings, err := installation(ctx, env, cmd)
	if err != nil {
		return err
	}
	if text(cmd, "dsn") == "" && !on(cmd, "force") {
		return misuse("Please use --dsn, so that the server's shared_preload_libraries can be looked at, or --force")
	}
	if err := spock.RemoveExtension(ctx, dirs, settings.Preload); err != nil {
		return withCode(exitBadState, err)
	}
	env.infof("Extension spock is gone from %s and %s", filepath.Join(dirs.Share, "extension"), dirs.Lib)
	return nil
}

// installation finds the directories: those given, those of a running server, or those that pg_config names.
func installation(ctx context.Context, env *Env, cmd *cobra.Command) (spock.ExtensionDirs, spock.ExtensionSettings, error) {
	dirs := spock.ExtensionDirs{Share: text(cmd, "sharedir"), Lib: text(cmd, "pkglibdir")}
	var settings spock.ExtensionSettings
	if (dirs.Share == "") != (dirs.Lib == "") {
		return dirs, settings, misuse("Please use --sharedir and --pkglibdir together")
	}
	if dsn := text(cmd, "dsn"); dsn != "" {
		info, err := pg.ParseConnInfo(dsn)
		if err != nil {
			return dirs, settings, fail(exitBadArgs, "read the connection string of --dsn: %w", err)
		}
		err = withSpock(ctx, env, info, func(ctx context.Context, db *spock.DB, _ pg.ConnInfo) error {
			var err error
			if dirs.Share == "" {
				if dirs, err = db.InstallationDirs(ctx); err != nil {
					return err
				}
			}
			settings, err = db.ExtensionSettings(ctx)
			return err
		})
		if err == nil && !isDir(dirs.Lib) {
			err = fail(exitBadArgs, "the directory %q of that server is not on this host", dirs.Lib).
				withHint("run this on the server's own host")
		}
		return dirs, settings, err
	}
	if dirs.Share != "" {
		return dirs, settings, nil
	}
	tools, err := demoTools(ctx, env, text(cmd, "pgctl"))
	if err != nil {
		return dirs, settings, withCode(exitPgCtl, err)
	}
	for _, ask := range []struct {
		option string
		into   *string
	}{{"--sharedir", &dirs.Share}, {"--pkglibdir", &dirs.Lib}} {
		out, err := exec.CommandContext(ctx, tools.Path("pg_config"), ask.option).Output() //nolint:gosec // the operator's own installation
		if err != nil {
			return dirs, settings, fail(exitPgCtl, "run %s: %w", tools.Path("pg_config"), err).
				withHint("name the directories with --sharedir and --pkglibdir, or a running server with --dsn")
		}
		*ask.into = strings.TrimSpace(string(out))
	}
	return dirs, settings, nil
}

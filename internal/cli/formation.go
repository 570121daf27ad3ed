package cli

import (
	"context"

	"github.com/jackc/pgerrcode"
	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

func newCreateFormationCmd(env *Env) *cobra.Command {
	cmd := newLeaf("formation", "Create a new formation on the pg_auto_failover monitor", func(cmd *cobra.Command, words []string) error {
		if text(cmd, "formation") == "" || text(cmd, "kind") == "" {
			return misuse("Options --formation and --kind are mandatory")
		}
		if on(cmd, "enable-secondary") && on(cmd, "disable-secondary") {
			return misuse("Options --enable-secondary and --disable-secondary exclude each other")
		}
		if err := checkTexts(cmd); err != nil {
			return err
		}
		number, err := parseInt(text(cmd, "number-sync-standbys"), 128)
		if err != nil {
			return fatal(exitBadArgs, "--number-sync-standbys argument is not a valid number: %q", text(cmd, "number-sync-standbys"))
		}
		return withMonitor(env, func(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
			return createFormation(ctx, s, pgautofailover.Formation{
				ID: text(cmd, "formation"), Kind: text(cmd, "kind"),
				DBName:       orDefault(text(cmd, "dbname"), orDefault(env.getenv("PGDATABASE"), "postgres")),
				OptSecondary: !on(cmd, "disable-secondary"), NumberSyncStandbys: number,
			})
		})(cmd, words)
	})
	pgdataFlag(cmd)
	monitorFlag(cmd, "m")
	formationFlag(cmd)
	cmd.Flags().StringP("kind", "k", "", "`kind` of the formation: pgsql or citus")
	cmd.Flags().StringP("dbname", "d", "", "`name` of the database (default postgres)")
	cmd.Flags().BoolP("enable-secondary", "s", false, "let standbys register, which is the default")
	cmd.Flags().BoolP("disable-secondary", "S", false, "accept one node per group only")
	cmd.Flags().StringP("number-sync-standbys", "n", "0", "how many `standbys` must confirm a commit")
	return cmd
}

func createFormation(ctx context.Context, s *session, f pgautofailover.Formation) error {
	stored, err := s.db.CreateFormation(ctx, f)
	switch pgautofailover.SQLState(err) {
	case pgerrcode.UniqueViolation:
		return fail(exitMonitor, "formation %q exists already", f.ID).
			withHint("see its settings with: %s show settings --formation %s", s.env.program(), f.ID)
	case pgerrcode.InvalidParameterValue:
		return advise(err, "the kinds of formations are pgsql and citus")
	}
	if err != nil {
		return err
	}
	s.env.infof("Created formation %q of kind %q for database %q with number_sync_standbys %d",
		stored.ID, stored.Kind, stored.DBName, stored.NumberSyncStandbys)
	return nil
}

func newDropFormationCmd(env *Env) *cobra.Command {
	cmd := newLeaf("formation", "Drop a formation on the pg_auto_failover monitor", func(cmd *cobra.Command, words []string) error {
		formation := text(cmd, "formation")
		if formation == "" {
			return misuse("Option --formation is mandatory")
		}
		return withMonitor(env, func(ctx context.Context, s *session, _ *cobra.Command, _ []string) error {
			if err := s.formationExists(ctx, formation); err != nil {
				return err
			}
			err := s.db.DropFormation(ctx, formation)
			if pgautofailover.SQLState(err) == pgerrcode.ForeignKeyViolation {
				return fail(exitMonitor, "formation %q still has nodes", formation).
					withHint("drop them first; list them with: %s show state --formation %s", env.program(), formation)
			}
			if err != nil {
				return err
			}
			env.infof("Dropped formation %q", formation)
			return nil
		})(cmd, words)
	})
	pgdataFlag(cmd)
	monitorFlag(cmd, "m")
	formationFlag(cmd)
	return cmd
}

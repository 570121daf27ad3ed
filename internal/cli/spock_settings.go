package cli

import (
	"context"
	_ "embed"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/spock"
)

// spockDefaults is a file with all names and defaults, as the schema has them.
//
//go:embed spock_defaults.conf
var spockDefaults string

func newSpockSettingsCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("settings", "Show every spock.* setting of a database with the value in force",
		func(cmd *cobra.Command, words []string) error {
			if err := noWords(words); err != nil {
				return err
			}
			if on(cmd, "defaults") {
				env.printf("%s", spockDefaults)
				return nil
			}
			return showSpockSettings(cmd.Context(), env, cmd)
		})
	dsnFlag(cmd, "a database with the schema")
	cmd.Flags().Bool("defaults", false, "print a file with all names and defaults instead, to include from postgresql.conf: SHOW and ALTER SYSTEM then know the names")
	return cmd
}

// showSpockSettings shows the settings of every database that answers; one that does not is an error at the end.
func showSpockSettings(ctx context.Context, env *Env, cmd *cobra.Command) error {
	infos, err := dsns(env, cmd)
	if err != nil {
		return err
	}
	all := array{}
	var failures []error
	for _, info := range infos {
		err := withSpock(ctx, env, info, func(ctx context.Context, db *spock.DB, info pg.ConnInfo) error {
			settings, err := readSpockSettings(ctx, db)
			switch {
			case err != nil:
				return err
			case !jsonWanted(cmd):
				return settingsTable(settings).write(env.Stdout)
			case len(infos) == 1:
				return printJSON(env.Stdout, settingsObject(settings), jsonStyle{})
			}
			all = append(all, object{{"database", place(info)}, {"settings", settingsObject(settings)}})
			return nil
		})
		if err != nil {
			failures = append(failures, err)
		}
	}
	if jsonWanted(cmd) && len(infos) > 1 {
		if err := printJSON(env.Stdout, all, jsonStyle{}); err != nil {
			return err
		}
	}
	return tellFailures(env, failures)
}

func readSpockSettings(ctx context.Context, db *spock.DB) (spock.Settings, error) {
	if err := spock.CheckVersion(ctx, db.Conn()); err != nil {
		return nil, err
	}
	return db.Settings(ctx)
}

func settingsObject(settings spock.Settings) object {
	o := object{}
	for _, s := range sortedSettings(settings) {
		o = append(o, field{s.Name, object{{"value", s.Value}, {"default", s.Default}, {"invalid", jsonText(s.Invalid)}}})
	}
	return o
}

func settingsTable(settings spock.Settings) *table {
	t := &table{columns: []column{{title: "Name"}, {title: "Value"}, {title: "Default"}, {title: "Remark", left: true}}}
	for _, s := range sortedSettings(settings) {
		remark := ""
		if s.Invalid != "" {
			remark = "not legal: " + s.Invalid
		}
		t.add(s.Name, s.Value, s.Default, remark)
	}
	return t
}

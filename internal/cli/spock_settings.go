package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/spock"
)

func newSpockSettingsCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("settings", "Show every spock.* setting of a database with the value in force", nil)
	cmd.RunE = eachSpock(env, func(ctx context.Context, db *spock.DB, _ pg.ConnInfo) error {
		return showSpockSettings(ctx, env, cmd, db)
	})
	dsnFlag(cmd, "a database with the schema")
	cmd.Flags().Bool("defaults", false, "print a file with all names and defaults instead, to include from postgresql.conf: SHOW and ALTER SYSTEM then know the names")
	return cmd
}

func showSpockSettings(ctx context.Context, env *Env, cmd *cobra.Command, db *spock.DB) error {
	if err := spock.CheckVersion(ctx, db.Conn()); err != nil {
		return err
	}
	if on(cmd, "defaults") {
		settings, err := db.DefaultSettings(ctx)
		if err != nil {
			return err
		}
		env.printf("%s", settings.Render())
		return nil
	}
	settings, err := db.Settings(ctx)
	if err != nil {
		return err
	}
	if jsonWanted(cmd) {
		o := object{}
		for _, s := range sortedSettings(settings) {
			var invalid any
			if s.Invalid != "" {
				invalid = s.Invalid
			}
			o = append(o, field{s.Name, object{{"value", s.Value}, {"default", s.Default}, {"invalid", invalid}}})
		}
		return printJSON(env.Stdout, o, jsonStyle{})
	}
	t := &table{columns: []column{{title: "Name"}, {title: "Value"}, {title: "Default"}, {title: "Remark", left: true}}}
	for _, s := range sortedSettings(settings) {
		remark := ""
		if s.Invalid != "" {
			remark = "not legal: " + s.Invalid
		}
		t.add(s.Name, s.Value, s.Default, remark)
	}
	return t.write(env.Stdout)
}

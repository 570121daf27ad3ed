package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// compatibleMajors are the server versions this program is meant for.
const compatibleMajors = "15, 16, 17 and 18"

func newVersionCmd(env *Env) *cobra.Command {
	return newMixedLeaf("version", "Print the version", func(cmd *cobra.Command, _ []string) error {
		return printVersion(cmd.Context(), env, jsonWanted(cmd))
	})
}

// printVersion tells the versions of the program, of the monitor's schema it
// speaks to, and of the PostgreSQL server it would use here, if any.
func printVersion(ctx context.Context, env *Env, asJSON bool) error {
	server := localVersion(ctx, env)
	if asJSON {
		return writeJSON(env.Stdout, object{
			{"pg_autoctl", env.Version},
			{"pgautofailover", pgautofailover.CompatVersion},
			{"pg_major", server.major},
			{"pg_version", server.text},
			{"pg_version_str", server.full},
			{"pg_version_num", server.number},
			{"pgautofailover_schema", pgautofailover.SchemaNumber},
		})
	}
	env.printf("%s version %s\n", env.program(), env.Version)
	env.printf("pg_autoctl extension version %s\n", pgautofailover.CompatVersion)
	env.printf("compiled with %s\n", orDefault(server.full, "no PostgreSQL: none was found in PATH"))
	env.printf("compatible with Postgres %s\n", compatibleMajors)
	return nil
}

// serverVersion is a version in the forms that scripts ask for.
type serverVersion struct {
	major, text, full string
	number            int
}

// localVersion asks the installation that a create would use.
func localVersion(ctx context.Context, env *Env) serverVersion {
	tools, err := postgres.FindTools(ctx, postgres.FindConfig{PgConfig: env.getenv("PG_CONFIG"), Path: env.getenv("PATH")})
	if err != nil {
		return serverVersion{}
	}
	v, err := tools.Version(ctx)
	if err != nil {
		return serverVersion{}
	}
	major, _, _ := strings.Cut(v.Text, ".")
	full := v.Full
	if _, rest, ok := strings.Cut(v.Full, "("); ok {
		if name, tail, ok := strings.Cut(rest, ") "); ok {
			full = name + " " + tail
		}
	}
	return serverVersion{major: major, text: v.Text, full: full, number: v.Number}
}

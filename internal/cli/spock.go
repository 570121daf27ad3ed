package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/spock"
)

// newSpockCmd builds the commands of multi-master replication.
func newSpockCmd(env *Env) *cobra.Command {
	return newSet("spock", "Multi-master replication: schema, engine and status",
		newSpockInstallCmd(env),
		newSpockUpgradeCmd(env),
		newSpockUninstallCmd(env),
		newSpockInstallExtensionCmd(env),
		newSpockRemoveExtensionCmd(env),
		newSpockRunCmd(env),
		newSpockStatusCmd(env),
		newSpockWaitCmd(env),
		newSpockSettingsCmd(env),
	)
}

// dsnFlag adds --dsn, which may be repeated.
func dsnFlag(cmd *cobra.Command, what string) {
	cmd.Flags().StringArrayP("dsn", "d", nil, "`connection string` of "+what+", as a superuser; repeat it for several (default $PGDROVER_SPOCK_DSN)")
}

// dsns are the databases a command is about.
func dsns(env *Env, cmd *cobra.Command) ([]pg.ConnInfo, error) {
	texts, err := cmd.Flags().GetStringArray("dsn")
	if err != nil {
		return nil, err
	}
	if v := env.getenv("PGDROVER_SPOCK_DSN"); len(texts) == 0 && v != "" {
		texts = []string{v}
	}
	if len(texts) == 0 {
		return nil, misuse("Option --dsn is mandatory")
	}
	infos := make([]pg.ConnInfo, 0, len(texts))
	for _, text := range texts {
		info, err := pg.ParseConnInfo(text)
		if err != nil || info.IsZero() {
			if err == nil {
				err = errors.New("it is empty")
			}
			return nil, fail(exitBadArgs, "read the connection string of --dsn: %w", err).
				withHint("one looks like \"host=10.0.0.1 dbname=app user=postgres\" or postgres://postgres@10.0.0.1/app")
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// noWords ends a command that takes options only.
func noWords(words []string) error {
	if len(words) > 0 {
		return misuse("Unexpected argument %q", words[0])
	}
	return nil
}

// openSpock connects to a database as an operator's command.
func openSpock(ctx context.Context, env *Env, info pg.ConnInfo) (*spock.DB, error) {
	db, err := spock.Connect(ctx, spock.ConnectConfig{
		ConnInfo: info, ApplicationName: nameDrover + " spock", ConnectTimeout: max(env.patience(), 5*time.Second),
		OnNotice: func(n spock.Notice) {
			if n.Severity == "WARNING" || n.Severity == "NOTICE" {
				env.warnf("%s: %s", place(info), n.Message)
			}
		},
	})
	if err == nil {
		return db, nil
	}
	hint := hintOf(err)
	if hint == "" {
		hint = "check that the server runs there and that its pg_hba.conf lets you in"
	}
	switch spock.SQLState(err) {
	case pgerrcode.InvalidPassword, pgerrcode.InvalidAuthorizationSpecification:
		hint = "give a user and a password that the server accepts: in --dsn, in ~/.pgpass or as a rule of pg_hba.conf"
	case pgerrcode.InvalidCatalogName:
		hint = "create the database first, or name another one in --dsn"
	case pgerrcode.TooManyConnections:
		hint = "end sessions that nobody needs, or raise max_connections and restart the server"
	case pgerrcode.CannotConnectNow:
		hint = "the server starts, stops or recovers: try again in a while, and read its log if that lasts"
	case "":
		if text := err.Error(); strings.Contains(text, "tls:") || strings.Contains(text, "x509:") {
			hint = "check sslmode, sslrootcert and sslcert of the connection string, and the name in the server's certificate"
		}
	}
	failure := &placed{text: place(info) + ": " + onceEach(err.Error()), err: err}
	return nil, &exitError{code: exitPgSQL, level: slog.LevelError, err: failure, hint: hint}
}

// onceEach puts the lines of a failure to connect into one, each once: where TLS
// is preferred, every address is tried a second time without it.
func onceEach(text string) string {
	title, rest, several := strings.Cut(text, "\n")
	if !several {
		return text
	}
	var tries []string
	for line := range strings.Lines(rest) {
		if line = strings.TrimSpace(line); line != "" && !slices.Contains(tries, line) {
			tries = append(tries, line)
		}
	}
	return title + " " + strings.Join(tries, "; ")
}

// eachSpock calls do with a connection to each database of --dsn, one after the other.
func eachSpock(env *Env, do func(ctx context.Context, db *spock.DB, info pg.ConnInfo) error) runFunc {
	return func(cmd *cobra.Command, words []string) error {
		if err := noWords(words); err != nil {
			return err
		}
		infos, err := dsns(env, cmd)
		if err != nil {
			return err
		}
		for _, info := range infos {
			if err := withSpock(cmd.Context(), env, info, do); err != nil {
				return err
			}
		}
		return nil
	}
}

func withSpock(ctx context.Context, env *Env, info pg.ConnInfo, do func(ctx context.Context, db *spock.DB, info pg.ConnInfo) error) error {
	db, err := openSpock(ctx, env, info)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close(context.WithoutCancel(ctx)) }()
	return spockError(info, do(ctx, db, info))
}

// spockError says which database an error is about, and what to do.
func spockError(info pg.ConnInfo, err error) error {
	if err == nil {
		return nil
	}
	if exit, ok := errors.AsType[*exitError](err); ok {
		return exit
	}
	if errors.Is(err, spock.ErrNotInstalled) {
		return fail(exitBadState, "%s: %w", place(info), err).
			withHint("install it with: %s spock install --dsn %q", nameDrover, info.String())
	}
	text := err.Error()
	if server, ok := errors.AsType[*spock.ServerError](err); ok && server.Detail != "" {
		text += " (" + server.Detail + ")"
	}
	hint := hintOf(err)
	if hint == "" && spock.SQLState(err) == pgerrcode.InsufficientPrivilege {
		hint = "connect as a superuser: event triggers, publications and replication origins need one"
	}
	return &exitError{code: exitPgSQL, level: slog.LevelError, err: &placed{text: place(info) + ": " + text, err: err}, hint: hint}
}

// placed is an error together with the database it is about.
type placed struct {
	text string
	err  error
}

func (e *placed) Error() string { return e.text }
func (e *placed) Unwrap() error { return e.err }

// place names a database shortly: host:port/dbname. With a service nobody but
// its file knows the rest.
func place(info pg.ConnInfo) string {
	if service := info.Get("service"); service != "" {
		return pg.NewConnInfo("service", service, "host", info.Get("host"), "port", info.Get("port"), "dbname", info.Get("dbname")).String()
	}
	if info.Get("host") == "" {
		info = info.With("host", orDefault(info.Get("hostaddr"), "local"))
	}
	var hosts []string
	for _, h := range info.Hosts() {
		hosts = append(hosts, h.Host+":"+h.Port)
	}
	return fmt.Sprintf("%s/%s", strings.Join(hosts, ","), orDefault(info.Get("dbname"), info.Get("user")))
}

func newSpockInstallCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("install", "Install the spock schema in a database, or bring it up to date", eachSpock(env,
		func(ctx context.Context, db *spock.DB, info pg.ConnInfo) error {
			before, err := spock.SchemaVersion(ctx, db)
			if err != nil && !errors.Is(err, spock.ErrNotInstalled) {
				return err
			}
			known := err == nil
			if err := spock.Install(ctx, db); err != nil {
				return err
			}
			tellInstalled(env, info, known, before)
			return tellNode(ctx, env, db, info)
		}))
	dsnFlag(cmd, "the database")
	return cmd
}

func newSpockUpgradeCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("upgrade", "Bring an installed spock schema to the version of this program", eachSpock(env,
		func(ctx context.Context, db *spock.DB, info pg.ConnInfo) error {
			before, err := spock.SchemaVersion(ctx, db)
			if err != nil {
				return err
			}
			if err := spock.Upgrade(ctx, db); err != nil {
				return err
			}
			tellInstalled(env, info, true, before)
			return nil
		}))
	dsnFlag(cmd, "the database")
	return cmd
}

// tellInstalled says what an installation or an upgrade did.
func tellInstalled(env *Env, info pg.ConnInfo, known bool, before int) {
	switch {
	case !known:
		env.infof("%s: schema spock installed (version %d, as Spock %s)", place(info), spock.SchemaNumber, spock.CompatVersion)
	case before == spock.SchemaNumber:
		env.infof("%s: schema spock is up to date (version %d)", place(info), before)
	default:
		env.infof("%s: schema spock upgraded from version %d to %d", place(info), before, spock.SchemaNumber)
	}
}

// tellNode says what comes next in a database that is no node yet.
func tellNode(ctx context.Context, env *Env, db *spock.DB, info pg.ConnInfo) error {
	_, err := db.LocalNode(ctx)
	if errors.Is(err, spock.ErrNotFound) {
		env.hint("make it a node: SELECT spock.node_create('name', 'host=… dbname=…'); and start its engine: %s spock run --dsn %q",
			nameDrover, info.String())
		return nil
	}
	return err
}

func newSpockUninstallCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("uninstall", "Remove the spock schema and all that came with it; user data stays", eachSpock(env,
		func(ctx context.Context, db *spock.DB, info pg.ConnInfo) error {
			_, err := spock.SchemaVersion(ctx, db)
			switch {
			case errors.Is(err, spock.ErrNotInstalled):
				env.infof("%s: there is no schema spock", place(info))
				return nil
			case err != nil:
				return err
			}
			if err := spock.Uninstall(ctx, db); err != nil {
				return err
			}
			env.infof("%s: schema spock removed; user data is untouched", place(info))
			return nil
		}))
	dsnFlag(cmd, "the database")
	return cmd
}

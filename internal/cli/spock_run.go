package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/apply"
	"github.com/pgdrover/pgdrover/internal/orchestrator"
)

func newSpockRunCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("run", "Run the apply engine of one database or of several, in the foreground",
		func(cmd *cobra.Command, words []string) error {
			if err := noWords(words); err != nil {
				return err
			}
			return runSpock(cmd.Context(), env, cmd)
		})
	spockRunFlags(cmd)
	cmd.Flags().Bool("print-unit", false, "print a systemd unit for this command line instead of running it")
	cmd.Flags().String("user", "", "`user` of the systemd unit (default: yourself, or postgres for root)")
	return cmd
}

func spockRunFlags(cmd *cobra.Command) {
	dsnFlag(cmd, "a node's database")
	cmd.Flags().StringArray("map", nil, "`from=to`: reach the peer that the servers know as host:port at another host:port; repeatable")
	cmd.Flags().StringP("pgctl", "C", "", "`path` to pg_ctl: pg_dump and pg_restore beside it copy the structure")
}

func runSpock(ctx context.Context, env *Env, cmd *cobra.Command) error {
	configs, err := spockEngines(ctx, env, cmd)
	if err != nil && ctx.Err() != nil {
		// Asked to stop before it had begun: what failed was cut short by that.
		env.infof("Stop %s spock", nameDrover)
		return nil
	}
	if err != nil {
		return err
	}
	if on(cmd, "print-unit") {
		return printSpockUnit(env, cmd, configs)
	}
	engines := make([]*apply.Engine, 0, len(configs))
	for _, cfg := range configs {
		e, err := apply.New(cfg)
		if err != nil {
			return withCode(exitBadConfig, err)
		}
		engines = append(engines, e)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	errs := make([]error, len(engines))
	for i, e := range engines {
		group.Go(func() {
			// One that ends takes the others with it: a service manager then starts all again.
			defer cancel()
			errs[i] = e.Run(ctx)
		})
		attendant := orchestrator.NewAttendant(orchestrator.AttendantConfig{ConnInfo: configs[i].ConnInfo, Log: configs[i].Logger, Owner: runOwner(env)})
		group.Go(func() { _ = attendant.Run(ctx) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return withCode(exitInternal, err)
	}
	env.infof("Stop %s spock", nameDrover)
	return nil
}

// spockEngines reads the options into one configuration for each database.
func spockEngines(ctx context.Context, env *Env, cmd *cobra.Command) ([]apply.Config, error) {
	infos, err := dsns(env, cmd)
	if err != nil {
		return nil, err
	}
	peers, err := peerMap(cmd)
	if err != nil {
		return nil, err
	}
	bin := ""
	tools, err := demoTools(ctx, env, text(cmd, "pgctl"))
	switch {
	case err == nil:
		bin = tools.Dir
	case text(cmd, "pgctl") != "":
		return nil, withCode(exitPgCtl, err)
	default:
		env.warnf("pg_dump and pg_restore are not found: subscriptions with synchronize_structure have to wait")
	}
	seen := map[string]bool{}
	configs := make([]apply.Config, 0, len(infos))
	for _, info := range infos {
		name := place(info)
		if seen[name] {
			return nil, misuse("--dsn names the database %s twice", name)
		}
		seen[name] = true
		log := env.log
		if len(infos) > 1 {
			log = log.With("database", name)
		}
		configs = append(configs, apply.Config{ConnInfo: info, Logger: log, BinDir: bin, Map: peers})
	}
	return configs, nil
}

// peerMap reads --map.
func peerMap(cmd *cobra.Command) (map[string]string, error) {
	texts, err := cmd.Flags().GetStringArray("map")
	if err != nil {
		return nil, err
	}
	peers := map[string]string{}
	for _, text := range texts {
		from, to, ok := strings.Cut(text, "=")
		if !ok || !isHostPort(from) || !isHostPort(to) {
			return nil, misuse("--map value %q is not host:port=host:port", text)
		}
		if _, twice := peers[from]; twice {
			return nil, misuse("--map names %s twice", from)
		}
		peers[from] = to
	}
	return peers, nil
}

func isHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" {
		return false
	}
	n, err := strconv.Atoi(port)
	return err == nil && n > 0 && n < 65536
}

// printSpockUnit prints a unit for the command line as given. It may be killed
// at any time: what was applied is in the databases, and nowhere else.
func printSpockUnit(env *Env, cmd *cobra.Command, configs []apply.Config) error {
	name := text(cmd, "user")
	if name == "" {
		name = "postgres"
		if env.EUID != 0 {
			me, err := user.Current()
			if err != nil {
				return fail(exitInternal, "find out who you are: %w", err).withHint("name the user of the unit with --user")
			}
			name = me.Username
		}
	}
	if !unitUser(name) {
		return fail(exitBadArgs, "write a unit for the user %q: systemd does not take that name", name).
			withHint("name the user of the unit with --user: letters, digits, - and _ are always right")
	}
	var start strings.Builder
	start.WriteString(unitWord(env.Executable) + " spock run")
	secret := false
	for _, cfg := range configs {
		secret = secret || cfg.ConnInfo.Get("password") != ""
		start.WriteString(" --dsn " + unitWord(cfg.ConnInfo.With("password", "").DSN()))
	}
	for _, option := range []string{"map"} {
		values, err := cmd.Flags().GetStringArray(option)
		if err != nil {
			return err
		}
		for _, v := range values {
			start.WriteString(" --" + option + " " + unitWord(v))
		}
	}
	if pgctl := text(cmd, "pgctl"); pgctl != "" {
		start.WriteString(" --pgctl " + unitWord(pgctl))
	}
	if secret {
		env.hint("the unit leaves the password out: put it into ~%s/.pgpass", name)
	}
	env.hint("to run the engine as a service, run the following commands as root:")
	env.infof("%s -q spock run … --print-unit | tee /etc/systemd/system/pgdrover-spock.service", nameDrover)
	env.infof("systemctl daemon-reload")
	env.infof("systemctl enable --now pgdrover-spock")
	_, err := fmt.Fprintf(env.Stdout, `[Unit]
Description = pgdrover multi-master apply engine
After = network-online.target postgresql.service
Wants = network-online.target
StartLimitIntervalSec = 0

[Service]
User = %s
ExecStart = %s
Restart = always
RestartSec = 1

[Install]
WantedBy = multi-user.target
`, name, start.String())
	return err
}

// unitUser reports whether systemd starts a unit with User = name. It takes what
// directories of users have, such as name@domain and domain\name, too.
func unitUser(name string) bool {
	if strings.Trim(name, "0123456789") == "" {
		id, err := strconv.ParseUint(name, 10, 32)
		return err == nil && strconv.FormatUint(id, 10) == name && id != 1<<16-1 && id != 1<<32-1 // those two stand for nobody at all
	}
	if !utf8.ValidString(name) || len(name) > 255 || name == "." || name == ".." {
		return false
	}
	return name[0] != '-' && !strings.HasSuffix(name, `\`) && !strings.ContainsFunc(name, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune(":/%", r)
	})
}

// unitWord quotes a word for a line of a systemd unit.
func unitWord(s string) string {
	s = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$").Replace(s)
	if strings.ContainsAny(s, " \t'\"\\;") {
		return `"` + s + `"`
	}
	return s
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// session is a command's connection to a monitor, and the node it came from.
type session struct {
	env *Env
	db  *pgautofailover.DB
	// info is how the monitor was reached.
	info pg.ConnInfo
	// node is the data directory that led to the monitor; nil when an URI did.
	node *node
}

// monitorFlag adds --monitor, for commands that work from anywhere.
func monitorFlag(cmd *cobra.Command, short string) {
	cmd.Flags().StringP("monitor", short, "", "`URI` of the monitor (default $PG_AUTOCTL_MONITOR, else the monitor of --pgdata)")
}

func formationFlag(cmd *cobra.Command) {
	cmd.Flags().StringP("formation", "f", "", "`name` of the formation")
}

func groupFlag(cmd *cobra.Command) {
	cmd.Flags().IntP("group", "g", -1, "`number` of the group")
}

func nameFlag(cmd *cobra.Command, short string) {
	cmd.Flags().StringP("name", short, "", "`name` of the node")
}

// openMonitor connects to the monitor that the command's options, the
// environment or the data directory name.
func openMonitor(ctx context.Context, env *Env, cmd *cobra.Command) (*session, error) {
	s := &session{env: env}
	if err := s.locate(cmd); err != nil {
		return nil, err
	}
	return s, s.connect(ctx)
}

// openNodeMonitor is openMonitor for a data directory that is known already.
func openNodeMonitor(ctx context.Context, env *Env, n *node) (*session, error) {
	info, err := n.monitorConnInfo()
	if err != nil {
		return nil, err
	}
	s := &session{env: env, node: n, info: info}
	return s, s.connect(ctx)
}

// locate finds the monitor without talking to it.
func (s *session) locate(cmd *cobra.Command) error {
	uri := ""
	if cmd.Flags().Lookup("monitor") != nil {
		uri = orDefault(text(cmd, "monitor"), s.env.getenv("PG_AUTOCTL_MONITOR"))
	}
	if uri == "" {
		n, err := localNode(s.env, cmd)
		if err != nil {
			if cmd.Flags().Lookup("monitor") != nil {
				s.env.errorf("PG_AUTOCTL_MONITOR is not set in the environment")
				s.env.warnf("This command also accepts the option --monitor")
			}
			return err
		}
		s.node = &n
		s.info, err = n.monitorConnInfo()
		return err
	}
	info, err := parseMonitorURI(uri)
	if err != nil {
		return err
	}
	s.info = info
	if given(cmd, "pgdata") {
		s.env.warnf("Given --monitor URI %s, the --pgdata option is ignored", info)
	}
	return nil
}

// parseMonitorURI reads a monitor's URI as an operator typed it.
func parseMonitorURI(uri string) (pg.ConnInfo, error) {
	info, err := pg.ParseConnInfo(uri)
	if err == nil && info.Get("host") == "" && info.Get("dbname") == "" {
		err = errors.New("neither a host nor a database is named")
	}
	for _, host := range info.Hosts() {
		if _, wrong := parsePort(orDefault(host.Port, "5432")); wrong != nil && err == nil {
			err = fmt.Errorf("port %q is none", host.Port)
		}
	}
	if err != nil {
		return info, fatal(exitBadArgs, "Failed to parse the monitor URI: %w", err).
			withHint("a monitor URI looks like postgres://autoctl_node@host:port/pg_auto_failover?sslmode=prefer; the monitor shows its own with: show uri --formation monitor")
	}
	return info, nil
}

// patience is how long an interactive command tries to connect.
func (e *Env) patience() time.Duration {
	if seconds, err := strconv.Atoi(e.getenv("PGCONNECT_TIMEOUT")); err == nil && seconds > 0 {
		return time.Duration(seconds) * time.Second
	}
	return 2 * time.Second
}

// connect opens the connection, trying again for a short while: the monitor
// may be about to come back.
func (s *session) connect(ctx context.Context) error {
	deadline := time.Now().Add(s.env.patience())
	pause := 5 * time.Millisecond
	for {
		db, err := pgautofailover.Connect(ctx, pgautofailover.ConnectConfig{
			ConnInfo: s.info, ApplicationName: s.env.program() + " cli", OnNotice: s.notice,
			StatementTimeout: 30 * time.Second, LockTimeout: 20 * time.Second,
		})
		if err == nil {
			s.db = db
			return nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) || !pgautofailover.Retryable(err) {
			return fail(exitMonitor, "Failed to connect to the monitor at %s: %w", s.info, plainCause(err)).
				withHint("check that the monitor is running and that its URI is right")
		}
		pause = min(2*time.Second, 5*time.Millisecond+rand.N(3*pause)) //nolint:gosec // jitter
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// plainCause is the one thing that kept a connection from being made, of all
// that the driver says about every address it tried.
func plainCause(err error) error {
	if server, ok := errors.AsType[*pgconn.PgError](err); ok {
		return server
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op
	}
	return err
}

// notice shows what the monitor says besides its answer.
func (s *session) notice(n pgautofailover.Notice) {
	text := n.Message
	if n.Detail != "" {
		text += " (" + n.Detail + ")"
	}
	if n.Severity == "WARNING" {
		s.env.warnf("%s", text)
	} else {
		s.env.infof("%s", text)
	}
	if n.Hint != "" {
		s.env.hint("%s", n.Hint)
	}
}

func (s *session) close(ctx context.Context) {
	if s.db != nil {
		_ = s.db.Close(context.WithoutCancel(ctx))
	}
}

// withMonitor runs what a command does on its connection to the monitor; its
// errors end the command with the monitor's exit code.
func withMonitor(env *Env, run func(ctx context.Context, s *session, cmd *cobra.Command, words []string) error) runFunc {
	return func(cmd *cobra.Command, words []string) error {
		ctx := cmd.Context()
		s, err := openMonitor(ctx, env, cmd)
		if err != nil {
			return err
		}
		defer s.close(ctx)
		return withCode(exitMonitor, run(ctx, s, cmd, words))
	}
}

// formation is the formation the command is about.
func (s *session) formation(cmd *cobra.Command) string {
	if f := text(cmd, "formation"); f != "" {
		return f
	}
	if s.node != nil && !s.node.isMonitor() {
		return orDefault(s.node.keeper.Formation, defaultFormation)
	}
	return defaultFormation
}

const defaultFormation = "default"

// group is the group the command is about, which must be clear without a guess.
func (s *session) group(ctx context.Context, cmd *cobra.Command, formation string) (int, error) {
	if given(cmd, "group") {
		return number(cmd, "group"), nil
	}
	if s.node != nil && !s.node.isMonitor() && s.node.keeper.Group >= 0 {
		return s.node.keeper.Group, nil
	}
	nodes, err := s.db.NodeRows(ctx, formation, nil)
	if err != nil {
		return 0, err
	}
	if len(nodes) == 0 {
		return 0, s.noNodes(ctx, formation)
	}
	for _, n := range nodes {
		if n.Group != nodes[0].Group {
			return 0, fail(exitBadArgs, "Please use the --group option to select a group of formation %q", formation)
		}
	}
	return nodes[0].Group, nil
}

// formationGroup is the formation, which the monitor knows, and the group that the command is about.
func (s *session) formationGroup(ctx context.Context, cmd *cobra.Command) (formation string, group int, err error) {
	formation = s.formation(cmd)
	if err := s.formationExists(ctx, formation); err != nil {
		return "", 0, err
	}
	group, err = s.group(ctx, cmd, formation)
	return formation, group, err
}

// noNodes tells a formation without nodes from one that does not exist.
func (s *session) noNodes(ctx context.Context, formation string) error {
	if err := s.formationExists(ctx, formation); err != nil {
		return err
	}
	return fatal(exitBadState, "formation %q has no node", formation).
		withHint("register one with: %s create postgres --formation %s", s.env.program(), formation)
}

// formationExists refuses a formation that the monitor does not know.
func (s *session) formationExists(ctx context.Context, formation string) error {
	_, err := s.db.FormationByID(ctx, formation)
	if errors.Is(err, pgautofailover.ErrNotFound) {
		return fail(exitMonitor, "formation %q does not exist on the monitor", formation).
			withHint("list the formations with: %s show uri", s.env.program())
	}
	return err
}

// optionalGroup is the group to narrow a listing to, nil for all.
func optionalGroup(cmd *cobra.Command) *int {
	if !given(cmd, "group") {
		return nil
	}
	g := number(cmd, "group")
	return &g
}

// nodeName is the name of the node the command is about.
func (s *session) nodeName(cmd *cobra.Command) (string, error) {
	if name := text(cmd, "name"); name != "" {
		return name, nil
	}
	if s.node == nil || s.node.isMonitor() {
		return "", fatal(exitBadArgs, "Please use --name to tell which node this is about").
			withHint("list the nodes with: %s show state", s.env.program())
	}
	if s.node.keeper.Name == "" {
		return "", fatal(exitBadArgs, "The configuration file %q does not hold the node's name", s.node.config).
			withHint("use the option --name")
	}
	return s.node.keeper.Name, nil
}

// listNodes is the hint for a node that nobody knows.
const listNodes = "show state lists the nodes with their names, hosts and ports"

// unknownNode words ErrNotFound for a node name.
func unknownNode(err error, formation, name string) error {
	if errors.Is(err, pgautofailover.ErrNotFound) {
		return fail(exitMonitor, "node %q is not registered in formation %q", name, formation).withHint("%s", listNodes)
	}
	return err
}

// sleep waits for d or for the end of the context.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait: %w", context.Cause(ctx))
	case <-timer.C:
		return nil
	}
}

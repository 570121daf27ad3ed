package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

func newGetCmd(env *Env) *cobra.Command {
	return newSet("get", "Get a pg_auto_failover node, or formation setting",
		newSet("node", "Get a node property from the monitor",
			newGetNodeCmd(env, "replication-quorum", "Get replication-quorum from the monitor",
				func(n pgautofailover.NodeRow) any { return n.Quorum }),
			newGetNodeCmd(env, "candidate-priority", "Get candidate-priority from the monitor",
				func(n pgautofailover.NodeRow) any { return n.Priority }),
			newGetNodeCmd(env, "region", "Get the region of a node from the monitor",
				func(n pgautofailover.NodeRow) any { return n.Region }),
		),
		newSet("formation", "Get a formation property from the monitor",
			newGetFormationSettingsCmd(env),
			newGetSyncStandbysCmd(env),
		),
	)
}

func newSetCmd(env *Env) *cobra.Command {
	return newSet("set", "Set a pg_auto_failover node, or formation setting",
		newSet("node", "Set a node property on the monitor",
			newSetMetadataCmd(env),
			newSetQuorumCmd(env),
			newSetPriorityCmd(env),
			newSetRegionCmd(env),
		),
		newSet("formation", "Set a formation property on the monitor",
			newSetSyncStandbysCmd(env),
		),
	)
}

func propertyFlags(cmd *cobra.Command) {
	pgdataFlag(cmd)
	monitorFlag(cmd, "m")
	formationFlag(cmd)
	nameFlag(cmd, "")
}

func newGetNodeCmd(env *Env, name, short string, value func(pgautofailover.NodeRow) any) *cobra.Command {
	cmd := newMixedLeaf(name, short, withMonitor(env, func(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
		node, err := s.findNode(ctx, cmd)
		if err != nil {
			return err
		}
		return s.answer(cmd, value(node), object{{"name", node.Name}, {name, value(node)}})
	}))
	propertyFlags(cmd)
	return cmd
}

// findNode reads the node the command is about.
func (s *session) findNode(ctx context.Context, cmd *cobra.Command) (pgautofailover.NodeRow, error) {
	name, err := s.nodeName(cmd)
	if err != nil {
		return pgautofailover.NodeRow{}, err
	}
	formation := s.formation(cmd)
	node, err := s.db.NodeByName(ctx, formation, name)
	if errors.Is(err, pgautofailover.ErrNotFound) {
		if err := s.formationExists(ctx, formation); err != nil {
			return node, err
		}
	}
	return node, unknownNode(err, formation, name)
}

// answer prints a value, or the object that holds it.
func (s *session) answer(cmd *cobra.Command, value any, o object) error {
	if jsonWanted(cmd) {
		return writeJSON(s.env.Stdout, o)
	}
	s.env.printf("%v\n", value)
	return nil
}

func newGetFormationSettingsCmd(env *Env) *cobra.Command {
	cmd := newShowSettingsCmd(env)
	cmd.Short = "Get replication settings for a formation from the monitor"
	return cmd
}

func newGetSyncStandbysCmd(env *Env) *cobra.Command {
	const name = "number-sync-standbys"
	cmd := newMixedLeaf(name, "Get number_sync_standbys for a formation from the monitor",
		withMonitor(env, func(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
			formation := s.formation(cmd)
			if err := s.formationExists(ctx, formation); err != nil {
				return err
			}
			f, err := s.db.FormationByID(ctx, formation)
			if err != nil {
				return err
			}
			return s.answer(cmd, f.NumberSyncStandbys, object{{name, f.NumberSyncStandbys}})
		}))
	propertyFlags(cmd)
	return cmd
}

// withValue runs a setter on the one value it is given, once it could be read.
func withValue[T any](
	env *Env, parse func(string) (T, error), run func(ctx context.Context, s *session, cmd *cobra.Command, value T) error,
) runFunc {
	return func(cmd *cobra.Command, words []string) error {
		if len(words) != 1 {
			return misuse("Failed to parse command line arguments: got %d when 1 is expected", len(words))
		}
		value, err := parse(words[0])
		if err != nil {
			return withCode(exitBadArgs, err)
		}
		return withMonitor(env, func(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
			return run(ctx, s, cmd, value)
		})(cmd, words)
	}
}

func newSetQuorumCmd(env *Env) *cobra.Command {
	const name = "replication-quorum"
	cmd := newMixedLeaf(name+" <true|false>", "Set replication-quorum on the monitor",
		withValue(env, parseQuorum, func(ctx context.Context, s *session, cmd *cobra.Command, value bool) error {
			node, err := s.findNode(ctx, cmd)
			if err != nil {
				return err
			}
			err = s.change(ctx, node.Formation, node.Group, func() error {
				return s.db.SetReplicationQuorum(ctx, node.Formation, node.Name, value)
			})
			if err != nil {
				return s.adviseSetting(err, "register further standbys first, or have fewer of them confirm a commit: set formation number-sync-standbys")
			}
			return s.answer(cmd, value, object{{name, value}})
		}))
	propertyFlags(cmd)
	return cmd
}

func parseQuorum(text string) (bool, error) {
	v, err := parseBool(text)
	if err != nil {
		return v, fail(exitBadArgs, "replication-quorum value %q is not valid", text).withHint("valid values are true and false")
	}
	return v, nil
}

func newSetPriorityCmd(env *Env) *cobra.Command {
	const name = "candidate-priority"
	cmd := newMixedLeaf(name+" <priority>", "Set candidate-priority on the monitor",
		withValue(env, parsePriority, func(ctx context.Context, s *session, cmd *cobra.Command, value int) error {
			node, err := s.findNode(ctx, cmd)
			if err != nil {
				return err
			}
			err = s.change(ctx, node.Formation, node.Group, func() error {
				return s.db.SetCandidatePriority(ctx, node.Formation, node.Name, value)
			})
			if err != nil {
				return s.adviseSetting(err, "show settings lists the nodes with their priorities")
			}
			return s.answer(cmd, value, object{{name, value}})
		}))
	propertyFlags(cmd)
	return cmd
}

func parsePriority(text string) (int, error) {
	v, err := parseInt(text, 100)
	if err != nil {
		return v, fail(exitBadArgs, "candidate-priority value %q is not valid", text).
			withHint("valid values are integers from 0 to 100; 0 is never elected")
	}
	return v, nil
}

func newSetSyncStandbysCmd(env *Env) *cobra.Command {
	const name = "number-sync-standbys"
	cmd := newMixedLeaf(name+" <number>", "Set number_sync_standbys for a formation on the monitor",
		withValue(env, parseSyncStandbys, func(ctx context.Context, s *session, cmd *cobra.Command, value int) error {
			formation := s.formation(cmd)
			if err := s.formationExists(ctx, formation); err != nil {
				return err
			}
			err := s.change(ctx, formation, 0, func() error {
				return s.db.SetNumberSyncStandbys(ctx, formation, value)
			})
			if err != nil {
				return s.adviseSetting(err, "register further standbys first, or choose a lower number: a group needs one standby in the quorum more than must confirm")
			}
			names, err := s.db.SynchronousStandbyNames(ctx, formation, 0)
			if err != nil {
				return err
			}
			s.env.infof("primary node has now set synchronous_standby_names = '%s'", names)
			o := object{{name, value}}
			if names != "" {
				o = append(o, field{"synchronous_standby_names", names})
			}
			return s.answer(cmd, value, o)
		}))
	propertyFlags(cmd)
	return cmd
}

func parseSyncStandbys(text string) (int, error) {
	v, err := parseInt(text, 128)
	if err != nil {
		return v, fail(exitBadArgs, "number-sync-standbys value %q is not valid", text).
			withHint("the value is how many standbys must confirm a commit: 0 or a positive integer")
	}
	return v, nil
}

// settingPatience is how long a setter waits for the primary to apply its change.
const settingPatience = 60 * time.Second

// change stores a setting and waits until the primary of the group works by it.
func (s *session) change(ctx context.Context, formation string, group int, call func() error) error {
	f, err := newFollower(ctx, s, formation, group)
	if err != nil {
		return err
	}
	if err := retryDeadlocks(ctx, call); err != nil {
		return err
	}
	if len(f.states) < 2 || !f.hasPrimary() {
		return nil
	}
	err = f.wait(ctx, settingPatience, false, func() bool { return f.settled(ctx) })
	if errors.Is(err, errPatience) {
		return fail(exitMonitor, "Failed to see the primary apply the new setting within %d s: it is stored", int(settingPatience.Seconds())).
			withHint("the primary applies it by itself: look at %s show state", s.env.program())
	}
	return err
}

// adviseSetting says what helps where the monitor refused a setting: a group on
// its way to another state takes it a moment later.
func (s *session) adviseSetting(err error, hint string) error {
	switch pgautofailover.SQLState(err) {
	case "":
		return err
	case pgerrcode.ObjectNotInPrerequisiteState:
		hint = fmt.Sprintf("register further standbys first if the primary is alone; if not, try again once `%s show state` shows each node in the state that it is assigned",
			s.env.program())
	}
	return advise(err, hint)
}

// hasPrimary reports whether some node of the group takes settings.
func (f *follower) hasPrimary() bool {
	for _, p := range f.states {
		if p.goal.In(fsm.Primary, fsm.WaitPrimary, fsm.ApplySettings) {
			return true
		}
	}
	return false
}

// settled reports whether a stored setting has reached the primary: it went
// through apply_settings and rests again, or no request of the group waits and
// nothing had to change.
func (f *follower) settled(ctx context.Context) bool {
	if !f.visited[fsm.ApplySettings] {
		pending, err := f.s.db.PendingRequests(ctx, f.formation, f.group)
		// What the decision assigned is in the table before its notifications are here.
		if err != nil || pending > 0 || f.refresh(ctx) != nil {
			return false
		}
	}
	return f.anyRests(fsm.Primary) || f.anyRests(fsm.WaitPrimary)
}

func newSetMetadataCmd(env *Env) *cobra.Command {
	cmd := newLeaf("metadata", "Set name, hostname and port of this node", func(cmd *cobra.Command, _ []string) error {
		return setMetadata(cmd.Context(), env, cmd)
	})
	metadataFlags(cmd)
	return cmd
}

// metadataFlags are the data directory and what a node can be renamed to.
func metadataFlags(cmd *cobra.Command) {
	pgdataFlag(cmd)
	nameFlag(cmd, "n")
	cmd.Flags().StringP("hostname", "H", "", "new `hostname` of the node")
	cmd.Flags().StringP("pgport", "p", "", "new `port` of the node")
}

func setMetadata(ctx context.Context, env *Env, cmd *cobra.Command) error {
	if !given(cmd, "name") && !given(cmd, "hostname") && !given(cmd, "pgport") {
		return misuse("Please use at least one of the options --name, --hostname and --pgport")
	}
	n, err := localKeeper(env, cmd)
	if err != nil {
		return err
	}
	if err := n.renamed(cmd); err != nil {
		return err
	}
	if err := pushMetadata(ctx, env, &n); err != nil {
		return err
	}
	if err := n.keeper.Save(n.config); err != nil {
		return withCode(exitBadConfig, err)
	}
	if err := signalReload(env, n.site); err != nil {
		return err
	}
	if jsonWanted(cmd) {
		o, err := configJSON(n)
		if err != nil {
			return err
		}
		return writeJSON(env.Stdout, o)
	}
	return nil
}

// renamed takes name, hostname and port from the command line into the configuration.
func (n *node) renamed(cmd *cobra.Command) error {
	if err := checkTexts(cmd); err != nil {
		return err
	}
	if name := text(cmd, "name"); name != "" {
		n.keeper.Name = name
	}
	if host := text(cmd, "hostname"); host != "" {
		n.keeper.Hostname = host
	}
	if port := text(cmd, "pgport"); port != "" {
		v, err := parsePort(port)
		if err != nil {
			return err
		}
		n.keeper.Port = v
	}
	return nil
}

func parsePort(text string) (int, error) {
	v, err := strconv.Atoi(text)
	if err != nil || v < 1 || v > 65535 {
		return 0, fatal(exitBadArgs, "--pgport argument is not a valid port number: %q", text).withHint("a port is an integer from 1 to 65535")
	}
	return v, nil
}

// pushMetadata tells the monitor name, host and port of a registered node.
func pushMetadata(ctx context.Context, env *Env, n *node) error {
	st, err := n.keeperState()
	if err != nil {
		return err
	}
	s, err := openNodeMonitor(ctx, env, n)
	if err != nil {
		return err
	}
	defer s.close(ctx)
	err = s.db.UpdateNodeMetadata(ctx, int64(st.NodeID), n.keeper.Name, n.keeper.Hostname, n.keeper.Port)
	return withCode(exitMonitor, err)
}

package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/keeper"
)

func newInspectCmd(env *Env) *cobra.Command {
	return newSet("inspect", "Look at a node from close by",
		newInspectShowCmd(env),
		newSet("pgsetup", "Inspect a local Postgres setup", pgsetupCmds(env)...),
		newSet("fsm", "Inspect the keeper's finite state machine", fsmInspectCmds(env)...),
		newInspectMonitorCmd(env, "Inspect what the monitor tells this node"),
		newGetPIDCmd(env),
	)
}

func newManualCmd(env *Env) *cobra.Command {
	return newSet("manual", "Do by hand what the service does by itself",
		newSet("fsm", "Drive the keeper's finite state machine", fsmManualCmds(env)...),
		newManualServiceCmd(env),
		newSet("monitor", "Talk to the monitor by hand", monitorByHandCmds(env)...),
		newManualPrimaryCmd(env),
		newManualStandbyCmd(env),
		newManualCoordinatorCmd(env),
	)
}

// newDoCmd builds the names that the two trees above had in older versions.
func newDoCmd(env *Env) *cobra.Command {
	set := newSet("do", "Manually operate the keeper",
		newInspectShowCmd(env),
		newSet("pgsetup", "Manage a local Postgres setup", pgsetupCmds(env)...),
		newSet("fsm", "Manually manage the keeper's state", append(fsmInspectCmds(env), fsmManualCmds(env)...)...),
		newInspectMonitorCmd(env, "Query the monitor, and talk to it", monitorByHandCmds(env)...),
		newSet("service", "Find and restart the parts of a service", newGetPIDCmd(env), newServiceRestartCmd(env)),
		newPgCtlSwitchCmd(env),
		newManualPrimaryCmd(env),
		newManualStandbyCmd(env),
		newManualCoordinatorCmd(env),
	)
	set.Hidden = env.getenv("PG_AUTOCTL_DEBUG") == ""
	return set
}

func fsmInspectCmds(env *Env) []*cobra.Command {
	return []*cobra.Command{
		newFSMStateCmd(env), newFSMListCmd(env), newFSMGraphCmd(env), newFSMDiagramCmd(env), newFSMCheckCmd(env),
	}
}

func fsmManualCmds(env *Env) []*cobra.Command {
	return []*cobra.Command{newFSMInitCmd(env), newFSMAssignCmd(env), newFSMStepCmd(env), newFSMNodesCmd(env)}
}

func pgsetupCmds(env *Env) []*cobra.Command {
	discover := newMixedLeaf("discover", "Discover local PostgreSQL instance, if any", func(cmd *cobra.Command, _ []string) error {
		n, err := localNode(env, cmd)
		if err != nil {
			return err
		}
		s, err := inspectServer(cmd.Context(), n)
		if err != nil {
			return err
		}
		if jsonWanted(cmd) {
			return writeJSON(env.Stdout, s.json())
		}
		return s.text(env.Stdout)
	})
	ready := newMixedLeaf("ready", "Tell whether the local Postgres server is ready", func(cmd *cobra.Command, _ []string) error {
		return waitPostgres(env, cmd, 0)
	})
	wait := newMixedLeaf("wait", "Wait until the local Postgres server is ready", func(cmd *cobra.Command, _ []string) error {
		return waitPostgres(env, cmd, time.Duration(number(cmd, "timeout"))*time.Second)
	})
	wait.Flags().Int("timeout", 30, "how many `seconds` to wait")
	wait.Flags().Bool("read-write", false, "wait until the server is out of recovery")
	for _, cmd := range []*cobra.Command{discover, ready, wait} {
		pgdataFlag(cmd)
	}
	return []*cobra.Command{
		newPgCtlCmd(env), discover, ready, wait, newPgLogsCmd(env), newPgTuneCmd(env), newHBALanCmd(env),
	}
}

func waitPostgres(env *Env, cmd *cobra.Command, patience time.Duration) error {
	n, err := localNode(env, cmd)
	if err != nil {
		return err
	}
	up, err := waitServer(cmd.Context(), n, patience, on(cmd, "read-write"))
	if err != nil {
		return err
	}
	if !up {
		return fail(exitPgSQL, "PostgreSQL is not ready at %q", n.pgdata)
	}
	env.infof("PostgreSQL is ready at %q", n.pgdata)
	return nil
}

func newFSMStateCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("state", "Read the keeper's state from disk and display it", func(cmd *cobra.Command, _ []string) error {
		n, err := localKeeper(env, cmd)
		if err != nil {
			return err
		}
		st, err := n.keeperState()
		if err != nil {
			if e, ok := errors.AsType[*exitError](err); ok {
				e.code = exitBadConfig
			}
			return err
		}
		return printKeeperState(env, cmd, n, st)
	})
	pgdataFlag(cmd)
	return cmd
}

func printKeeperState(env *Env, cmd *cobra.Command, n node, st keeper.State) error {
	s, err := inspectServer(cmd.Context(), n)
	if err != nil {
		return err
	}
	return writeJSON(env.Stdout, object{{"postgres", s.json()}, {"state", keeperStateJSON(st)}})
}

func newFSMListCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("list", "List reachable FSM states from current state", func(cmd *cobra.Command, _ []string) error {
		if jsonWanted(cmd) {
			return writeJSON(env.Stdout, edgesJSON(fsm.Standalone))
		}
		n, err := localKeeper(env, cmd)
		if err != nil {
			return err
		}
		st, err := n.keeperState()
		if err != nil {
			return err
		}
		t := &table{columns: []column{{title: "Current", width: 20}, {title: "Reachable", width: 20}, {title: "Comment", left: true}}}
		for _, to := range reachable(n.nodeKind(), st.Current) {
			edge, _ := fsm.Next(n.nodeKind(), st.Current, to)
			t.add(st.Current.String(), to.String(), fmt.Sprintf("%d steps", len(edge.Steps)))
		}
		return t.write(env.Stdout)
	})
	pgdataFlag(cmd)
	return cmd
}

// reachable lists the states that a keeper can go to from a state.
func reachable(kind fsm.NodeKind, from fsm.State) []fsm.State {
	var out []fsm.State
	for _, to := range fsm.States() {
		if _, ok := fsm.Next(kind, from, to); ok && to != from {
			out = append(out, to)
		}
	}
	return out
}

// nodeKind is the node's kind in the words of the state machine.
func (n node) nodeKind() fsm.NodeKind {
	for _, kind := range []fsm.NodeKind{fsm.Coordinator, fsm.Worker} {
		if n.keeper.NodeKind == kind.String() {
			return kind
		}
	}
	return fsm.Standalone
}

func newFSMAssignCmd(env *Env) *cobra.Command {
	cmd := newWordsLeaf("assign <goal state>", "Assign a new goal state to the keeper", func(cmd *cobra.Command, words []string) error {
		goal, err := fsm.ParseState(words[0])
		if err != nil {
			return fatal(exitBadArgs, "%w", err)
		}
		n, err := localKeeper(env, cmd)
		if err != nil {
			return err
		}
		return assignState(env, cmd, n, goal)
	})
	pgdataFlag(cmd)
	return cmd
}

// assignState writes a goal into the state file and waits until the service has reached it.
func assignState(env *Env, cmd *cobra.Command, n node, goal fsm.State) error {
	st, err := n.keeperState()
	if err != nil {
		return err
	}
	st.Assigned = goal
	if err := keeper.WriteState(n.state, st); err != nil {
		return withCode(exitBadState, err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for st.Current != goal {
		if time.Now().After(deadline) {
			env.warnf("The service did not reach the state %q within 30 s", goal)
			return quit(exitBadState)
		}
		if err := sleep(cmd.Context(), 100*time.Millisecond); err != nil {
			return err
		}
		if st, err = n.keeperState(); err != nil {
			return err
		}
	}
	return printKeeperState(env, cmd, n, st)
}

func newGetPIDCmd(env *Env) *cobra.Command {
	cmd := newWordsLeaf("getpid <service>", "Get the pid of a service", func(cmd *cobra.Command, words []string) error {
		n, err := localNode(env, cmd)
		if err != nil {
			return err
		}
		svc, err := findService(n.site)
		if err != nil {
			return err
		}
		for _, s := range svc.info.Services {
			if s.Name == words[0] {
				env.printf("%d\n", s.PID)
				return nil
			}
		}
		return fail(exitInternal, "no service %q runs at %q", words[0], n.pgdata)
	})
	pgdataFlag(cmd)
	return cmd
}

func newActivateCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("activate", "Activate a Citus worker from the Citus coordinator", func(cmd *cobra.Command, _ []string) error {
		return activateNode(cmd.Context(), env, cmd)
	})
	pgdataFlag(cmd)
	return cmd
}

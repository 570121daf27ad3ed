package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/pg"
)

func newAcceptCmd(env *Env) *cobra.Command {
	return newSet("accept", "Accept what the monitor can't decide by itself", newAcceptTimelineCmd(env))
}

func newAcceptTimelineCmd(env *Env) *cobra.Command {
	cmd := newLeaf("timeline", "Accept a timeline as the one that a group goes on with", func(cmd *cobra.Command, words []string) error {
		if number(cmd, "tli") <= 0 {
			return fail(exitBadArgs, "Option --tli is mandatory, and a number above 0").
				withHint("list the timelines of the group with: %s show timeline", env.program())
		}
		return withMonitor(env, acceptTimeline)(cmd, words)
	})
	pgdataFlag(cmd)
	monitorFlag(cmd, "m")
	formationFlag(cmd)
	groupFlag(cmd)
	cmd.Flags().IntP("tli", "t", 0, "`number` of the timeline to accept")
	cmd.Flags().StringP("reason", "r", "", "`text` that says why, kept by the monitor")
	return cmd
}

func acceptTimeline(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
	formation, group, err := s.formationGroup(ctx, cmd)
	if err != nil {
		return err
	}
	tli := number(cmd, "tli")
	if err := s.db.AcceptTimeline(ctx, formation, group, pg.Timeline(tli), text(cmd, "reason")); err != nil { //nolint:gosec // above 0
		return advise(err, "show timeline lists the timelines that nodes of the group have reported")
	}
	if jsonWanted(cmd) {
		return writeJSON(s.env.Stdout, object{{"formation", formation}, {"group", group}, {"tli", tli}})
	}
	s.env.printf("Accepted timeline %d for group %d of formation %q: nodes on other lines rejoin it.\n", tli, group, formation)
	return nil
}

package cli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/demo"
)

func newDemoMultimasterCmd(env *Env) *cobra.Command {
	cmd := newLeaf("multimaster", "Show nodes that all take writes: conflicts, a killed engine, and rows that end equal",
		func(cmd *cobra.Command, words []string) error {
			if err := noWords(words); err != nil {
				return err
			}
			cfg := demo.MultimasterConfig{Nodes: number(cmd, "nodes")}
			var err error
			if cfg.Writing, err = cmd.Flags().GetDuration("writing"); err != nil {
				return err
			}
			if cfg.Stay, err = cmd.Flags().GetDuration("stay"); err != nil {
				return err
			}
			return runDemo(cmd.Context(), env, cmd, func(stage demo.Stage) (demonstration, error) {
				cfg.Stage = stage
				return demo.NewMultimaster(cfg)
			})
		})
	f := cmd.Flags()
	f.IntP("nodes", "n", 3, "how many PostgreSQL `nodes` to start, from 2 to 5")
	f.Duration("writing", 9*time.Second, "how `long` all nodes are written to at once")
	f.Duration("stay", 0, "how `long` to stay up afterwards, for example 5m")
	stageFlags(cmd)
	return cmd
}

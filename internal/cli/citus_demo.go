package cli

import (
	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/demo"
)

func newDemoCitusCmd(env *Env) *cobra.Command {
	cmd := newLeaf("citus", "Show a Citus formation: a coordinator and workers with a standby each, and the loss of a worker and of the coordinator",
		func(cmd *cobra.Command, words []string) error {
			if err := noWords(words); err != nil {
				return err
			}
			cfg := demo.CitusConfig{Workers: number(cmd, "workers")}
			var err error
			if cfg.Stay, err = cmd.Flags().GetDuration("stay"); err != nil {
				return err
			}
			return runDemo(cmd.Context(), env, cmd, func(stage demo.Stage) (demonstration, error) {
				cfg.Stage = stage
				return demo.NewCitus(cfg)
			})
		})
	f := cmd.Flags()
	f.IntP("workers", "w", 3, "how many `groups` of workers to start, from 1 to 4, two nodes each")
	f.Duration("stay", 0, "how `long` to stay up afterwards, for example 5m")
	stageFlags(cmd)
	return cmd
}

package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/orchestrator"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

func newRemoveNodeCmd(env *Env) *cobra.Command {
	cmd := newZodanLeaf(env, "remove_node", "Let a node leave a cluster, also a dead or half added one", removeNode)
	f := cmd.Flags()
	f.String("target-node-name", "", "`name` of the node that leaves")
	f.String("target-node-dsn", "", "its `connection string`")
	f.String("target-dsn", "", "another name of --target-node-dsn")
	f.Lookup("target-dsn").Hidden = true
	f.String("survivor-dsn", "", "`connection string` of a node that stays, when the other cannot be reached")
	f.Bool("dead", false, "do not try to reach the node: it is gone; needs --survivor-dsn")
	f.Bool("no-drain", false, "do not wait until the others have its last changes")
	f.Bool("drop-left-slots", false, "after the removal of a dead node: drop the slots that nobody reads, whatever their names")
	f.Bool("even-out", false, "with a dead node: copy tables again to nodes that may lack changes of it which another node has")
	f.Bool("purge-data", false, "drop what its join has copied to it as well")
	runFlags(cmd)
	return cmd
}

func removeNode(ctx context.Context, z *zodan) error {
	if err := z.need("target-node-name"); err != nil {
		return err
	}
	r := orchestrator.Removal{
		Target:   workflow.Member{Name: z.text("target-node-name"), DSN: orDefault(z.text("target-node-dsn"), z.text("target-dsn"))},
		Survivor: workflow.Member{DSN: z.text("survivor-dsn")}, NoDrain: z.on("no-drain"), Purge: z.on("purge-data"), DropLeft: z.on("drop-left-slots"),
		EvenOut: z.on("even-out"),
	}
	if z.on("dead") {
		r.Target.DSN = ""
	}
	if r.Target.DSN == "" && r.Survivor.DSN == "" {
		return zodanUsage("--target-node-dsn is missing; for a dead node give --survivor-dsn")
	}
	if z.on("rollback") {
		return zodanUsage("what was removed cannot be brought back: add_node does that")
	}
	cfg, err := z.membership().Remove(ctx, r)
	if errors.Is(err, orchestrator.ErrNothingToRemove) {
		z.title("there is nothing to remove: " + r.Target.Name + " is in no cluster")
		return nil
	}
	if err != nil && ctx.Err() != nil {
		return z.cancelled(ctx)
	}
	if err != nil {
		e := fail(exitBadArgs, "%w", err)
		if e.Hint() == "" {
			return e.withHint("a node that cannot be reached is removed from a survivor: --survivor-dsn=…")
		}
		return e
	}
	return z.execute(ctx, cfg)
}

package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/orchestrator"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

func newHealthCheckCmd(env *Env) *cobra.Command {
	cmd := newZodanLeaf(env, "health-check", "Check a cluster before or after a node joins", healthCheck)
	f := cmd.Flags()
	f.String("src-node-name", "", "`name` of a node of the cluster")
	f.String("src-dsn", "", "its `connection string`")
	f.String("new-node-name", "", "`name` of the node that joins, or has joined")
	f.String("new-node-dsn", "", "its `connection string`")
	f.String("check-type", "pre", "`pre` before it joins, post after")
	f.Bool("strict", false, "a warning is a failure")
	f.String("max-lag", "1GB", "the most that a node may be behind another, a `size`")
	f.Duration("long-transaction", time.Minute, "warn of transactions that are open for that `duration`")
	f.Duration("patience", 10*time.Second, "the `duration` that an engine may take to start, or a mark to arrive")
	f.Bool("compare-data", false, "after a join: compare the rows of all tables that are replicated whole")
	for _, ignored := range []string{"new-node-location", "new-node-country", "new-node-info"} {
		f.String(ignored, "", "accepted, of no use here")
		f.Lookup(ignored).Hidden = true
	}
	return cmd
}

func healthCheck(ctx context.Context, z *zodan) error {
	if err := z.need("src-node-name", "src-dsn"); err != nil {
		return err
	}
	cfg := orchestrator.HealthConfig{
		Source: workflow.Member{Name: z.text("src-node-name"), DSN: z.text("src-dsn")},
		New:    workflow.Member{Name: z.text("new-node-name"), DSN: z.text("new-node-dsn")},
	}
	switch z.text("check-type") {
	case "pre":
	case "post":
		cfg.Post = true
	default:
		return zodanUsage("--check-type must be pre or post, not %q", z.text("check-type"))
	}
	for _, flag := range []string{"new-node-name", "new-node-dsn"} {
		if z.cmd.Flags().Changed(flag) && z.text(flag) == "" { // a variable of a script that nobody has set
			return zodanUsage("--%s is empty", flag).withHint("leave out --new-node-name and --new-node-dsn to check the cluster alone")
		}
	}
	if (cfg.New.Name == "") != (cfg.New.DSN == "") {
		return zodanUsage("--new-node-name and --new-node-dsn go together")
	}
	var err error
	if cfg.MaxLag, err = parseSize(z.text("max-lag")); err != nil {
		return zodanUsage("--max-lag: %w", err)
	}
	for flag, to := range map[string]*time.Duration{"long-transaction": &cfg.LongTransaction, "patience": &cfg.Patience} {
		if *to, err = z.cmd.Flags().GetDuration(flag); err != nil {
			return err
		}
	}
	if cfg.CompareData = z.on("compare-data"); cfg.CompareData && !cfg.Post {
		return zodanUsage("--compare-data goes with --check-type=post")
	}
	z.surveyor().Health(ctx, cfg, z.check)
	if ctx.Err() != nil {
		return z.cancelled(ctx)
	}
	failed := z.failed
	if z.on("strict") {
		failed += z.warned
	}
	z.title(checkSummary(z))
	if failed > 0 {
		return fail(exitBadArgs, "%d checks failed", failed)
	}
	return nil
}

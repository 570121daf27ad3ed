package cli

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/orchestrator"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

func newAddNodeCmd(env *Env) *cobra.Command {
	cmd := newZodanLeaf(env, "add_node", "Let a node join a running cluster, or several", addNode)
	f := cmd.Flags()
	f.String("src-node-name", "", "`name` of the node whose content is copied")
	f.String("src-dsn", "", "its `connection string`, for this program and for the other servers")
	f.String("new-node-name", "", "`name` of the new node")
	f.String("new-node-dsn", "", "its `connection string`")
	f.String("new-node-location", "NY", "`where` it stands")
	f.String("new-node-country", "USA", "`country` where it stands")
	f.String("new-node-info", "{}", "further facts, a JSON `object`")
	f.StringArray("new", nil, "`name=connection-string` of a new node; repeat it to add several at once")
	f.String("file", "", "JSON `file` with a list of new nodes: objects with name, dsn and, if wanted, location, country, info")
	f.String("repsets", "all", "replication `sets` that the new node takes: all, or a list with commas")
	f.Bool("skip-schema", false, "copy rows only, into tables that are there already")
	f.Bool("create-roles", false, "create the roles and memberships of the source that a new node's server lacks, without passwords")
	f.Bool("allow-ddl", false, "let definitions change during the join; that they stay equal is then yours to see to")
	f.String("max-retained-wal", "", "undo the join before a node keeps more WAL than that `size` for it, as 20GB; default: no limit")
	f.Int("jobs", 0, "`number` of tables, or parts of large ones, that are copied at a time, and of indexes that are built; default: by the processors, at most 4")
	f.String("max-rate", "", "copy no more than that `size` a second, as 50MB; default: no limit")
	f.Int("max-source-load", 0, "copy slowly while more than that `number` of clients' sessions are at work on the source; default: no limit")
	f.String("adopt-stale", "", "`drop` what an earlier attempt has left under the names that this join gives: slots, origins, subscriptions; default: refuse")
	f.Bool("skip-check", false, "do not check the cluster before")
	runFlags(cmd)
	return cmd
}

func addNode(ctx context.Context, z *zodan) error {
	if err := z.need("src-node-name", "src-dsn"); err != nil {
		return err
	}
	a := orchestrator.Addition{
		Source:   workflow.Member{Name: z.text("src-node-name"), DSN: z.text("src-dsn")},
		AllowDDL: z.on("allow-ddl"), OnlyData: z.on("skip-schema"), CreateRoles: z.on("create-roles"), SkipCheck: z.on("skip-check"), Unfinished: z.on("resume") || z.on("rollback"),
		Undo: z.on("rollback"),
	}
	var err error
	if a.New, err = z.newcomers(); err != nil {
		return err
	}
	if sets := z.text("repsets"); sets != "all" && sets != "" {
		var ok bool
		if a.Sets, ok = workflow.ParseList(sets); !ok {
			return zodanUsage("--repsets takes all, or names with commas, not %q", sets)
		}
	}
	if text := z.text("max-retained-wal"); text != "" {
		if a.MaxRetainedWAL, err = parseSize(text); err != nil {
			return zodanUsage("--max-retained-wal: %w", err)
		}
	}
	switch z.text("adopt-stale") {
	case "":
	case "drop":
		a.DropStale = true
	default:
		return zodanUsage("--adopt-stale must be drop, not %q", z.text("adopt-stale"))
	}
	if a.Limits, err = z.limits(); err != nil {
		return err
	}
	cfg, err := z.membership().Add(ctx, a)
	switch {
	case err != nil && ctx.Err() != nil:
		return z.cancelled(ctx)
	case errors.Is(err, orchestrator.ErrNoRun):
		return fail(exitBadArgs, "there is no unfinished run that lets %s join", joined(a.New))
	case err != nil:
		return fail(prepareCode(err), "%w", err)
	}
	return z.execute(ctx, cfg)
}

// limits are those of the copy.
func (z *zodan) limits() (string, error) {
	jobs, err := z.cmd.Flags().GetInt("jobs")
	if err != nil {
		return "", err
	}
	load, err := z.cmd.Flags().GetInt("max-source-load")
	if err != nil {
		return "", err
	}
	if jobs < 0 || jobs > 64 || load < 0 {
		return "", zodanUsage("--jobs takes a number from 1 to 64, --max-source-load one from 1")
	}
	rate := int64(0)
	if text := z.text("max-rate"); text != "" {
		if rate, err = parseSize(text); err != nil {
			return "", zodanUsage("--max-rate: %w", err)
		}
	}
	return orchestrator.Limits(jobs, rate, load), nil
}

// prepareCode is the exit code of a run that was not begun.
func prepareCode(err error) int {
	if _, ok := errors.AsType[*orchestrator.Checked](err); ok {
		return zodanPrecheck
	}
	if _, ok := errors.AsType[*orchestrator.OtherRun](err); ok {
		return zodanPrecheck
	}
	if _, ok := errors.AsType[*orchestrator.StaleError](err); ok {
		return zodanPrecheck
	}
	if _, ok := errors.AsType[*orchestrator.SameNames](err); ok {
		return zodanMisuse
	}
	if _, ok := errors.AsType[*orchestrator.NamedTwice](err); ok {
		return zodanMisuse
	}
	return exitBadArgs
}

func joined(list []workflow.Newcomer) string {
	var names []string
	for _, n := range list {
		names = append(names, n.Name)
	}
	return strings.Join(names, ", ")
}

// newcomers are the new nodes of all options together.
func (z *zodan) newcomers() ([]workflow.Newcomer, error) {
	var all []workflow.Newcomer
	add := func(n workflow.Newcomer) error {
		n.Location, n.Country = orDefault(n.Location, z.text("new-node-location")), orDefault(n.Country, z.text("new-node-country"))
		n.Info = orDefault(n.Info, z.text("new-node-info"))
		if !json.Valid([]byte(n.Info)) {
			return zodanUsage("--new-node-info is no JSON")
		}
		all = append(all, n)
		return nil
	}
	if z.text("new-node-name") != "" || z.text("new-node-dsn") != "" {
		if err := z.need("new-node-name", "new-node-dsn"); err != nil {
			return nil, err
		}
		if err := add(workflow.Newcomer{Member: workflow.Member{Name: z.text("new-node-name"), DSN: z.text("new-node-dsn")}}); err != nil {
			return nil, err
		}
	}
	list, err := z.cmd.Flags().GetStringArray("new")
	if err != nil {
		return nil, err
	}
	for _, text := range list {
		name, dsn, ok := strings.Cut(text, "=")
		if !ok || name == "" || dsn == "" {
			return nil, zodanUsage("--new takes name=connection-string, not %q", workflow.Mask(text))
		}
		if err := add(workflow.Newcomer{Member: workflow.Member{Name: name, DSN: dsn}}); err != nil {
			return nil, err
		}
	}
	fromFile, err := z.newcomerFile()
	if err != nil {
		return nil, err
	}
	for _, n := range fromFile {
		if err := add(n); err != nil {
			return nil, err
		}
	}
	if len(all) == 0 {
		return nil, z.need("new-node-name", "new-node-dsn")
	}
	return all, nil
}

// newcomerFile reads --file.
func (z *zodan) newcomerFile() ([]workflow.Newcomer, error) {
	path := z.text("file")
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path) //nolint:gosec // the file is where the operator says
	if err != nil {
		return nil, fail(zodanMisuse, "read the list of nodes: %w", err)
	}
	var list []struct {
		Name, DSN, Location, Country string
		Info                         json.RawMessage
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fail(zodanMisuse, "read the list of nodes %q: %w", path, err)
	}
	var all []workflow.Newcomer
	for i, n := range list {
		if n.Name == "" || n.DSN == "" {
			return nil, fail(zodanMisuse, "read the list of nodes %q: node %d has no name or no dsn", path, i+1)
		}
		all = append(all, workflow.Newcomer{
			Member: workflow.Member{Name: n.Name, DSN: n.DSN}, Location: n.Location, Country: n.Country, Info: string(n.Info),
		})
	}
	return all, nil
}

// parseSize reads a number of bytes with a unit as the server writes them.
func parseSize(text string) (int64, error) {
	digits := strings.TrimRight(text, "kKMGTBb ")
	n, err := strconv.ParseInt(digits, 10, 64)
	shift, ok := map[string]int{"": 0, "B": 0, "kB": 10, "KB": 10, "MB": 20, "GB": 30, "TB": 40}[strings.TrimSpace(text[len(digits):])]
	if err != nil || !ok || n <= 0 || n > 1<<(62-shift) {
		return 0, errors.New("a size is a number with a unit, as 512MB or 20GB, not " + strconv.Quote(text))
	}
	return n << shift, nil
}

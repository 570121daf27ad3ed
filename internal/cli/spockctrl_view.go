package cli

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/orchestrator"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

func sortedKeys(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }

// spockctrlView is a command that asks one query of one node, or of each.
type spockctrlView struct {
	use, short string
	sql        string
	// words are how many words become $1, $2, …; missing ones are empty. With
	// named the first word may be the name of the node.
	words int
	named bool
	each  bool // of every node unless one is named; the answer says which
	dsn   bool // the answer holds connection strings
}

func newSpockctrlView(env *Env, v spockctrlView) *cobra.Command {
	cmd := newSpockctrlLeaf(env, v.use, v.short, func(ctx context.Context, s *spockctrl, words []string) error {
		return s.view(ctx, v, words)
	})
	cmd.Flags().String("node", "", "the `node` to ask")
	if v.dsn {
		cmd.Flags().String("show-secrets", "", "show passwords (`yes|no`)")
	}
	return cmd
}

func (s *spockctrl) view(ctx context.Context, v spockctrlView, words []string) error {
	name := s.cmd.Flag("node").Value.String()
	if v.named && name == "" && len(words) > 0 {
		name, words = words[0], words[1:]
	}
	if len(words) > v.words {
		return spockctrlUsage("%d words are too many", len(words))
	}
	args := make([]*string, v.words)
	for i := range args {
		args[i] = new("")
		if i < len(words) {
			args[i] = &words[i]
		}
	}
	if schema := s.cmd.Flags().Lookup("schema"); schema != nil {
		args = append(args, new(schema.Value.String()))
	}
	nodes := s.config.Nodes
	if name != "" || !v.each {
		n, err := s.node(name, "")
		if err != nil {
			return err
		}
		nodes = []workflow.Node{n}
	}
	var all orchestrator.Result
	var problems []error
	for _, n := range nodes {
		err := s.on(ctx, n, func(server orchestrator.Server) error {
			answer, err := server.Ask(ctx, v.sql, args...)
			if err != nil {
				return err
			}
			if v.each {
				answer = withNode(answer, n.Name)
			}
			all.Columns, all.Rows = answer.Columns, append(all.Rows, answer.Rows...)
			return nil
		})
		if err != nil {
			problems = append(problems, err)
		}
	}
	if len(problems) == len(nodes) {
		return errors.Join(problems...)
	}
	// One that is gone, or no node yet, does not hide the others.
	for _, err := range problems {
		s.env.warnf("%v", err)
	}
	return s.print(all)
}

// withNode puts the name of the node in front of its rows.
func withNode(answer orchestrator.Result, name string) orchestrator.Result {
	answer.Columns = append([]orchestrator.Column{{Name: "node"}}, answer.Columns...)
	for i, row := range answer.Rows {
		answer.Rows[i] = append([]*string{&name}, row...)
	}
	return answer
}

func spockctrlNodeViews(env *Env) []*cobra.Command {
	return []*cobra.Command{
		newSpockctrlView(env, spockctrlView{
			use: "list [ <node> ]", short: "List the nodes that a node knows", named: true, dsn: true,
			sql: `SELECT n.node_id, n.node_name, n.location, n.country, n.info, i.if_dsn AS dsn, l.node_id IS NOT NULL AS is_local
  FROM spock.node n LEFT JOIN spock.node_interface i ON i.if_nodeid = n.node_id LEFT JOIN spock.local_node l ON l.node_id = n.node_id
 ORDER BY n.node_name, i.if_name`,
		}),
		newSpockctrlView(env, spockctrlView{
			use: "status [ <node> ]", short: "Show what a node says of itself", named: true,
			sql: `SELECT node_id, node_name, sysid, dbname, replication_sets, location, country, info FROM spock.node_info()`,
		}),
		newSpockctrlView(env, spockctrlView{
			use: "spock-version [ <node> ]", short: "Show the version of schema spock", named: true, sql: `SELECT spock.spock_version()`,
		}),
		newSpockctrlView(env, spockctrlView{
			use: "pg-version [ <node> ]", short: "Show the version of the server", named: true, sql: `SELECT version()`,
		}),
		newSpockctrlView(env, spockctrlView{
			use: "gucs [ <node> ]", short: "Show the settings that replication needs, with a verdict", named: true, sql: gucsSQL,
		}),
	}
}

// gucsSQL compares settings with what a node with its present peers needs.
const gucsSQL = `
WITH need AS (SELECT greatest(count(*), 1) AS peers FROM spock.subscription),
     wanted (name, required) AS (
       SELECT 'wal_level', 'logical' UNION ALL SELECT 'track_commit_timestamp', 'on'
       UNION ALL SELECT 'max_replication_slots', peers::text FROM need
       UNION ALL SELECT 'max_wal_senders', peers::text FROM need)
SELECT w.name, s.setting AS value, CASE WHEN w.required ~ '^[0-9]+$' THEN 'at least ' ELSE '' END || w.required AS required,
       CASE WHEN w.required ~ '^[0-9]+$' AND s.setting::bigint >= w.required::bigint OR s.setting = w.required
            THEN 'ok' ELSE 'change it and restart the server' END AS verdict
  FROM wanted w JOIN pg_catalog.pg_settings s ON s.name = w.name ORDER BY w.name`

const subStatusSQL = `
SELECT subscription_name, status, provider_node, provider_dsn, slot_name, replication_sets, forward_origins
  FROM spock.sub_show_status() WHERE $1::text = '' OR subscription_name = $1 ORDER BY subscription_name`

func spockctrlSubViews(env *Env) []*cobra.Command {
	return []*cobra.Command{
		newSpockctrlView(env, spockctrlView{
			use: "list [ <sub-name> ]", short: "List the subscriptions of all nodes", words: 1, each: true, dsn: true, sql: subStatusSQL,
		}),
		newSubShowStatusCmd(env),
		newSubWaitCmd(env),
	}
}

func newSubShowStatusCmd(env *Env) *cobra.Command {
	view := spockctrlView{
		use: "show-status [ <sub-name> ]", short: "Show the state of subscriptions", words: 1, each: true, dsn: true, sql: subStatusSQL,
	}
	cmd := newSpockctrlLeaf(env, view.use, view.short, func(ctx context.Context, s *spockctrl, words []string) error {
		if name := s.cmd.Flag("sub-name").Value.String(); name != "" {
			words = append([]string{name}, words...)
		}
		return s.view(ctx, view, words)
	})
	cmd.Flags().String("node", "", "the `node` to ask")
	cmd.Flags().String("sub-name", "", "`name` of the subscription")
	cmd.Flags().String("show-secrets", "", "show passwords (`yes|no`)")
	return cmd
}

func newSubWaitCmd(env *Env) *cobra.Command {
	cmd := newSpockctrlLeaf(env, "wait-for-sync <sub-name>", "Wait until a subscription has copied its tables",
		func(ctx context.Context, s *spockctrl, words []string) error {
			name := s.cmd.Flag("sub-name").Value.String()
			if name == "" && len(words) == 1 {
				name, words = words[0], nil
			}
			if name == "" || len(words) > 0 {
				return spockctrlUsage("the name of one subscription is expected")
			}
			seconds, err := strconv.Atoi(s.cmd.Flag("timeout").Value.String())
			if err != nil || seconds < 0 {
				return spockctrlUsage("--timeout takes a number of seconds")
			}
			n, err := s.node(s.cmd.Flag("node").Value.String(), "")
			if err != nil {
				return err
			}
			return s.on(ctx, n, func(server orchestrator.Server) error {
				return s.waitForSync(ctx, server, name, time.Duration(seconds)*time.Second)
			})
		})
	cmd.Flags().String("node", "", "the `node` of the subscription")
	cmd.Flags().String("sub-name", "", "`name` of the subscription")
	cmd.Flags().String("timeout", "180", "`seconds` to wait at most; 0 for ever")
	return cmd
}

const syncStateSQL = `
SELECT s.sub_id, EXISTS (SELECT FROM spock.local_sync_status y WHERE y.sync_subid = s.sub_id AND y.sync_relname IS NULL AND y.sync_status = 'r')
   AND NOT EXISTS (SELECT FROM spock.local_sync_status y
                    WHERE y.sync_subid = s.sub_id AND y.sync_relname IS NOT NULL AND y.sync_status <> 'r') AS ready
  FROM spock.subscription s WHERE s.sub_name = $1`

func (s *spockctrl) waitForSync(ctx context.Context, server orchestrator.Server, name string, limit time.Duration) error {
	for began := time.Now(); ; {
		answer, err := server.Ask(ctx, syncStateSQL, &name)
		switch {
		case err != nil:
			return err
		case len(answer.Rows) == 0:
			return fail(spockctrlFailed, "there is no subscription %q", name)
		case *answer.Rows[0][1] == "t":
			return nil
		case limit > 0 && time.Since(began) >= limit:
			return fail(spockctrlTimeout, "subscription %q has not copied its tables within %s", name, limit).
				withHint("sub show-status says what it does")
		}
		timer := time.NewTimer(200 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

func spockctrlRepsetViews(env *Env) []*cobra.Command {
	tables := newSpockctrlView(env, spockctrlView{
		use: "list-tables [ <set-name> ]", short: "List the tables and the sets they are in", words: 1,
		sql: `SELECT relid::oid AS relid, nspname, relname, set_name FROM spock.tables
 WHERE ($1::text = '' OR set_name = $1) AND ($2::text = '' OR nspname = $2) ORDER BY nspname, relname, set_name`,
	})
	tables.Flags().String("schema", "", "only the tables of this `schema`")
	return []*cobra.Command{
		newSpockctrlView(env, spockctrlView{
			use: "list [ <node> ]", short: "List the replication sets of a node", named: true,
			sql: `SELECT r.set_name, r.replicate_insert, r.replicate_update, r.replicate_delete, r.replicate_truncate,
       (SELECT count(*) FROM spock.replication_set_table t WHERE t.set_id = r.set_id) AS tables,
       (SELECT count(*) FROM spock.replication_set_seq q WHERE q.set_id = r.set_id) AS sequences
  FROM spock.replication_set r JOIN spock.local_node l ON l.node_id = r.set_nodeid ORDER BY r.set_name`,
		}),
		tables,
	}
}

func spockctrlSlotViews(env *Env) []*cobra.Command {
	return []*cobra.Command{
		newSpockctrlView(env, spockctrlView{
			use: "list [ <node> ]", short: "List the slots of a node's database", named: true,
			sql: `SELECT slot_name, plugin, active, restart_lsn, confirmed_flush_lsn, wal_status
  FROM pg_catalog.pg_replication_slots WHERE database = pg_catalog.current_database() ORDER BY slot_name`,
		}),
	}
}

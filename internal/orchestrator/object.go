package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/spock"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// found is what a look at the object of a command has shown.
type found struct {
	exists      bool
	differences []string
	// variables are what the command would have set.
	variables map[string]*string
	// settled is the status of a command that has nothing to do.
	settled Status
}

// command runs a step of type spock: it looks first whether there is anything to do.
func (e *Executor) command(ctx context.Context, s workflow.Step) (outcome, error) {
	typed, err := e.values(ctx, s)
	if err != nil {
		return outcome{}, err
	}
	values := map[string]string{}
	for name, v := range typed {
		values[name] = v.Text
	}
	before, err := e.look(ctx, s, values)
	switch {
	case err != nil:
		return outcome{}, err
	case len(before.differences) > 0:
		return outcome{}, &differsError{what: objectName(s, values), differences: before.differences}
	case before.settled != "":
		return outcome{status: before.settled, variables: before.variables}, nil
	}
	undo, exists := undoOf(s.Command.Name, values)
	if err := e.intend(ctx, s, undo, exists); err != nil {
		return outcome{}, err
	}
	if s.Command.Name == workflow.EnableSubscription {
		if err := e.handOver(ctx, s, values["sub_name"]); err != nil {
			return outcome{}, err
		}
	}
	stop := e.watchBlockers(ctx, s)
	answer, err := e.send(ctx, s, typed)
	stop()
	if err != nil {
		if after, ok := e.madeMeanwhile(ctx, s, values, err); ok {
			return outcome{status: Exists, variables: after.variables}, nil
		}
		if undo != "" && spock.SQLState(err) != "" && !away(err) {
			e.forget(s)
		}
		return outcome{}, err
	}
	if s.Command.Name == workflow.CreateSubscription {
		e.answered(s, answer)
	}
	out := outcome{status: OK, variables: firstRow(answer)}
	switch {
	case len(answer.Rows) == 1 && len(answer.Columns) == 1 && answer.Rows[0][0] == nil && answer.Columns[0].Type != voidType:
		return outcome{}, errors.New("the server answered NULL")
	case isDrop(s.Command.Name) && (answer.text(0) == "f" || answer.text(0) == "0"):
		out.status = Absent
	}
	return out, nil
}

// madeMeanwhile looks again when the server says that what is to be made exists
// already: the statement of a run that was killed may have ended after it.
func (e *Executor) madeMeanwhile(ctx context.Context, s workflow.Step, values map[string]string, err error) (found, bool) {
	if !strings.Contains(err.Error(), "already exists") && !strings.Contains(err.Error(), "already configured") {
		return found{}, false
	}
	after, lookErr := e.look(ctx, s, values)
	return after, lookErr == nil && after.settled == Exists && len(after.differences) == 0
}

// voidType is the number of the type void.
const voidType = 2278

func isDrop(command string) bool {
	return command == workflow.DropNode || command == workflow.DropSubscription || command == workflow.DropRepset
}

// values are those of the step's options. One that is an SQL expression is
// asked of the node first.
func (e *Executor) values(ctx context.Context, s workflow.Step) (map[string]workflow.Value, error) {
	options, err := e.options(s)
	if err != nil {
		return nil, err
	}
	values, err := s.Command.Values(options, e.cfg.RawSQL)
	if err != nil {
		return nil, err
	}
	for name, v := range values {
		if !v.Raw {
			continue
		}
		answer, err := e.ask(ctx, s.Node, "SELECT ("+v.Text+")::text")
		if err != nil {
			return nil, fmt.Errorf("evaluate option --%s: %w", name, err)
		}
		values[name] = workflow.Value{Text: answer.text(0)}
	}
	if s.Command.Name == workflow.CreateNode {
		return values, e.nameDatabase(ctx, s, values)
	}
	return values, nil
}

// options are the step's options with the variables as they are now.
func (e *Executor) options(s workflow.Step) (map[string]string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	options := map[string]string{}
	for name, text := range s.Options {
		substituted, err := workflow.SubstituteText(text, e.isNode, e.record.Variables)
		if err != nil {
			return nil, fmt.Errorf("option --%s: %w", name, err)
		}
		options[name] = substituted
	}
	return options, nil
}

// nameDatabase spells the database out in the connection string of a new node:
// what is left to defaults means something else for another user.
func (e *Executor) nameDatabase(ctx context.Context, s workflow.Step, values map[string]workflow.Value) error {
	dsn := values["dsn"].Text
	info, err := pg.ParseConnInfo(dsn)
	if err != nil || info.Get("dbname") != "" {
		return nil //nolint:nilerr // the server words its own complaint
	}
	answer, err := e.ask(ctx, s.Node, "SELECT pg_catalog.current_database()")
	if err != nil {
		return err
	}
	named := strings.TrimRight(dsn, " ") + " " + pg.NewConnInfo("dbname", answer.text(0)).DSN()
	if strings.Contains(dsn, "://") {
		named = info.With("dbname", answer.text(0)).URI()
	}
	values["dsn"] = workflow.Value{Text: named}
	return nil
}

// look finds out whether a command has anything to do.
func (e *Executor) look(ctx context.Context, s workflow.Step, values map[string]string) (found, error) {
	switch s.Command.Name {
	case workflow.CreateNode:
		return e.lookNode(ctx, s, values)
	case workflow.CreateSubscription:
		return e.lookSubscription(ctx, s, values)
	case workflow.CreateRepset:
		return e.lookRepset(ctx, s, values)
	case workflow.CreateSlot:
		return e.lookSlot(ctx, s, values)
	case workflow.DropSlot:
		slot, err := e.lookSlot(ctx, s, map[string]string{"slot": values["slot"]})
		if err == nil && !slot.exists && values["ifexists"] == "true" {
			return found{settled: Absent}, nil
		}
		return found{}, err
	case workflow.DropRepset, workflow.DropSubscription:
		if s.Command.Name == workflow.DropSubscription && values["ifexists"] != "true" {
			return found{}, nil
		}
		answer, err := e.query(ctx, s.Node, "SELECT NOT EXISTS (SELECT FROM spock.local_node)")
		if err == nil && answer.is() {
			// A database that is no node has neither; a published file drops a set
			// without saying that it may be gone, and has to succeed twice.
			return found{settled: Absent}, nil
		}
		return found{}, err
	case workflow.EnableSubscription, workflow.DisableSubscription:
		answer, err := e.query(ctx, s.Node, "SELECT sub_enabled FROM spock.subscription WHERE sub_name = $1", values["sub_name"])
		wanted := s.Command.Name == workflow.EnableSubscription
		if err == nil && len(answer.Rows) == 1 && answer.is() == wanted {
			return found{settled: Unchanged}, nil
		}
		return found{}, err
	case workflow.EnableSlot, workflow.DisableSlot:
		return found{settled: Unchanged}, nil
	}
	return found{}, nil
}

// query asks a node with texts.
func (e *Executor) query(ctx context.Context, node, sql string, args ...string) (Result, error) {
	values := make([]*string, len(args))
	for i := range args {
		values[i] = &args[i]
	}
	return e.run(ctx, node, workflow.Statement{SQL: sql, Args: values})
}

// compared makes what was found from pairs of a column that says whether a
// property is as wanted and the property's name.
func compared(answer Result, first int, variables map[string]*string) found {
	if len(answer.Rows) == 0 {
		return found{}
	}
	f := found{exists: true, settled: Exists, variables: variables}
	for i := first; i < len(answer.Columns); i++ {
		if answer.text(i) != "t" {
			f.differences = append(f.differences, answer.Columns[i].Name)
		}
	}
	return f
}

func (e *Executor) lookNode(ctx context.Context, s workflow.Step, values map[string]string) (found, error) {
	answer, err := e.query(ctx, s.Node, `SELECT n.node_id, i.if_dsn
  FROM spock.local_node l JOIN spock.node n ON n.node_id = l.node_id JOIN spock.node_interface i ON i.if_id = l.node_local_interface
 WHERE n.node_name = $1`, values["node_name"])
	if err != nil || len(answer.Rows) == 0 {
		return found{}, err
	}
	f := found{exists: true, settled: Exists, variables: map[string]*string{"node_create": answer.Rows[0][0]}}
	if !sameDSN(answer.text(1), values["dsn"]) {
		f.differences = append(f.differences, fmt.Sprintf("its dsn is %q, not %q", workflow.Mask(answer.text(1)), workflow.Mask(values["dsn"])))
	}
	return f, nil
}

// sameDSN reports whether two connection strings say the same.
func sameDSN(a, b string) bool {
	x, errX := pg.ParseConnInfo(a)
	y, errY := pg.ParseConnInfo(b)
	if errX != nil || errY != nil {
		return a == b
	}
	words := func(c pg.ConnInfo) []string {
		list := strings.Fields(c.DSN())
		slices.Sort(list)
		return list
	}
	return slices.Equal(words(x), words(y))
}

func (e *Executor) lookSubscription(ctx context.Context, s workflow.Step, values map[string]string) (found, error) {
	or := func(name, fallback string) string {
		if v, ok := values[name]; ok {
			return v
		}
		return fallback
	}
	answer, err := e.query(ctx, s.Node, `SELECT s.sub_id, i.if_dsn, s.sub_enabled = $2::boolean AS enabled,
       (SELECT pg_catalog.array_agg(x ORDER BY x) FROM pg_catalog.unnest(s.sub_replication_sets) x)
         IS NOT DISTINCT FROM (SELECT pg_catalog.array_agg(x ORDER BY x) FROM pg_catalog.unnest($3::text[]) x) AS replication_sets,
       (SELECT pg_catalog.array_agg(x ORDER BY x) FROM pg_catalog.unnest(s.sub_forward_origins) x)
         IS NOT DISTINCT FROM (SELECT pg_catalog.array_agg(x ORDER BY x) FROM pg_catalog.unnest($4::text[]) x) AS forward_origins,
       s.sub_apply_delay = $5::interval AS apply_delay, s.sub_force_text_transfer = $6::boolean AS force_text_transfer
  FROM spock.subscription s JOIN spock.node_interface i ON i.if_id = s.sub_origin_if
 WHERE s.sub_name = $1`, values["sub_name"], or("enabled", "true"),
		or("replication_sets", `{default,default_insert_only,ddl_sql}`), or("forward_origins", "{}"), or("apply_delay", "0"),
		or("force_text_transfer", "false"))
	if err != nil || len(answer.Rows) == 0 {
		return found{}, err
	}
	f := compared(answer, 2, map[string]*string{"sub_create": answer.Rows[0][0]})
	if !sameDSN(answer.text(1), values["provider_dsn"]) {
		f.differences = append(f.differences, "provider_dsn")
	}
	return f, nil
}

func (e *Executor) lookRepset(ctx context.Context, s workflow.Step, values map[string]string) (found, error) {
	answer, err := e.query(ctx, s.Node, `SELECT r.set_id, r.replicate_insert = $2::boolean AS replicate_insert,
       r.replicate_update = $3::boolean AS replicate_update, r.replicate_delete = $4::boolean AS replicate_delete,
       r.replicate_truncate = $5::boolean AS replicate_truncate
  FROM spock.replication_set r JOIN spock.local_node l ON l.node_id = r.set_nodeid WHERE r.set_name = $1`,
		values["set_name"], values["replicate_insert"], values["replicate_update"], values["replicate_delete"], values["replicate_truncate"])
	if err != nil || len(answer.Rows) == 0 {
		return found{}, err
	}
	return compared(answer, 1, map[string]*string{"repset_create": answer.Rows[0][0]}), nil
}

func (e *Executor) lookSlot(ctx context.Context, s workflow.Step, values map[string]string) (found, error) {
	for began := time.Now(); ; {
		answer, err := e.query(ctx, s.Node, `SELECT slot_name, confirmed_flush_lsn, plugin, database = pg_catalog.current_database() AS "its database",
       confirmed_flush_lsn IS NULL AS unfinished
  FROM pg_catalog.pg_replication_slots WHERE slot_name = $1`, values["slot"])
		if err != nil || len(answer.Rows) == 0 {
			return found{}, err
		}
		if answer.text(4) == "t" && s.Command.Name == workflow.CreateSlot && time.Since(began) < e.cfg.Grace {
			// A run that was killed has left a session that still waits for the slot:
			// nobody would learn from where on it keeps changes.
			if err := e.endCreation(ctx, s.Node, values["slot"]); err != nil {
				return found{}, err
			}
			continue
		}
		answer.Columns = answer.Columns[:4]
		f := compared(answer, 3, map[string]*string{"slot_name": answer.Rows[0][0], "lsn": answer.Rows[0][1]})
		ours := []string{"spock_output", "pgoutput"}
		plugin, wanted := answer.text(2), values["plugin"]
		if plugin != wanted && (!slices.Contains(ours, plugin) || !slices.Contains(ours, wanted)) {
			f.differences = append(f.differences, fmt.Sprintf("its plugin is %q, not %q", plugin, wanted))
		}
		return f, nil
	}
}

// endCreation ends the session of an earlier run that is still making a slot.
func (e *Executor) endCreation(ctx context.Context, node, slot string) error {
	if _, err := e.query(ctx, node, `SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_replication_slots r
  JOIN pg_catalog.pg_stat_activity a ON a.pid = r.active_pid
 WHERE r.slot_name = $1 AND r.confirmed_flush_lsn IS NULL AND a.application_name = 'pgdrover'`, slot); err != nil {
		return err
	}
	return e.pause(ctx, e.cfg.Poll)
}

// objectName words what a command is about.
func objectName(s workflow.Step, values map[string]string) string {
	_, kind, _ := strings.Cut(strings.ToLower(s.Command.Name), " ")
	return fmt.Sprintf("%s %q", kind, values[s.Command.Places[0]])
}

// send sends the command to the step's node.
func (e *Executor) send(ctx context.Context, s workflow.Step, values map[string]workflow.Value) (Result, error) {
	return call(func(statement workflow.Statement) (Result, error) { return e.run(ctx, s.Node, statement) }, s.Command, values)
}

// undoOf is SQL that removes what a command makes, and a query whether it is there.
func undoOf(command string, values map[string]string) (undo, exists string) {
	quote := func(name string) string { return pg.QuoteLiteral(values[name]) }
	switch command {
	case workflow.CreateNode:
		return "SELECT spock.node_drop(" + quote("node_name") + ", true)",
			"SELECT EXISTS (SELECT FROM spock.local_node l JOIN spock.node n USING (node_id) WHERE n.node_name = " + quote("node_name") + ")"
	case workflow.CreateSubscription:
		return "SELECT spock.sub_drop(" + quote("sub_name") + ", true)",
			"SELECT EXISTS (SELECT FROM spock.subscription WHERE sub_name = " + quote("sub_name") + ")"
	case workflow.CreateRepset:
		return "SELECT spock.repset_drop(" + quote("set_name") + ", true)",
			"SELECT EXISTS (SELECT FROM spock.replication_set r JOIN spock.local_node l ON l.node_id = r.set_nodeid WHERE r.set_name = " + quote("set_name") + ")"
	case workflow.CreateSlot:
		if values["temporary"] == "true" {
			return "", ""
		}
		return DropSlotSQL(values["slot"]), "SELECT EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = " + quote("slot") + ")"
	}
	return "", ""
}

// DropSlotSQL drops a slot of the session's database if it is there.
func DropSlotSQL(slot string) string {
	return "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots WHERE slot_name = " +
		pg.QuoteLiteral(slot) + " AND database = pg_catalog.current_database()"
}

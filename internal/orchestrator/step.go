package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/pgdrover/pgdrover/internal/spock"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// outcome is how a step ended.
type outcome struct {
	status    Status
	variables map[string]*string
	message   string
}

// attempt runs one step, tells how it went, and stores that.
func (e *Executor) attempt(ctx context.Context, s workflow.Step, parallel bool) error {
	began := time.Now()
	ev := Event{
		Step: s.Path, Phase: s.Phase, Node: s.Node, Type: string(s.Type), Command: s.CommandName(), Description: s.Description,
		Parallel: parallel,
	}
	if err := e.note(ctx, s, func(r *StepRecord) { r.Status, r.Started, r.Ended, r.Error = Running, began.UTC(), time.Time{}, "" }); err != nil {
		return err
	}
	// Whoever hears of the step finds it in the journal.
	running := ev
	running.Status = Running
	e.event(running)
	out, err := e.perform(ctx, s)
	ev.Status, ev.Variables, ev.Message, ev.Seconds = out.status, out.variables, out.message, time.Since(began).Seconds()
	if err != nil {
		ev.Status, ev.Err = Failed, err
		switch {
		case ctx.Err() != nil:
			ev.Status, ev.Err = Cancelled, context.Cause(ctx) // what broke off says nothing
		case s.IgnoreErrors:
			ev.Status = Ignored
		}
	}
	e.event(ev)
	saveErr := e.note(ctx, s, func(r *StepRecord) {
		r.Status, r.Ended = ev.Status, time.Now().UTC()
		if ev.Err != nil {
			r.Error = workflow.Mask(ev.Err.Error())
		}
		for key, value := range out.variables {
			e.record.Variables.Set(s.Node, key, value)
		}
	})
	if ctx.Err() == nil {
		e.rest(ctx, s, out)
	}
	if err != nil && !s.IgnoreErrors {
		timedOut := errors.Is(err, ErrTimeout)
		e.mu.Lock()
		e.failures++
		e.timedOut = e.timedOut || timedOut
		e.mu.Unlock()
		return errors.Join(&StepError{Step: s.Label(), Node: s.Node, Failed: 1, TimedOut: timedOut, Err: err}, saveErr)
	}
	return saveErr
}

// note changes the record of a step and stores the journal.
func (e *Executor) note(ctx context.Context, s workflow.Step, change func(*StepRecord)) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.record.step(s.Path)
	r.Phase, r.Node, r.Command, r.Object, r.What = s.Phase, s.Node, s.CommandName(), s.Object(), s.Description
	change(r)
	return e.saveLocked(ctx)
}

// perform runs one step within its time.
func (e *Executor) perform(ctx context.Context, s workflow.Step) (outcome, error) {
	if e.cfg.StepTimeout > 0 {
		limited, cancel := context.WithTimeoutCause(ctx, e.cfg.StepTimeout, ErrTimeout)
		defer cancel()
		out, err := e.persist(limited, s)
		if err != nil && ctx.Err() == nil && errors.Is(context.Cause(limited), ErrTimeout) {
			err = fmt.Errorf("%w: the limit of a step is %s", ErrTimeout, e.cfg.StepTimeout)
		}
		return out, err
	}
	return e.persist(ctx, s)
}

// persist repeats a plan's step while its server is away: every step of a plan
// can be done twice. It gives up when the server does not come back in time.
func (e *Executor) persist(ctx context.Context, s workflow.Step) (outcome, error) {
	began, told := time.Now(), false
	for {
		out, err := e.dispatch(ctx, s)
		if err == nil || s.Phase == "" || ctx.Err() != nil || !away(err) || time.Since(began) > e.cfg.StallTimeout {
			return out, err
		}
		if !told {
			told = true
			e.event(Event{Status: Waiting, Step: s.Path, Phase: s.Phase, Node: s.Node, Description: s.Description, Message: "tries again: " + workflow.Mask(err.Error())})
		}
		if err := e.pause(ctx, 5*e.cfg.Poll/2); err != nil {
			return outcome{}, err
		}
	}
}

// away reports whether a server was not there: the one that was asked, or one
// that it had to ask in turn.
func away(err error) bool {
	if errors.Is(err, ErrTimeout) {
		return false
	}
	node, _ := errors.AsType[*NodeError](err)
	server, _ := errors.AsType[*ServerError](err)
	if node == nil && server == nil {
		return false
	}
	return passing(err) || strings.Contains(err.Error(), "could not connect to the postgresql server") ||
		strings.Contains(err.Error(), "could not fetch remote node info")
}

func (e *Executor) dispatch(ctx context.Context, s workflow.Step) (outcome, error) {
	switch s.Type {
	case workflow.TypeShell:
		return e.shell(ctx, s)
	case workflow.TypeWait:
		return e.wait(ctx, s)
	case workflow.TypeSpock:
		return e.command(ctx, s)
	case workflow.TypeHold:
		return e.hold(ctx, s)
	case workflow.TypeLetGo:
		e.letGo(ctx)
		return outcome{status: OK}, nil
	default:
		return e.sql(ctx, s)
	}
}

func (e *Executor) shell(ctx context.Context, s workflow.Step) (outcome, error) {
	if e.cfg.Shell == nil {
		return outcome{}, errors.New("commands of the shell are not allowed")
	}
	env := []string{"PGDROVER_NODE=" + s.Node, "PGDROVER_STEP=" + s.Path}
	for _, node := range slices.Sorted(maps.Keys(e.record.Variables)) {
		for _, key := range slices.Sorted(maps.Keys(e.record.Variables[node])) {
			if value := e.record.Variables[node][key]; value != nil {
				env = append(env, "PGDROVER_VAR_"+node+"_"+key+"="+*value)
			}
		}
	}
	return outcome{status: OK}, e.cfg.Shell(ctx, s.Shell, env)
}

// statement is what the step sends, with the variables as they are now.
func (e *Executor) statement(s workflow.Step) (workflow.Statement, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return s.Statement(e.isNode, e.record.Variables, e.cfg.RawSQL)
}

// sql runs free SQL. A plan's step whose work is there already does nothing.
func (e *Executor) sql(ctx context.Context, s workflow.Step) (outcome, error) {
	if done, err := e.alreadyDone(ctx, s); done || err != nil {
		return outcome{status: Exists}, err
	}
	if err := e.intend(ctx, s, s.Undo, s.Done); err != nil {
		return outcome{}, err
	}
	statement, err := e.statement(s)
	if err != nil {
		return outcome{}, err
	}
	stop := e.watchBlockers(ctx, s)
	defer stop()
	for began := time.Now(); ; {
		answer, err := e.run(ctx, s.Node, statement)
		if err != nil {
			return outcome{}, err
		}
		waited, failed := falseWait(answer)
		switch {
		case !failed:
			e.answered(s, answer)
			e.tells(s, answer)
			return outcome{status: OK, variables: firstRow(answer)}, nil
		case waited == workerWait && time.Since(began) < e.cfg.Grace:
			if err := e.pause(ctx, 5*e.cfg.Poll/2); err != nil {
				return outcome{}, err
			}
		case s.Refuse != "":
			return outcome{}, refused(s, answer)
		default:
			return outcome{variables: firstRow(answer)}, fmt.Errorf("%w: %s is false", ErrTimeout, waited)
		}
	}
}

// answered passes on the answer of a step of a file.
func (e *Executor) answered(s workflow.Step, answer Result) {
	if e.cfg.OnAnswer == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cfg.OnAnswer(s.Node, answer)
}

// tells passes on what a plan's step has found, which is a warning when it says so.
func (e *Executor) tells(s workflow.Step, answer Result) {
	row := firstRow(answer)
	if s.Phase == "" || row["tells"] == nil {
		return
	}
	ev := Event{Status: Noted, Step: s.Path, Phase: s.Phase, Node: s.Node, Message: workflow.Mask(*row["tells"]), Variables: row}
	if row["warns"] != nil && *row["warns"] == "t" {
		ev.Type = "WARNING"
	}
	e.event(ev)
}

// refused words the error of a step whose query says false.
func refused(s workflow.Step, answer Result) error {
	for i, c := range answer.Columns {
		if c.Name == "why" && answer.text(i) != "" {
			return errors.New(s.Refuse + ": " + answer.text(i))
		}
	}
	return errors.New(s.Refuse)
}

func (e *Executor) run(ctx context.Context, node string, statement workflow.Statement) (Result, error) {
	var answer Result
	err := e.on(ctx, node, func(ctx context.Context, server Server) error {
		var err error
		if statement.Simple {
			answer, err = server.Run(ctx, statement.SQL)
		} else {
			answer, err = server.Ask(ctx, statement.SQL, statement.Args...)
		}
		return err
	})
	return answer, Explain(node, err)
}

// Explain adds what to do to the error of a database that has no schema spock.
func Explain(node string, err error) error {
	switch spock.SQLState(err) {
	case pgerrcode.UndefinedFunction, pgerrcode.UndefinedTable, pgerrcode.InvalidSchemaName:
		if strings.Contains(err.Error(), "spock.") || strings.Contains(err.Error(), `"spock"`) {
			return &schemaError{node: node, err: err}
		}
	}
	return err
}

// schemaError is a database without what its statement calls.
type schemaError struct {
	node string
	err  error
}

func (e *schemaError) Error() string { return e.err.Error() }
func (e *schemaError) Unwrap() error { return e.err }

// Hint says how to install it.
func (e *schemaError) Hint() string {
	return "install the schema on node " + e.node + ": pgdrover spock install --dsn …"
}

// workerWait is the wait that sees a worker before it has begun.
const workerWait = "wait_for_apply_worker"

// falseWait finds the answer of a wait that waited in vain: a column named
// result, or like one of the functions that wait, with the value false.
func falseWait(answer Result) (name string, failed bool) {
	if len(answer.Rows) != 1 {
		return "", false
	}
	for i, c := range answer.Columns {
		if !isBool(c) || c.Name != "result" && !strings.HasPrefix(c.Name, "wait_") {
			continue
		}
		if answer.text(i) == "f" {
			return c.Name, true
		}
	}
	return "", false
}

// firstRow are the columns of the first row, by name; of two with one name the first counts.
func firstRow(answer Result) map[string]*string {
	if len(answer.Rows) == 0 {
		return nil
	}
	row := map[string]*string{}
	for i, c := range answer.Columns {
		if _, twice := row[c.Name]; !twice {
			row[c.Name] = answer.Rows[0][i]
		}
	}
	return row
}

// rest pauses after a step as the file says, or waits for what the pause is for.
func (e *Executor) rest(ctx context.Context, s workflow.Step, out outcome) {
	if s.Sleep <= 0 {
		return
	}
	if !e.cfg.NoSleep {
		_ = e.pause(ctx, s.Sleep)
		return
	}
	if s.Type != workflow.TypeSpock || s.Command.Name != workflow.CreateSubscription || out.status != OK {
		return
	}
	if on, ok := workflow.ParseBool(s.Options["enabled"]); ok && !on {
		return
	}
	for began := time.Now(); time.Since(began) < e.cfg.Grace; {
		answer, err := e.ask(ctx, s.Node, "SELECT status FROM spock.sub_show_status($1::name)", new(s.Object()))
		if err != nil || answer.text(0) != "down" && answer.text(0) != "unknown" {
			return
		}
		if e.pause(ctx, e.cfg.Poll) != nil {
			return
		}
	}
	e.event(Event{Status: Noted, Step: s.Path, Node: s.Node, Message: "no worker of subscription " + s.Object() + " has begun so far"})
}

func (e *Executor) pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

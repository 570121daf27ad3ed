package orchestrator

import (
	"context"

	"github.com/jackc/pgerrcode"

	"github.com/pgdrover/pgdrover/internal/spock"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// asker is the part of a session that a call needs.
type asker func(ctx context.Context, sql string, args ...*string) (Result, error)

// Call sends one command to one server.
func Call(ctx context.Context, server Server, command *workflow.Command, values map[string]workflow.Value) (Result, error) {
	return call(ctx, server.Ask, command, values)
}

// call sends a command. An output plugin that belongs to an extension which is
// not there has a substitute: files and manuals name spock_output.
func call(ctx context.Context, ask asker, command *workflow.Command, values map[string]workflow.Value) (Result, error) {
	statement := command.Call(values)
	answer, err := ask(ctx, statement.SQL, statement.Args...)
	if command.Name != workflow.CreateSlot || values["plugin"].Text != "spock_output" {
		return answer, err
	}
	switch spock.SQLState(err) {
	case pgerrcode.UndefinedFile, pgerrcode.InsufficientPrivilege, pgerrcode.InvalidParameterValue:
		substitute := map[string]workflow.Value{}
		for name, v := range values {
			substitute[name] = v
		}
		substitute["plugin"] = workflow.Value{Text: "pgoutput"}
		statement = command.Call(substitute)
		return ask(ctx, statement.SQL, statement.Args...)
	}
	return answer, err
}

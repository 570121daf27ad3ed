package orchestrator

import (
	"context"
	"maps"

	"github.com/jackc/pgerrcode"

	"github.com/pgdrover/pgdrover/internal/spock"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// Call sends one command to one server.
func Call(ctx context.Context, server Server, command *workflow.Command, values map[string]workflow.Value) (Result, error) {
	return call(func(statement workflow.Statement) (Result, error) {
		if statement.Simple {
			return server.Run(ctx, statement.SQL)
		}
		return server.Ask(ctx, statement.SQL, statement.Args...)
	}, command, values)
}

// call sends a command. An output plugin that belongs to an extension which is
// not there has a substitute: files and manuals name spock_output.
func call(send func(workflow.Statement) (Result, error), command *workflow.Command, values map[string]workflow.Value) (Result, error) {
	statement := command.Call(values)
	if command.Name == workflow.EnableSubscription || command.Name == workflow.DisableSubscription {
		// "immediate" is refused where a statement may be one of several of a
		// transaction, and to the server every extended query looks like that.
		statement = workflow.Statement{SQL: statement.Plain(), Simple: true}
	}
	answer, err := send(statement)
	if command.Name != workflow.CreateSlot || values["plugin"].Text != "spock_output" {
		return answer, err
	}
	switch spock.SQLState(err) {
	case pgerrcode.UndefinedFile, pgerrcode.InsufficientPrivilege, pgerrcode.InvalidParameterValue:
		substitute := maps.Clone(values)
		substitute["plugin"] = workflow.Value{Text: "pgoutput"}
		return send(command.Call(substitute))
	}
	return answer, err
}

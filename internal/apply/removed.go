package apply

import (
	"context"
	"errors"

	"github.com/jackc/pgerrcode"

	"github.com/pgdrover/pgdrover/internal/spock"
)

// removed tells whether something failed because the schema has been removed from
// the database, which is nobody's fault: an engine waits until it is there again.
func (e *Engine) removed(ctx context.Context, err error) bool {
	switch sqlState(err) {
	case pgerrcode.InvalidSchemaName, pgerrcode.UndefinedTable, pgerrcode.UndefinedFunction, pgerrcode.UndefinedObject:
	case pgerrcode.DeadlockDetected: // with the removal, table by table
	default:
		return false
	}
	db, err := e.connect(ctx, "spock manager", nil)
	if err != nil {
		return false
	}
	defer func() { _ = db.Close(context.WithoutCancel(ctx)) }()
	// Whoever is at it has this lock until it is done.
	if _, err := db.Exec(ctx, spock.AwaitSchemaChange); err != nil {
		return false
	}
	return errors.Is(spock.CheckVersion(ctx, db), spock.ErrNotInstalled)
}

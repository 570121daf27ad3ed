package postgres

import "context"

// EndOrphans returns when no process of a postmaster that is gone is left:
// what has to be true before a server counts as stopped.
func (i *Instance) EndOrphans(ctx context.Context) error { return i.endOrphans(ctx) }

package spock

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// ConnectSession is Connect for statements that are an operator's own: names
// are looked up, and roles are taken, as the role and the database say.
func ConnectSession(ctx context.Context, cfg ConnectConfig) (*DB, error) {
	connConfig, err := connConfig(cfg)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"search_path", "role"} {
		if _, ok := cfg.Settings[name]; !ok {
			delete(connConfig.RuntimeParams, name)
		}
	}
	conn, err := pgx.ConnectConfig(ctx, connConfig)
	if err != nil {
		return nil, wrap("connect to the database", err)
	}
	return &DB{conn: conn}, nil
}

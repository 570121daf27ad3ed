package spock

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// ConnectSession is Connect for statements that are an operator's own: names
// are looked up where the role and the database say.
func ConnectSession(ctx context.Context, cfg ConnectConfig) (*DB, error) {
	connConfig, err := connConfig(cfg)
	if err != nil {
		return nil, err
	}
	if _, ok := cfg.Settings["search_path"]; !ok {
		delete(connConfig.RuntimeParams, "search_path")
	}
	conn, err := pgx.ConnectConfig(ctx, connConfig)
	if err != nil {
		return nil, wrap("connect to the database", err)
	}
	return &DB{conn: conn}, nil
}

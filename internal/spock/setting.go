package spock

import (
	"context"
	"fmt"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Setting is one spock.* setting. A stock server takes any value for it:
// Value is the one in force, which is the default when what was set is not
// legal; Invalid is then what was set.
type Setting struct {
	Name, Value, Default, Invalid string
}

const (
	qSettings       = `SELECT name, value, default_value, coalesce(invalid, '') FROM pgdrover.settings()`
	qSettingCatalog = `SELECT name, default_value FROM pgdrover.setting_catalog()`
	qConfLoadTime   = `SELECT pg_conf_load_time()::text`
	qEnforce        = `SELECT pgdrover.enforce_readonly($1)`
)

// Settings are all spock.* settings by name.
type Settings map[string]Setting

// Settings reads all settings as this session sees them.
func (db *DB) Settings(ctx context.Context) (Settings, error) {
	all, err := collect[Setting](ctx, db.conn, "read the settings", qSettings)
	if err != nil {
		return nil, err
	}
	settings := make(Settings, len(all))
	for _, s := range all {
		settings[s.Name] = s
	}
	return settings, nil
}

// Get returns a value in force. The name must be a setting's.
func (s Settings) Get(name string) string {
	v, ok := s[name]
	if !ok {
		panic(fmt.Sprintf("no setting %q", name))
	}
	return v.Value
}

// On reports whether a switch is on.
func (s Settings) On(name string) bool { return s.Get(name) == "on" }

// DefaultSettings is the file to include from postgresql.conf: with it SHOW and
// ALTER SYSTEM know every name.
func (db *DB) DefaultSettings(ctx context.Context) (pg.Settings, error) {
	type pair struct{ Name, Value string }
	all, err := collect[pair](ctx, db.conn, "list the settings", qSettingCatalog)
	if err != nil {
		return nil, err
	}
	var settings pg.Settings
	for _, s := range all {
		settings = append(settings, pg.Setting{Name: s.Name, Value: s.Value})
	}
	return settings, nil
}

// ConfigurationLoaded returns when the server last read its configuration, as
// a text to compare: it changes with every reload.
func (db *DB) ConfigurationLoaded(ctx context.Context) (string, error) {
	var at string
	err := db.conn.QueryRow(ctx, qConfLoadTime).Scan(&at)
	return at, wrap("read the time of the last reload", err)
}

// EnforceReadonly makes the database follow spock.readonly: off, user or all.
func (db *DB) EnforceReadonly(ctx context.Context, mode string) error {
	_, err := db.conn.Exec(ctx, qEnforce, mode)
	return wrap("enforce the read-only mode", err)
}

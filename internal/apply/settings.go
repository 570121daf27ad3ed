package apply

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/conflict"
)

// settings are the values of spock.* that the engine follows.
type settings struct {
	values map[string]string
}

// readSettings reads them all; what is set but not legal is reported, and its
// default holds.
func readSettings(ctx context.Context, db *pgx.Conn, log *slog.Logger) (settings, error) {
	s := settings{values: map[string]string{}}
	rows, err := db.Query(ctx, "SELECT name, value, coalesce(invalid, '') FROM pgdrover.settings()")
	if err != nil {
		return s, fmt.Errorf("read settings: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var name, value, invalid string
		if err := rows.Scan(&name, &value, &invalid); err != nil {
			return s, fmt.Errorf("read settings: %w", err)
		}
		s.values[name] = value
		if invalid != "" {
			log.WarnContext(ctx, "invalid value for parameter", "parameter", name, "value", invalid)
		}
	}
	return s, rows.Err()
}

// attachedSettings are those of spock.* that stand with the database and the
// role. The server gives them to a session when it begins.
func attachedSettings(ctx context.Context, db *pgx.Conn) (string, error) {
	var all string
	if err := db.QueryRow(ctx, `SELECT coalesce(string_agg(concat_ws(' ', s.setdatabase, s.setrole, c), E'\n' ORDER BY s.setdatabase, s.setrole, c), '')
		FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) c WHERE starts_with(c, 'spock.')
		AND s.setdatabase IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
		AND s.setrole IN (0, (SELECT r.oid FROM pg_roles r WHERE r.rolname = session_user))`).Scan(&all); err != nil {
		return "", fmt.Errorf("read settings of database and role: %w", err)
	}
	return all, nil
}

// followedSettings are those that a worker goes by for as long as it lives: when
// one of them changes it starts again. The others are read when they are needed.
var followedSettings = []string{
	"spock.apply_bundles", "spock.apply_workers", "spock.check_all_uc_indexes", "spock.conflict_log_level", "spock.conflict_resolution", "spock.delete_conflict",
	"spock.exception_behaviour", "spock.exception_logging", "spock.exception_replay_queue_size", "spock.forgotten_times",
	"spock.save_remote_wins", "spock.save_resolutions", "spock.synchronous_commit", "spock.truncate_conflict", "spock.update_missing",
}

// followed is what they say, to be compared.
func (s settings) followed() string {
	var all strings.Builder
	for _, name := range followedSettings {
		fmt.Fprintf(&all, "%s = %q\n", name, s.values[name])
	}
	return all.String()
}

// outdated tells whether the worker goes by settings that are no longer so. The
// engine's last look may be older than what the worker has read itself.
func (w *Worker) outdated(ctx context.Context) (bool, error) {
	if now := w.engine.followed.Load(); now == nil || *now == w.rules {
		return false, nil
	}
	s, err := readSettings(ctx, w.db, w.log)
	if err != nil || s.followed() == w.rules {
		return false, err
	}
	w.log.InfoContext(ctx, "worker starts again: settings were changed")
	return true, nil
}

func (s settings) on(name string) bool { return s.values[name] == "on" }

func (s settings) number(name string) int64 {
	n, err := strconv.ParseInt(s.values[name], 10, 64)
	if err != nil {
		return 0 // the server has checked it
	}
	return n
}

func (s settings) milliseconds(name string) time.Duration {
	return time.Duration(s.number(name)) * time.Millisecond
}

// rules are what package conflict decides by.
func (s settings) rules(self conflict.NodeID, ranks conflict.Ranks) (conflict.Rules, error) {
	policy, err := conflict.ParsePolicy(s.values["spock.conflict_resolution"])
	if err != nil {
		return conflict.Rules{}, err
	}
	missing, err := conflict.ParseMissingPolicy(s.values["spock.update_missing"])
	if err != nil {
		return conflict.Rules{}, err
	}
	return conflict.Rules{
		Self: self, Ranks: ranks, Policy: policy, UpdateMissing: missing,
		DeleteAlways:   s.values["spock.delete_conflict"] == "apply",
		TruncateAlways: s.values["spock.truncate_conflict"] == "apply",
		IdentityOnly:   !s.on("spock.check_all_uc_indexes"),
		SaveRemoteWins: s.on("spock.save_remote_wins"),
	}, nil
}

func (s settings) options() options {
	level := slog.LevelInfo
	switch s.values["spock.conflict_log_level"] {
	case "debug5", "debug4", "debug3", "debug2", "debug1", "debug":
		level = slog.LevelDebug
	case "warning":
		level = slog.LevelWarn
	case "error", "fatal", "panic":
		level = slog.LevelError
	}
	return options{
		behaviour: s.values["spock.exception_behaviour"], logging: s.values["spock.exception_logging"],
		saveResolutions: s.on("spock.save_resolutions"), conflictLevel: level, bundles: s.on("spock.apply_bundles"),
	}
}
